"""A folder of images with image-level labels.

    FOLDER/
      labels.csv                  image,labels          e.g.  JPEGImages/cat_7.jpg,cat sofa
      classes.txt                 optional: one class per line, in the order of the indices
    images anywhere below the folder, and, as in PASCAL VOC
      ImageSets/Segmentation/SPLIT.txt     optional: one name per line
      SegmentationClass/NAME.png           optional: ground truth, for evaluation only; see `baoseg.data.truth`
    or, in the plain layout,
      splits/SPLIT.txt
      masks/NAME.png

The name of an image is its path below JPEGImages/, images/ or the folder itself, without the suffix.
"""

import functools
import hashlib
import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.text import folded
from baoseg.core.types import IGNORE, ClassSet, Sample
from baoseg.data import truth
from baoseg.data.files import Tree
from baoseg.data.images import image_size, read_image
from baoseg.data.table import read as read_table
from baoseg.data.table_checks import Problem, refuse
from baoseg.data.table_lines import Line, matched, read_list

ALL = "all"  # the split of every image in labels.csv, unless a split file of this name exists
_SPLITS = ("ImageSets/Segmentation", "splits")
_MASKS = ("SegmentationClass", "masks")
_FILES = ("labels.csv", "classes.txt", "boxes.csv")
_FOUND_UNASKED = ("train", "val")  # splits that are used if they exist, without being named


