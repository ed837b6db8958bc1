"""Data sets with image-level labels, and the batches of a training."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.v2 import InterpolationMode

from baoseg.core.errors import BaosegError, DataError, RecipeError
from baoseg.core.types import Batch, Sample
from baoseg.data import boxed, transforms
from baoseg.data.boxed import Boxed, Layout
from baoseg.data.dataset import Dataset, shown_classes, summary
from baoseg.data.folder import ALL, Folder, has_split
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.data.synthetic import Synthetic

__all__ = [
    "SYNTHETIC",
    "Config",
    "Dataset",
    "EpochSampler",
    "Excerpt",
    "Folder",
    "Synthetic",
    "TrainSet",
    "batches",
    "boxed_of",
    "collate",
    "folder_of",
    "open_boxed",
    "open_dataset",
    "shown_classes",
    "summary",
]

SYNTHETIC = "synthetic"  # this path means generated scenes


@dataclass(frozen=True, kw_only=True)
class Config:
    """The images to train on, and the images to label and evaluate."""

    path: str  # a folder (see `baoseg.data.folder`, with a layout `baoseg.data.boxed`), or "synthetic"
    layout: Layout | None = None  # of images with boxes; None: images with masks, or without ground truth
    # None: `train` if the folder has this split, else all images; with a layout `train`
    train_split: str | None = None
    # None: `val` if the folder has this split, else the images of training; with a layout `test`
    eval_split: str | None = None
    classes: tuple[str, ...] = ()  # with a layout: the classes to keep, in the order of their indices; none: all
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    limit: int | None = None  # at most so many images of each split, evenly spaced (for quick trials)
    long_side: int | None = None  # pixels; images with a longer side are made smaller (for quick trials)

    def __post_init__(self) -> None:
        if any(number is not None and number < 1 for number in (self.limit, self.long_side)):
            raise RecipeError(
                f"data: limit is {self.limit} and long_side is {self.long_side}; choose at least 1, or none"
            )
        if self.layout is None and self.classes:
            raise RecipeError(
                f"data: classes {', '.join(self.classes)}; are chosen for images with boxes only; name the layout"
            )
        if self.layout is not None and (self.path == SYNTHETIC or self.long_side is not None):
            raise RecipeError(
                f"data: path is {self.path} and long_side is {self.long_side}; images with boxes lie in a folder, and "
                "have no long_side"
            )


def open_dataset(config: Config, split: Literal["train", "eval"]) -> Dataset:
    """Open the split for training or for evaluation. Raises DataError if the data set is inconsistent.

    The training split of a folder has images and image-level labels only: its masks are never read.
    """
    if config.layout is not None:
        return open_boxed(config, split)
    whole = _open(config, split)
    if config.limit is None and config.long_side is None:
        return whole
    chosen = Excerpt(whole, limit=config.limit, long_side=config.long_side)
    if split == "train" and not any(bool(chosen.labels(index).any()) for index in range(len(chosen))):
        raise DataError(f"none of the {len(chosen)} chosen images of {whole.split} has a label; raise data.limit")
    return chosen


def open_boxed(config: Config, split: Literal["train", "eval"]) -> Boxed:
    """Open images with boxes. Raises DataError if they are inconsistent, and RecipeError for settings of others."""
    if config.layout is None:
        raise RecipeError(f"data: {config.path} has no layout; choose one of {', '.join(Layout)}")
    name = config.train_split or "train" if split == "train" else config.eval_split or "test"
    return boxed.open_split(config.path, config.layout, name, classes=config.classes, limit=config.limit)


def _open(config: Config, split: Literal["train", "eval"]) -> Dataset:
    if config.path == SYNTHETIC:
        chosen = config.train_split or "train" if split == "train" else config.eval_split or "val"
        return Synthetic(config.synthetic, chosen)
    train = config.train_split or ("train" if has_split(config.path, "train") else ALL)
    if split == "train":
        return Folder(config.path, train, training=True)
    return Folder(config.path, config.eval_split or ("val" if has_split(config.path, "val") else train))


def folder_of(dataset: Dataset) -> Folder | None:
    """The folder of a data set, also of an excerpt; None for generated scenes."""
    whole = dataset.whole if isinstance(dataset, Excerpt) else dataset
    return whole if isinstance(whole, Folder) else None


def boxed_of(dataset: Dataset) -> Boxed:
    """The same data set, of which it is known that it has boxes."""
    assert isinstance(dataset, Boxed), "images without boxes"
    return dataset


class Excerpt:
    """Some images of a data set, made smaller; see `Config.limit` and `Config.long_side`. Or those of `indices`."""

    def __init__(
        self,
        whole: Dataset,
        *,
        limit: int | None = None,
        long_side: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.whole, self.long_side = whole, long_side
        self._chosen = limit if indices is None else indices
        count = len(whole) if limit is None else min(limit, len(whole))
        spread = [position * len(whole) // count for position in range(count)]
        self.indices = spread if indices is None else indices
        self.classes = whole.classes
        self.split = whole.split
        self.names: Sequence[str] = [whole.names[index] for index in self.indices]
        self.has_masks = whole.has_masks and any(whole.mask(index) is not None for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[self.indices[index]]
        image = self._shrunk(sample.image, InterpolationMode.BICUBIC)
        return replace(sample, image=image, mask=self._shrunk_mask(sample.mask))

    def labels(self, index: int) -> Float[Tensor, "K"]:
        return self.whole.labels(self.indices[index])

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        return self._shrunk_mask(self.whole.mask(self.indices[index]))

    def fingerprint(self, *, masks: bool = True) -> str:
        content = f"{self.whole.fingerprint(masks=masks)} {self._chosen} {self.long_side}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _shrunk_mask(self, mask: UInt8[Tensor, "h w"] | None) -> UInt8[Tensor, "h2 w2"] | None:
        return None if mask is None else self._shrunk(mask[None], InterpolationMode.NEAREST_EXACT)[0]

    def _shrunk(self, image: UInt8[Tensor, "c h w"], interpolation: InterpolationMode) -> UInt8[Tensor, "c h2 w2"]:
        sides = image.shape[-2:]
        scale = 1.0 if self.long_side is None else self.long_side / max(sides)
        if scale >= 1:
            return image
        return F.resize(image, [max(1, round(side * scale)) for side in sides], interpolation=interpolation)


class Item(NamedTuple):
    """An augmented image and its label vector."""

    crop: transforms.Crop
    labels: Float[Tensor, "K"]


class TrainSet(TorchDataset):
    """Augmented images for training. The keys are (epoch, index), as `EpochSampler` yields them.

    The augmentation depends on seed, epoch and index alone, so neither the number of workers nor resuming a run changes
    it. `pixel_labels` maps the index of an image to its pseudo-labels [h w], for stages that learn from pixel labels.
    `pixel_weights` maps the index to the weights of these labels [h w]; 255 is a weight of 1.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: transforms.Config,
        normalisation: transforms.Normalisation,
        seed: int,
        *,
        pixel_labels: Callable[[int], UInt8[Tensor, "h w"]] | None = None,
        pixel_weights: Callable[[int], UInt8[Tensor, "h w"]] | None = None,
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.normalisation = normalisation
        self.seed = seed
        self.pixel_labels = pixel_labels
        self.pixel_weights = pixel_weights

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        sample = self.dataset[index]
        pixel_labels = None if self.pixel_labels is None else self.pixel_labels(index)
        if pixel_labels is not None and pixel_labels.shape != sample.image.shape[1:]:
            (height, width), (rows, columns) = sample.image.shape[1:], pixel_labels.shape
            raise DataError(
                f"{sample.name}: the image has {height} x {width} pixels and its mask {rows} x {columns}; "
                "use masks of the size of their images"
            )
        crop = transforms.augment(
            sample.image,
            config=self.config,
            normalisation=self.normalisation,
            generator=_generator(self.seed, epoch, index),
            pixel_labels=pixel_labels,
            pixel_weights=None if self.pixel_weights is None else self.pixel_weights(index),
        )
        return Item(crop, sample.labels)


