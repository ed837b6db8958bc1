"""Readers of CUB-200-2011, ILSVRC and OpenImages-WSOL as they come."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from baoseg.core.errors import DataError
from baoseg.data.boxed.entries import Box, Entry, box_of, lines_of, numbers_of


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
            raise DataError(f"{root}: image {number} ({image}) lacks {error} in a list; restore the lists") from None
        if not chosen:
            continue
        x, y, width, height = numbers_of(place, 4, f"{root / 'bounding_boxes.txt'}, image {number}")
        mask = root / "segmentations" / Path(image).with_suffix(".png")
        entries.append(
            Entry(
                name=str(Path(image).with_suffix("")),
                path=root / "images" / image,
                label=label,
                boxes=(box_of((x, y, x + width, y + height), f"{root / 'bounding_boxes.txt'}, image {number}"),),
                masks=(mask,) if mask.exists() else (),
                level=128,
            )
        )
    return list(classes.values()), entries


def read_ilsvrc(root: Path, split: str) -> tuple[list[str], list[Entry]]:
    """ImageNet's CLS-LOC. Boxes are those of `val`; the label of an image there is what its annotation names."""
    folder, annotations = root / "Data" / "CLS-LOC" / split, root / "Annotations" / "CLS-LOC" / split
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {root} should be the folder ILSVRC, and its splits train and val")
    training = root / "Data" / "CLS-LOC" / "train"
    synsets = sorted(path.name for path in training.iterdir() if path.is_dir()) if training.is_dir() else []
    if split == "train":
        return synsets, [
            Entry(name=f"{synset}/{path.stem}", path=path, label=synset)
            for synset in synsets
            for path in sorted((folder / synset).glob("*.JPEG"))
        ]
    entries = []
    for path in sorted(folder.glob("*.JPEG")):
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
        raise DataError(f"{path}: names {len(labels)} classes; for localization an image has one")
    return labels.pop(), tuple(box_of(some, str(path)) for some in corners)


def _split_off(path: Path, fields: int) -> Iterator[list[str]]:
    for line in lines_of(path):
        parts = line.split(",")
        if len(parts) != fields:
            raise DataError(f"{path}: {line!r} does not have {fields} fields with commas between; restore the file")
        yield parts


def _table(path: Path) -> dict[str, list[str]]:
    """Lines of a number and what follows it. Raises DataError where a number has two lines that differ."""
    table: dict[str, list[str]] = {}
    for number, *rest in (line.split() for line in lines_of(path)):
        if table.setdefault(number, rest) != rest:
            raise DataError(f"{path}: {number} has more than one line; keep one")
    return table
