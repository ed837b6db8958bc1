"""Data sets: where labelled pictures come from, and how training draws its batches from them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from baoseg.data import transforms
from baoseg.data.folder import ALL, Folder, has_split
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.data.synthetic import Synthetic
from baoseg.errors import BaosegError, DataError
from baoseg.types import Batch, ClassSet, Sample

__all__ = [
    "Config",
    "Dataset",
    "EpochSampler",
    "Folder",
    "Synthetic",
    "TrainSet",
    "batches",
    "collate",
    "open_dataset",
]


@runtime_checkable
class Dataset(Protocol):
    """The pictures of one split."""

    classes: ClassSet
    split: str
    names: Sequence[str]  # unique, relative, without suffix
    has_masks: bool  # some pictures have ground truth

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Decodes the picture, and its mask where there is one."""
        ...

    def labels(self, index: int) -> Float[Tensor, "K"]:
        """Label vector of a picture, without decoding it."""
        ...

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        """Ground truth of a picture, without decoding the picture; None if it has none."""
        ...

    def fingerprint(self) -> str:
        """A hash in hex that changes with names, labels, class list and file sizes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which pictures to train on and which to label and evaluate."""

    path: str  # a folder (see `baoseg.data.folder`), or "synthetic"
    train_split: str | None = None  # None: `train` if the folder has it, else all pictures
    eval_split: str | None = None  # None: `val` if the folder has it, else the pictures of training
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)


def open_dataset(config: Config, split: Literal["train", "eval"]) -> Dataset:
    """Open the pictures for training or for evaluation. Raises DataError if they are inconsistent.

    Training on a folder sees pictures and image-level labels only, never a mask.
    """
    if config.path == "synthetic":
        chosen = config.train_split or "train" if split == "train" else config.eval_split or "val"
        return Synthetic(config.synthetic, chosen)
    train = config.train_split or ("train" if has_split(config.path, "train") else ALL)
    if split == "train":
        return Folder(config.path, train, training=True)
    return Folder(config.path, config.eval_split or ("val" if has_split(config.path, "val") else train))


class Item(NamedTuple):
    """An augmented picture and its label vector."""

    crop: transforms.Crop
    labels: Float[Tensor, "K"]


class TrainSet(TorchDataset):
    """Augmented pictures for training, asked for by (epoch, index) as `EpochSampler` yields them.

    The augmentation depends on seed, epoch and index alone: neither the number of workers nor resuming a run
    changes it. `pixel_labels` gives a picture's labels made beforehand, by its index, for what learns from such, and
    `pixel_weights` how much each of them counts (255: fully).
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
                f"{sample.name}: a picture of {height} x {width} pixels and a mask of {rows} x {columns}; "
                "use masks of the size of their pictures"
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
    """The batches of a loader. An error of a worker process arrives as the one line that it was over there.

    The loader itself would hand on the worker's traceback as the text of the error.
    """
    try:
        yield from loader
    except BaosegError as error:
        kind = type(error)
        line = str(error).strip().splitlines()[-1].removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")
        raise kind(line) from None


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) in an order drawn anew for each epoch from (seed, epoch).

    The epoch travels with each index because a worker process that outlives an epoch would not hear of the
    next one otherwise. Every replica gets the same number of items: with `batch_size` the epoch ends with its
    last batch that is full on all replicas, without it some items come twice to fill up.
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
                f"{length} pictures do not fill a batch of {batch_size or 1} on each of "
                f"{num_replicas} devices; choose a smaller batch or add pictures"
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
    """A generator for this key alone. The key is hashed: neighbouring seeds do not give related numbers."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64).tolist()
    return torch.Generator().manual_seed(seed)