def collate(items: Sequence[Item]) -> Batch:
    """The batch of some items."""
    crops, labels = zip(*items, strict=True)
    images, valid, pixel_labels, pixel_weights = zip(*crops, strict=True)
    return Batch(
        images=torch.stack(images),
        labels=torch.stack(labels),
        valid=torch.stack(valid),
        pixel_labels=None if pixel_labels[0] is None else torch.stack(pixel_labels),
        pixel_weights=None if pixel_weights[0] is None else torch.stack(pixel_weights).float() / 255,
    )


def batches(loader: DataLoader) -> Iterator[Batch]:
    """Yields the batches of a loader, and raises an error of a worker process with its original one-line message.

    The loader itself would raise an error whose message is the traceback of the worker.
    """
    try:
        yield from loader
    except BaosegError as error:
        kind = type(error)
        line = str(error).strip().splitlines()[-1].removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")
        raise kind(line) from None


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) in a random order, which (seed, epoch) determines.

    Each key contains the epoch, because a worker process that lives for several epochs does not learn of the next epoch
    in another way. All replicas get the same number of items: with `batch_size`, the epoch ends with the last batch
    that is full on all replicas; without `batch_size`, some items come twice.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank {rank} is outside 0..{num_replicas - 1}")
        if length < (batch_size or 0) * num_replicas or length < 1:
            raise DataError(
                f"{length} images do not fill a batch of {batch_size or 1} on each of "
                f"{num_replicas} devices; choose a smaller batch or add images"
            )
        self.length = length
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        if batch_size is None:
            self.per_replica = -(-length // num_replicas)
        else:
            self.per_replica = length // (batch_size * num_replicas) * batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_replica

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.length, generator=_generator(self.seed, self.epoch))
        total = self.per_replica * self.num_replicas
        positions = torch.arange(self.rank, total, self.num_replicas) % self.length
        for index in order[positions].tolist():
            yield self.epoch, index


def _generator(*key: int) -> torch.Generator:
    """A generator that depends on the key alone. The key is hashed, so similar keys give unrelated numbers."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64).tolist()
    return torch.Generator().manual_seed(seed)
