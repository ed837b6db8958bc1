"""Pictures with one label each and boxes around the object: the data of weakly supervised localization.

Labels are for training; boxes and masks are for evaluation only. Four layouts are read:

    folder       labels.csv (image,label or, as for segmentation, image,labels), boxes.csv (image,x0,y0,x1,y1; a line
                 for each box), and optional: classes.txt, splits/SPLIT.txt, masks/NAME.png (0 beside the object),
                 ignored/NAME.png (0 where a pixel counts)
    cub          CUB-200-2011: images.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt,
                 classes.txt, images/, and, if it is there, segmentations/
    ilsvrc       Data/CLS-LOC/train/SYNSET/*.JPEG, Data/CLS-LOC/val/*.JPEG, Annotations/CLS-LOC/val/*.xml
    openimages   of OpenImages-WSOL (Choe et al., CVPR 2020): metadata/SPLIT/class_labels.txt (path,number) and
                 metadata/SPLIT/localization.txt (path,mask,ignored; a line for each mask), paths below the folder

A box is (x0, y0, x1, y1) in pixels of the upright picture, both ends inside.
"""

import csv
import hashlib
import json
import math
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import torch
import torchvision.transforms.v2.functional as TF
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from baoseg.core.errors import DataError
from baoseg.core.progress import say, track
from baoseg.core.text import tidy_path
from baoseg.core.types import BACKGROUND, IGNORE, ClassSet, Sample
from baoseg.data import in_words, table
from baoseg.data.files import Tree
from baoseg.data.folder import misnamed
from baoseg.data.images import image_size, read_image, read_mask

Box = tuple[int, int, int, int]
BEYOND = 0.1  # share of an image's side by which a box may reach beyond it: what annotators draw too far is cut off
CORNERS = ("image", "x0", "y0", "x1", "y1")


class Layout(StrEnum):
    """How a data set lies on disk; the head of this file describes each."""

    FOLDER = "folder"
    CUB = "cub"
    ILSVRC = "ilsvrc"
    OPENIMAGES = "openimages"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pictures to train on and which to evaluate on."""

    path: str
    layout: Layout = Layout.FOLDER
    train_split: str = "train"
    eval_split: str = "test"  # ilsvrc: val
    classes: tuple[str, ...] = ()  # the classes to keep, in the order of their indices; none: all of them


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a data set says of one picture."""

    name: str
    path: Path
    label: str
    boxes: tuple[Box, ...] = ()
    masks: tuple[Path, ...] = ()  # the object is what any of them shows
    level: int = 1  # grey value from which on a mask shows something
    ignored: Path | None = None  # what it shows beside the object counts neither way


