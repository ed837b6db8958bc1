"""What is wrong with a folder of pictures: all of it at once, where `baoseg.data.Folder` names the first problem."""

import csv
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from baoseg.data.folder import below_pictures, mask_folder, parse_labels, split_folder
from baoseg.data.images import read_image, read_mask
from baoseg.errors import DataError
from baoseg.progress import track
from baoseg.types import IGNORE, ClassSet


class _Line(NamedTuple):
    """A line of labels.csv."""

    number: int
    path: str
    labels: list[str]

    @property
    def name(self) -> str:
        return posixpath.splitext(below_pictures(self.path))[0]


def folder(root: Path) -> list[str]:
    """All problems of a folder in the layout of `baoseg.data.folder`, each in one line: where, what, remedy.

    Every picture and mask is decoded. With an empty list every split can be trained on and evaluated, with one
    exception: pictures without labels are no problem outside of the splits to train on, which are those called
    train..., or all pictures where there is none.
    """
    try:
        rows = _rows(root / "labels.csv")
        named = _class_names(root / "classes.txt")
    except DataError as error:  # nothing else can be understood without these
        return [str(error)]
    good = [(number, row) for number, row in rows[1:] if _is_pair(row)]
    labels = parse_labels([row[1] for _, row in good], named or ())
    lines = [
        _Line(number, posixpath.normpath(row[0].strip()), names)
        for (number, row), names in zip(good, labels, strict=True)
    ]
    classes = sorted({label for line in lines for label in line.labels}) if named is None else named
    problems = [*_table(root / "labels.csv", rows, lines), *_classes(root, classes, lines), *_splits(root, lines)]
    unique = {line.path: line for line in lines if not _is_outside(line.path)}
    for line in track(unique.values(), title="pictures", total=len(unique)):
        problems += _picture(root, line, classes=len(classes))
    return problems


def _table(table: Path, rows: Sequence[tuple[int, list[str]]], lines: Sequence[_Line]) -> Iterator[str]:
    if not rows or [column.strip() for column in rows[0][1]] != ["image", "labels"]:
        yield f"{table}: the first line is not 'image,labels'; write that there, before the pictures"
    if not lines:
        yield f"{table}: no pictures; add a line 'path,labels' for each"
    for number, row in rows[1:]:
        if not _is_pair(row):
            yield f"{table}, line {number}: not of the form 'path,labels'; quote a path with a comma"
    for line in lines:
        if _is_outside(line.path):
            yield f"{table}, line {line.number}: {line.path} lies outside the folder; write a path relative to it"
    for path, numbers in _repeated((line.path, line.number) for line in lines):
        yield f"{table}: {path} has the lines {_and(numbers)}; keep one, with all of its labels"
    for name, paths in _repeated((line.name, path) for path, line in {line.path: line for line in lines}.items()):
        yield f"{table}: {_and(paths)} have the same name, {name}; rename all but one"


def _classes(root: Path, classes: Sequence[str], lines: Sequence[_Line]) -> Iterator[str]:
    source = root / ("classes.txt" if (root / "classes.txt").is_file() else "labels.csv")
    if "background" in classes:
        yield f"{source}: the background is index 0 by itself; do not name it as a class"
    try:
        ClassSet(tuple(classes))
    except DataError as error:
        yield f"{source}: {error}; correct the list"
    known = set(classes)
    for line in lines:
        for label in line.labels:
            if label not in known:
                yield (
                    f"{root / 'labels.csv'}, line {line.number}: {label} is not a class of classes.txt; correct the "
                    "label or add the class there"
                )


def _splits(root: Path, lines: Sequence[_Line]) -> Iterator[str]:
    files = sorted(split_folder(root).glob("*.txt"))
    labelled = {line.name: bool(line.labels) for line in lines}
    trained = set() if any(file.stem.startswith("train") for file in files) else set(labelled)
    for file in files:
        try:
            written = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            yield f"{file}: cannot be read ({error}); save it as UTF-8 text, one name a line"
            continue
        short = [below_pictures(name) for name in written]
        names = [name if name in labelled else posixpath.splitext(name)[0] for name in short]
        if not names:
            yield f"{file}: the split is empty; write the name of a picture on each line"
        for name, _ in _repeated((name, name) for name in names):
            yield f"{file}: {name} is in the split more than once; keep one line"
        for name in dict.fromkeys(names):
            if name not in labelled:
                yield f"{file}: {name} has no line in labels.csv; add one, or take it out of the split"
        if file.stem.startswith("train"):
            trained.update(names)
    for name in sorted(trained & labelled.keys()):
        if not labelled[name]:
            yield f"{root / 'labels.csv'}: {name} has no labels; label it, or leave it out of the training split"


def _picture(root: Path, line: _Line, *, classes: int) -> Iterator[str]:
    """Problems of a picture and of its mask, if it has one."""
    size = None
    try:
        size = read_image(root / line.path).shape[-2:]
    except DataError as error:
        yield str(error)
    path = mask_folder(root) / f"{line.name}.png"
    if not path.exists():
        return
    try:
        mask = read_mask(path)
    except DataError as error:
        yield str(error)
        return
    if size is not None and mask.shape != size:
        (height, width), (mask_height, mask_width) = size, mask.shape
        yield (
            f"{path}: the mask is {mask_width}x{mask_height} pixels and its picture, upright, {width}x{height}; make "
            "them the same size"
        )
    outside = mask[(mask > classes) & (mask != IGNORE)].unique().tolist()
    if outside:
        yield (
            f"{path}: {_and(outside)} outside the labels 0..{classes}; use {IGNORE} for pixels to ignore, or name the "
            "classes in classes.txt"
        )


def _rows(table: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and columns of what is not empty."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            return [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise DataError(f"{table}: no such file; write one with the columns image,labels") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}); save it as CSV in UTF-8") from None


def _class_names(path: Path) -> list[str] | None:
    """The lines of classes.txt; None where there is no such file."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as UTF-8 text, one class a line") from None


def _is_pair(row: list[str]) -> bool:
    return len(row) == 2 and bool(row[0].strip())


def _is_outside(path: str) -> bool:
    return path.startswith(("/", "../"))


def _repeated(pairs: Iterable[tuple[str, object]]) -> Iterator[tuple[str, list[object]]]:
    """The keys that occur more than once, each with its values."""
    values = defaultdict(list)
    for key, value in pairs:
        values[key].append(value)
    return ((key, found) for key, found in values.items() if len(found) > 1)


def _and(items: Iterable[object]) -> str:
    return " and ".join(map(str, items))
