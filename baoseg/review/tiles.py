"""Tiles of large images, and the pixels of the image at hand in the forms that a browser takes and gives."""

import io
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image

from baoseg.core.errors import DataError, RunError
from baoseg.core.types import IGNORE
from baoseg.data.images import DAMAGE, what_is_wrong

TILE = 2048  # pixels of the side of a tile; larger images are shown and corrected tile by tile
OVERVIEW = 320  # pixels of the long side of a small image


@dataclass(frozen=True)
class Tile:
    """A part of an image: rows and columns."""

    rows: slice
    columns: slice

    def of(self, values: np.ndarray) -> np.ndarray:
        return values[self.rows, self.columns]


def tiles(size: Sequence[int]) -> list[Tile]:
    """Tiles of at most TILE x TILE pixels, row by row."""
    rows, columns = (
        [slice(start, min(start + TILE, side)) for start in range(0, side, TILE)] for side in (size[0], size[1])
    )
    return [Tile(row, column) for row in rows for column in columns]


class AtHand:
    """Keeps what was read last of each kind: several parts of one image are asked for at once, and it may be large."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Hashable, np.ndarray]] = {}
        self._lock = threading.Lock()

    def get(self, kind: str, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if kind not in self._kept or self._kept[kind][0] != key:
                self._kept.pop(kind, None)  # before the next is read, so that two are never in memory
                self._kept[kind] = (key, read())
            return self._kept[kind][1]


def enlarged(values: Float[np.ndarray, "y x"], size: tuple[int, int], tile: Tile) -> UInt8[np.ndarray, "h w"]:
    """A tile of a map in [0, 1], enlarged bilinearly to the size of its image, in 1/255."""
    down, across = values.shape[0] / size[0], values.shape[1] / size[1]
    top, left = tile.rows.start, tile.columns.start
    to_map = np.array(
        [[across, 0, (left + 0.5) * across - 0.5], [0, down, (top + 0.5) * down - 0.5]]  # of pixel centres
    )
    found = cv2.warpAffine(
        np.ascontiguousarray(values, dtype=np.float32),
        to_map,
        (tile.columns.stop - left, tile.rows.stop - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return (255 * found.clip(0, 1)).round().astype(np.uint8)


def small(image: UInt8[np.ndarray, "h w 3"], longest: int) -> UInt8[np.ndarray, "y x 3"]:
    """An image of at most `longest` pixels."""
    scale = min(1.0, longest / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)


def decoded(content: bytes, size: Sequence[int], classes: int) -> UInt8[np.ndarray, "h w"]:
    """A mask from the PNG of a browser. Raises DataError if it is none, has another size or unknown classes."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if (image.height, image.width) != tuple(size):
                raise DataError(f"the mask is {image.width}x{image.height} pixels, its image {size[1]}x{size[0]}")
            values = np.asarray(image.convert("RGBA"))[..., 0]
    except DAMAGE as error:
        raise DataError(f"the mask that was sent: {what_is_wrong(error, 'mask')}") from None
    unknown = set(np.unique(values).tolist()) - {*range(classes + 1), IGNORE}
    if unknown:
        raise DataError(f"the mask has the value {max(unknown)}; there are 0..{classes} and {IGNORE}")
    return values


def as_jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    return _encoded(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), ".jpg")


def as_png(values: UInt8[np.ndarray, "h w"]) -> bytes:
    return _encoded(np.ascontiguousarray(values), ".png")


def numbers_as_png(numbers: Int32[np.ndarray, "h w"]) -> bytes:
    """Numbers as red + 256 green + 65536 blue."""
    channels = [(numbers >> shift) & 255 for shift in (16, 8, 0)]  # OpenCV's order: blue, green, red
    return _encoded(np.stack(channels, axis=-1).astype(np.uint8), ".png")


def _encoded(values: np.ndarray, suffix: str) -> bytes:
    done, content = cv2.imencode(suffix, values)
    if not done:
        raise RunError("the image cannot be encoded")
    return content.tobytes()
