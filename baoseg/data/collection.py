"""What a folder holds for the verbs that search it: images, shards, and what they pass over.

Names come in two passes over each folder. The first notes a hash of each image's stem, 8 bytes, to find images whose
masks would be one file, and how the suffixes of label files are spelled. The second gives the names one by one.
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
    """A walk through a folder and the folders in it. Hidden files and folders are left out, without a word.

    `failed` is told of folders that cannot be read, images that are no files and images of one name; `passed` of what
    looks like images or shards and is not taken, with its suffix, of links to folders, which are not followed, and of
    files with a suffix in `beside` that have the name of no image. Both get paths relative to the folder; "" is the
    folder itself.
    """

    def __init__(
        self,
        root: Path,
        *,
        failed: Callable[[str, DataError], None],
        passed: Callable[[str, str], None],
        shards: bool = False,
        beside: Collection[str] = (),
    ) -> None:
        self.root = root
        self.images = image_suffixes()
        self.taken = self.images | ({SHARD} if shards else set())
        self.passed_over = (unread_suffixes() | _ARCHIVES) - self.taken
        self.spellings: frozenset[str] = frozenset()  # of the suffixes in `beside`, in the folders up to now
        self._beside = beside
        self._failed = failed
        self._passed = passed

    def names(self, below: str = "") -> Iterator[str]:
        """Images and shards, as paths relative to the folder, in the order of the file system."""
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
                        self._passed(f"{below}{entry.name}", ALONE)
                    elif self._is_taken(entry, below):
                        if repeated and self._is_image(entry.name) and _hash(entry.name) in repeated:
                            clashes.setdefault(posixpath.splitext(entry.name)[0], []).append(entry.name)
                        else:
                            yield f"{below}{entry.name}"
        except OSError as error:
            self._failed(below, DataError(f"this folder cannot be read ({error.strerror}); change its permissions"))
        for names in clashes.values():
            if len(names) == 1:  # only its hash was that of another stem, or the other is gone
                yield f"{below}{names[0]}"
                continue
            for name in names:
                self._failed(f"{below}{name}", clash(names))

    def _look(self, below: str) -> tuple[set[int], set[int]]:
        """The hashes that more than one stem of an image in this folder has, and those of label files alone."""
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
        """Whether this is an image or a shard that can be read; of what looks like one and cannot, others are told."""
        suffix = suffix_of(entry.name)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself, or to where one may not look
            is_folder = is_file = False
        if is_folder:
            self._passed(f"{below}{entry.name}", LINK)
        elif suffix in self.taken and not is_file:
            self._failed(f"{below}{entry.name}", DataError("not a file, but a link that leads nowhere, or a device"))
        elif suffix in self.passed_over:
            self._passed(f"{below}{entry.name}", suffix)
        return is_file and suffix in self.taken

    def _is_image(self, name: str) -> bool:
        return posixpath.splitext(name)[1].lower() in self.images


def suffix_of(name: str) -> str:
    """The suffix in small letters; both of them for a packed archive, as in .tar.gz."""
    stem, suffix = posixpath.splitext(name.lower())
    return SHARD + suffix if suffix in _PACKED and stem.endswith(SHARD) else suffix


def clash(names: Collection[str]) -> DataError:
    """What is wrong with images whose masks would be one file."""
    return DataError(f"{len(names)} images of this name: {', '.join(sorted(names))}; give each a name of its own")


def passed_over(counts: Counter[str]) -> str:
    """How many files were passed over, and of which kinds; nothing where there were none."""
    if not counts:
        return ""
    total = counts.total()
    kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return f"{total} {'file was' if total == 1 else 'files were'} passed over: {named}"


def check_out(out: Path) -> None:
    """Raise RunError where a file is in the way of the folder to write."""
    there = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise RunError(f"{there}: a file is in the way of a folder; choose another folder with --out")


def _is_in(ordered: Int64[np.ndarray, "n"], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and int(ordered[place]) == value


def _hash(name: str) -> int:
    return hash(posixpath.splitext(name)[0])
