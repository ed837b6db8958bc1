"""What every format of `bao export masks` is made from, and what every reader of `bao import masks` gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from baoseg.core.types import BACKGROUND, IGNORE, ClassSet


@dataclass(frozen=True)
class Instance:
    """A connected part of a class. Objects of one class that touch one another are one instance."""

    label: int  # class index 1..K
    mask: Bool[np.ndarray, "h w"]
    box: tuple[int, int, int, int]  # left, top, width, height in pixels
    area: int  # pixels
    score: float | None  # mean margin of the maps in [0, 1] (`seeds.masks.margin`); None: there are no maps


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """The mask of one image, with all that formats say of it."""

    name: str  # in the data set: relative, with slashes, without suffix
    image: Path | None  # the image file; None: the image was generated
    mask: UInt8[np.ndarray, "h w"]  # 0 background, 1..K classes, 255 ignore
    classes: ClassSet
    source: str  # where the mask is from, e.g. the stage of a run
    made: float  # when, in seconds since the epoch
    pixels: Callable[[], UInt8[np.ndarray, "h w 3"]]  # the image
    margin: UInt8[np.ndarray, "h w"] | None = None  # how sure each pixel is, in 1/255

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.mask.shape
        return height, width

    @property
    def file_name(self) -> str:
        """The name with the suffix of the image file; .png for a generated image."""
        return self.name + (self.image.suffix if self.image else ".png")

    def instances(self, *, min_area: int = 1) -> list[Instance]:
        """The 8-connected parts of each class of at least `min_area` pixels, by class and then in reading order."""
        found = []
        for label in sorted(set(np.unique(self.mask).tolist()) - {BACKGROUND, IGNORE}):
            count, parts, about, _ = cv2.connectedComponentsWithStats((self.mask == label).astype(np.uint8))
            for part in range(1, count):
                left, top, width, height, area = (int(value) for value in about[part])
                if area >= min_area:
                    mask = parts == part
                    score = None if self.margin is None else float(self.margin[mask].mean()) / 255
                    found.append(Instance(label, mask, (left, top, width, height), area, score))
        return found


@dataclass(frozen=True)
class Collection:
    """The masks of a split, read one at a time."""

    classes: ClassSet
    split: str
    names: Sequence[str]
    read: Callable[[int], ImageResult]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[ImageResult]:
        return map(self.read, range(len(self.names)))


@dataclass(frozen=True)
class Drawn:
    """What another tool has drawn on one image: later layers lie on top."""

    name: str  # as the tool writes it, e.g. images/val/cat.jpg
    size: tuple[int, int]  # height and width
    paint: Callable[[], Sequence[tuple[str | None, Bool[np.ndarray, "h w"]]]]  # class (None: ignore) and its pixels

    @cached_property
    def layers(self) -> Sequence[tuple[str | None, Bool[np.ndarray, "h w"]]]:
        return self.paint()
