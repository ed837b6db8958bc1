"""Labelling a large collection: does the rate hold, and does memory stay, over a hundred thousand images?

    python benchmarks/label.py [--labeler RUN --photos FOLDER] [--json FILE]

Tiny images and a model that costs nothing: what is left is the work of `bao label` itself, from files, from shards
and on names alone (a second run that finds all of them done). Rate and memory are noted after each tenth. With a
labeler, also the rate of that on real images; the threads are those that OMP_NUM_THREADS says.
"""

import io
import itertools
import os
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tyro
from figures import publish
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from baoseg.core.types import ClassSet
from baoseg.predict import collection
from baoseg.predict.collection import Job
from baoseg.training.train import Hardware

SIDE = 16
PER_SHARD = 1000
FOLDERS = 10  # the images of the folder lie in as many


@dataclass(frozen=True, kw_only=True)
class Options:
    images: int = 100_000
    labeler: Path | None = None  # run folder or network.safetensors
    photos: Path | None = None  # images for the labeler
    json: Path | None = None


class Free:
    """A model that costs nothing and notes, every so many images, the time and the memory of the process."""

    classes = ClassSet(("one",))

    def __init__(self, every: int) -> None:
        self.every = every
        self.count = 0
        self.notes = [(time.perf_counter(), resident())]

    def __call__(self, image: UInt8[Tensor, "3 h w"], labels: Sequence[str] | None = None) -> SimpleNamespace:
        self.count += 1
        if self.count % self.every == 0:
            self.notes.append((time.perf_counter(), resident()))
        return SimpleNamespace(mask=np.ones(image.shape[1:], dtype=np.uint8))

    def figures(self) -> dict[str, list[float]]:
        times = [moment for moment, _ in self.notes]
        return {
            "images_per_second": [round(self.every / (b - a), 1) for a, b in itertools.pairwise(times)],
            "resident_mb": [round(memory, 1) for _, memory in self.notes],
        }


def resident() -> float:
    """Megabytes of this process now. Linux."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def tiny_image() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content := io.BytesIO(), format="JPEG")
    return content.getvalue()


def write_folder(root: Path, count: int) -> None:
    content = tiny_image()
    for number in range(count):
        path = root / f"{number % FOLDERS}" / f"{number:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_shards(root: Path, count: int) -> None:
    content = tiny_image()
    root.mkdir()
    for first in range(0, count, PER_SHARD):
        with tarfile.open(root / f"{first // PER_SHARD:06d}.tar", "w") as shard:
            for number in range(first, first + PER_SHARD):
                (member := tarfile.TarInfo(f"{number:08d}.jpg")).size = len(content)
                shard.addfile(member, io.BytesIO(content))


def measure(source: Path, out: Path, count: int) -> dict[str, list[float]]:
    """A run over all images."""
    model = Free(count // 10)
    collection.run(Job(source=source, out=out, make=lambda: model))
    return model.figures()


def measure_names(source: Path, out: Path) -> dict[str, float]:
    """A run that finds all images done."""
    before, start = resident(), time.perf_counter()
    tally = collection.run(Job(source=source, out=out, make=lambda: Free(1)))
    seconds = time.perf_counter() - start
    return {"names_per_second": round(tally.skipped / seconds), "added_mb": round(resident() - before, 1)}


def measure_labeler(path: Path, photos: Path, out: Path) -> dict[str, Any]:
    """Seconds by the clock, and seconds of one core: those hold where the machine has other things to do."""
    model = collection.trained(path, Hardware(accelerator="cpu"))
    start, computed = time.perf_counter(), time.process_time()
    tally = collection.run(Job(source=photos, out=out, make=lambda: model))
    sizes = [file.stat().st_size for file in out.rglob("*.png")]
    return {
        "images": tally.written,
        "seconds_per_image": (time.perf_counter() - start) / tally.written,
        "core_seconds_per_image": (time.process_time() - computed) / tally.written,
        "mask_bytes_per_image": sum(sizes) / len(sizes),
        "threads": torch.get_num_threads(),
        "sizes": model.maps.sizes,
    }


def main(options: Options) -> None:
    figures: dict[str, Any] = {"images": options.images}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, write in {"folder": write_folder, "shards": write_shards}.items():
            write(root / name, options.images)
            figures[name] = measure(root / name, root / f"{name}-masks", options.images)
        figures["names"] = measure_names(root / "folder", root / "folder-masks")
        if options.labeler is not None and options.photos is not None:
            figures["labeler"] = measure_labeler(options.labeler, options.photos, root / "photo-masks")
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