class Folder:
    """The images of one split of a folder; the docstring of this module describes the layout of the folder.

    An image without labels shows the background alone. With `training=True`, at least one image must have a label, and
    masks are ignored. Opening a folder checks all that can be checked without decoding an image, and raises DataError,
    which names the first case of a problem and counts the others.
    """

    def __init__(self, root: str | Path, split: str = ALL, *, training: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.split = split
        refuse(misnamed(self.root))
        table = read_table(self.root)
        refuse(table.problems)
        self.classes = ClassSet(table.classes)
        lines = _lines_of(self.root, split, table.lines)
        self.names: Sequence[str] = tuple(line.name for line in lines)
        position = {name: index for index, name in enumerate(table.classes)}
        self._labels = [tuple(sorted(position[label] for label in line.labels)) for line in lines]
        if training and not any(self._labels):
            raise DataError(
                f"{table.path}: no image of the split {split} has a label; training needs images with labels"
            )
        self._paths = _existing(self.root, lines, table.path)
        self._truth = None if training else truth.find(mask_folder(self.root), [line.name for line in table.lines])
        files = () if self._truth is None else self._truth.files
        of_all = dict(zip(table.lines, files, strict=True)) if files else {}
        self._masks = tuple(of_all[line] for line in lines) if files else ()
        self._labelled = {path: bool(line.labels) for line, path in of_all.items() if path is not None}
        self.has_masks = any(self._masks)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Decodes the image, and its mask if it has one."""
        image = read_image(self.image_file(index))
        height, width = image.shape[-2:]
        return Sample(self.names[index], image, self.labels(index), self._read_mask(index, (height, width)))

    def image_file(self, index: int) -> Path:
        return self.root / self._paths[index]

    def mask_file(self, index: int) -> Path | None:
        """The file of the ground truth of an image; None if it has none."""
        return self._masks[index] if self.has_masks else None

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, if possible without decoding it."""
        return image_size(self.image_file(index))

    def labels(self, index: int) -> Float[Tensor, "K"]:
        """Label vector y in {0, 1} of an image, without decoding the image."""
        vector = torch.zeros(len(self.classes))
        vector[list(self._labels[index])] = 1.0
        return vector

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        """Ground truth of an image, without decoding the image; None if it has none."""
        if not self.has_masks or self._masks[index] is None:
            return None
        return self._read_mask(index, self.size(index))

    def fingerprint(self, *, masks: bool = True) -> str:
        """SHA-256 (hex) of class list, split, names, labels and file sizes in bytes; with `masks`, of mask files too.

        The hash does not change if the folder is moved or copied.
        """
        truth = [mask for mask in self._masks if mask] if masks else []
        content = [self.classes.names, self.split, self.names, self._labels, [self.image_bytes(), _bytes(truth)]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()

    def image_bytes(self) -> list[int]:
        """The sizes of the image files in bytes."""
        return _bytes([self.root / path for path in self._paths])

    def mask_count(self) -> int:
        """The number of images with ground truth."""
        return sum(mask is not None for mask in self._masks)

    def mask_remarks(self) -> list[str]:
        """Lines for the user about the ground truth: mask files without an image, and an unusual meaning of 255.

        Raises DataError if the masks of the folder contradict the labels.
        """
        if self._truth is None:
            return []
        remarks = [self._truth.remark()]
        if self.has_masks:
            remarks.append(self._reader.remark(self._truth.folder, self.classes.names))
        return [remark for remark in remarks if remark is not None]

    @functools.cached_property
    def _reader(self) -> truth.Reader:
        """The reader of the masks, chosen from the masks of all splits, this split first."""
        assert self._truth is not None
        own = [path for path in self._masks if path is not None]
        masks = [(path, self._labelled[path]) for path in dict.fromkeys([*own, *self._labelled])]
        return truth.reader(self._truth.folder, masks, len(self.classes))

    def _read_mask(self, index: int, size: tuple[int, int]) -> UInt8[Tensor, "h w"] | None:
        path = self._masks[index] if self.has_masks else None
        if path is None:
            return None
        mask = self._reader(path)
        if problem := truth.wrong_size(path, mask.shape, size):
            raise DataError(problem)
        outside = mask[(mask > len(self.classes)) & (mask != IGNORE)]
        if len(outside):
            raise DataError(
                f"{path}: label {int(outside[0])} is outside 0..{len(self.classes)}; use {IGNORE} for pixels to ignore"
            )
        return mask


def _bytes(paths: Iterable[Path]) -> list[int]:
    try:
        return [path.stat().st_size for path in paths]
    except OSError as error:  # the file is gone since the folder was opened, or is a link to a missing file
        raise DataError(f"{error.filename}: {error.strerror}; restore the file") from None


def has_split(root: str | Path, split: str) -> bool:
    """Whether the folder has a list for the split."""
    return _split_file(Path(root).expanduser(), split).is_file()


def split_files(root: Path) -> list[Path]:
    """The files that list the splits, without hidden files. Raises DataError if their folder cannot be listed."""
    folder = _first(root, _SPLITS)
    try:
        found = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); change its permissions") from None
    return [path for path in found if path.suffix.lower() == ".txt" and not path.name.startswith(".")]


def misnamed(root: Path) -> list[Problem]:
    """Files and folders that are not read because their name differs a little: `Masks`, `splits/val.lst`."""
    problems = []
    for path in (*_FILES, *_MASKS, "ImageSets", *_SPLITS):
        place = (root / path).parent
        listed = _listed(place)
        name = Path(path).name
        if name not in listed and (root / path).exists():
            continue  # the system does not tell letter case apart
        for other in sorted(listed - {name}):
            if folded(other) == folded(name):
                problems.append(Problem(str(place / other), "", "is not read", f"rename it to {path}, or remove it"))
    lists = _listed(_first(root, _SPLITS))
    for name in sorted(lists):
        stem, suffix = posixpath.splitext(name)
        if folded(stem) in _FOUND_UNASKED and suffix.lower() != ".txt" and not has_split(root, folded(stem)):
            where = str(_first(root, _SPLITS) / name)
            problems.append(
                Problem(where, "", "is not read", f"rename it to {folded(stem)}.txt, with one name per line")
            )
    return problems


def _listed(folder: Path) -> set[str]:
    """The names in a folder; none for a folder that is missing or cannot be listed."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except (OSError, ValueError):
        return set()


def mask_folder(root: Path) -> Path:
    """The folder of the ground truth, whether or not it exists."""
    return _first(root, _MASKS)


def _first(root: Path, names: Sequence[str]) -> Path:
    """The first of the folders that exists, otherwise the last."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[-1])


def _split_file(root: Path, split: str) -> Path:
    """The file that lists a split. Without such a file, the only one whose name differs in letter case."""
    path, files = _first(root, _SPLITS) / f"{split}.txt", split_files(root)
    alike = [] if path in files else [other for other in files if folded(other.stem) == folded(split)]
    return alike[0] if len(alike) == 1 else path


def _lines_of(root: Path, split: str, lines: Sequence[Line]) -> Sequence[Line]:
    """The images of a split, in the order of its file."""
    path, by_name = _split_file(root, split), {line.name: line for line in lines}
    try:
        names, problems = read_split(path, by_name)
    except FileNotFoundError:
        if split == ALL:
            return lines
        known = ", ".join(file.stem for file in split_files(root)) or "none"
        raise DataError(f"{path}: no such split; the splits of {root} are: {known}") from None
    refuse(problems)
    return [by_name[name] for name in names]


def read_split(path: Path, known: Mapping[str, object]) -> tuple[list[str], list[Problem]]:
    """The names in a split file, and what is wrong with them; `known` are the names of the images of labels.csv.

    Raises FileNotFoundError for a missing file, and DataError for a file that cannot be read.
    """
    names, where = matched(read_list(path), known), str(path)
    problems = [] if names else [Problem(where, "", "the split is empty", "write one image name per line")]
    for name, count in Counter(names).items():
        if count > 1:
            problems.append(Problem(where, name, "is in the split more than once", "keep one line"))
        if name not in known:
            remedy = "add a line, or remove the image from the split"
            problems.append(Problem(where, name, "has no line in labels.csv", remedy))
    return names, problems


def _existing(root: Path, lines: Sequence[Line], table: Path) -> list[str]:
    """The paths of the images on disk, relative to the folder."""
    files = Tree(root)
    found = [files.find(line.path) for line in lines]
    missing = [line.path for line, path in zip(lines, found, strict=True) if path is None]
    hint = next(filter(None, map(files.hint, missing[:1])), None)
    remedy = (
        f"paths are relative to {root}" if hint is None else f"the folder has {hint}: write the path as it is on disk"
    )
    refuse([Problem(str(table), path, "does not exist", remedy) for path in missing])
    return [path for path in found if path is not None]
