"""What lists say of an image with boxes, and how numbers and lines of such lists are read."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from baoseg.core.errors import DataError
from baoseg.data.files import Tree

Box = tuple[int, int, int, int]


class Layout(StrEnum):
    """How a data set lies on disk; `baoseg.data.boxed` describes each."""

    FOLDER = "folder"
    CUB = "cub"
    ILSVRC = "ilsvrc"
    OPENIMAGES = "openimages"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a data set says of one image."""

    name: str
    path: Path
    label: str
    boxes: tuple[Box, ...] = ()
    masks: tuple[Path, ...] = ()  # the object is what any of them shows
    level: int = 1  # grey value from which on a mask shows something
    ignored: Path | None = None  # what it shows beside the object counts neither way


def lines_of(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is this the right folder and layout?") from None


def box_of(corners: Iterable[str | float], where: str) -> Box:
    exact = numbers_of(corners, 4, where)
    require_pixels(exact, where)
    x0, y0, x1, y1 = map(math.floor, exact)
    if x1 < x0 or y1 < y0:
        raise DataError(f"{where}: the box {x0}, {y0}, {x1}, {y1} ends before it starts; write x0, y0, x1, y1")
    return x0, y0, x1, y1


def require_pixels(corners: Sequence[float], where: str) -> None:
    """Raises DataError for a box in shares of the image, which would be its first pixel."""
    if max(corners) <= 1 and min(corners) >= 0 and any(corner % 1 for corner in corners):
        shown = ", ".join(f"{corner:g}" for corner in corners)
        raise DataError(f"{where}: the box {shown} lies in 0..1; write it in pixels of the image")


def numbers_of(values: Iterable[str | float], count: int, where: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: a box is not {count} numbers; correct it")
    return numbers


def missing(path: Path) -> str:
    """That an image is not there, and which one may be meant."""
    near = Tree(path.parent).hint(path.name)
    hint = f"there is {near}, write that" if near else "restore it, or take it out of the lists"
    return f"{path}: no such image; {hint}"


def refuse(problems: Sequence[str]) -> None:
    """Raise a DataError that is the first of the problems and counts the others, if there are any."""
    if problems:
        raise DataError(problems[0] + and_more(problems))


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def and_more(cases: Sequence[object]) -> str:
    return f" (and {len(cases) - 1} more)" if len(cases) > 1 else ""
