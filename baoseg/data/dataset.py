"""What every data set offers, and what it holds in words."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from baoseg.core.types import ClassSet, Sample
from baoseg.data.boxed.dataset import Boxed

LISTED_CLASSES = 30  # longer class lists are shortened in messages


@runtime_checkable
class Dataset(Protocol):
    """The images of one split, their image-level labels and, for evaluation, their ground truth."""

    classes: ClassSet
    split: str
    names: Sequence[str]  # unique, relative, without suffix
    has_masks: bool  # at least one image has ground truth

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Decodes the image, and its mask if it has one."""
        ...

    def labels(self, index: int) -> Float[Tensor, "K"]:
        """Label vector y in {0, 1} of an image, without decoding the image."""
        ...

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        """Ground truth of an image, without decoding the image; None if it has none."""
        ...

    def fingerprint(self, *, masks: bool = True) -> str:
        """A hash (hex) of names, labels, class list and file sizes; with `masks`, of the mask files too."""
        ...


def shown_classes(dataset: Dataset) -> list[list[int]]:
    """The classes (0..K-1) that the label of each image names; no vectors are made for a million images with boxes."""
    if isinstance(dataset, Boxed):
        return [[channel] for channel in dataset.channels()]
    return [dataset.labels(index).nonzero()[:, 0].tolist() for index in range(len(dataset))]


def summary(dataset: Dataset) -> str:
    """One line about a split: the numbers of images, of images of each class, and of images without labels."""
    counts, empty = [0] * len(dataset.classes), 0
    for shown in shown_classes(dataset):
        empty += not shown
        for channel in shown:
            counts[channel] += 1
    return _in_words(dataset, counts, empty=empty)


def _in_words(dataset: Dataset, counts: Sequence[int], *, empty: int) -> str:
    """The line of `summary` from counts: images of each class, and images without a label (`empty`)."""
    listed = [f"{name} ({count})" for name, count in zip(dataset.classes.names, counts, strict=True)]
    if len(listed) > LISTED_CLASSES:
        listed = [*listed[: LISTED_CLASSES - 2], "...", listed[-1]]
    text = f"{dataset.split}: {_count(len(dataset), 'image')}, {_count(len(counts), 'class')}: {', '.join(listed)}"
    absent = sum(count == 0 for count in counts)
    if absent:
        text += f"; {_count(absent, 'class')} without an image"
    if empty:
        text += f"; {_count(empty, 'image')} without a label, background alone"
    return text


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what if number == 1 else what + plural}"