class Boxed:
    """The pictures of one split, as every `Dataset`, and their boxes.

    A mask has the index of the picture's class on the object, 0 elsewhere and 255 where nothing counts. With `side`,
    pictures and masks are given as squares of that side.
    """

    def __init__(self, classes: ClassSet, split: str, entries: Sequence[Entry], *, side: int | None = None) -> None:
        self.classes = classes
        self.split = split
        self.entries = entries
        self.side = side
        self.names: Sequence[str] = tuple(entry.name for entry in entries)
        self.has_masks = any(entry.masks for entry in entries)

    def squares(self, side: int) -> "Boxed":
        """The same pictures as squares."""
        return Boxed(self.classes, self.split, self.entries, side=side)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Decodes the picture, and its mask where there is one."""
        image = read_image(self.entries[index].path)
        mask = self.mask(index)
        if mask is not None and mask.shape != image.shape[1:]:
            raise DataError(
                f"{self.entries[index].masks[0]}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels and its picture, "
                f"upright, {image.shape[2]}x{image.shape[1]}; make them the same size"
            )
        if self.side is not None:
            image = squash(image, self.side)
            mask = None if mask is None else squash_mask(mask, self.side)
        return Sample(self.entries[index].name, image, self.labels(index), mask)

    def target(self, index: int) -> int:
        """Index 1..K of the picture's class."""
        return BACKGROUND + 1 + self.classes.names.index(self.entries[index].label)

    def labels(self, index: int) -> Float[Tensor, "K"]:
        """Label vector of a picture, without decoding it."""
        return self.classes.encode([self.entries[index].label])

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        """Ground truth of a picture, without decoding the picture; None if it has none."""
        entry = self.entries[index]
        if not entry.masks:
            return None
        shown = [read_mask(path) for path in (*entry.masks, *([] if entry.ignored is None else [entry.ignored]))]
        if len({values.shape for values in shown}) > 1:
            raise DataError(f"{entry.masks[0]}: the masks of this picture differ in size; restore them")
        found = torch.stack(shown[: len(entry.masks)]).amax(dim=0) >= entry.level
        mask = torch.zeros_like(shown[0])
        if entry.ignored is not None:
            mask[shown[-1] > 0] = IGNORE
        mask[found] = self.target(index)
        return mask

    def boxes(self, index: int) -> Int64[Tensor, "m 4"]:
        """The true boxes of a picture; without any, the one around all of its mask's object.

        Raises DataError for a picture that has neither, and for a mask without object.
        """
        entry = self.entries[index]
        if entry.boxes:
            return torch.tensor(entry.boxes)
        mask = self.mask(index)
        if mask is None:
            raise DataError(f"{entry.path}: has no box; add one, or take the picture out of the split {self.split}")
        rows, columns = (mask == self.target(index)).nonzero(as_tuple=True)
        if len(rows) == 0:
            raise DataError(f"{entry.masks[0]}: shows no object; correct it, or take the picture out of the split")
        return torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])[None]

    def fingerprint(self, *, masks: bool = True) -> str:
        """SHA-256 of class list, split, names, labels, boxes and the sizes in bytes of the pictures."""
        try:
            of_pictures = [[e.name, e.label, e.boxes, e.path.stat().st_size] for e in self.entries]
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}; restore the file") from None
        content = [self.classes.names, self.split, of_pictures]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def summary(boxed: Boxed) -> str:
    """`baoseg.data.summary`, for a million images."""
    counts = Counter(entry.label for entry in boxed.entries)
    return in_words(boxed, [counts[name] for name in boxed.classes.names])


def squash(image: UInt8[Tensor, "3 h w"], side: int) -> UInt8[Tensor, "3 s s"]:
    """The whole picture as a square, bilinear, antialiased."""
    return TF.resize(image, [side, side], antialias=True)


def squash_mask(mask: UInt8[Tensor, "h w"], side: int) -> UInt8[Tensor, "s s"]:
    return TF.resize(mask[None], [side, side], interpolation=InterpolationMode.NEAREST_EXACT)[0]


def open_boxed(config: Config, split: Literal["train", "eval"]) -> Boxed:
    """Open the pictures for training or for evaluation. Raises DataError if they are inconsistent.

    Class indices are those of the data set's own list, or of `config.classes`; pictures of other classes are left out.
    """
    root, name = Path(config.path).expanduser(), config.train_split if split == "train" else config.eval_split
    names, entries = READERS[config.layout](root, name)
    if unknown := sorted(set(config.classes) - set(names)):
        raise DataError(f"{root}: has no class {unknown[0]!r}; its classes are {_some(names)}")
    classes = config.classes or tuple(names)
    kept = [entry for entry in entries if entry.label in set(classes)]
    if not kept:
        raise DataError(f"{root}: no picture in the split {name!r} of the classes {_some(classes)}; name another split")
    labels: dict[str, str] = {}
    for entry in entries:
        if entry.name in labels:
            other = "" if labels[entry.name] == entry.label else f", as {labels[entry.name]!r} and as {entry.label!r}"
            raise DataError(f"{root}: {entry.name} is in the lists more than once{other}; keep one line")
        labels[entry.name] = entry.label
    if missing := [entry.path for entry in kept if not entry.path.is_file()]:
        raise DataError(_missing(missing[0]) + _more(missing))
    return Boxed(ClassSet(classes), name, kept)


