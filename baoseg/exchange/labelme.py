"""LabelMe's JSON, which X-AnyLabeling, AnyLabeling, Roboflow and CVAT read too: a file for each image.

    OUT/NAME.jpg        copies
    OUT/NAME.json       a polygon for each connected part of a class

Holes hang on their outline by a seam without width. Polygons, rectangles and masks come back. The label of pixels to
ignore is `__ignore__`, as in LabelMe's own exports.
"""

import base64
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from baoseg.core.errors import DataError
from baoseg.core.files import atomic, read_document
from baoseg.core.types import IGNORE
from baoseg.data.images import DAMAGE
from baoseg.exchange.common import Options, copy_image, copy_name, ignore_name, is_current, sides, track
from baoseg.exchange.outlines import fill, outlines
from baoseg.exchange.result import Collection, Drawn, ImageResult, Layer

IGNORED = "__ignore__"
VERSION = "5.5.0"  # of the form


def write(results: Collection, out: Path, options: Options) -> None:
    for result in track(results):
        path = out / f"{result.name}.json"
        if not is_current(path, result):
            copy_image(result, out)
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(_content(result, options), ensure_ascii=False), encoding="utf-8")


def _content(result: ImageResult, options: Options) -> dict[str, Any]:
    height, width = result.size
    names = dict(enumerate(result.classes.names, start=1)) | {IGNORE: ignore_name(result.classes, names=(IGNORED,))}
    shapes = [
        {
            **{"label": names[one.label], "points": (outline + one.box[:2]).astype(float).tolist()},
            **{"group_id": number, "shape_type": "polygon", "description": "", "flags": {}},
        }
        for number, one in enumerate([*result.instances(min_area=options.min_area), *result.ignored()], start=1)
        for outline in outlines(one.part)
    ]
    about = {"imagePath": copy_name(result).rpartition("/")[2], "imageData": None}
    return {"version": VERSION, "flags": {}, "shapes": shapes, **about, "imageHeight": height, "imageWidth": width}


def read(source: Path) -> Iterator[Drawn]:
    for path in sorted(path for path in source.rglob("*.json") if not path.name.startswith(".")):
        content = read_document(path)
        try:
            size = sides(content["imageHeight"], content["imageWidth"])
            shapes = [(str(shape["label"]), shape) for shape in content["shapes"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: no file of LabelMe ({error!r}); remove it, or save it again") from None
        yield Drawn(path.relative_to(source).as_posix(), size, _painter(path, shapes, size))


def _painter(
    path: Path, shapes: Sequence[tuple[str, dict[str, Any]]], size: tuple[int, int]
) -> Callable[[], Iterator[Layer]]:
    def paint() -> Iterator[Layer]:
        for label, shape in shapes:
            try:
                yield label, _mask(shape, size)
            except (KeyError, TypeError, ValueError, *DAMAGE) as error:
                raise DataError(f"{path}: a shape cannot be read ({error}); save it again as a polygon") from None

    return paint


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    points = np.asarray(shape["points"], dtype=np.float64).reshape(-1, 2)
    match shape.get("shape_type", "polygon"):
        case "polygon":
            return fill([points], size)
        case "rectangle":
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            return fill([np.array([(left, top), (right, top), (right, bottom), (left, bottom)])], size)
        case "mask":
            return _pasted(base64.b64decode(shape["mask"], validate=True), points.min(axis=0), size)
        case kind:
            raise ValueError(f"its type is {kind}")


def _pasted(content: bytes, corner: np.ndarray, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A PNG of a part of the image, at its left upper corner."""
    drawn = np.zeros(size, dtype=bool)
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
        part = np.asarray(image.convert("L")) > 0
    left, top = (int(value) for value in np.rint(corner).clip(0))
    space = drawn[top : top + part.shape[0], left : left + part.shape[1]]
    space |= part[: space.shape[0], : space.shape[1]]
    return drawn
