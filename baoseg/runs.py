"""The run folder: where the steps meet, and the only place that knows its layout.

RUN/
  run.json                      manifest: resolved recipe, version, data fingerprint, environment
  METHOD/                       a folder for each stage of the recipe, e.g. transcam/, bao/, bao+irn/
    state.safetensors           training state after the last finished epoch, for resuming
    network.safetensors         the trained network, self-describing: `baoseg.load` reads it
    losses.csv                  epoch, step, seconds and the mean of each loss term
    epochs.csv                  evaluation after each epoch, where the recipe asks for it
    costs.json                  seconds and memory of training, of making maps and of refining masks
    labels/SPLIT/NAME.png       labels of pixels to learn from, where the stage learns from such
    maps/SPLIT/NAME.npz         seeds
    masks/SPLIT/NAME.png        masks
    metrics.json                evaluation
  report.html
"""

import contextlib
import errno
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baoseg.errors import RunError, TargetError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "run.json"
TEMPORARY = ".bao-"  # how the names of unfinished files begin; their length does not depend on that of the file
LONGEST_SUFFIX = 16  # bytes; writers know formats by suffixes that are shorter


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it into place when the block ends well.

    A reader sees the old file or the new one, never a part. Folders are made as needed. Raises RunError when the
    disk is full or the folder cannot be written, TargetError when only the name is at fault; nothing is left behind
    then. The block does not run where it is known before that the file cannot be written.
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
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; a run folder is shared as any other
        temporary.replace(path)
    except OSError as error:
        raise _of_target(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Raise TargetError for a file that can never be written: its name is too long, or a folder has it."""
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
    return kind(f"{path}: cannot be written: {_remedy(error)}")


def _remedy(error: OSError) -> str:
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
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {_remedy(error)}") from error


_held: dict[Path, int] = {}  # folders that this process works in alone, and the open descriptors that say so


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep other processes out of a folder. Raises RunError when one is in it already.

    Inside a block for the same folder it does nothing, nor for a folder that is not there. The lock lies on the folder
    itself, leaves no file behind and ends with the process, however that ends. Where a file system has no locks, and on
    Windows, there is none.
    """
    place = root.resolve()
    if place in _held or not place.is_dir() or sys.platform == "win32":
        yield
        return
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{root}: cannot be opened: {_remedy(error)}") from error
    try:
        _lock(descriptor, root)
        _held[place] = descriptor
        yield
    finally:
        _held.pop(place, None)
        os.close(descriptor)


def _lock(descriptor: int, root: Path) -> None:
    import fcntl  # noqa: PLC0415  (not on Windows)

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            f"{root}: another process works in this run folder; wait until it has ended, or choose another folder"
        ) from None
    except OSError:  # a file system without locks
        return


def _leave_to_parent() -> None:
    """A process that was forked, to load images, does not keep the folder locked after its parent has died."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_to_parent)


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises RunError if the file is missing or not JSON."""
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


def write_tensors(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> None:
    """Safetensors. Serialised in memory first, so that a full disk is an OSError like any other."""
    from safetensors.torch import save  # noqa: PLC0415 (brings torch, which paths and JSON do not need)

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


class Stage:
    """Paths of one stage of a run: a trained method, a fusion, a refinement."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state.safetensors"
        self.network = root / "network.safetensors"
        self.losses = root / "losses.csv"
        self.epochs = root / "epochs.csv"
        self.costs = root / "costs.json"
        self.metrics = root / "metrics.json"

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def has_maps(self) -> bool:
        return (self.root / "maps").is_dir()

    def label(self, split: str, name: str) -> Path:
        return self.root / "labels" / split / f"{name}.png"

    def maps(self, split: str, name: str) -> Path:
        return self.root / "maps" / split / f"{name}.npz"

    def masks(self, split: str) -> Path:
        return self.root / "masks" / split

    def mask(self, split: str, name: str) -> Path:
        return self.masks(split) / f"{name}.png"


class Run:
    """Paths of a run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root = root.expanduser()
        self.manifest = root / MANIFEST
        self.report = root / "report.html"

    def stage(self, name: str) -> Stage:
        return Stage(self.root / name)