def read_folder(root: Path, split: str) -> tuple[list[str], list[Entry]]:
    """A plain folder. Without split files there is one split, of all pictures, by any name."""
    problems: list[str] = []
    names, entries = _folder(root, split, problems)
    refuse(problems)
    return names, entries


def folder_problems(root: Path, *, decode: bool = True) -> list[str]:
    """All that is wrong with a plain folder, each in one line. With `decode` every image is read to its end.

    Boxes are asked for in the split `test`, or where there is none in every split that is not one to train on. Where
    nothing is wrong, the classes of each split are said.
    """
    problems: list[str] = []
    summaries: list[str] = []
    splits = _splits(root)
    evaluated = [name for name in splits if not name.startswith("train")] or splits or ["all"]
    seen: dict[Path, Entry] = {}
    try:
        for split in splits or ["all"]:
            names, entries = _folder(root, split, problems)
            if not entries:
                problems.append(f"{root}: no image in the split {split}; add some")
                continue
            there = [entry for entry in entries if entry.path.is_file()]
            problems += [_missing(entry.path) for entry in entries if not entry.path.is_file()]
            seen |= {entry.path: entry for entry in there}
            if problems:
                continue
            boxed = Boxed(ClassSet(tuple(names)), split, there)
            summaries.append(summary(boxed))
            if split in evaluated:
                problems += truth_problems(boxed, strict=True)
    except DataError as error:  # nothing else can be understood without this table
        problems.append(str(error))
    for path in track(seen, title="images", total=len(seen)) if decode else ():
        try:
            read_image(path)
        except DataError as error:
            problems.append(str(error))
    for line in [] if problems else summaries:
        say(line)
    return list(dict.fromkeys(problems))


def _splits(root: Path) -> list[str]:
    """The splits of a plain folder that has lists of them, hidden files aside."""
    return sorted(path.stem for path in (root / "splits").glob("*.txt") if not path.name.startswith("."))


def _folder(root: Path, split: str, problems: list[str]) -> tuple[list[str], list[Entry]]:
    """Class names and pictures of a split; what is wrong with the lists is added to `problems`."""
    problems += [problem.line() for problem in misnamed(root)]
    listed = table.read(root)
    problems += [problem.line() for problem in listed.problems]
    labels = _labels(listed, problems)
    boxes = _boxes(root, labels, problems)
    chosen = list(labels)
    if (root / "splits").is_dir():
        chosen = _split(root / "splits" / f"{split}.txt", labels, problems)
    files, written = Tree(root), {line.image: line.path for line in listed.lines}
    entries = []
    for image in chosen:
        mask, ignored = (_mask(files, f"{kind}/{_name(image)}.png", problems) for kind in ("masks", "ignored"))
        entries.append(
            Entry(
                name=_name(image),
                path=root / (files.find(written[image]) or written[image]),
                label=labels[image],
                boxes=tuple(boxes.get(image, ())),
                masks=() if mask is None else (mask,),
                ignored=ignored,
            )
        )
    return list(listed.classes), entries


def _labels(listed: table.Table, problems: list[str]) -> dict[str, str]:
    """The label of each image of labels.csv."""
    labels: dict[str, str] = {}
    told = len(problems)
    for line in listed.lines:
        if len(line.labels) != 1 and not told:  # of cells that say something else than they seem to, that is said
            problems.append(
                f"{listed.path}, line {line.number}: {line.image} has {len(line.labels)} labels; for localization an "
                "image has one, write that"
            )
        labels[line.image] = next(iter(line.labels), "")
    return labels


def _mask(files: Tree, path: str, problems: list[str]) -> Path | None:
    """A mask that may be there; one that is called almost so is a problem."""
    if (found := files.find(path)) is not None:
        return files.root / found
    if near := files.hint(path):
        problems.append(f"{files.root / path}: no such mask, but there is {near}; save or call it as the first")
    return None


