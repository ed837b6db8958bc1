"""A folder of pictures with image-level labels.

    FOLDER/
      labels.csv                  image,labels          e.g.  JPEGImages/cat_7.jpg,cat sofa
      classes.txt                 optional: one class a line; fixes the order of the indices
    pictures anywhere below the folder, and, as in PASCAL VOC
      ImageSets/Segmentation/SPLIT.txt     optional: one name a line
      SegmentationClass/NAME.png           optional: ground truth, for evaluation only
    or, plain,
      splits/SPLIT.txt
      masks/NAME.png

The name of a picture is its path below JPEGImages/, images/ or the folder itself, without the suffix.
"""

import csv
import hashlib
import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baoseg.data.images import image_size, read_image, read_mask
from baoseg.errors import DataError
from baoseg.types import IGNORE, ClassSet, Sample

ALL = "all"  # the split of every picture in labels.csv, unless a split file of this name exists
_HEADER = ["image", "labels"]
_PICTURES = ("JPEGImages/", "images/")
_SPLITS = ("ImageSets/Segmentation", "splits")
_MASKS = ("SegmentationClass", "masks")


class Folder:
    """The pictures of one split of a folder; see the head of this file for its layout.

    With `training=True` every picture needs a label, and masks are not looked at. Otherwise a picture without
    labels is one that shows the background alone. Opening checks all that can be checked without decoding:
    raises DataError, which names the first case of a problem and counts the others.
    """

    def __init__(self, root: str | Path, split: str = ALL, *, training: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.split = split
        table = self.root / "labels.csv"
        paths, fields = _read_table(table)
        self.classes, indices = _read_classes(self.root / "classes.txt", table, paths, fields)
        names = _names(paths, table)
        rows = _split_rows(self.root, split, names)
        self.names: Sequence[str] = tuple(names[row] for row in rows)
        self._paths = [paths[row] for row in rows]
        self._labels = [indices[row] for row in rows]
        if not rows:
            raise DataError(f"{table}: no pictures; add a line 'path,labels' for each")
        if training:
            unlabelled = [path for path, labels in zip(self._paths, self._labels, strict=True) if not labels]
            _refuse(unlabelled, table, "has no labels", "label it, or leave it out of the training split")
        present = _existing(self.root, self._paths)
        missing = [path for path in self._paths if path not in present]
        _refuse(missing, table, "does not exist", f"paths are relative to {self.root}")
        self._masks = () if training else _find_masks(self.root, self.names)
        self.has_masks = any(self._masks)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Decodes the picture, and its mask where there is one."""
        image = read_image(self.root / self._paths[index])
        height, width = image.shape[-2:]
        return Sample(self.names[index], image, self.labels(index), self._read_mask(index, (height, width)))

    def labels(self, index: int) -> Float[Tensor, "K"]:
        """Label vector of a picture, without decoding it."""
        vector = torch.zeros(len(self.classes))
        vector[list(self._labels[index])] = 1.0
        return vector

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        """Ground truth of a picture, without decoding the picture; None if it has none."""
        if not self.has_masks or self._masks[index] is None:
            return None
        return self._read_mask(index, image_size(self.root / self._paths[index]))

    def fingerprint(self) -> str:
        """SHA-256 of class list, split, names, labels and the sizes in bytes of the files that are read."""
        files = [[self.root / path for path in self._paths], [mask for mask in self._masks if mask]]
        try:
            sizes = [[path.stat().st_size for path in group] for group in files]
        except OSError as error:  # gone since opening, or a link that leads nowhere
            raise DataError(f"{error.filename}: {error.strerror}; restore the file") from None
        content = [self.classes.names, self.split, self.names, self._labels, sizes]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()

    def _read_mask(self, index: int, size: tuple[int, int]) -> UInt8[Tensor, "h w"] | None:
        path = self._masks[index] if self.has_masks else None
        if path is None:
            return None
        mask = read_mask(path)
        if mask.shape != size:
            (height, width), (mask_height, mask_width) = size, mask.shape
            raise DataError(
                f"{path}: the mask is {mask_width}x{mask_height} pixels and its picture, upright, "
                f"{width}x{height}; make them the same size"
            )
        outside = mask[(mask > len(self.classes)) & (mask != IGNORE)]
        if len(outside):
            raise DataError(
                f"{path}: label {int(outside[0])} is outside 0..{len(self.classes)}; use {IGNORE} for pixels to ignore"
            )
        return mask


def has_split(root: str | Path, split: str) -> bool:
    return _split_file(Path(root).expanduser(), split).is_file()


def split_folder(root: Path) -> Path:
    """Where the split files lie; where they would, if there are none."""
    return _first(root, _SPLITS)


def mask_folder(root: Path) -> Path:
    """Where the ground truth lies; where it would, if there is none."""
    return _first(root, _MASKS)


def below_pictures(path: str) -> str:
    """A path without the folder of the pictures, where it begins with one."""
    for folder in _PICTURES:
        path = path.removeprefix(folder)
    return path


def parse_labels(fields: Sequence[str], classes: Iterable[str] = ()) -> list[list[str]]:
    """Class names in each field of the `labels` column.

    Semicolons separate where a field has them, spaces elsewhere. A field with spaces and without semicolons
    is one name if it is one of `classes` or stands between semicolons in another field. Where `classes` is
    empty and other fields use semicolons, it is also one name unless each of its words labels another field.
    """
    given = set(classes)
    between = {name for field in fields if ";" in field for name in _split_off(field, ";")}
    alone = {field.strip() for field in fields if ";" not in field and len(field.split()) == 1}
    names = given or between | alone

    def parse(field: str) -> list[str]:
        if ";" in field:
            return _split_off(field, ";")
        whole, parts = field.strip(), field.split()
        if whole in names or (not given and between and not names.issuperset(parts)):
            return [whole] if whole else []
        return parts

    return [parse(field) for field in fields]


def _split_off(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _read_table(path: Path) -> tuple[list[str], list[str]]:
    """Paths of the pictures, normalised, and the labels as written."""
    paths, fields = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            header = [column.strip() for column in next(reader, [])]
            if header != _HEADER:
                raise DataError(
                    f"{path}: the first line is {','.join(header)!r}; write 'image,labels' there, "
                    "with a comma between the columns"
                )
            for row in reader:
                if not row:
                    continue
                if len(row) != 2 or not row[0].strip():
                    raise DataError(
                        f"{path}, line {reader.line_num}: not of the form 'path,labels'; separate labels by "
                        "semicolons or spaces, and quote a path with a comma"
                    )
                paths.append(posixpath.normpath(row[0].strip()))
                fields.append(row[1])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; write one with the columns image,labels") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as CSV in UTF-8") from None
    outside = [image for image in paths if image.startswith(("/", "../"))]
    _refuse(outside, path, "lies outside the folder", f"write paths relative to {path.parent}")
    _refuse(_repeated(paths), path, "has more than one line", "keep one, with all of its labels")
    return paths, fields


def _read_classes(
    path: Path, table: Path, images: list[str], fields: list[str]
) -> tuple[ClassSet, list[tuple[int, ...]]]:
    """The class list, and for each picture its classes as positions 0..K-1 in it, ascending."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        source, names = table, None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as UTF-8 text, one class a line") from None
    else:
        source, names = path, [line.strip() for line in lines if line.strip()]
    labels = parse_labels(fields, names or ())
    if names is None:
        names = sorted({label for of_image in labels for label in of_image})
    if "background" in names:
        raise DataError(f"{source}: the background is index 0 by itself; do not name it as a class")
    _refuse(_repeated(names), source, "is named more than once", "keep one line")
    try:
        classes = ClassSet(tuple(names))
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    position = {name: index for index, name in enumerate(names)}
    unknown = [
        f"{label} (of {image})"
        for image, of_image in zip(images, labels, strict=True)
        for label in of_image
        if label not in position
    ]
    _refuse(unknown, table, f"is not a class of {path.name}", "correct the label or add the class there")
    return classes, [tuple(sorted({position[label] for label in of_image})) for of_image in labels]


