"""WebDataset shards: tar files whose neighbouring members of one key belong together (`key.jpg`, `key.json`).

They are read and written as streams, in memory that does not grow with the number of members.
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
    """A file in a shard. The key is its path up to the first dot of the file's name, as in WebDataset."""

    name: str
    content: bytes | None  # None for a link or a device: a stream does not go back to what a link leads to

    @property
    def key(self) -> str:
        folder, slash, file = self.name.rpartition("/")
        return f"{folder}{slash}{file.partition('.')[0]}"

    @property
    def whole_suffix(self) -> str:
        """What comes after the key, in small letters: .input.jpg."""
        return self.name[len(self.key) :].lower()

    @property
    def suffix(self) -> str:
        """What comes after the last dot, in small letters: .jpg."""
        return posixpath.splitext(self.name)[1].lower()

    @property
    def stem(self) -> str:
        """What comes before the last dot."""
        return posixpath.splitext(self.name)[0]


def groups(path: Path, suffixes: Container[str]) -> Iterator[tuple[str, list[Member]]]:
    """Each key of a shard (STDIN: of the one piped in) with its files of these suffixes, which are in small letters.

    Members of one key follow one another; a key that comes again is a further group. Hidden files are left out. Raises
    DataError for a damaged shard.
    """
    for key, members in itertools.groupby(_members(path, suffixes), key=attrgetter("key")):
        yield key, list(members)


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a member without time and owner: the same content makes the same bytes."""
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
    """Tarfile takes a cut between two members, or a damaged header, for the end. That is two blocks of zeros."""
    ended = False
    while rest := shard.fileobj.read(tarfile.RECORDSIZE):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("it goes on after its end: a damaged member, or a second shard behind the first")
        ended = True
    if not ended:
        raise tarfile.ReadError("it is cut short")


def _forget(shard: tarfile.TarFile) -> None:
    """Tarfile remembers every member."""
    shard.members.clear()  # type: ignore[attr-defined]