def _boxes(root: Path, labels: Mapping[str, str], problems: list[str]) -> dict[str, list[Box]]:
    """The boxes of each image of boxes.csv; none where there is no such file."""
    path, boxes = root / "boxes.csv", dict[str, list[Box]]()
    if not path.exists():
        return boxes
    largest, begun = 0.0, len(problems)
    for row in _rows(path, CORNERS):
        image, where = _image(root, row.cells[0]), f"{path}, line {row.line}"
        if image not in labels:
            problems.append(f"{where}: {image} has no line in labels.csv; add one, or take its box out")
            continue
        try:
            corners = _numbers(row.cells[1:], 4, where)
            largest = max(largest, *corners)
            boxes.setdefault(image, []).append(_pixels(corners, where))
        except DataError as error:
            problems.append(str(error))
    if boxes and largest <= 1 and len(problems) == begun:
        problems.append(f"{path}: all boxes lie in 0..1; write them in pixels of their images")
    return boxes


def _pixels(corners: Sequence[float], where: str) -> Box:
    """A box of one's own list. Raises DataError for one that is not in pixels or not of two corners."""
    shown = ", ".join(f"{corner:g}" for corner in corners)
    _require_pixels(corners, where)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise DataError(
            f"{where}: the box {shown} ends before it starts, or at once; write x0, y0, x1, y1, not x, y, width, height"
        )
    return _box(corners, where)


def _split(path: Path, labels: Mapping[str, str], problems: list[str]) -> list[str]:
    """The images that a split file names, with or without the suffix."""
    if not path.exists():
        known = ", ".join(_splits(path.parent.parent)) or "none"
        raise DataError(f"{path}: no such split; the splits of {path.parent.parent} are: {known}")
    chosen: dict[str, None] = {}
    by_name = {_name(image): image for image in labels}
    for line in _lines(path):
        image = _image(path.parent.parent, line)
        image = image if image in labels else by_name.get(image, image)
        if image not in labels:
            problems.append(f"{path}: {line} has no line in labels.csv; add one, or take it out of the split")
        elif image in chosen:
            problems.append(f"{path}: {line} is in the split more than once; keep one line")
        else:
            chosen[image] = None
    return list(chosen)


def _name(image: str) -> str:
    return posixpath.splitext(image)[0]


def _image(root: Path, written: str) -> str:
    """An image's path as it is known by: with slashes, and without detours."""
    if "\\" in written and not (root / written).exists():
        written = written.replace("\\", "/")
    return tidy_path(posixpath.normpath(written))


def truth_problems(boxed: Boxed, *, strict: bool) -> list[str]:
    """What evaluation would fail at, found without decoding images: each in one line.

    A box that lies outside its image; an image with neither box nor mask; a mask that is not there or of another size.
    Where `strict`, masks are read, and a box may not reach beyond its image by more than BEYOND of the image's side, as
    boxes that were drawn at another size do.
    """
    problems = []
    cut = 0
    for index, entry in track(enumerate(boxed.entries), title="boxes", total=len(boxed)):
        try:
            height, width = image_size(entry.path)
            if strict or not (entry.boxes or entry.masks):
                boxed.mask(index)
                boxed.boxes(index)
            sizes = {path: image_size(path) for path in (*entry.masks, *([entry.ignored] if entry.ignored else []))}
        except DataError as error:
            problems.append(str(error))
            continue
        for path, size in sizes.items():
            if size != (height, width):
                problems.append(
                    f"{path}: the mask is {size[1]}x{size[0]} pixels and its image, upright, {width}x{height}; make "
                    "them the same size"
                )
        for box in entry.boxes:
            x0, y0, x1, y1 = box
            beyond = max(-x0 / width, -y0 / height, (x1 - width) / width, (y1 - height) / height)
            outside = x0 >= width or y0 >= height or x1 < 0 or y1 < 0
            if outside or (strict and beyond > BEYOND):
                how = "lies outside" if outside else "reaches far beyond"
                problems.append(
                    f"{boxed.split}/{entry.name}: the box {list(box)} {how} the image of {width}x{height} pixels; "
                    "correct it"
                )
            cut += min(x0, y0) < 0 or x1 > width or y1 > height
    if cut and not problems:
        say(f"{cut} boxes of {boxed.split} reach beyond their images: they are cut off at the sides.")
    return problems


