"""Masks for a collection of any size: folders of pictures, WebDataset shards, a shard piped in.

The unit of work is a picture of a folder or a whole shard. A unit is done or not: its masks have a temporary name until
the last one is written. So a crash loses the units at hand and nothing else, and the same command goes on with what is
not done. Names come from generators, so memory does not grow with the number of pictures.

    SRC/a/cat.jpg       -> OUT/a/cat.png
    SRC/a/0007.tar      -> OUT/a/0007.tar           key.png, and key.json with the labels, for each picture
    a shard on stdin    -> OUT/stdin.tar
                           OUT/failures.csv         name,problem

A process that is killed leaves at most one hidden file, which nothing reads.
"""

import csv
import hashlib
import importlib
import io
import itertools
import json
import os
import tarfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg import loading, progress, shards
from baoseg.data.images import from_bytes, with_palette, write_mask
from baoseg.data.table import parse_labels
from baoseg.errors import DataError, RecipeError, RunError
from baoseg.labeler import Labeler
from baoseg.runs import atomic
from baoseg.segment import Segmenter
from baoseg.shards import STDIN, Files
from baoseg.train import Hardware
from baoseg.types import BACKGROUND, ClassSet

PIPED = f"stdin{shards.SUFFIX}"  # what the shard on stdin is called
PICTURES = (".jpg", ".jpeg", ".png")
LOG_SECONDS = 60.0

OF_PICTURE = (DataError, torch.OutOfMemoryError)  # listed; the other pictures of its shard are labelled
OF_UNIT = (DataError, RuntimeError)  # also a damaged shard, a failing device: nothing is written, a later run tries
IN_A_ROW = 100  # units on which the model, not the data, failed: then the device is held to be at fault

T = TypeVar("T")


@runtime_checkable
class Labelled(Protocol):
    @property
    def mask(self) -> UInt8[np.ndarray, "h w"] | UInt8[Tensor, "h w"]: ...


@runtime_checkable
class Model(Protocol):
    """What labels pictures: a `Labeler`, or a `Segmenter`, which then considers no other classes."""

    classes: ClassSet

    def __call__(self, image: UInt8[Tensor, "3 h w"], labels: Sequence[str] | None = None) -> Labelled: ...


class Picture(NamedTuple):
    """A decoded picture and the labels that came with it: none where it shows the background alone, None if unknown."""

    image: UInt8[Tensor, "3 h w"]
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Part:
    """The `index`-th, from 0, of `count` parts of a collection. Parts need not know of one another."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise RecipeError(f"--shard {self}: write I/N, the first of N parts is 0/N and the last N-1/N")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Raises RecipeError for what is not of the form I/N."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise RecipeError(f"--shard {text}: write I/N, e.g. 0/4 for the first of four parts")
        return cls(int(index), int(count))

    def has(self, name: str) -> bool:
        """Whether the unit of this name is in the part: the same on every machine and in every order."""
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to label and where to. `make` is called once in each process that labels."""

    source: Path  # a folder of pictures and shards, one shard, or STDIN
    out: Path
    make: Callable[[], Model]
    part: Part = Part()
    threads: int = 4  # decode pictures ahead of the model
    labels: bool = True  # read those beside the pictures; otherwise the model predicts them

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise RecipeError(f"--threads {self.threads}: at least one thread decodes pictures")

    @property
    def root(self) -> Path:
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def failures(self) -> Path:
        """Parts have files of their own: lines that two machines append to one file can get lost."""
        part = "" if self.part.count == 1 else f"-{self.part.index}-of-{self.part.count}"
        return self.out / f"failures{part}.csv"

    def target(self, unit: str) -> Path:
        return self.out / (unit if _is_shard(unit) else PurePosixPath(unit).with_suffix(".png"))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How a job is divided on Ray. `retries` are for parts whose process or machine dies; each goes on where it was."""

    parts: int | None = None  # by default as many as the cluster can have at work at a time
    cpus: float = 1.0  # of each part
    gpus: float = 0.0
    retries: int = 10

    def __post_init__(self) -> None:
        if self.parts is not None and self.parts < 1:
            raise RecipeError(f"--parts {self.parts}: at least one part does the work")


@dataclass
class Tally:
    """Masks written, units that were done before, pictures and shards that failed."""

    written: int = 0
    skipped: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"{self.written} masks written, {self.skipped} done before, {self.failed} failed"

    def add(self, other: "Tally") -> None:
        self.written += other.written
        self.skipped += other.skipped
        self.failed += other.failed


def trained(path: Path, hardware: Hardware) -> Labeler | Segmenter:
    """What a run or a file of weights holds (see `baoseg.load`), on the device of the machine that asks."""
    return loading.load(path, device=hardware.fabric().device)


def run(job: Job, *, cluster: Cluster | None = None) -> Tally:
    """Label a collection in this process or on a Ray cluster, and say how it went.

    What fails is listed in failures.csv and stops nothing; a line may stand there again after a crash or a further
    run. Raises DataError for a source that cannot be labelled at all, RunError when OUT cannot be written or the model
    fails on one unit after the other (`IN_A_ROW`), as it does on a device that is gone.
    """
    _check(job, cluster)
    tally = label(job) if cluster is None else _label_on_ray(job, cluster)
    progress.say(f"{tally}{f': {job.out}/failures*.csv' if tally.failed else ''}")
    return tally


def label(job: Job) -> Tally:
    """Label the job's part of the collection in this process."""
    work = _Work(job, job.make())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # here: filters are the process's, not each thread's
        if job.source == STDIN:
            work.shard(PIPED, STDIN)
        else:
            work.units()
    return work.tally


