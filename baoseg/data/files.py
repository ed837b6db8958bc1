"""Finds files whose name on disk differs a little from the name in a list (copied or typed names)."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from baoseg.core.errors import DataError
from baoseg.core.text import folded, tidy


class Tree:
    """The files below a folder. Each folder is listed once, which is faster than a system call for each file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, str | None] = {}
        self._listed: dict[str, Set[str]] = {}
        self._tidied: dict[str, Mapping[str, Sequence[str]]] = {}

    def find(self, path: str) -> str | None:
        """The path on disk, relative to the root, of the file that a list names `path`; None if no file fits.

        It is the file of exactly this name. Without such a file, it is the file whose name differs only in the form of
        Unicode (NFC, NFD), in spaces or in invisible characters (`core.text.tidy`). Letter case must agree.
        """
        folder, name = posixpath.split(path)
        listed = self._listed.get(folder)
        if name in (self._names(folder) if listed is None else listed):
            return path
        where = self._folder(folder)
        alike = [] if where is None else self._by_tidied(where).get(tidy(name), [])
        return posixpath.join(where or "", alike[0]) if len(alike) == 1 else None

    def hint(self, path: str) -> str:
        """Up to two files that a missing path may mean: another letter case, or another suffix. Empty for none."""
        folder, name = posixpath.split(path)
        where = self._like(folder)
        if where is None:
            return ""
        meant = self._by_tidied(where).get(tidy(name), [])
        meant = meant or [other for other in self._names(where) if folded(tidy(other)) == folded(tidy(name))]
        stem = _stem(name)
        meant = meant or [other for other in self._names(where) if _stem(other) == stem]
        return " and ".join(posixpath.join(where, other) for other in sorted(meant)[:2])

    def _folder(self, path: str) -> str | None:
        if path not in self._folders:
            self._folders[path] = path if not path or self._names(path) else self.find(path)
        return self._folders[path]

    def _like(self, path: str) -> str | None:
        """The folder of this path; without one, the only folder whose path differs in letter case."""
        if (there := self._folder(path)) is not None:
            return there
        above, name = posixpath.split(path)
        where = self._like(above)
        alike = (
            []
            if where is None
            else [other for other in self._names(where) if folded(tidy(other)) == folded(tidy(name))]
        )
        return posixpath.join(where or "", alike[0]) if len(alike) == 1 else None

    def _names(self, folder: str) -> Set[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(os.listdir(self.root / folder))  # noqa: PTH208 - names, not paths
            except (FileNotFoundError, NotADirectoryError):
                self._listed[folder] = frozenset()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise DataError(
                    f"{self.root / folder}: cannot be listed ({reason}); change its permissions or its name"
                ) from None
        return self._listed[folder]

    def _by_tidied(self, folder: str) -> Mapping[str, Sequence[str]]:
        if folder not in self._tidied:
            names = defaultdict(list)
            for name in self._names(folder):
                names[tidy(name)].append(name)
            self._tidied[folder] = dict(names)
        return self._tidied[folder]


def _stem(name: str) -> str:
    return folded(tidy(posixpath.splitext(name)[0]))
