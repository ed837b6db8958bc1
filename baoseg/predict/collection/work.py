"""One process at work: label the units of its part, and write masks and failures."""

import csv
import io
import itertools
import json
import os
import tarfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg.core import progress
from baoseg.core.errors import DataError, RunError, TargetError
from baoseg.core.files import atomic, check_target
from baoseg.core.types import BACKGROUND
from baoseg.data import shards
from baoseg.data.images import from_bytes, what_is_wrong, with_palette, write_mask
from baoseg.data.shards import STDIN
from baoseg.data.walk import ALONE, Walk
from baoseg.predict.collection.job import PIPED, Job, Model, Tally, is_done, is_shard
from baoseg.predict.collection.label_files import LABELS, Beside, labels_of, read_beside
from baoseg.predict.collection.shard_images import ImagesOfShard

LOG_SECONDS = 60.0
MUTE = '(.json without "labels")'

IMAGE_ERRORS = (DataError, TargetError, torch.OutOfMemoryError)  # one image fails, the rest of its shard is labelled
UNIT_ERRORS = (*IMAGE_ERRORS, RuntimeError)  # also a failing device: the unit is tried again by the next run
FAILURES_IN_A_ROW = 100  # units on which the model failed, not the data: then the device is taken to be broken

T = TypeVar("T")


class DecodedImage(NamedTuple):
    """A decoded image with its labels: () if it shows background alone, None if the labels are unknown.

    `mute`: the image has a .json file, and the file says nothing about labels.
    """

    image: UInt8[Tensor, "3 h w"]
    labels: tuple[str, ...] | None
    mute: bool = False


def label(job: Job) -> Tally:
    """Label the job's part of the collection in this process, and return the counts."""
    work = Work(job, job.make())
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", module="PIL"
        )  # set here: warning filters belong to the process, not to a thread
        if job.source == STDIN:
            work.shard(PIPED, STDIN)
        else:
            work.units()
    return work.tally