def _check(job: Job, cluster: Cluster | None) -> None:
    divided = job.part.count > 1
    if divided and cluster is not None:
        raise RecipeError("--shard and --engine ray: Ray divides the collection itself; give one of them")
    if job.source == STDIN:
        if divided or cluster is not None:
            raise RecipeError("- (a shard on stdin): a stream is not divided; leave out --shard and --engine")
        if (done := job.target(PIPED)).exists():
            raise DataError(f"{done}: exists, of this stream or of another; choose another folder with --out")
        return
    if not (job.source.is_dir() or (job.source.is_file() and _is_shard(job.source.name))):
        raise DataError(
            f"{job.source}: neither a folder nor a {shards.SUFFIX} file; give one, or - for a shard on stdin"
        )
    source, out = job.source.resolve(), job.out.resolve()
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise DataError(f"{job.out}: one of source and output lies in the other; choose a folder beside {job.source}")


class _Work:
    """One process at work on its part."""

    def __init__(self, job: Job, model: Model) -> None:
        self.job = job
        self.model = model
        self.tally = Tally()
        self.in_a_row = 0  # units on which the model failed
        self.begun = self.logged = time.monotonic()

    def units(self) -> None:
        """Label what is not done yet of the part."""
        for of_shards, names in itertools.groupby(self._to_do(), key=_is_shard):
            if of_shards:
                for name in names:
                    self.shard(name, self.job.root / name)
            else:
                self.pictures(names)

    def _to_do(self) -> Iterator[str]:
        names = walk(self.job.root, self._fail) if self.job.source.is_dir() else iter([self.job.source.name])
        empty = True
        for name in names:
            empty = False
            if not self.job.part.has(name):
                continue
            if self.job.target(name).exists():
                self.tally.skipped += 1
            else:
                yield name
        if empty and not self.tally.failed:
            raise DataError(
                f"{self.job.source}: holds neither pictures ({' '.join(PICTURES)}) nor shards ({shards.SUFFIX})"
            )

    def pictures(self, names: Iterable[str]) -> None:
        """Pictures of the folder, one mask file each."""

        def decode(name: str) -> Picture:
            return self._decode(name, _beside(self.job.root / name))

        for name, picture in ahead(decode, names, self.job.threads):
            with self._listed(name, *OF_UNIT):
                mask, _ = self._label(picture)
                write_mask(self.job.target(name), mask)
                self.tally.written += 1
                self.in_a_row = 0
            self._log()

    def shard(self, name: str, path: Path) -> None:
        """All pictures of a shard, their masks in a shard of the same name."""
        with self._listed(name, *OF_UNIT):
            with atomic(self.job.target(name)) as temporary, temporary.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w") as masks:
                    written = self._fill(masks, name, shards.groups(path, {*PICTURES, *LABELS}))
                file.flush()
                os.fsync(file.fileno())  # so that a power cut leaves no empty shard under the final name
            self.tally.written += written
            self.in_a_row = 0

    def _fill(self, masks: tarfile.TarFile, name: str, groups: Iterator[tuple[str, Files]]) -> int:
        """Masks and labels of the pictures of a shard; how many there are."""
        written = 0
        for (key, _), picture in ahead(lambda group: self._decode(*group), groups, self.job.threads):
            with self._listed(f"{name}/{key}", *OF_PICTURE):
                mask, labels = self._label(picture)
                shards.add(masks, f"{key}.png", _png(mask))
                shards.add(masks, f"{key}.json", json.dumps({"labels": labels}, ensure_ascii=False).encode())
                written += 1
            self._log(written)
        return written

    def _decode(self, name: str, files: Files) -> Picture:
        pictures = [content for suffix, content in files if suffix in PICTURES]
        if len(pictures) != 1:
            raise DataError(
                f"{len(pictures)} pictures of this name; give each picture a name of its own, and in a shard put "
                "its labels next to it"
            )
        return Picture(from_bytes(pictures[0]), _labels(dict(files), self.model.classes) if self.job.labels else None)

    def _label(self, picture: "Future[Picture]") -> tuple[UInt8[Tensor, "h w"], tuple[str, ...]]:
        """The mask, and the labels that came with the picture or else the classes that the mask shows."""
        image, labels = picture.result()
        if labels == ():
            return torch.full(image.shape[1:], BACKGROUND, dtype=torch.uint8), labels
        mask = torch.as_tensor(self.model(image, labels).mask)
        if labels is None:
            names = self.model.classes.names
            labels = tuple(names[value - 1] for value in mask.unique().tolist() if 0 < value <= len(names))
        return mask, labels

    @contextmanager
    def _listed(self, name: str, *kinds: type[Exception]) -> Iterator[None]:
        try:
            yield
        except kinds as error:
            self._fail(name, error)
            if kinds == OF_UNIT and not isinstance(error, OF_PICTURE):
                self.in_a_row += 1
                if self.in_a_row == IN_A_ROW:
                    raise RunError(
                        f"the model failed {IN_A_ROW} times in a row, the last time with: {error}; "
                        "check the device and run the same command again, it continues"
                    ) from error

    def _fail(self, name: str, error: Exception) -> None:
        self.tally.failed += 1
        list_failure(self.job.failures, name, error)

    def _log(self, unfinished: int = 0) -> None:
        """A line now and then; `unfinished` are the masks of the shard at hand."""
        now = time.monotonic()
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            written = self.tally.written + unfinished
            rate = written / (now - self.begun)
            progress.say(f"part {self.job.part}: {written} masks, {rate:.1f}/s, {self.tally.failed} failed")


