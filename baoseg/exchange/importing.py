"""Masks of other tools to index masks: matched to the images and classes of a data set, checked, and written.

All that does not fit is said at once, before anything is written: classes and images that the data set lacks, masks of
another size, images that were drawn twice, and what cannot be read.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from baoseg.core import progress
from baoseg.core.errors import DataError
from baoseg.core.types import BACKGROUND, IGNORE, ClassSet
from baoseg.data.folder import Folder
from baoseg.data.images import most_pixels, write_mask
from baoseg.exchange.common import BACKGROUND_NAMES, IGNORE_NAMES, key, shown
from baoseg.exchange.result import Drawn

MOST = 10  # problems that a message lists


def import_masks(drawn: Callable[[], Iterable[Drawn]], data: Folder, out: Path) -> int:
    """Write OUT/NAME.png for each image that was drawn on, and return how many; `drawn` is read twice.

    Names of classes match without regard to letter case. An image is found by its path, or by the end of the path if
    only one image has that. Raises DataError with all that does not fit.
    """
    matcher = _Matcher(data)
    problems = list(matcher.problems(drawn()))
    if problems:
        rest = f"; and {len(problems) - MOST} more" if len(problems) > MOST else ""
        raise DataError("; ".join(problems[:MOST]) + rest)
    written = 0
    for one in progress.track(drawn(), title="import", total=matcher.count):
        name = matcher.names.find(one.name)
        assert name is not None
        write_mask(out / f"{name}.png", torch.from_numpy(matcher.mask(one, name)))
        written += 1
    return written


class _Matcher:
    def __init__(self, data: Folder) -> None:
        self.data = data
        self.names = _Names(data.names)
        self.classes = _by_name(data.classes)
        self.positions = {name: index for index, name in enumerate(data.names)}
        self.count = 0

    def problems(self, drawn: Iterable[Drawn]) -> Iterator[str]:
        unknown, seen = Counter[str](), Counter[str]()
        absent, sizes, damaged = [], [], []
        for one in drawn:
            self.count += 1
            try:
                unknown.update(self._unknown(one))
            except DataError as error:
                damaged.append(str(error))
            name = self.names.find(one.name)
            if name is None:
                absent.append(one.name)
                continue
            seen[name] += 1
            expected = self.data.size(self.positions[name])
            if one.size not in (None, expected):
                assert one.size is not None
                sizes.append(f"{one.name} (drawn at {_sides(one.size)}, the image has {_sides(expected)})")
        known = ", ".join(self.data.classes.names)
        for label, count in sorted(unknown.items()):
            yield f"unknown class {label!r} on {count} images; the classes are {known}"
        if absent:
            yield f"{len(absent)} images that {self.data.root} does not have: {shown(absent)}"
        if sizes:
            yield f"{len(sizes)} masks of another size than their image: {shown(sizes)}"
        if twice := [name for name, count in seen.items() if count > 1]:
            yield f"{len(twice)} images drawn more than once: {shown(twice)}; keep one of each"
        yield from damaged
        if not self.count:
            yield "nothing was drawn: there is no mask in it"

    def _unknown(self, one: Drawn) -> set[str]:
        """The classes of an image that the data set lacks; none of an image that is too large to be one."""
        if one.size is not None and one.size[0] * one.size[1] > most_pixels():
            return set()
        return {label for label, _ in one.layers if label is not None and key(label) not in self.classes}

    def mask(self, one: Drawn, name: str) -> UInt8[np.ndarray, "h w"]:
        mask = np.zeros(one.size or self.data.size(self.positions[name]), dtype=np.uint8)
        for label, pixels in one.layers:
            mask[pixels] = IGNORE if label is None else self.classes[key(label)]
        return mask


def _by_name(classes: ClassSet) -> dict[str, int]:
    """The index of each class by its name; also of pixels to ignore and of the background, if no class is so named."""
    others = {**dict.fromkeys(BACKGROUND_NAMES, BACKGROUND), **dict.fromkeys((*IGNORE_NAMES, str(IGNORE)), IGNORE)}
    return {**others, **{key(name): index for index, name in enumerate(classes.names, start=1)}}


def _sides(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


class _Names:
    """Finds the image of a path that another tool wrote: with a suffix, and more or fewer folders before it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._whole = set(names)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for name in self._whole:
            self._by_end[name.rpartition("/")[2]].append(name)

    def find(self, path: str) -> str | None:
        stem = path.replace("\\", "/")
        for name in (stem, stem.rpartition(".")[0]):
            if name in self._whole:
                return name
            parts = name.split("/")
            if ends := [end for first in range(1, len(parts)) if (end := "/".join(parts[first:])) in self._whole]:
                return ends[0]
        alike = [name for end in _ends(stem) for name in self._by_end.get(end, [])]
        return alike[0] if len(alike) == 1 else None


def _ends(path: str) -> list[str]:
    last = path.rpartition("/")[2]
    return list(dict.fromkeys((last, last.rpartition(".")[0])))
