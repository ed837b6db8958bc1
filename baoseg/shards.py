"""WebDataset shards: tar files whose neighbouring members of one key belong together (`key.jpg`, `key.json`).

They are read and written as streams, in memory that does not grow with the number of members.
"""

import io
import itertools
import sys
import tarfile
import zlib
from collections.abc import Container, Iterator
from operator import itemgetter
from pathlib import Path

from baoseg.errors import DataError

STDIN = Path("-")
SUFFIX = ".tar"

Files = list[tuple[str, bytes]]  # suffix, as in ".jpg", and content of what belongs to one key


def groups(path: Path, suffixes: Container[str]) -> Iterator[tuple[str, Files]]:
    """Each key of a shard (STDIN: of the one piped in) with its files of these suffixes, which are in small letters.

    The key is a member's path up to the first dot of its name, as in WebDataset; members of one key follow one another.
    Raises DataError for a damaged shard.
    """
    for key, members in itertools.groupby(_members(path, suffixes), key=itemgetter(0)):
        yield key, [(suffix, content) for _, suffix, content in members]


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a member without time and owner: the same content makes the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
    _forget(shard)


def _members(path: Path, suffixes: Container[str]) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and content."""
    try:
        stream = sys.stdin.buffer if path == STDIN else None
        with tarfile.open(path, mode="r|*", fileobj=stream) as shard:
            while (member := shard.next()) is not None:
                _forget(shard)
                folder, slash, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                suffix = f".{suffix.lower()}"
                if stem and suffix in suffixes:
                    content = shard.extractfile(member) if member.isreg() else None
                    yield f"{folder}{slash}{stem}", suffix, b"" if content is None else content.read()
            _require_end(shard)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
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
