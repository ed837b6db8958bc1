"""What formats share."""

import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from PIL.ExifTags import Base

from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError, RunError, first_line
from baoseg.core.files import atomic, read_json, write_json
from baoseg.core.text import folded, tidy
from baoseg.core.types import IGNORE, ClassSet
from baoseg.data.images import DAMAGE
from baoseg.exchange.result import Collection, ImageResult

DATA = "data.yaml"
UPRIGHT = 1  # an orientation of EXIF
BACKGROUND_NAMES = ("background", "_background_")  # the latter is LabelMe's
IGNORE_NAMES = ("ignore", "__ignore__", "void")  # the second is LabelMe's


class Outlines(StrEnum):
    """How COCO has the mask of an instance."""

    RLE = "rle"
    POLYGON = "polygon"


@dataclass(frozen=True, kw_only=True)
class Options:
    min_area: int = 1  # pixels of the smallest instance; smaller parts are left out, but for index masks
    outlines: Outlines = Outlines.RLE  # of COCO

    def __post_init__(self) -> None:
        if self.min_area < 1:
            raise RecipeError(f"--min-area is {self.min_area}; choose 1 pixel or more")


def track(results: Collection) -> Iterator[ImageResult]:
    yield from progress.track(iter(results), title="export", total=len(results))


def is_current(made: Path, result: ImageResult) -> bool:
    """Whether a file that is made from one result is there, and younger than the mask."""
    return made.exists() and made.stat().st_mtime >= result.made


def copy_name(result: ImageResult) -> str:
    """The name of an image's copy: that of its file. What is no file, or a file that EXIF turns, becomes a PNG."""
    return f"{result.name}.png" if _is_drawn(result) else result.file_name


def copy_image(result: ImageResult, folder: Path) -> None:
    """Copy an image. One that EXIF turns is written upright, as its mask is: not all readers look at EXIF."""
    with atomic(folder / copy_name(result)) as temporary:
        if _is_drawn(result):
            Image.fromarray(result.pixels()).save(temporary, format="PNG")
        else:
            assert result.image is not None
            shutil.copyfile(result.image, temporary)


def _is_drawn(result: ImageResult) -> bool:
    if result.image is None:
        return True
    with warnings.catch_warnings(action="ignore"), Image.open(result.image) as file:
        try:
            return file.getexif().get(Base.Orientation, UPRIGHT) not in (UPRIGHT, 0)
        except DAMAGE:
            return False  # as for `data.images`


def require_same(results: Collection, out: Path, form: str, options: Options) -> None:
    """Note what is exported into a folder. Raises RunError if it holds another export: files that are there stay."""
    path = out / f".export-{results.split}.json"
    content = {"as": form, "from": results.origin, "classes": [*results.classes.names], **vars(options)}
    known = read_json(path) if path.exists() else content
    if different := [f"{name} was {known.get(name)}" for name in content if known.get(name) != content[name]]:
        raise RunError(
            f"{out}: holds another export of the split {results.split} ({different[0]}); choose another folder with "
            "--out, or delete this one"
        )
    write_json(path, content)


def write_yaml(out: Path, about: dict[str, Any]) -> None:
    """data.yaml: the splits that are there under `images`, and `about`.

    Ultralytics refuses a file without `train` or `val`, so another split stands for a missing one. It looks for a
    relative `path` in a folder of its own settings; without a `path`, the splits are looked for beside this file.
    """
    splits = {path.name: f"images/{path.name}" for path in sorted((out / "images").iterdir()) if path.is_dir()}
    first = next((name for name in splits if name.startswith("train")), next(iter(splits)))
    last = next((name for name in splits if name.startswith("val")), first)
    with atomic(out / DATA) as temporary:
        content = {"train": splits[first], "val": splits[last], **splits, **about}
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def names_of_yaml(source: Path) -> dict[int, str]:
    """The names of the classes by their index: of data.yaml, or of classes.txt, where the first class is 1.

    Raises DataError without either.
    """
    for folder in (source, source.parent):
        if (folder / DATA).is_file():
            return _names(folder / DATA)
        if (folder / "classes.txt").is_file():
            lines = (folder / "classes.txt").read_text(encoding="utf-8-sig").splitlines()
            return dict(enumerate(["background", *filter(None, map(str.strip, lines))]))
    raise DataError(f"{source}: has no {DATA} or classes.txt; add one, so that the values have names")


def _names(path: Path) -> dict[int, str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        names = content["names"]
        listed = names.items() if isinstance(names, dict) else enumerate(names)
        found = {int(index): str(name) for index, name in listed}
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: has no list `names` of the classes ({first_line(error)}); add one") from None
    if not found:
        raise DataError(f"{path}: `names` lists no class; add them")
    return found


def ignore_name(classes: ClassSet, *, names: Sequence[str] = IGNORE_NAMES) -> str:
    """The label of pixels to ignore, in formats that have labels alone: none that a class has."""
    taken = set(map(key, classes.names))
    return next(name for name in (*names, *IGNORE_NAMES, str(IGNORE)) if name not in taken)


def key(label: str) -> str:
    """Equal for names that mean the same class."""
    return folded(tidy(label))


def sides(height: Any, width: Any) -> tuple[int, int]:
    """Height and width as a file says them. Raises ValueError."""
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise ValueError(f"an image of {height} x {width} pixels")
    return height, width


def shown(values: Iterable[str], most: int = 5) -> str:
    """Some of the values, and how many more there are."""
    listed = list(values)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest
