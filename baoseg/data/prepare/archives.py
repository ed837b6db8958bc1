"""Archives of data sets: find or download them, check them, and unpack them; no member can leave the target folder."""

import contextlib
import errno
import functools
import hashlib
import http.client
import io
import lzma
import math
import socket
import stat
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from baoseg.core.errors import DataError, RunError
from baoseg.core.files import atomic
from baoseg.core.progress import say, track
from baoseg.data.prepare.common import listed

# The errors that the standard library raises for files that are truncated, damaged, encrypted or not archives.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
PORTS = {"http": 80, "https": 443}
_CHUNK = 2**20  # bytes; the bar of a download counts in these

Place = Callable[[str], str | None]
"""Maps the name of a member to its path below the target; None leaves the member out."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An official archive. Without `url` it cannot be downloaded; then `by_hand` says how the user can get it."""

    name: str
    md5: str | None  # None: no checksum is public, and the archive is not verified
    url: str | None = None
    by_hand: str = ""


@dataclass(frozen=True, kw_only=True)
class Config:
    attempts: int = 5  # attempts in a row without a new byte before the download fails
    pause: float = 1.0  # seconds before the second attempt; doubles for each further attempt
    timeout: float = 60.0  # seconds without a byte
    # seconds for the first connection, which is tried twice: short, so that a user who is offline sees the error soon
    connect: float = 4.0
    ratio: int = 100  # largest ratio of unpacked bytes to archive bytes; the texts of the data sets reach 10


class _Member(NamedTuple):
    name: str
    size: int
    is_folder: bool
    is_file: bool  # neither link nor device
    read: Callable[[], bytes]


def unpack_once(archive: Archive, archives: Path, target: Path, *, place: Place, config: Config) -> None:
    """Unpack an archive, unless it was unpacked before. It is in the folder `archives`, or is downloaded to it.

    Raises DataError if the archive cannot be downloaded or is damaged, and RunError if the disk is full.
    """
    done = marker(archive, target)
    if done.is_file():
        return
    path = obtain(archive, archives, config=config)
    say(f"unpacking {path}")
    unpack(path, target, place=place, ratio=config.ratio)
    with atomic(done) as temporary:
        temporary.touch()


def marker(archive: Archive, target: Path) -> Path:
    """The empty file that marks an archive as unpacked; then the archive itself may be deleted."""
    return target / f".{archive.name}.unpacked"


@contextlib.contextmanager
def unpacked_from(archive: Archive, target: Path) -> Iterator[None]:
    """Add to a DataError about an unpacked file how to fix it: unpack the archive again."""
    try:
        yield
    except DataError as error:
        what = str(error).rpartition(";")[0]
        raise DataError(
            f"{what}; delete {marker(archive, target)} and, if it is there, the file; run the same command again: it "
            f"is unpacked anew from {archive.name}"
        ) from None


def incomplete(where: Path, problem: str, archive: Archive, target: Path) -> DataError:
    """The error for an archive that is incomplete."""
    return DataError(
        f"{where}: {problem}: {archive.name} is incomplete; delete it and {marker(archive, target)}, and run the same "
        "command again"
    )


def require(names: Iterable[str], folder: Path, archive: Archive, target: Path) -> None:
    """Raise DataError if the folder lacks a file for one of the names (with any suffix)."""
    if missing := sorted(set(names) - listed(folder)):
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise incomplete(folder, f"{missing[0]} is missing{others}", archive, target)


def require_at_hand(needed: Sequence[Archive], archives: Path, target: Path) -> None:
    """Raise DataError, with the steps to take, if archives are missing that the user must download."""
    if missing := [archive for archive in needed if archive.url is None and not at_hand(archive, archives, target)]:
        steps = "; ".join(f"{archive.name}: {archive.by_hand}" for archive in missing)
        raise DataError(f"{archives}: download these by hand, put them there and run this again; {steps}")


def at_hand(archive: Archive, archives: Path, target: Path) -> bool:
    return marker(archive, target).is_file() or (archives / archive.name).is_file()


def obtain(archive: Archive, archives: Path, *, config: Config) -> Path:
    """The path of the archive in the folder `archives`; a missing archive is downloaded. A public MD5 is checked.

    An interrupted download is kept as NAME.part and continued. Raises DataError if the archive cannot be downloaded or
    is not the official one, RunError if it cannot be written.
    """
    return fetched(
        archives / archive.name,
        archive.url,
        by_hand=f"no such file; {archive.by_hand}",
        wrong=lambda path: _wrong_md5(path, archive),
        otherwise=f"run the same command again, or put the archive into {archives} yourself",
        config=config,
    )


def fetched(
    path: Path, url: str | None, *, by_hand: str, wrong: Callable[[Path], str], otherwise: str, config: Config
) -> Path:
    """The path, to which the file of `url` is downloaded if it is missing there.

    `wrong` says what is wrong with a file, empty for nothing. `by_hand` is the step to take where there is no `url`,
    and `otherwise` the one to take where the server sent another file. Raises as `obtain`.
    """
    if path.is_file():
        if found := wrong(path):
            raise DataError(f"{path}: half-downloaded or damaged: {found}; delete it and run the same command again")
        return path
    if url is None:
        raise DataError(f"{path}: {by_hand}")
    part = path.with_name(f"{path.name}.part")
    say(f"downloading {url} to {path}")
    download(url, part, config=config)
    if found := wrong(part):
        part.unlink()
        raise DataError(f"{url}: the server sent another file: {found}; {otherwise}")
    part.replace(path)
    return path


