"""Training images from JPEG files to batches of 512 crops: ours beside the published way, in one process.

    python benchmarks/loading.py [--images 64] [--json FILE]

The published way is that of IRN, TransCAM and BAO: Pillow resizes and changes colours, NumPy normalises and crops. The
two draw their random numbers in different ways, so no numbers are compared. Images of 500 x 375 are generated.
"""

import collections
import csv
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from figures import compare, publish_results, with_about
from PIL import Image
from predict import scene
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter

from baoseg.data import EpochSampler, TrainSet, collate
from baoseg.data.folder import ALL, Folder
from baoseg.data.transforms import Config, Normalisation

CONFIG, NORMALISATION = Config(), Normalisation()


@dataclass(frozen=True, kw_only=True)
class Options:
    images: int = 64
    batch_size: int = 8
    size: tuple[int, int] = (500, 375)
    rounds: int = 3
    folder: Path = Path()  # of the images: set by `main`
    json: Path | None = None


def write_images(options: Options) -> None:
    image = scene(options.size)
    with (options.folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels"])
        for number in range(options.images):
            image.rotate(number).save(options.folder / f"{number}.jpg", quality=95)
            writer.writerow([f"{number}.jpg", "thing"])


def ours(options: Options) -> torch.Tensor:
    train_set = TrainSet(Folder(str(options.folder), ALL, training=True), CONFIG, NORMALISATION, seed=0)
    sampler = EpochSampler(len(train_set), seed=0, batch_size=options.batch_size)
    return last(DataLoader(train_set, options.batch_size, sampler=sampler, collate_fn=collate)).images


class Published(Dataset):
    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.jitter = ColorJitter(CONFIG.brightness, CONFIG.contrast, CONFIG.saturation, CONFIG.hue)
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        scale = self.random.integers(*CONFIG.resize_long, endpoint=True) / max(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        if self.random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(self.jitter(image)) / 255.0
        normal = (pixels - np.array(NORMALISATION.mean)) / np.array(NORMALISATION.std)
        return self.crop(normal.astype(np.float32)).transpose(2, 0, 1)

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        crop = np.zeros((CONFIG.crop, CONFIG.crop, 3), np.float32)
        (rows, to_rows), (columns, to_columns) = (self.place(side) for side in pixels.shape[:2])
        crop[to_rows, to_columns] = pixels[rows, columns]
        return crop

    def place(self, side: int) -> tuple[slice, slice]:
        """Along one axis: what is taken of the image, and where it goes in the crop."""
        taken, shift = min(side, CONFIG.crop), self.random.integers(abs(side - CONFIG.crop) + 1)
        shifted, unshifted = slice(shift, shift + taken), slice(0, taken)
        return (shifted, unshifted) if side > CONFIG.crop else (unshifted, shifted)


def the_published_way(options: Options) -> torch.Tensor:
    return last(DataLoader(Published(options.folder), options.batch_size, shuffle=True))


def last(loader: DataLoader) -> Any:
    """The last batch, when all have been loaded."""
    return collections.deque(loader, maxlen=1)[0]


RUNS = {"ours": ours, "published": the_published_way}


def prepare(way: str, options: Options) -> Callable[[], torch.Tensor]:
    return lambda: RUNS[way](options)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = replace(options, folder=Path(folder))
        write_images(options)
        result, batches = compare(prepare, options, rounds=options.rounds)
    assert batches["ours"].shape == batches["published"].shape
    result = with_about(result, images_per_second={way: options.images / took for way, took in result.seconds.items()})
    publish_results({f"loading {options.images} images, crops of {CONFIG.crop}": result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
