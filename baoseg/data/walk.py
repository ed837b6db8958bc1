"""A walk through a folder: images, shards, and files that are ignored (for `bao predict` and `bao label`).

The walk reads each folder twice. The first time it notes an 8-byte hash of the stem of each image, to find images whose
masks would have the same file name, and the spellings of the suffixes of label files. The second time it yields the
names one by one.
"""

import os
import posixpath
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from baoseg.core.errors import DataError, RunError
from baoseg.data.images import image_suffixes, unread_suffixes

SHARD = ".tar"
_PACKED = frozenset({".bz2", ".gz", ".xz", ".zst"})  # after .tar
_ARCHIVES = frozenset({".7z", ".rar", ".tar", ".tbz2", ".tgz", ".txz", ".zip", *(SHARD + suffix for suffix in _PACKED)})
LINK = "(linked folder)"
ALONE = "(labels without an image)"


class Walk:
    """A walk through a folder and all folders in it. Hidden files and folders are left out without a message.

    The walk calls `failed(path, error)` for a folder that cannot be read, for an image that is not a file, and for
    images with the same name. It calls `ignored(path, kind)` for files that look like images or shards but are not
    read (the kind is the suffix), for links to folders, which are not followed, and for label files (suffixes in
    `beside`) without an image of their name. Paths are relative to the folder; "" is the folder itself.
    """

    def __init__(
        self,
        root: Path,
        *,
        failed: Callable[[str, DataError], None],
        ignored: Callable[[str, str], None],
        shards: bool = False,
        beside: Collection[str] = (),
    ) -> None:
        self.root = root
        self.images = image_suffixes()
        self.taken = self.images | ({SHARD} if shards else set())
        self.not_read = (unread_suffixes() | _ARCHIVES) - self.taken
        self.spellings: frozenset[str] = frozenset()  # of the suffixes in `beside`, in the folders up to now
        self._beside = beside
        self._failed = failed
        self._ignored = ignored

    def names(self, below: str = "") -> Iterator[str]:
        """Yields images and shards as paths relative to the folder, in the order of the file system."""
        clashes: dict[str, list[str]] = {}
        try:
            repeated, alone = self._look(below)
            with os.scandir(self.root / below) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        yield from self.names(f"{below}{entry.name}/")
                    elif alone and suffix_of(entry.name) in self._beside and _hash(entry.name) in alone:
                        self._ignored(f"{below}{entry.name}", ALONE)
                    elif self._is_taken(entry, below):
                        if repeated and self._is_image(entry.name) and _hash(entry.name) in repeated:
                            clashes.setdefault(posixpath.splitext(entry.name)[0], []).append(entry.name)
                        else:
                            yield f"{below}{entry.name}"
        except OSError as error:
            self._failed(below, DataError(f"this folder cannot be read ({error.strerror}); change its permissions"))
        for names in clashes.values():
            if len(names) == 1:  # two stems have the same hash, or the other file is gone by now
                yield f"{below}{names[0]}"
                continue
            for name in names:
                self._failed(f"{below}{name}", clash(names))

    def _look(self, below: str) -> tuple[set[int], set[int]]:
        """Hashes of stems that several images of this folder have, and hashes of label files without an image."""
        hashes, of_labels = array("q"), array("q")
        with os.scandir(self.root / below) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.is_dir(follow_symlinks=False):
                    continue
                if self._is_image(entry.name):
                    hashes.append(_hash(entry.name))
                    continue
                suffix = posixpath.splitext(entry.name)[1]
                if suffix.lower() in self._beside:
                    of_labels.append(_hash(entry.name))
                    if suffix not in self.spellings:
                        self.spellings |= {suffix}
        if not hashes:
            return set(), set(of_labels)
        ordered = np.frombuffer(hashes, dtype=np.int64)
        ordered.sort()
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        return set(repeated.tolist()), {label for label in of_labels if not _is_in(ordered, label)}

    def _is_taken(self, entry: "os.DirEntry[str]", below: str) -> bool:
        """Whether this is an image or a shard to read. Calls `failed` or `ignored` if it only looks like one."""
        suffix = suffix_of(entry.name)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself, or to a folder without permission
            is_folder = is_file = False
        if is_folder:
            self._ignored(f"{below}{entry.name}", LINK)
        elif suffix in self.taken and not is_file:
            self._failed(f"{below}{entry.name}", DataError("not a file, but a device or a link to a missing file"))
        elif suffix in self.not_read:
            self._ignored(f"{below}{entry.name}", suffix)
        return is_file and suffix in self.taken

    def _is_image(self, name: str) -> bool:
        return posixpath.splitext(name)[1].lower() in self.images


def suffix_of(name: str) -> str:
    """The suffix in lower case; both suffixes for a compressed archive (.tar.gz)."""
    stem, suffix = posixpath.splitext(name.lower())
    return SHARD + suffix if suffix in _PACKED and stem.endswith(SHARD) else suffix


def clash(names: Collection[str]) -> DataError:
    """The error for images whose masks would have the same file name."""
    return DataError(f"{len(names)} images have this name: {', '.join(sorted(names))}; give each image its own name")


def ignored_text(counts: Counter[str]) -> str:
    """The number of ignored files, and their kinds; empty for no file."""
    if not counts:
        return ""
    total = counts.total()
    kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return f"{total} {'file was' if total == 1 else 'files were'} ignored: {named}"


def check_out(out: Path) -> None:
    """Raise RunError if a file has the name of the output folder or of one of its parents."""
    there = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise RunError(f"{there}: a file is in the way of a folder; choose another folder with --out")


def _is_in(ordered: Int64[np.ndarray, "n"], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and int(ordered[place]) == value


def _hash(name: str) -> int:
    return hash(posixpath.splitext(name)[0])
