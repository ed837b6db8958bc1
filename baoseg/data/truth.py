"""Ground-truth masks in a folder: the mask file of each image, the meaning of its values, agreement with the labels.

Below the folder of the masks, the mask of the image NAME is the first of these files that exists:

    NAME.png        or another suffix of MASK_SUFFIXES, in upper or lower case
    NAME.jpg.png    the file name of the image, with any suffix, and the suffix of a mask
    NAME_mask.png

Hidden files are ignored.
"""

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.text import tidy_path
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.data.images import MASK_SUFFIXES, image_suffixes, read_mask, unread_suffixes

_FIRST_CLASS = BACKGROUND + 1
_NO_IMAGES = (".npy", ".npz", ".mat")  # these files may be masks, in formats that are not read
_FEW = 0.1  # share of masks without any class up to which there is no message: small objects may be ignored


@dataclass(frozen=True)
class Found:
    """The mask file of each image (None: no mask), and files that look like masks and belong to no image."""

    folder: Path
    files: tuple[Path | None, ...]
    unmatched: tuple[str, ...]

    def remark(self) -> str | None:
        """A line for the user if there are both mask files without an image and images without a mask."""
        if not self.unmatched or all(self.files):
            return None
        count = len(self.unmatched)
        return (
            f"{self.folder}: {count} {'file matches' if count == 1 else 'files match'} no image of labels.csv, e.g. "
            f"{min(self.unmatched)}; give a mask the name of its image, NAME.png (or {', '.join(MASK_SUFFIXES[1:])}), "
            "or remove the file"
        )


def find(folder: Path, names: Sequence[str]) -> Found:
    """Find the masks of the images `names` in a folder. Raises DataError if an image has two masks of the same rank."""
    wanted = {tidy_path(name): name for name in names}
    ways: dict[str, list[tuple[int, str]]] = {}
    unmatched = []
    for path in _files(folder, {posixpath.dirname(name) for name in names}):
        rank, name = _image_of(path, wanted)
        if name is not None:
            ways.setdefault(name, []).append((rank, path))
        elif _looks_like_a_mask(path):
            unmatched.append(path)
    chosen = {}
    for name, found in ways.items():
        (rank, path), *others = sorted(found)
        if others and others[0][0] == rank:
            raise DataError(f"{folder}: {path} and {others[0][1]} are both masks of {name}; keep one")
        chosen[name] = folder / path
    return Found(folder, tuple(map(chosen.get, names)), tuple(unmatched))


def _files(folder: Path, below: Iterable[str]) -> Iterator[str]:
    """Yields relative paths of all files but hidden ones, also in the folders `below` that are links."""
    seen = set()
    for top in ("", *sorted(below)):
        for place, folders, files in os.walk(folder / top, onerror=_not_listed):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
            relative = Path(place).relative_to(folder).as_posix()
            yield from (posixpath.normpath(posixpath.join(relative, name)) for name in files if name[0] != ".")


