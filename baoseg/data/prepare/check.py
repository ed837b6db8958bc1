"""All problems of a folder of images at once (`baoseg.data.Folder` names only the first problem)."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.progress import say, track
from baoseg.core.types import IGNORE
from baoseg.data import truth
from baoseg.data.files import Tree
from baoseg.data.folder import mask_folder, misnamed, read_split, split_files
from baoseg.data.images import image_suffixes, read_image, unread_suffixes
from baoseg.data.table import read
from baoseg.data.table_checks import is_outside
from baoseg.data.table_lines import Line


def folder(root: Path) -> list[str]:
    """All problems of a folder in the layout of `baoseg.data.folder`, each in one line: where, what, remedy.

    Every image and mask is decoded. With an empty list every split can be trained on and evaluated. Images without
    labels are no problem, as long as a split to train on has some with: those called train..., or all images where
    there is none.
    """
    problems: list[str] = []
    try:
        problems += [problem.line() for problem in misnamed(root)]
        table = read(root)
        problems += [problem.line() for problem in table.problems]
        problems += _splits(root, table.lines)
        files = Tree(root)
        unique = {line.image: line for line in table.lines if not is_outside(line.path)}
        masks = _Masks(root, list(unique.values()), table.classes)
        for line in track(unique.values(), title="images", total=len(unique)):
            size = None
            try:
                size = tuple(_image(files, line).shape[-2:])
            except DataError as error:
                problems.append(str(error))
            masks.check(line, size)
    except DataError as error:  # nothing that follows can be understood without this
        return [*problems, str(error)]
    _say_unlisted(files, table.lines, masks.folder)
    return problems + masks.problems()


def _say_unlisted(files: Tree, lines: Sequence[Line], masks: Path) -> None:
    """Print a line about images that labels.csv does not name; these may be masks in a folder of another name."""
    listed = {posixpath.normpath(files.find(line.path) or line.path) for line in lines}
    suffixes = image_suffixes() | unread_suffixes()
    others = []
    for place, folders, names in os.walk(files.root):
        folders[:] = [name for name in folders if name[0] != "." and Path(place, name) != masks]
        below = Path(place).relative_to(files.root).as_posix()
        paths = (posixpath.normpath(posixpath.join(below, name)) for name in names if name[0] != ".")
        others += [path for path in paths if posixpath.splitext(path)[1].lower() in suffixes and path not in listed]
    if others:
        count = f"{len(others)} {'image has' if len(others) == 1 else 'images have'}"
        say(f"{files.root}: {count} no line in labels.csv and will not be used, e.g. {min(others)}")


def _splits(root: Path, lines: Sequence[Line]) -> Iterator[str]:
    labelled = {line.name: bool(line.labels) for line in lines}
    files = split_files(root)
    for file in files:
        try:
            names, problems = read_split(file, labelled)
        except (DataError, FileNotFoundError) as error:
            yield str(error)
            continue
        yield from (problem.line() for problem in problems)
        if file.stem.startswith("train") and names and not any(labelled.get(name, True) for name in names):
            yield f"{file}: no image has a label; training needs images with labels"
    if lines and not any(labelled.values()) and not any(file.stem.startswith("train") for file in files):
        yield f"{root / 'labels.csv'}: no image has a label; training needs images with labels"


class _Masks:
    """Checks the masks of a folder: each mask alone, and all masks against the labels."""

    def __init__(self, root: Path, lines: Sequence[Line], classes: Sequence[str]) -> None:
        self.folder = mask_folder(root)
        self.classes = classes
        self.agreement = truth.Agreement(classes)
        self.files: dict[str, Path] = {}
        self.reader = truth.Reader(min(len(classes), IGNORE - 1))
        self._problems: list[str] = []
        self.understood = True  # False: the files or their values are not understood
        try:
            found = truth.find(self.folder, [line.name for line in lines])
            paired = list(zip(lines, found.files, strict=True))
            self.files = {line.name: path for line, path in paired if path is not None}
            self._problems += [remark for remark in [found.remark()] if remark is not None]
            labelled = [(path, bool(line.labels)) for line, path in paired if path is not None]
            self.reader = truth.reader(self.folder, labelled, self.reader.classes)
        except DataError as error:
            self._problems.append(str(error))
            self.understood = False
        if remark := self.reader.remark(self.folder, classes):
            say(remark)

    def check(self, line: Line, size: tuple[int, ...] | None) -> None:
        """The mask of an image, if it has one, which is of this size where that is known."""
        if (path := self.files.get(line.name)) is None:
            return
        try:
            mask = self.reader(path)
        except DataError as error:
            self._problems.append(str(error))
            return
        if size is not None and (problem := truth.wrong_size(path, mask.shape, size)):
            self._problems.append(problem)
        outside = mask[(mask > len(self.classes)) & (mask != IGNORE)].unique().tolist()
        if outside:
            self._problems.append(
                f"{path}: {_and(outside)} outside the labels 0..{len(self.classes)}; use {IGNORE} for pixels to "
                "ignore, or name the classes in classes.txt"
            )
            return
        known = set(line.labels) <= set(self.classes)
        if self.understood and line.labels and known:  # without labels, the classes of the image are unknown
            self.agreement.add(line.name, mask, {self.classes.index(label) + 1 for label in line.labels})

    def problems(self) -> list[str]:
        """All problems; call this after all masks."""
        refusal = self.agreement.refusal()
        disagreement = self.agreement.remarks() if refusal is None else [refusal]
        return self._problems + [f"{self.folder}: {problem}" for problem in disagreement]


def _image(files: Tree, line: Line) -> UInt8[Tensor, "3 h w"]:
    found = files.find(line.path)
    if found is None and (hint := files.hint(line.path)):
        raise DataError(f"{files.root / line.path}: no such image; there is {hint}: write the path as it is on disk")
    return read_image(files.root / (found or line.path))


def _and(items: Iterable[object]) -> str:
    return " and ".join(map(str, items))
