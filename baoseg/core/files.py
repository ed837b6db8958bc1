"""Atomic writing of files (under a temporary name, then renamed), and reading and writing of JSON and safetensors."""

import contextlib
import csv
import errno
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baoseg.core.errors import DataError, RunError, TargetError, first_line

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "run.json"
TEMPORARY = ".bao-"  # the start of the names of unfinished files; these names have a fixed length
LONGEST_SUFFIX = 16  # bytes; the suffixes of all formats that are written are shorter


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block ends without an error.

    A reader sees the old file or the new file, never a part of a file. Missing folders are made. Raises RunError if
    the disk is full or the folder cannot be written, and TargetError if only the name is at fault; then no file is
    left behind. If it is known beforehand that the file cannot be written, the block does not run.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_target(path)
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=suffix)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; files of a run folder have the usual permissions
        temporary.replace(path)
    except OSError as error:
        raise _of_target(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Raise TargetError if the file can never be written: its name is too long, or a folder has its name."""
    try:
        found = path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _of_target(path, error) from error
        return
    if stat.S_ISDIR(found.st_mode):
        raise _of_target(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))


def _of_target(path: Path, error: OSError) -> RunError:
    kind = TargetError if error.errno in {errno.ENAMETOOLONG, errno.EISDIR} else RunError
    return kind(f"{path}: cannot be written: {remedy(error)}")


def remedy(error: OSError) -> str:
    """What is wrong with a file that cannot be written, and how to fix it, by the number of the error."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "no space left on the disk; free some and run the same command again, it continues"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "no permission; choose another folder with --out"
        case errno.ENOTDIR | errno.EEXIST:
            return "a file is in the way of a folder; choose another folder with --out"
        case errno.ENAMETOOLONG:
            return "the name is too long for the file system; shorten it"
        case errno.EISDIR:
            return "a folder has this name; rename or remove it"
        case _:
            return error.strerror or str(error)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents. Raises RunError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {remedy(error)}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Raises RunError as `atomic` does."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises RunError if the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; is {path.parent} a run folder?") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); change its permissions") from None
    except ValueError as error:
        remedy = "restore it, or begin again in another folder"
        if path.name != MANIFEST:
            remedy = "delete it and run the step again"
        raise RunError(f"{path}: cannot be read ({error}); {remedy}") from None


def read_document(path: Path) -> Any:
    """The content of a JSON file that another tool wrote. Raises DataError."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the file that the tool exported") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({first_line(error)}); give the file that the tool exported") from None


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of a CSV file with the keys of the first row as columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically. Raises RunError as `atomic` does."""
    with atomic(path) as temporary:
        temporary.write_text(csv_of(rows), encoding="utf-8", newline="")


def write_tensors(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically. It is serialised in memory first, so that a full disk is an OSError."""
    from safetensors.torch import save  # noqa: PLC0415 (imports torch, which paths and JSON do not need)

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with atomic(path) as temporary:
        temporary.write_bytes(content)
