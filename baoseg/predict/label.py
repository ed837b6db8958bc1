"""Masks for a collection of any size: folders of pictures, WebDataset shards, a shard piped in.

The unit of work is a picture of a folder or a whole shard. A unit is done or not: its masks have a temporary name until
the last one is written. So a crash loses the units at hand and nothing else, and the same command goes on with what is
not done. Names come from generators: memory grows by a hash for each image of the folder or shard at hand and no more.

    SRC/a/cat.jpg       -> OUT/a/cat.png
    SRC/a/0007.tar      -> OUT/a/0007.tar           key.png, and key.json with the labels, for each picture
    a shard on stdin    -> OUT/stdin.tar
                           OUT/failures.csv         name,problem

Every image and shard is written, failed, done before, or passed over and counted. Images of one name, whose masks would
be one file, fail, and so does a shard of which no mask was made: nothing is written for them.

A process that is killed leaves at most one hidden file, which nothing reads.
"""

import csv
import errno
import hashlib
import importlib
import io
import itertools
import json
import os
import posixpath
import stat
import tarfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError, RunError, TargetError
from baoseg.core.files import atomic, check_target
from baoseg.core.text import tidy
from baoseg.core.types import BACKGROUND, ClassSet
from baoseg.data import collection, shards
from baoseg.data.images import from_bytes, image_suffixes, unread_suffixes, what_is_wrong, with_palette, write_mask
from baoseg.data.shards import STDIN, Member
from baoseg.data.table_lines import parse_labels
from baoseg.predict import loading
from baoseg.predict.labeler import Labeler
from baoseg.predict.segment import Segmenter
from baoseg.training.train import Hardware

PIPED = f"stdin{shards.SUFFIX}"  # what the shard on stdin is called
LOG_SECONDS = 60.0
MUTE = '(.json without "labels")'

OF_PICTURE = (DataError, TargetError, torch.OutOfMemoryError)  # listed; the other pictures of its shard are labelled
OF_UNIT = (*OF_PICTURE, RuntimeError)  # also a failing device: nothing is written, a later run tries
IN_A_ROW = 100  # units on which the model, not the data, failed: then the device is held to be at fault

Beside = list[tuple[str, bytes | None]]  # the label files of an image: suffix, as in ".txt", and content; None: a link

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
    """A decoded picture and the labels that came with it: none where it shows the background alone, None if unknown.

    `mute`: there is a .json file beside it, and it says nothing about labels.
    """

    image: UInt8[Tensor, "3 h w"]
    labels: tuple[str, ...] | None
    mute: bool = False


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
    """Masks written, units done before, images and shards that failed; what was passed over, by suffix."""

    written: int = 0
    skipped: int = 0
    failed: int = 0
    passed: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.written} masks written, {self.skipped} done before, {self.failed} failed"

    def add(self, other: "Tally") -> None:
        self.written += other.written
        self.skipped += other.skipped
        self.failed += other.failed
        self.passed += other.passed

    @property
    def complete(self) -> bool:
        """Whether nothing failed, and not all that there was was passed over; labels alone do not count."""
        units = self.passed.total() - self.passed[collection.ALONE]
        return not self.failed and not (units and not self.written and not self.skipped)


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
    listed = f": {job.out}/failures*.csv" if tally.failed else ""
    passed = f"; {collection.passed_over(tally.passed)}" if tally.passed else ""
    progress.say(f"{tally}{listed}{passed}")
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
    collection.check_out(job.out)
    divided = job.part.count > 1
    if divided and cluster is not None:
        raise RecipeError("--shard and --engine ray: Ray divides the collection itself; give one of them")
    if job.source == STDIN:
        if divided or cluster is not None:
            raise RecipeError("- (a shard on stdin): a stream is not divided; leave out --shard and --engine")
        if _is_done(done := job.target(PIPED)):
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
        self.empty = True  # nothing was found that could be labelled
        self.walk = collection.Walk(
            job.root,
            failed=self._not_walked,
            passed=self._passed_over,
            shards=True,
            beside=LABELS if job.labels else (),
        )
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
        for name in self._names():
            if not self.job.part.has(name):
                continue
            target = self.job.target(name)
            try:
                check_target(target)
            except TargetError as error:
                self.fail(name, error)
                continue
            if _is_done(target):
                self.tally.skipped += 1
            else:
                yield name

    def _names(self) -> Iterator[str]:
        """The images and shards of all parts. Raises DataError if there are none, or their folder cannot be read."""
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

    def _passed_over(self, name: str, kind: str) -> None:
        self.empty &= kind == collection.ALONE
        if self.job.part.has(name):
            self.tally.passed[kind] += 1

    def pictures(self, names: Iterable[str]) -> None:
        """Pictures of the folder, one mask file each."""

        def decode(name: str) -> Picture:
            path = self.job.root / name
            try:
                content = path.read_bytes()
            except OSError as error:
                raise DataError(what_is_wrong(error, "image")) from None
            return self._decode(content, _beside(path, self.walk.spellings) if self.job.labels else [])

        for name, picture in ahead(decode, names, self.job.threads):
            with self._listed(name, *OF_UNIT):
                mask, _ = self._label(picture)
                write_mask(self.job.target(name), mask)
                self.tally.written += 1
                self.in_a_row = 0
            self._log()

    def shard(self, name: str, path: Path) -> None:
        """All pictures of a shard, their masks in a shard of the same name. Nothing is written if there is no mask."""
        with self._listed(name, *OF_UNIT):
            with atomic(self.job.target(name)) as temporary, temporary.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w") as masks:
                    written = self._fill(masks, name, path)
                file.flush()
                os.fsync(file.fileno())  # so that a power cut leaves no empty shard under the final name
            self.tally.written += written
            self.in_a_row = 0

    def _fill(self, masks: tarfile.TarFile, name: str, path: Path) -> int:
        """Masks and labels of the pictures of a shard; how many there are. Raises DataError for none."""
        written = 0
        images = _ImagesOfShard(self, name)
        for image, picture in ahead(lambda image: self._decode(*image[1:]), images.read(path), self.job.threads):
            with self._listed(f"{name}/{image.stem}", *OF_PICTURE):
                mask, labels = self._label(picture)
                shards.add(masks, f"{image.stem}.png", _png(mask))
                shards.add(masks, f"{image.stem}.json", json.dumps({"labels": labels}, ensure_ascii=False).encode())
                written += 1
            self._log(written)
        if not written:
            what = f"none of its {images.count} images has a mask" if images.count else "this shard holds no images"
            raise DataError(f"{what}, so nothing was written for it; correct it and run the same command again")
        return written

    def _decode(self, content: bytes, beside: Beside) -> Picture:
        if not self.job.labels:
            return Picture(from_bytes(content), None)
        labels = _labels(beside, self.model.classes)
        return Picture(from_bytes(content), labels, mute=labels is None and any(kind == ".json" for kind, _ in beside))

    def _label(self, picture: "Future[Picture]") -> tuple[UInt8[Tensor, "h w"], tuple[str, ...]]:
        """The mask, and the labels that came with the picture or else the classes that the mask shows."""
        image, labels, mute = picture.result()
        self.tally.passed.update([MUTE] * mute)
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
            if kinds == OF_UNIT and not isinstance(error, OF_PICTURE):
                self.in_a_row += 1
                if self.in_a_row == IN_A_ROW:
                    raise RunError(
                        f"the model failed {IN_A_ROW} times in a row, the last time with: {error}; "
                        "check the device and run the same command again, it continues"
                    ) from error

    def fail(self, name: str, error: Exception) -> None:
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