def _not_listed(error: OSError) -> None:
    """Raise DataError for a folder that cannot be listed: without its masks nothing would be evaluated."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); change its permissions")


def _image_of(path: str, names: dict[str, str]) -> tuple[int, str | None]:
    """The rank of a file name (0 is best) and the name of the image whose mask the file is, or None."""
    stem, suffix = posixpath.splitext(tidy_path(path))
    if suffix.lower() not in MASK_SUFFIXES:
        return 0, None
    if stem in names:
        return (0 if path == f"{names[stem]}{MASK_SUFFIXES[0]}" else 1), names[stem]
    inner, of_image = posixpath.splitext(stem)
    if inner in names and of_image.lower() in image_suffixes():
        return 2, names[inner]
    return 3, names.get(stem.removesuffix("_mask"))


def _looks_like_a_mask(path: str) -> bool:
    suffix = posixpath.splitext(path)[1].lower()
    return suffix in (*MASK_SUFFIXES, *_NO_IMAGES) or suffix in image_suffixes() | unread_suffixes()


@dataclass(frozen=True)
class Reader:
    """Reads the masks of a set of images. With `white`, 255 means the only class, and no pixel is ignored."""

    classes: int
    white: bool = False

    def __call__(self, path: Path) -> UInt8[Tensor, "h w"]:
        mask = read_mask(path, classes=self.classes)
        if self.white:
            mask[mask == IGNORE] = _FIRST_CLASS
        return mask

    def remark(self, folder: Path, names: Sequence[str]) -> str | None:
        """A line for the user if 255 is read as a class."""
        if not self.white:
            return None
        return f"{folder}: the masks hold 0 and {IGNORE} only; {IGNORE} is read as {names[0]}, not as pixels to ignore"


def reader(folder: Path, masks: Iterable[tuple[Path, bool]], classes: int) -> Reader:
    """Choose how to read the masks, from (path, whether the image has labels) of all masks.

    Reads masks until one has a class, which is most often the first. If no mask has a class although images have
    labels, 255 means the class if there is only one. Raises DataError if there are more classes, or if all pixels of
    all masks are background.
    """
    seen: set[int] = set()
    count = labelled = 0
    for path, has_labels in masks:
        try:
            seen.update(_values(read_mask(path, classes=classes)))
        except DataError:  # the error is raised again when the mask is needed
            continue
        if seen - {BACKGROUND, IGNORE}:
            return Reader(classes)
        count += 1
        labelled += has_labels
    if labelled == 0:
        return Reader(classes)
    if IGNORE in seen and classes == 1:
        return Reader(classes, white=True)
    told = (
        f"the labels of {labelled} of their images name classes; give the pixels of each class its index "
        f"{_range(classes)}"
    )
    if IGNORE in seen:
        raise DataError(
            f"{folder}: the {count} masks hold 0 and {IGNORE} only, and {IGNORE} is for pixels to ignore, but {told}"
        )
    raise DataError(f"{folder}: the {count} masks show nothing but background, but {told}")


@dataclass
class Agreement:
    """Counts how the classes in masks agree with the labels of their images.

    Labels may leave out small objects, so a mask may have classes that the labels do not name: that is a remark, not an
    error. A mask that has other classes *instead* of the labels contradicts them. If most masks do, or if all masks
    have the first class alone, the indices and the class names do not belong together, and scores would be meaningless.
    """

    classes: Sequence[str]
    masks: int = 0
    judged: int = 0  # masks with a class, whose images have labels
    more: int = 0  # masks with classes that the labels do not name
    instead: int = 0  # of these, masks without any class that the labels name
    empty: int = 0  # masks without a class, whose images have labels
    shown: set[int] = field(default_factory=set)
    named: dict[int, str] = field(
        default_factory=dict
    )  # class -> first image whose labels name it and whose mask has a class
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, mask: UInt8[Tensor, "h w"], named: AbstractSet[int]) -> None:
        """Count the mask of the image `name`, whose labels name the class indices `named` (1..K)."""
        seen = set(_values(mask)) - {BACKGROUND, IGNORE}
        self.masks += 1
        self.shown |= seen
        self.judged += bool(seen and named)
        if seen - named:
            self.more += 1
            self.examples.setdefault("more", f"{name}: {self._names(seen - named)}")
        if seen and named and not seen & named:
            self.instead += 1
            about = f"{name}: the mask shows {self._names(seen)}, the labels name {self._names(named)}"
            self.examples.setdefault("instead", about)
        if seen:
            self.named = {**dict.fromkeys(named, name), **self.named}
        if named and not seen:
            self.empty += 1
            self.examples.setdefault("empty", name)

    def __add__(self, other: "Agreement") -> "Agreement":
        counts = ("masks", "judged", "more", "instead", "empty")
        return Agreement(
            self.classes,
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            shown=self.shown | other.shown,
            named={**other.named, **self.named},
            examples={**other.examples, **self.examples},
        )

    def remarks(self) -> list[str]:
        """A line for the user for each kind of disagreement between masks and labels."""
        lines, example = [], self.examples
        if self.more:
            lines.append(
                f"{_share(self.more, self.masks)} classes that their labels do not name, e.g. {example['more']}; "
                f"correct labels.csv, or write classes.txt in the order of the masks' values {self._range}"
            )
        if never := self.named.keys() - self.shown:
            lines.append(
                f"no mask shows {self._names(never)}, which labels name, e.g. those of {self.named[min(never)]}; "
                f"give the pixels of each class its index {self._range}, or correct labels.csv"
            )
        if self.empty > _FEW * self.masks:
            lines.append(
                f"{_share(self.empty, self.masks)} no class although their labels name some, e.g. {example['empty']}; "
                f"give the pixels of a class its index, {IGNORE} is for pixels to ignore"
            )
        return lines

    def refusal(self) -> str | None:
        """An error message if the masks contradict the labels; None if they do not."""
        told = f"{_share(self.instead, self.judged)} classes that their labels do not name"
        example = self.examples.get("instead")
        if self.shown == {_FIRST_CLASS} and self.instead > _FEW * self.judged:
            return (
                f"{told}: all show {self.classes[0]} alone, as masks of the foreground do, e.g. {example}; give the "
                f"pixels of each class its index {self._range}"
            )
        if 2 * self.instead > self.judged:
            return (
                f"{told}, and none that they name, e.g. {example}; write classes.txt in the order of the masks' values "
                f"{self._range}, or make masks with the indices of the class list"
            )
        return None

    @property
    def _range(self) -> str:
        return _range(len(self.classes))

    def _names(self, indices: Iterable[int]) -> str:
        return " and ".join(
            self.classes[index - 1] if index <= len(self.classes) else str(index) for index in sorted(indices)
        )


def wrong_size(path: Path, mask: Sequence[int], image: Sequence[int]) -> str:
    """The problem of a mask whose (height, width) is not that of its image; empty for the same size."""
    if tuple(mask) == tuple(image):
        return ""
    return (
        f"{path}: the mask is {mask[1]}x{mask[0]} pixels and its image, upright, {image[1]}x{image[0]}; make them the "
        "same size"
    )


def named_by(labels: Float[Tensor, "K"]) -> set[int]:
    """The class indices 1..K of a label vector."""
    return set((labels.nonzero().flatten() + 1).tolist())


def _values(mask: UInt8[Tensor, "h w"]) -> list[int]:
    return torch.bincount(mask.flatten(), minlength=IGNORE + 1).nonzero().flatten().tolist()


def _share(count: int, of: int) -> str:
    return f"{count} of {of} {'mask shows' if of == 1 else 'masks show'}"


def _range(classes: int) -> str:
    return "1" if classes == 1 else f"1..{classes}"
