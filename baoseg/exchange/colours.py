"""Masks whose classes are colours, and the list of these colours: labelmap.txt, as CVAT writes it."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8

from baoseg.core.errors import DataError
from baoseg.exchange.common import BACKGROUND_NAMES
from baoseg.exchange.result import Layer

LABELS = "labelmap.txt"  # a line for each class: name:red,green,blue::


def names_of(content: bytes) -> dict[int, str]:
    """The names of classes by the number of their colour. Raises ValueError for what is no such list."""
    lines = [line for line in content.decode("utf-8-sig").splitlines() if line.strip() and not line.startswith("#")]
    names = {}
    for line in lines:
        name, colour, *_ = line.rsplit(":", 3)
        red, green, blue = map(int, colour.split(","))
        names[(red << 16) + (green << 8) + blue] = name
    return names


def layers(pixels: UInt8[np.ndarray, "h w 3"], names: dict[int, str], *, where: str) -> Iterator[Layer]:
    """The pixels of each class but the background. Raises DataError for a colour without a name."""
    numbers: Int[np.ndarray, "h w"] = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    shown = np.unique(numbers).tolist()
    if unknown := [colour for colour in shown if colour not in names]:
        raise DataError(f"{where} has the colour #{unknown[0]:06x}, which {LABELS} does not name")
    for colour in shown:
        if names[colour].casefold() not in BACKGROUND_NAMES:
            yield names[colour], numbers == colour