class Work:
    """The state of one process that labels a part of a collection."""

    def __init__(self, job: Job, model: Model) -> None:
        self.job = job
        self.model = model
        self.tally = Tally()
        self.empty = True  # no unit has been found so far
        self.walk = Walk(
            job.root,
            failed=self._not_walked,
            ignored=self._ignored,
            shards=True,
            beside=LABELS if job.read_labels else (),
        )
        self.in_a_row = 0  # units in a row on which the model failed
        self.begun = self.logged = time.monotonic()

    def units(self) -> None:
        """Label the units of the part that are not done yet."""
        for of_shards, names in itertools.groupby(self._to_do(), key=is_shard):
            if of_shards:
                for name in names:
                    self.shard(name, self.job.root / name)
            else:
                self.images(names)

    def _to_do(self) -> Iterator[str]:
        for name in self._names():
            if not self.job.part.has(name):
                continue
            target = self.job.target(name)
            try:
                check_target(target)
            except TargetError as error:
                self.fail(name, error)
                continue
            if is_done(target):
                self.tally.skipped += 1
            else:
                yield name

    def _names(self) -> Iterator[str]:
        """Names of the images and shards of all parts.

        Raises DataError if there are none or the folder is unreadable.
        """
        if not self.job.source.is_dir():
            yield self.job.source.name
            return
        for name in self.walk.names():
            self.empty = False
            yield name
        if self.empty:
            raise DataError(
                f"{self.job.source}: holds neither images (such as .jpg .png .webp .tif) nor shards ({shards.SUFFIX})"
            )

    def _not_walked(self, name: str, error: DataError) -> None:
        self.empty = False
        if not name:
            raise DataError(f"{self.job.source}: {error}")
        if self.job.part.has(name):
            self.fail(name, error)

    def _ignored(self, name: str, kind: str) -> None:
        self.empty &= kind == ALONE
        if self.job.part.has(name):
            self.tally.ignored[kind] += 1

    def images(self, names: Iterable[str]) -> None:
        """Label images of the folder, and write a mask file for each image."""

        def decode(name: str) -> DecodedImage:
            path = self.job.root / name
            try:
                content = path.read_bytes()
            except OSError as error:
                raise DataError(what_is_wrong(error, "image")) from None
            return self._decode(content, read_beside(path, self.walk.spellings) if self.job.read_labels else [])

        for name, decoded in ahead(decode, names, self.job.threads):
            with self._listed(name, *UNIT_ERRORS):
                mask, _ = self._label(decoded)
                write_mask(self.job.target(name), mask)
                self.tally.written += 1
                self.in_a_row = 0
            self._log()

    def shard(self, name: str, path: Path) -> None:
        """Label all images of a shard, and write a shard of masks of the same name.

        Without any mask nothing is written.
        """
        with self._listed(name, *UNIT_ERRORS):
            with atomic(self.job.target(name)) as temporary, temporary.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w") as masks:
                    written = self._fill(masks, name, path)
                file.flush()
                os.fsync(file.fileno())  # so that a power cut leaves no empty shard under the final name
            self.tally.written += written
            self.in_a_row = 0

    def _fill(self, masks: tarfile.TarFile, name: str, path: Path) -> int:
        """Write masks and labels for the images of a shard, and return their number. Raises DataError if it is 0."""
        written = 0
        images = ImagesOfShard(
            read_labels=self.job.read_labels,
            ignored=self.tally.ignored,
            fail=lambda member, error: self.fail(f"{name}/{member}", error),
        )
        for image, decoded in ahead(lambda image: self._decode(*image[1:]), images.read(path), self.job.threads):
            with self._listed(f"{name}/{image.stem}", *IMAGE_ERRORS):
                mask, labels = self._label(decoded)
                shards.add(masks, f"{image.stem}.png", _png(mask))
                shards.add(masks, f"{image.stem}.json", json.dumps({"labels": labels}, ensure_ascii=False).encode())
                written += 1
            self._log(written)
        if not written:
            what = f"none of its {images.count} images has a mask" if images.count else "this shard holds no images"
            raise DataError(f"{what}, so nothing was written for it; correct it and run the same command again")
        return written

    def _decode(self, content: bytes, beside: Beside) -> DecodedImage:
        if not self.job.read_labels:
            return DecodedImage(from_bytes(content), None)
        labels = labels_of(beside, self.model.classes)
        return DecodedImage(
            from_bytes(content), labels, mute=labels is None and any(kind == ".json" for kind, _ in beside)
        )

    def _label(self, decoded: "Future[DecodedImage]") -> tuple[UInt8[Tensor, "h w"], tuple[str, ...]]:
        """The mask, and the labels: those given with the image, otherwise the classes in the mask."""
        image, labels, mute = decoded.result()
        self.tally.ignored.update([MUTE] * mute)
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
            self.fail(name, error)
            if kinds == UNIT_ERRORS and not isinstance(error, IMAGE_ERRORS):
                self.in_a_row += 1
                if self.in_a_row == FAILURES_IN_A_ROW:
                    raise RunError(
                        f"the model failed {FAILURES_IN_A_ROW} times in a row, the last time with: {error}; "
                        "check the device and run the same command again, it continues"
                    ) from error

    def fail(self, name: str, error: Exception) -> None:
        self.tally.failed += 1
        list_failure(self.job.failures, name, error)

    def _log(self, unfinished: int = 0) -> None:
        """Print a line every LOG_SECONDS. `unfinished` counts the masks of the current shard."""
        now = time.monotonic()
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            written = self.tally.written + unfinished
            rate = written / (now - self.begun)
            progress.say(f"part {self.job.part}: {written} masks, {rate:.1f}/s, {self.tally.failed} failed")


def ahead(
    function: Callable[[T], DecodedImage], items: Iterable[T], threads: int
) -> Iterator[tuple[T, "Future[DecodedImage]"]]:
    """Yields each item with the future of function(item), in order; up to `threads` later items are in progress."""
    waiting: deque[tuple[T, Future[DecodedImage]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def list_failure(path: Path, name: str, error: Exception) -> None:
    """Append a line to failures.csv. Bytes of a name that are not UTF-8 are written with backslashes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                lines.writerow(["name", "problem"])
            lines.writerow([name, " ".join(f"{error}".split()) or type(error).__name__])
    except OSError as problem:
        raise RunError(f"{path}: cannot be written ({problem.strerror}); free space or choose another --out") from None


def _png(mask: UInt8[Tensor, "h w"]) -> bytes:
    with_palette(mask).save(content := io.BytesIO(), format="PNG")
    return content.getvalue()