def read_cub(root: Path, split: str) -> tuple[list[str], list[Entry]]:
    """CUB-200-2011, splits train and test. A box reaches from x to x + width, rounded down, as the field has it.

    A segmentation is the share of annotators who saw the bird: what at least half of them saw is the object.
    """
    flag = {"train": "1", "test": "0"}.get(split)
    if flag is None:
        raise DataError(f"{root}: CUB-200-2011 has no split {split!r}; use train or test")
    files = ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    images, labels, splits, boxes = (_table(root / f"{name}.txt") for name in files)
    classes = {number: name for number, (name,) in _table(root / "classes.txt").items()}
    entries = []
    for number, (image,) in images.items():
        try:
            chosen, label, place = splits[number] == [flag], classes[labels[number][0]], boxes[number]
        except KeyError as error:
            raise DataError(f"{root}: picture {number} ({image}) lacks {error} in a list; restore the lists") from None
        if not chosen:
            continue
        x, y, width, height = _numbers(place, 4, f"{root / 'bounding_boxes.txt'}, picture {number}")
        mask = root / "segmentations" / Path(image).with_suffix(".png")
        entries.append(
            Entry(
                name=str(Path(image).with_suffix("")),
                path=root / "images" / image,
                label=label,
                boxes=(_box((x, y, x + width, y + height), f"{root / 'bounding_boxes.txt'}, picture {number}"),),
                masks=(mask,) if mask.exists() else (),
                level=128,
            )
        )
    return list(classes.values()), entries


def read_ilsvrc(root: Path, split: str) -> tuple[list[str], list[Entry]]:
    """ImageNet's CLS-LOC. Boxes are those of `val`; the label of a picture there is what its annotation names."""
    pictures, annotations = root / "Data" / "CLS-LOC" / split, root / "Annotations" / "CLS-LOC" / split
    if not pictures.is_dir():
        raise DataError(f"{pictures}: no such folder; {root} should be the folder ILSVRC, and its splits train and val")
    training = root / "Data" / "CLS-LOC" / "train"
    synsets = sorted(path.name for path in training.iterdir() if path.is_dir()) if training.is_dir() else []
    if split == "train":
        return synsets, [
            Entry(name=f"{synset}/{path.stem}", path=path, label=synset)
            for synset in synsets
            for path in sorted((pictures / synset).glob("*.JPEG"))
        ]
    entries = []
    for path in sorted(pictures.glob("*.JPEG")):
        label, boxes = _annotation(annotations / f"{path.stem}.xml")
        entries.append(Entry(name=path.stem, path=path, label=label, boxes=boxes))
    return synsets or sorted({entry.label for entry in entries}), entries


def read_openimages(root: Path, split: str) -> tuple[list[str], list[Entry]]:
    """OpenImages-WSOL, splits train, val and test; the last two have masks."""
    lists = root / "metadata" / split
    labels: dict[str, str] = {}
    for image, label in _split_off(lists / "class_labels.txt", 2):
        if labels.setdefault(image, label) != label:
            raise DataError(f"{lists}: class_labels.txt gives {image} {labels[image]!r} and {label!r}; keep one line")
    masks: dict[str, list[Path]] = {}
    ignored: dict[str, Path] = {}
    if (path := lists / "localization.txt").exists():
        for image, mask, ignore in _split_off(path, 3):
            masks.setdefault(image, []).append(root / mask)
            if ignore:
                ignored[image] = root / ignore
    entries = [
        Entry(
            name=str(Path(image).with_suffix("")),
            path=root / image,
            label=label,
            masks=tuple(masks.get(image, ())),
            ignored=ignored.get(image),
        )
        for image, label in labels.items()
    ]
    return sorted(set(labels.values()), key=lambda number: (len(number), number)), entries


