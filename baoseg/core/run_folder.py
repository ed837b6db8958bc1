"""The layout of a run folder, through which the steps exchange their files, and its lock.

RUN/
  run.json                      manifest: resolved recipe, version, data fingerprint, environment
  METHOD/                       a folder for each stage of the recipe, e.g. transcam/, bao/, bao+irn/
    state.safetensors           training state after the last finished epoch, for resuming
    network.safetensors         the trained network, self-describing: `baoseg.load` reads it
    losses.csv                  epoch, step, seconds and the mean of each loss term
    epochs.csv                  evaluation after each epoch, if the recipe asks for it
    costs.json                  seconds and memory of training, of making maps and of refining masks
    labels/SPLIT/NAME.png       pixel labels to learn from, for a stage that learns from pixel labels
    maps/SPLIT/NAME.npz         seeds
    masks/SPLIT/NAME.png        masks
    confidence/SPLIT/NAME.png   margin of a region vote at each pixel, in 1/255
    metrics.json                evaluation
  report.html
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from baoseg.core.errors import RunError
from baoseg.core.files import MANIFEST, remedy

_held: dict[Path, int] = {}  # folders locked by this process, and the file descriptors that hold the locks


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Lock a folder for the block. Raises RunError if another process holds the lock.

    The call does nothing for a folder that this process has locked already, or that does not exist. The lock is on the
    folder itself, leaves no file and ends with the process. There is no lock on Windows, and none on a file system
    without locks.
    """
    place = root.resolve()
    if place in _held or not place.is_dir() or sys.platform == "win32":
        yield
        return
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{root}: cannot be opened: {remedy(error)}") from error
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
    """Release the locks in a forked worker process, so that the folder is free after the parent process has died."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_to_parent)


class StageFolder:
    """Paths of one stage of a run: a trained method, a fusion or a refinement."""

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
        """The file of pixel labels of an image."""
        return self.root / "labels" / split / f"{name}.png"

    def maps(self, split: str, name: str) -> Path:
        """The file of the seed maps of an image."""
        return self.root / "maps" / split / f"{name}.npz"

    def confidence(self, split: str, name: str) -> Path:
        """The file of the margins of a region vote, for an image."""
        return self.root / "confidence" / split / f"{name}.png"

    def masks(self, split: str) -> Path:
        return self.root / "masks" / split

    def mask(self, split: str, name: str) -> Path:
        return self.masks(split) / f"{name}.png"


class RunFolder:
    """Paths of a run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root = root.expanduser()
        self.manifest = root / MANIFEST
        self.report = root / "report.html"

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.root / name)


Run = RunFolder  # the names up to version 0.1
Stage = StageFolder