def download(url: str, path: Path, *, config: Config) -> None:
    """Download to `path`, and continue a partial file. Raises DataError, or RunError if the disk is full."""
    attempt, met = 0, False
    while attempt < (config.attempts if met else min(2, config.attempts)):
        if attempt:
            time.sleep(config.pause * 2 ** (attempt - 1))
        before = _size(path)
        try:
            if not met:
                _meet(url, seconds=config.connect)
                met = True
            return _continue(url, path, timeout=config.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                return None  # the file is complete; the checksum is verified later
            if error.code < 500 and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}; download {_whole(path)} in another way "
                    f"and put it into {path.parent}"
                ) from None
            reason: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
                raise RunError(
                    f"{path}: cannot be written: {error}; free space or choose another folder, and run the same "
                    "command again, it continues"
                ) from error
            reason = error
        attempt = 1 if _size(path) > before else attempt + 1
    raise DataError(
        f"{url}: cannot be downloaded ({' '.join(str(reason).split())}); run the same command again, it continues, or "
        f"put {_whole(path)} into {path.parent} yourself"
    )


def unpack(archive: Path, target: Path, *, place: Place, ratio: int) -> None:
    """Unpack the members of a tar (plain, gz, bz2, xz) or zip file for which `place` returns a path.

    A plain tar inside a tar is taken for a folder of its name. A file that is there with its size is left alone, so a
    second call continues the first. Raises DataError for a damaged archive, for any member with a path out of the
    target, for a link or device among those wanted, and before more than `ratio` times the size of the archive is
    unpacked.
    """
    limit = ratio * _size(archive)
    try:
        for member in _members(archive):
            limit -= member.size
            if limit < 0:
                raise DataError(
                    f"{archive}: unpacks to more than {ratio} times its size at {member.name}, which no archive of "
                    "these data sets does; download it again from its official source"
                )
            if not _stays_inside(member.name):
                raise DataError(f"{archive}: {member.name} would be written outside the target folder; {_REMEDY}")
            destination = place(member.name)
            if destination is None or member.is_folder:
                continue
            if not member.is_file:
                raise DataError(f"{archive}: {member.name} is a link or a device, not a file; {_REMEDY}")
            path = target / destination
            if path.is_file() and _size(path) == member.size:
                continue
            content = member.read()  # outside of `atomic`, which takes an OSError for one of the disk
            with atomic(path) as temporary:
                temporary.write_bytes(content)
    except _DAMAGE as error:
        raise DataError(
            f"{archive}: half-downloaded or damaged ({' '.join(str(error).split())}); delete it and run the same "
            "command again"
        ) from None


_REMEDY = "this is not the official archive: download it again from its official source"


def _members(archive: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            for info in pack.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the packer stored no type
                is_file = kind in {0, stat.S_IFREG}
                yield _Member(info.filename, info.file_size, info.is_dir(), is_file, functools.partial(pack.read, info))
    else:
        with tarfile.open(archive) as tar:
            yield from _in_tar(tar)


def _in_tar(tar: tarfile.TarFile, folder: str = "") -> Iterator[_Member]:
    for entry in tar:
        if entry.isreg() and entry.name.endswith(".tar"):
            with tarfile.open(fileobj=_opened(tar, entry), mode="r:") as inner:
                yield from _in_tar(inner, f"{folder}{entry.name.removesuffix('.tar')}/")
        else:
            read = functools.partial(_content, tar, entry)
            yield _Member(f"{folder}{entry.name}", entry.size, entry.isdir(), entry.isreg(), read)


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    return _opened(tar, entry).read()


def _opened(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> io.BufferedReader:
    file = tar.extractfile(entry)
    assert isinstance(file, io.BufferedReader)  # not None: a regular file
    return file


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not (path.is_absolute() or ".." in path.parts or ":" in (*path.parts, "")[0])


def _meet(url: str, *, seconds: float) -> None:
    """Connect to the host once, unless a proxy is used. Raises OSError."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    socket.create_connection((host, parts.port or PORTS[parts.scheme]), timeout=seconds).close()


def _continue(url: str, path: Path, *, timeout: float) -> None:
    """Request the bytes that are still missing, once. Raises OSError if the connection ends too early."""
    done = _size(path)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0  # the server sends the whole file
        length = int(response.headers.get("Content-Length", 0))
        total = done + length
        chunks = iter(lambda: response.read(_CHUNK), b"")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if done else "wb") as file:
            title, count = f"{_whole(path)} (MB)", math.ceil(total / _CHUNK)
            for chunk in track(chunks, title=title, total=count, done=done // _CHUNK):
                file.write(chunk)
    if length and _size(path) < total:
        raise OSError(f"the connection ended after {_size(path)} of {total} bytes")


def _wrong_md5(path: Path, archive: Archive) -> str:
    """What is wrong with the size or the MD5 of a file; empty if it is right, or if no MD5 is public."""
    if archive.md5 is None:
        say(f"no checksum of {archive.name} is public: it is unverified")
        return ""
    say(f"checking {path}")
    return wrong_digest(path, "md5", archive.md5)


def wrong_digest(path: Path, algorithm: str, expected: str) -> str:
    """The difference of a checksum, or of its first digits, as text; empty if it is right."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, functools.partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()
    if digest.startswith(expected):
        return ""
    return f"its {_size(path)} bytes have the {algorithm.upper()} {digest}, not {expected}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _whole(path: Path) -> str:
    return path.name.removesuffix(".part")
