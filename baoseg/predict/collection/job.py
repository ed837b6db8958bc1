"""What to label, where the masks go, how the work is divided, and the counts of what was done."""

import hashlib
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import ClassSet
from baoseg.data import shards
from baoseg.data.walk import ALONE, suffix_of

PIPED = f"stdin{shards.SUFFIX}"  # name of the shard that is read from stdin


@runtime_checkable
class Labelled(Protocol):
    @property
    def mask(self) -> UInt8[np.ndarray, "h w"] | UInt8[Tensor, "h w"]: ...


@runtime_checkable
class Model(Protocol):
    """A model that labels images: a `Labeler`, or a `Segmenter`. With `labels` it considers no other classes."""

    classes: ClassSet

    def __call__(self, image: UInt8[Tensor, "3 h w"], labels: Sequence[str] | None = None) -> Labelled: ...


@dataclass(frozen=True)
class Part:
    """One of `count` parts of a collection: number `index`, from 0. The parts are labelled independently."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise RecipeError(f"--shard {self}: write I/N; the first of N parts is 0/N and the last is N-1/N")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """The part that the text I/N names. Raises RecipeError for a text of another form."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise RecipeError(f"--shard {text}: write I/N, e.g. 0/4 for the first of four parts")
        return cls(int(index), int(count))

    def has(self, name: str) -> bool:
        """Whether the part has the unit `name`. The answer is the same on each machine and for each order of units."""
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to label, and where to write the masks. Each process that labels calls `make` once."""

    source: Path  # a folder of images and shards, one shard, or STDIN
    out: Path
    make: Callable[[], Model]
    part: Part = Part()
    threads: int = 4  # that decode images ahead of the model
    read_labels: bool = True  # from the files beside the images; False: the model predicts all labels

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise RecipeError(f"--threads {self.threads}: decoding needs at least one thread")

    @property
    def root(self) -> Path:
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def failures(self) -> Path:
        """The CSV file of failures. Each part has its own: two machines that append to one file can lose lines."""
        part = "" if self.part.count == 1 else f"-{self.part.index}-of-{self.part.count}"
        return self.out / f"failures{part}.csv"

    def target(self, unit: str) -> Path:
        return self.out / (unit if is_shard(unit) else PurePosixPath(unit).with_suffix(".png"))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How Ray divides a job.

    A part whose process or machine dies is started again up to `retries` times; it continues.
    """

    parts: int | None = None  # None: as many as the cluster can run at the same time
    cpus: float = 1.0  # of each part
    gpus: float = 0.0
    retries: int = 10

    def __post_init__(self) -> None:
        if self.parts is not None and self.parts < 1:
            raise RecipeError(f"--parts {self.parts}: give at least 1")


@dataclass
class Tally:
    """Counts: masks written, units skipped as done before, units failed; and ignored files by suffix."""

    written: int = 0
    skipped: int = 0
    failed: int = 0
    ignored: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.written} masks written, {self.skipped} done before, {self.failed} failed"

    def add(self, other: "Tally") -> None:
        self.written += other.written
        self.skipped += other.skipped
        self.failed += other.failed
        self.ignored += other.ignored

    @property
    def complete(self) -> bool:
        """Whether nothing failed, and at least one unit was not ignored (labels without an image are no unit)."""
        units = self.ignored.total() - self.ignored[ALONE]
        return not self.failed and not (units and not self.written and not self.skipped)


def is_done(target: Path) -> bool:
    """Whether the target holds a mask, or is a shard with at least one member; a power cut may leave an empty file."""
    try:
        found = target.stat()
        if not is_shard(target.name):
            return stat.S_ISREG(found.st_mode) and found.st_size > 0
        with target.open("rb") as file:
            return any(file.read(tarfile.BLOCKSIZE))  # a block of zeros is the end of a shard
    except OSError:
        return False


def is_shard(name: str) -> bool:
    return suffix_of(name) == shards.SUFFIX
