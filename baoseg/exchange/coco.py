"""COCO instances: one JSON file, an annotation for each connected part of a class.

Run lengths keep every pixel; `iscrowd` is 0 all the same, since trainers drop crowds. Outlines (`--outlines polygon`)
are for tools that refuse run lengths; holes hang on them by seams without width. Pixels to ignore belong to no object,
so they are no annotation: the entry of their image has them as run lengths under `ignore`, which other tools pass over.
"""

import json
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from jaxtyping import Bool

from baoseg.core.errors import DataError, RecipeError, first_line
from baoseg.core.files import atomic, read_document
from baoseg.core.types import IGNORE
from baoseg.data import run_lengths
from baoseg.exchange.common import BACKGROUND_NAMES, Options, Outlines, sides, track
from baoseg.exchange.outlines import LEAST, corner_outlines
from baoseg.exchange.result import Collection, Drawn, ImageResult, Instance, Layer

IGNORED = "ignore"  # the key of an image


def write(results: Collection, out: Path, options: Options) -> None:
    """OUT/SPLIT.json. Images and annotations are written as they come: two lists, so annotations wait in a file."""
    coder = _coder()
    path = out / f"{results.split}.json"
    categories = [{"id": index, "name": name} for index, name in enumerate(results.classes.names, start=1)]
    with (
        atomic(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", encoding="utf-8", dir=out) as annotations,
    ):
        file.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"images": [')
        number = 0
        for image_id, result in enumerate(track(results), start=1):
            _append(file, image_id == 1, _image(coder, result, image_id))
            for instance in result.instances(min_area=options.min_area):
                number += 1
                _append(annotations, number == 1, _annotation(coder, instance, number, image_id, options))
        file.write('\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file)
        file.write("\n]}\n")


def _append(file: IO[str], first: bool, entry: dict[str, Any]) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(entry, ensure_ascii=False))


def _image(coder: Any, result: ImageResult, image_id: int) -> dict[str, Any]:
    height, width = result.size
    ignored = result.mask == IGNORE
    return {
        **{"id": image_id, "file_name": result.file_name, "width": width, "height": height},
        **({IGNORED: _encoded(coder, ignored)} if ignored.any() else {}),
    }


def _annotation(coder: Any, instance: Instance, number: int, image_id: int, options: Options) -> dict[str, Any]:
    if options.outlines is Outlines.POLYGON:
        found = [outline + instance.box[:2] for outline in corner_outlines(instance.part)]
        drawn: Any = [[float(value) for value in outline.ravel()] for outline in found]
    else:
        drawn = _encoded(coder, instance.mask)
    return {
        **{"id": number, "image_id": image_id, "category_id": instance.label, "iscrowd": 0},
        **{"area": instance.area, "bbox": [float(value) for value in instance.box], "segmentation": drawn},
        **({} if instance.score is None else {"score": round(instance.score, 4)}),
    }


def _encoded(coder: Any, mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    coded = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def read(source: Path) -> Iterator[Drawn]:
    """All images of a JSON file, with run lengths or outlines."""
    coder, content = _coder(), read_document(source)
    try:
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        for image in content["images"]:
            size = sides(image["height"], image["width"])
            drawn: list[tuple[str | None, Any]] = [
                (names[one["category_id"]], one["segmentation"]) for one in of_image[image["id"]]
            ]
            if IGNORED in image:
                drawn.append((None, image[IGNORED]))
            yield Drawn(str(image["file_name"]), size, _painter(coder, source, str(image["file_name"]), size, drawn))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{source}: no file of COCO instances ({error!r}); export segmentations as COCO") from None


def _painter(
    coder: Any, source: Path, name: str, size: tuple[int, int], drawn: Sequence[tuple[str | None, Any]]
) -> Callable[[], Iterator[Layer]]:
    def paint() -> Iterator[Layer]:
        for label, segmentation in drawn:
            if label is not None and label.casefold() in BACKGROUND_NAMES:
                continue  # the ground beneath all others, wherever in the list
            try:
                yield label, _decoded(coder, segmentation, size)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise DataError(
                    f"{source}: an annotation of {name} cannot be read ({first_line(error)}); export it again"
                ) from None

    return paint


def _decoded(coder: Any, segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of run lengths or polygons. Raises ValueError, before pycocotools sees what it would trip over."""
    if isinstance(segmentation, list):
        coded = coder.frPyObjects([_within(polygon, size) for polygon in segmentation], *size)
        segmentation = coder.merge(coded) if coded else coder.encode(np.zeros(size, dtype=np.uint8, order="F"))
    else:
        return run_lengths.decode(segmentation, size)
    with warnings.catch_warnings(action="ignore"):  # pycocotools does not know the copy keyword of NumPy 2
        return np.asarray(coder.decode(segmentation)).astype(bool)


def _within(polygon: Any, size: tuple[int, int]) -> list[float]:
    """The polygon with what is outside the image moved to its border: pycocotools asks for memory by its length."""
    points = np.asarray(polygon, dtype=np.float64)
    if points.ndim != 1 or len(points) < 2 * LEAST or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError("a polygon that is no list of x, y, x, y, x, y, ...")
    found: list[float] = points.reshape(-1, 2).clip(0, (size[1], size[0])).ravel().tolist()
    return found


def _coder() -> Any:
    try:
        from pycocotools import mask  # noqa: PLC0415  (the extra `exchange`)
    except ImportError:
        raise RecipeError("COCO needs pycocotools; pip install 'baoseg[exchange]'") from None
    return mask
