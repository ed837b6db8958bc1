"""The types that the parts of the package exchange. Read this file first.

Shapes: b images, K classes without background, h x w pixels or cells. Class index 0 is the background, 1..K are
the classes, 255 is "ignore". The data set determines K.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.text import tidy

BACKGROUND = 0
IGNORE = 255


@dataclass(frozen=True)
class ClassSet:
    """The K foreground classes, in the order of their indices 1..K."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError("the class list is empty; name at least one class")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise DataError(f"the class list names {', '.join(twice)} more than once")
        if len(self.names) >= IGNORE:
            raise DataError(f"{len(self.names)} classes do not fit into 8-bit masks; 254 do")

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, labels: Iterable[str]) -> Float[Tensor, "K"]:
        """Label vector y with y[s] = 1 for each named class. Names may have any form of Unicode and any spaces.

        Raises DataError for an unknown name.
        """
        vector = torch.zeros(len(self.names))
        tidied = {tidy(name): index for index, name in enumerate(self.names)}
        for label in labels:
            index = self.names.index(label) if label in self.names else tidied.get(tidy(label))
            if index is None:
                raise DataError(f"unknown class {label!r}; the classes are {', '.join(self.names)}")
            vector[index] = 1.0
        return vector

    def decode(self, vector: Float[Tensor, "K"]) -> tuple[str, ...]:
        """Names of the classes whose entry is above 0."""
        return tuple(name for name, value in zip(self.names, vector.tolist(), strict=True) if value > 0)


@dataclass(frozen=True)
class Sample:
    """One image as read from disk: RGB, upright, 8 bit, with its image-level labels y [K] in {0, 1}."""

    name: str
    image: UInt8[Tensor, "3 h w"]
    labels: Float[Tensor, "K"]
    mask: UInt8[Tensor, "h w"] | None = None  # ground truth, for evaluation only


class Batch(NamedTuple):
    """The input of a training step. `valid` is True inside the image and False on the padding of a crop."""

    images: Float[Tensor, "b 3 h w"]
    labels: Float[Tensor, "b K"]
    valid: Bool[Tensor, "b 1 h w"]
    pixel_labels: UInt8[Tensor, "b h w"] | None = None  # pseudo-labels made beforehand (AMN); 255: no label
    pixel_weights: Float[Tensor, "b h w"] | None = None  # in [0, 1], the weight of each pixel label; None: all are 1

    def to(self, device: torch.device) -> "Batch":
        move = partial(Tensor.to, device=device, non_blocking=True)
        given = {name: move(values) for name, values in self._asdict().items() if values is not None}
        return Batch(**given)

    def parts(self, count: int) -> list["Batch"]:
        """The batch split into `count` parts in order, or into fewer parts if the batch is too small."""
        given = {name: values.chunk(count) for name, values in self._asdict().items() if values is not None}
        return [Batch(**dict(zip(given, part, strict=True))) for part in zip(*given.values(), strict=True)]


class Maps(NamedTuple):
    """Class scores and, if the method learns a background, background scores, on one grid.

    `scores` has a channel for each requested class (all K classes, or the present classes). `background` is None for
    methods whose masks need a threshold.
    """

    scores: Float[Tensor, "b k h w"]
    background: Float[Tensor, "b 1 h w"] | None = None


def full_precision(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values in at least single precision; losses and decisions must not use the half precision of autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