class _ImageOfShard(NamedTuple):
    stem: str  # of the names of its mask and its labels
    content: bytes
    beside: Beside


class _ImagesOfShard:
    """The images of a shard, one by one; what is wrong with the others is listed.

    As in WebDataset, a sample is what has one key, and its image is KEY.jpg. Other images of it, as KEY.seg.png, are
    passed over. Without such an image each of the others is one: KEY.input.jpg, and all of KEY.0001.jpg, KEY.0002.jpg.
    """

    def __init__(self, work: _Work, shard: str) -> None:
        self.count = 0
        self._work = work
        self._shard = shard
        self._images = image_suffixes()
        self._unread = unread_suffixes()
        self._stems: set[bytes] = set()  # hashes

    def read(self, path: Path) -> Iterator[_ImageOfShard]:
        for key, members in shards.groups(path, self._images | self._unread | LABELS.keys()):
            images = self._choose(members)
            labels = [member for member in members if member.suffix in LABELS]
            if len(labels) == len(members):
                self._without_image(key, labels)
            by_stem: dict[str, list[Member]] = {}
            for image in images:
                by_stem.setdefault(image.stem, []).append(image)
            self._count_alone(by_stem.keys(), labels)
            for stem, of_stem in by_stem.items():
                yield from self._only(stem, of_stem, labels)

    def _choose(self, members: list[Member]) -> list[Member]:
        """The images among the members of a key. The others are passed over."""
        images = [member for member in members if member.suffix in self._images]
        chosen = [member for member in images if member.whole_suffix == member.suffix] or images
        self._work.tally.passed.update(member.whole_suffix for member in images if member not in chosen)
        self._work.tally.passed.update(member.suffix for member in members if member.suffix in self._unread)
        self.count += len(chosen)
        return chosen

    def _without_image(self, key: str, labels: list[Member]) -> None:
        if self._work.job.labels and any(member.whole_suffix in LABELS for member in labels):
            problem = "no image has the name of these labels; in a shard put the labels of an image next to it"
            self._work.fail(f"{self._shard}/{key}", DataError(problem))

    def _count_alone(self, stems: Set[str], labels: list[Member]) -> None:
        """Labels of a name that no image of their key has, as KEY.jpg.json, are passed over, unless all have others."""
        if self._work.job.labels and not any(label.whole_suffix == label.suffix for label in labels):
            named = {label.stem for label in labels}
            if not stems or not stems <= named:
                self._work.tally.passed.update(label.whole_suffix for label in labels if label.stem not in stems)

    def _only(self, stem: str, images: list[Member], labels: list[Member]) -> Iterator[_ImageOfShard]:
        """The one image of a stem, if there is but one and it can be read."""
        stem_hash = hashlib.blake2b(posixpath.normpath(stem).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        second = stem_hash in self._stems
        self._stems.add(stem_hash)
        for image in images:
            if len(images) > 1:
                self._fail(image, collection.clash([posixpath.basename(each.name) for each in images]))
            elif second:
                self._fail(image, DataError("a second image of this name; give each image a name of its own"))
            elif image.content is None:
                self._fail(image, DataError(_of_link("image")))
            else:
                own = [(member.suffix, member.content) for member in labels if member.stem == stem]
                of_key = [(member.suffix, member.content) for member in labels if member.whole_suffix == member.suffix]
                yield _ImageOfShard(stem, image.content, own or of_key)

    def _fail(self, image: Member, error: DataError) -> None:
        self._work.fail(f"{self._shard}/{image.name}", error)


def _of_link(kind: str) -> str:
    return f"this {kind} is a link or a device, without content; make the shard with tar -h --hard-dereference"


def _is_done(target: Path) -> bool:
    """Whether there is a mask, or a shard with at least one: not what a power cut or an earlier version left empty."""
    try:
        found = target.stat()
        if not _is_shard(target.name):
            return stat.S_ISREG(found.st_mode) and found.st_size > 0
        with target.open("rb") as file:
            return any(file.read(tarfile.BLOCKSIZE))  # a block of zeros is the end of a shard
    except OSError:
        return False


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


def _beside(path: Path, spellings: Iterable[str]) -> Beside:
    """The label files of an image in a folder: what has its name but for the suffix, in one of these spellings."""
    files: dict[tuple[int, int], tuple[str, bytes]] = {}  # by what a file is: one may have names in two spellings
    for suffix in sorted(spellings):
        try:
            with path.with_suffix(suffix).open("rb") as file:
                found = os.fstat(file.fileno())
                files[found.st_dev, found.st_ino] = suffix.lower(), file.read()
        except OSError as error:
            if error.errno == errno.ENOENT and path.with_suffix(suffix).is_symlink():
                raise DataError(
                    f"{suffix} is a link that leads nowhere; restore what it leads to, or remove it"
                ) from None
            if error.errno not in {errno.ENOENT, errno.ENAMETOOLONG, errno.EISDIR}:
                raise DataError(f"{suffix} cannot be read ({error.strerror}); change its permissions") from None
    return list(files.values())


def _png(mask: UInt8[Tensor, "h w"]) -> bytes:
    with_palette(mask).save(content := io.BytesIO(), format="PNG")
    return content.getvalue()


def _labels(beside: Beside, classes: ClassSet) -> tuple[str, ...] | None:
    """The labels beside a picture: the first in the order of LABELS where several files have some."""
    for suffix, read in LABELS.items():
        contents = [content for kind, content in beside if kind == suffix]
        if not contents:
            continue
        try:
            labels = read(_only_text(contents), classes)
            classes.encode(labels or ())  # refuses unknown names
        except (ValueError, TypeError, DataError) as error:
            raise DataError(f"{suffix}: {error}") from None
        if labels is not None:
            return labels
    return None


def _only_text(contents: list[bytes | None]) -> str:
    """The text of the only label file of a kind. One without a byte is what a failed copy leaves, so it is refused."""
    if len(contents) > 1:
        raise DataError(f"{len(contents)} such files of one name; keep one")
    (content,) = contents
    if content is None:
        raise DataError(_of_link("label file"))
    if not content:
        raise DataError("is empty; write [] into a .json file if the image shows background alone, or remove this one")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is no text in UTF-8; save it as such") from None


def _of_json(text: str, classes: ClassSet) -> tuple[str, ...] | None:
    """A list of class names, or an object that has one as `labels`; other objects are about something else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error}); correct or remove it") from None
    labels = content.get("labels") if isinstance(content, dict) else content
    if labels is None:
        return None
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError('not a list of class names; write ["cat", "dog"] or {"labels": ["cat", "dog"]}')
    spelt = {tidy(name): name for name in classes.names}
    names: list[str] = labels
    return tuple(spelt.get(tidy(name), name) for name in names)


def _of_text(text: str, classes: ClassSet) -> tuple[str, ...]:
    """Class names as in labels.csv."""
    return tuple(parse_labels([text], classes.names)[0])


def _of_number(text: str, classes: ClassSet) -> tuple[str, ...]:
    """The class by its number from 0, as WebDataset has it: one less than its value in a mask."""
    number = int(text) if text.strip().isdecimal() else -1
    if not 0 <= number < len(classes):
        raise ValueError(f"{text.strip()!r} is no class number; write one of 0..{len(classes) - 1}")
    return (classes.names[number],)


LABELS: dict[str, Callable[[str, ClassSet], tuple[str, ...] | None]] = {
    ".json": _of_json,
    ".txt": _of_text,
    ".cls": _of_number,
}


def _is_shard(name: str) -> bool:
    return collection.suffix_of(name) == shards.SUFFIX


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
