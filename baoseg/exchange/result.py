"""What every format of `bao export masks` is made from, and what every reader of `bao import masks` gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from baoseg.core.types import BACKGROUND, IGNORE, ClassSet

Layer = tuple[str | None, Bool[np.ndarray, "h w"]]  # the name of a class (None: ignore), and its pixels


@dataclass(frozen=True)
class Instance:
    """A connected part of a class. Objects of one class that touch one another are one instance."""

    label: int  # class index 1..K; 255 is a region to ignore
    part: Bool[np.ndarray, "y x"]  # its pixels within the box
    box: tuple[int, int, int, int]  # left, top, width, height in pixels
    size: tuple[int, int]  # height and width of the image
    area: int  # pixels
    score: float | None  # mean margin of the maps in [0, 1] (`seeds.masks.margin`); None: there are no maps

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The pixels within the image. Not kept: an image may have thousands of instances."""
        mask = np.zeros(self.size, dtype=bool)
        left, top, width, height = self.box
        mask[top : top + height, left : left + width] = self.part
        return mask


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
        labels = sorted(set(np.unique(self.mask).tolist()) - {BACKGROUND, IGNORE})
        return [one for label in labels for one in self._parts(label, min_area)]

    def ignored(self) -> list[Instance]:
        """The 8-connected parts of the pixels to ignore."""
        return self._parts(IGNORE, 1)

    def _parts(self, label: int, min_area: int) -> list[Instance]:
        count, parts, about, _ = cv2.connectedComponentsWithStats((self.mask == label).astype(np.uint8))
        found = []
        for number in range(1, count):
            left, top, width, height, area = (int(value) for value in about[number])
            if area >= min_area:
                box = (slice(top, top + height), slice(left, left + width))
                part = parts[box] == number
                score = None if self.margin is None else float(self.margin[box][part].mean()) / 255
                found.append(Instance(label, part, (left, top, width, height), self.size, area, score))
        return found


@dataclass(frozen=True)
class Collection:
    """The masks of a split, read one at a time."""

    classes: ClassSet
    split: str
    names: Sequence[str]
    origin: str  # the folder that the masks are read from, and the stage of a run
    read: Callable[[int], ImageResult]
    stage: str = ""  # of a run

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[ImageResult]:
        return map(self.read, range(len(self.names)))


@dataclass(frozen=True)
class Drawn:
    """What another tool has drawn on one image: later layers lie on top.

    Layers are painted one at a time, when they are asked for: what a file says of sizes is to be checked before.
    """

    name: str  # as the tool writes it, e.g. images/val/cat.jpg
    size: tuple[int, int] | None  # height and width; None: the file does not say, and there is no layer
    paint: Callable[[], Iterable[Layer]]

    @property
    def layers(self) -> Iterator[Layer]:
        return iter(self.paint())