def _names(paths: list[str], table: Path) -> list[str]:
    names = [posixpath.splitext(below_pictures(path))[0] for path in paths]
    repeated = set(_repeated(names))
    clashes = [path for path, name in zip(paths, names, strict=True) if name in repeated]
    _refuse(clashes, table, "has the same name as another picture but for suffix or folder", "rename it")
    return names


def _first(root: Path, names: Sequence[str]) -> Path:
    """The first of the folders that is there, or else the last."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[-1])


def _split_file(root: Path, split: str) -> Path:
    return split_folder(root) / f"{split}.txt"


def _split_rows(root: Path, split: str, names: list[str]) -> list[int]:
    """Positions in `names` of the pictures of a split, in the order of its file."""
    path = _split_file(root, split)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        if split == ALL:
            return list(range(len(names)))
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise DataError(f"{path}: no such split; the splits of {root} are: {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as UTF-8 text, one name a line") from None
    if not lines:
        raise DataError(f"{path}: the split is empty; write the name of a picture on each line")
    row = {name: index for index, name in enumerate(names)}
    short = [below_pictures(line) for line in lines]
    found = [name if name in row else posixpath.splitext(name)[0] for name in short]
    unlabelled = [name for name in found if name not in row]
    _refuse(unlabelled, path, "has no line in labels.csv", "add one, or take it out of the split")
    _refuse(_repeated(found), path, "is in the split more than once", "keep one line")
    return [row[name] for name in found]


def _find_masks(root: Path, names: Sequence[str]) -> tuple[Path | None, ...]:
    folder = mask_folder(root)
    present = _existing(folder, [f"{name}.png" for name in names])
    return tuple(folder / f"{name}.png" if f"{name}.png" in present else None for name in names)


def _existing(root: Path, paths: Iterable[str]) -> set[str]:
    """Those of the relative paths that exist. Lists each folder once: faster than asking for each file."""
    wanted = set(paths)
    present: set[str] = set()
    for folder in {posixpath.dirname(path) for path in wanted}:
        try:
            present.update(posixpath.join(folder, name) for name in os.listdir(root / folder))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            continue
    return wanted & present


def _repeated(items: Sequence[str]) -> list[str]:
    return [item for item, count in Counter(items).items() if count > 1]


def _refuse(cases: Sequence[str], where: Path, problem: str, remedy: str) -> None:
    """Raise a DataError that names the first of the cases and counts the others, if there are any."""
    if cases:
        others = f" (and {len(cases) - 1} more)" if len(cases) > 1 else ""
        raise DataError(f"{where}: {cases[0]} {problem}{others}; {remedy}")