READERS: Mapping[Layout, Callable[[Path, str], tuple[list[str], list[Entry]]]] = {
    Layout.FOLDER: read_folder,
    Layout.CUB: read_cub,
    Layout.ILSVRC: read_ilsvrc,
    Layout.OPENIMAGES: read_openimages,
}


def _annotation(path: Path) -> tuple[str, tuple[Box, ...]]:
    """Synset and boxes of an annotation in the format of PASCAL VOC."""
    try:
        objects = ElementTree.parse(path).findall("object")
        labels = {str(item.findtext("name")) for item in objects}
        corners = [
            [item.findtext(f"bndbox/{side}") or "" for side in ("xmin", "ymin", "xmax", "ymax")] for item in objects
        ]
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: no annotation can be read ({error}); restore it") from None
    if len(labels) != 1:
        raise DataError(f"{path}: names {len(labels)} classes; for localization a picture has one")
    return labels.pop(), tuple(_box(some, str(path)) for some in corners)


class _Row(NamedTuple):
    line: int
    cells: list[str]


def _rows(path: Path, header: tuple[str, ...]) -> list[_Row]:
    """The lines of a CSV file with these columns; those without any field are passed over."""
    shown = ",".join(header)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            rows = [_Row(reader.line_num, [field.strip() for field in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as CSV with the columns {shown}") from None
    rows = [row for row in rows if any(row.cells)]
    if not rows or tuple(rows[0].cells) != header:
        raise DataError(f"{path}: the first line is not {shown}; write that there, with commas between the columns")
    for line, cells in rows[1:]:
        if len(cells) != len(header) or "" in cells:
            raise DataError(f"{path}, line {line}: {','.join(cells)!r} does not have the columns {shown}; correct it")
    return rows[1:]


def _split_off(path: Path, fields: int) -> Iterator[list[str]]:
    for line in _lines(path):
        parts = line.split(",")
        if len(parts) != fields:
            raise DataError(f"{path}: {line!r} does not have {fields} fields with commas between; restore the file")
        yield parts


def _table(path: Path) -> dict[str, list[str]]:
    """Lines of a number and what follows it. Raises DataError where a number has two lines that differ."""
    table: dict[str, list[str]] = {}
    for number, *rest in (line.split() for line in _lines(path)):
        if table.setdefault(number, rest) != rest:
            raise DataError(f"{path}: {number} has more than one line; keep one")
    return table


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is this the right folder and layout?") from None


def _box(corners: Iterable[str | float], where: str) -> Box:
    exact = _numbers(corners, 4, where)
    _require_pixels(exact, where)
    x0, y0, x1, y1 = map(math.floor, exact)
    if x1 < x0 or y1 < y0:
        raise DataError(f"{where}: the box {x0}, {y0}, {x1}, {y1} ends before it starts; write x0, y0, x1, y1")
    return x0, y0, x1, y1


def _require_pixels(corners: Sequence[float], where: str) -> None:
    """Raises DataError for a box in shares of the image, which would be its first pixel."""
    if max(corners) <= 1 and min(corners) >= 0 and any(corner % 1 for corner in corners):
        shown = ", ".join(f"{corner:g}" for corner in corners)
        raise DataError(f"{where}: the box {shown} lies in 0..1; write it in pixels of the image")


def _numbers(values: Iterable[str | float], count: int, where: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: a box is not {count} numbers; correct it")
    return numbers


def _missing(path: Path) -> str:
    """That an image is not there, and which one may be meant."""
    near = Tree(path.parent).hint(path.name)
    hint = f"there is {near}, write that" if near else "restore it, or take it out of the lists"
    return f"{path}: no such image; {hint}"


def refuse(problems: Sequence[str]) -> None:
    """Raise a DataError that is the first of the problems and counts the others, if there are any."""
    if problems:
        raise DataError(problems[0] + _more(problems))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _more(cases: Sequence[object]) -> str:
    return f" (and {len(cases) - 1} more)" if len(cases) > 1 else ""
