"""Small collections of images, and models that say little, to label them with."""

import csv
import io
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from baoseg.core.types import ClassSet
from baoseg.predict.collection import Job

CLASSES = ClassSet(("red", "green", "dining table"))
SIZE = (3, 5)


class Stub:
    """Class 1 where an image is reddish, class 2 elsewhere; keeps the labels that it was given."""

    classes = CLASSES

    def __init__(self, before: Callable[[int], None] = lambda count: None) -> None:
        self.before = before
        self.asked: list[tuple[str, ...] | None] = []

    def __call__(self, image: torch.Tensor, labels: tuple[str, ...] | None = None) -> SimpleNamespace:
        self.before(len(self.asked))
        self.asked.append(labels)
        return SimpleNamespace(mask=torch.where(image[0] > 99, 1, 2).to(torch.uint8).numpy())


@dataclass
class Waiting:
    """A model that signs with its process at the third image, and goes on when one of the processes was killed."""

    signs: Path
    classes: ClassSet = CLASSES
    count: int = 0

    def __call__(self, image: torch.Tensor, labels: tuple[str, ...] | None = None) -> SimpleNamespace:
        self.count += 1
        if self.count == 3:
            (self.signs / str(os.getpid())).touch()
            wait_for((self.signs / "killed").exists)
        return Stub()(image, labels)


def wait_for(event: Callable[[], bool], *, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < end
        time.sleep(0.01)


class Deadly(Stub):
    """A model whose process dies of an image that has labels."""

    def __call__(self, image: torch.Tensor, labels: tuple[str, ...] | None = None) -> SimpleNamespace:
        if labels is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, labels)


def picture(number: int, suffix: str = "png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 200, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content := io.BytesIO(), format={"png": "PNG", "jpg": "JPEG"}[suffix])
    return content.getvalue()


def expected(content: bytes) -> np.ndarray:
    return np.where(np.asarray(Image.open(io.BytesIO(content)))[..., 0] > 99, 1, 2)


def tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as shard:
        for name, content in members:
            (member := tarfile.TarInfo(name)).size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return file.getvalue()


def untar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as shard:
        return {member.name: shard.extractfile(member).read() for member in shard}  # type: ignore[union-attr]


def failures(out: Path) -> list[list[str]]:
    with (out / "failures.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["name", "problem"]
    return lines


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seen(folder: Path) -> dict[str, bytes]:
    """Without the hidden file that a killed process may leave."""
    return {name: content for name, content in files(folder).items() if not Path(name).name.startswith(".")}


def collection(root: Path) -> Path:
    """Seven images in three folders, and two shards of three images each."""
    for number, name in enumerate(["a.png", "b.png", "x/a.png", "x/b.PNG", "x/y/a.b.png", "x/y/c.png", "z.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    for shard in ("s0.tar", "x/s1.tar"):
        (root / shard).write_bytes(tar((f"{key}.png", picture(ord(key))) for key in "klm"))
    return root


def job(source: Path, out: Path, model: object = None, **changes: object) -> Job:
    return Job(source=source, out=out, make=lambda: model or Stub(), **changes)  # type: ignore[arg-type]


SHARD = tar((f"{number}.png", picture(number)) for number in range(3))