def walk(root: Path, failed: Callable[[str, Exception], None], below: str = "") -> Iterator[str]:
    """Pictures and shards below a folder, as paths relative to it, in the order of the file system.

    Hidden files and links to folders are left out. `failed` is told of a folder that cannot be read.
    """
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                path = f"{below}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(root, failed, f"{path}/")
                elif _is_shard(path) or _suffix(path) in PICTURES:
                    yield path
    except OSError as error:
        failed(below or str(root), error)


def ahead(function: Callable[[T], Picture], items: Iterable[T], threads: int) -> Iterator[tuple[T, "Future[Picture]"]]:
    """Each item and what becomes of it, in order; `threads` of the items after it are under way meanwhile."""
    waiting: deque[tuple[T, Future[Picture]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def list_failure(path: Path, name: str, error: Exception) -> None:
    """Append a line to failures.csv; names that are no text are shown with backslashes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                lines.writerow(["name", "problem"])
            lines.writerow([name, " ".join(f"{error}".split()) or type(error).__name__])
    except OSError as problem:
        raise RunError(f"{path}: cannot be written ({problem.strerror}); free space or choose another --out") from None


def _beside(path: Path) -> Files:
    """The picture and what has its name but for the suffix: labels, or another picture, which is one too many."""
    others = [suffix for suffix in (*PICTURES, *LABELS) if suffix != path.suffix.lower()]
    files = []
    for suffix in (path.suffix, *others):
        try:
            files.append((suffix.lower(), path.with_suffix(suffix).read_bytes()))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{suffix} cannot be read ({error.strerror})") from None
    return files


def _png(mask: UInt8[Tensor, "h w"]) -> bytes:
    with_palette(mask).save(content := io.BytesIO(), format="PNG")
    return content.getvalue()


def _labels(files: dict[str, bytes], classes: ClassSet) -> tuple[str, ...] | None:
    """The labels beside a picture: the first in the order of LABELS where several files have some."""
    for suffix, read in LABELS.items():
        if suffix in files:
            try:
                labels = read(files[suffix].decode("utf-8-sig"), classes)
            except (ValueError, TypeError) as error:
                raise DataError(f"{suffix}: {error}") from None
            if labels is not None:
                classes.encode(labels)  # refuses unknown names
                return labels
    return None


def _of_json(text: str, classes: ClassSet) -> tuple[str, ...] | None:
    """A list of class names, or an object that has one as `labels`; other objects are about something else."""
    content = json.loads(text)
    labels = content.get("labels") if isinstance(content, dict) else content
    if labels is None:
        return None
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError('not a list of class names; write ["cat", "dog"] or {"labels": ["cat", "dog"]}')
    return tuple(labels)


def _of_text(text: str, classes: ClassSet) -> tuple[str, ...]:
    """Class names as in labels.csv."""
    return tuple(parse_labels([text], classes.names)[0])


def _of_number(text: str, classes: ClassSet) -> tuple[str, ...]:
    """The class by its number from 0, as WebDataset has it: one less than its value in a mask."""
    number = int(text)
    if not 0 <= number < len(classes):
        raise ValueError(f"class {number} is outside 0..{len(classes) - 1}")
    return (classes.names[number],)


LABELS: dict[str, Callable[[str, ClassSet], tuple[str, ...] | None]] = {
    ".json": _of_json,
    ".txt": _of_text,
    ".cls": _of_number,
}


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_shard(name: str) -> bool:
    return _suffix(name) == shards.SUFFIX


def _label_on_ray(job: Job, cluster: Cluster) -> Tally:
    """A task for each part. All machines see source and output under the same paths."""
    ray = _ray()
    if not ray.is_initialized():
        ray.init()
    places = _places(ray.cluster_resources(), cluster)
    task = ray.remote(label).options(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=cluster.retries)
    whole = replace(job, source=job.source.resolve(), out=job.out.resolve())
    count = cluster.parts or places
    jobs = [replace(whole, part=Part(index, count)) for index in range(count)]
    tally = Tally()
    for part, result in [(part, task.remote(part)) for part in jobs]:
        try:
            tally.add(ray.get(result))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:  # it died time and again
            tally.failed += 1
            list_failure(part.failures, f"part {part.part}", error)
    return tally


def _places(resources: dict[str, float], cluster: Cluster) -> int:
    """How many parts the cluster can have at work at a time. Without one, Ray would wait for ever."""
    wanted = {"CPU": cluster.cpus, "GPU": cluster.gpus}
    places = min(int(resources.get(kind, 0.0) / each) for kind, each in wanted.items() if each)
    if places == 0:
        kinds = " and ".join(f"{each:g} {kind}" for kind, each in wanted.items() if each)
        raise RecipeError(f"--engine ray: no place for a part, which takes {kinds}; add machines, or --accelerator cpu")
    return places


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise RecipeError("--engine ray: Ray is not installed; pip install 'baoseg[ray]'") from None
