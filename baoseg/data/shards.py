"""WebDataset shards: tar files in which adjacent members with one key (`key.jpg`, `key.json`) are one sample.

Shards are read and written as streams; the memory does not grow with the number of members.
"""

import io
import itertools
import lzma
import posixpath
import sys
import tarfile
import zlib
from collections.abc import Container, Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from baoseg.core.errors import DataError
from baoseg.data import walk

STDIN = Path("-")
SUFFIX = walk.SHARD


class Member(NamedTuple):
    """A file in a shard. The key is the path up to the first dot of the file name, as in WebDataset."""

    name: str
    content: bytes | None  # None for a link or a device: a stream cannot go back to the target of a link

    @property
    def key(self) -> str:
        folder, slash, file = self.name.rpartition("/")
        return f"{folder}{slash}{file.partition('.')[0]}"

    @property
    def whole_suffix(self) -> str:
        """The part after the key, in lower case: .input.jpg."""
        return self.name[len(self.key) :].lower()

    @property
    def suffix(self) -> str:
        """The last dot and the part after it, in lower case: .jpg."""
        return posixpath.splitext(self.name)[1].lower()

    @property
    def stem(self) -> str:
        """The path without its suffix."""
        return posixpath.splitext(self.name)[0]


def groups(path: Path, suffixes: Container[str]) -> Iterator[tuple[str, list[Member]]]:
    """Yields (key, members) for each group of adjacent members with one key in a shard (STDIN: from stdin).

    Only members with one of `suffixes` (lower case) are given; hidden files are left out. A key that appears again
    later is a further group. Raises DataError for a damaged shard.
    """
    for key, members in itertools.groupby(_members(path, suffixes), key=attrgetter("key")):
        yield key, list(members)


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a member without time and owner, so that the same content gives the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
    _forget(shard)


def _members(path: Path, suffixes: Container[str]) -> Iterator[Member]:
    try:
        stream = sys.stdin.buffer if path == STDIN else None
        with tarfile.open(path, mode="r|*", fileobj=stream) as shard:
            while (entry := shard.next()) is not None:
                _forget(shard)
                if entry.isdir() or entry.name.rpartition("/")[2].startswith("."):
                    continue
                if Member(entry.name, None).suffix in suffixes:
                    content = shard.extractfile(entry) if entry.isreg() else None
                    yield Member(entry.name, None if content is None else content.read())
            _require_end(shard)
    except (tarfile.TarError, OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"this shard cannot be read ({error}); copy it again from its source") from None


def _require_end(shard: tarfile.TarFile) -> None:
    """Raise an error if the shard does not end with two blocks of zeros.

    `tarfile` itself takes a cut between two members, or a damaged header, for the end of the file.
    """
    ended = False
    while rest := shard.fileobj.read(tarfile.RECORDSIZE):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("data follow its end: a damaged member, or a second shard appended")
        ended = True
    if not ended:
        raise tarfile.ReadError("it is truncated")


def _forget(shard: tarfile.TarFile) -> None:
    """Free the memory of the members, which `tarfile` keeps in a list."""
    shard.members.clear()  # type: ignore[attr-defined]
