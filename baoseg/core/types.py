"""The words of the package: what the parts hand to one another. Read this first.

Shapes: b images, K classes without background, h x w pixels or cells. Class index 0 is the background, 1..K are
the classes, 255 is "ignore". K comes from the data.
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
        """Label vector y with y[s] = 1 for the classes named, in any form of Unicode and with any spaces.

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
    """One image as it lies on disk: RGB, upright, 8 bit."""

    name: str
    image: UInt8[Tensor, "3 h w"]
    labels: Float[Tensor, "K"]
    mask: UInt8[Tensor, "h w"] | None = None  # ground truth, for evaluation only


class Batch(NamedTuple):
    """What a training step sees. `valid` is True on image and False on the padding of a crop."""

    images: Float[Tensor, "b 3 h w"]
    labels: Float[Tensor, "b K"]
    valid: Bool[Tensor, "b 1 h w"]
    pixel_labels: UInt8[Tensor, "b h w"] | None = None  # labels made beforehand (AMN); 255 where none is given
    pixel_weights: Float[Tensor, "b h w"] | None = None  # in [0, 1]: how much each of them counts; None: all alike

    def to(self, device: torch.device) -> "Batch":
        move = partial(Tensor.to, device=device, non_blocking=True)
        given = {name: move(values) for name, values in self._asdict().items() if values is not None}
        return Batch(**given)

    def parts(self, count: int) -> list["Batch"]:
        """The batch in `count` parts, or in fewer where it is too small, in its order."""
        given = {name: values.chunk(count) for name, values in self._asdict().items() if values is not None}
        return [Batch(**dict(zip(given, part, strict=True))) for part in zip(*given.values(), strict=True)]


class Maps(NamedTuple):
    """Class scores and, where the method learns one, a background score, on one grid.

    `scores` has a channel for each class asked for (all K, or the present ones); `background` is None for methods
    that need a threshold.
    """

    scores: Float[Tensor, "b k h w"]
    background: Float[Tensor, "b 1 h w"] | None = None


def full_precision(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """At least single precision: losses and decisions are not left to the half precision of a mixed forward pass."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
