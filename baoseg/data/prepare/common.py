"""Shared by the data sets: parallel work on files, and the files of a folder in the layout of `baoseg.data.folder`."""

import csv
import functools
import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from baoseg.core.errors import DataError, RunError
from baoseg.core.files import atomic
from baoseg.core.progress import track
from baoseg.data.boxed import refuse

T = TypeVar("T")
R = TypeVar("R")

IMAGES = "JPEGImages"
MASKS = "SegmentationClass"
SPLITS = "ImageSets/Segmentation"


def need(module: str) -> ModuleType:
    """Import a module of the extra `prepare`. Raises DataError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise DataError(
            f"{package} is not installed, but this data set needs it; pip install 'baoseg[prepare]'"
        ) from None


def in_parallel(function: Callable[[T], R], items: Sequence[T], *, title: str, workers: int) -> list[R]:
    """Yields function(item) for each item, in order, computed by `workers` processes (0: by this process).

    An item that fails does not stop the others; at the end, the first DataError is raised, with the number of others.
    """
    attempt = functools.partial(_attempt, function)
    if workers == 0:
        results = list(track(map(attempt, items), title=title, total=len(items)))
    else:
        # spawn: a process that has loaded PyTorch runs threads, and forking those is unsafe
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                results = list(track(pool.map(attempt, items, chunksize=16), title=title, total=len(items)))
            except BrokenProcessPool:
                raise RunError(
                    f"{title}: a process ended by itself, most often for lack of memory; run the same command again "
                    "with fewer workers, it continues"
                ) from None
    refuse([str(result) for result in results if isinstance(result, DataError)])
    return [result for result in results if not isinstance(result, DataError)]


def read_split(path: Path) -> list[str]:
    """The names in a split file. Raises DataError if it is missing, or names an image twice."""
    try:
        names = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it") from None
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    refuse([f"{path}: {name} has more than one line; keep one" for name in twice])
    return names


def write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_labels(folder: Path, classes: Sequence[str], labels: Mapping[str, Iterable[str]]) -> None:
    """Write labels.csv and classes.txt from the class names of each image."""
    write_lines(folder / "classes.txt", classes)
    with atomic(folder / "labels.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "labels"])
        for name, names in labels.items():
            writer.writerow([f"{IMAGES}/{name}.jpg", ";".join(sorted(names, key=classes.index))])


def listed(folder: Path) -> set[str]:
    """The names of the files in a folder, without suffix; empty for a missing folder."""
    try:
        return {name.rpartition(".")[0] for name in os.listdir(folder)}  # noqa: PTH208 (faster for 100,000 files)
    except FileNotFoundError:
        return set()


def _attempt(function: Callable[[T], R], item: T) -> R | DataError:
    try:
        return function(item)
    except DataError as error:
        return error
