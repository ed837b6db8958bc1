"""COCO instances: one JSON file, an annotation for each connected part of a class.

Run lengths keep every pixel; `iscrowd` is 0 all the same, since trainers drop crowds. Outlines (`--outlines polygon`)
are for tools that refuse run lengths; holes hang on them by seams without width. Pixels to ignore belong to no object,
so they come back as background.
"""

import json
import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from jaxtyping import Bool

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import atomic, read_json
from baoseg.exchange.common import Options, track
from baoseg.exchange.outlines import corner_outlines
from baoseg.exchange.result import Collection, Drawn, ImageResult, Instance

BACKGROUND_NAMES = {"background", "_background_"}


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
            _append(file, image_id == 1, _image(result, image_id))
            for instance in result.instances(min_area=options.min_area):
                number += 1
                _append(annotations, number == 1, _annotation(coder, instance, number, image_id, options))
        file.write('\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file)
        file.write("\n]}\n")


def _append(file: IO[str], first: bool, entry: dict[str, Any]) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(entry, ensure_ascii=False))


def _image(result: ImageResult, image_id: int) -> dict[str, Any]:
    height, width = result.size
    return {"id": image_id, "file_name": result.file_name, "width": width, "height": height}


def _annotation(coder: Any, instance: Instance, number: int, image_id: int, options: Options) -> dict[str, Any]:
    if options.polygons:
        drawn: Any = [[float(value) for value in outline.ravel()] for outline in corner_outlines(instance.mask)]
    else:
        coded = coder.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
        drawn = {"size": list(coded["size"]), "counts": coded["counts"].decode()}
    return {
        **{"id": number, "image_id": image_id, "category_id": instance.label, "iscrowd": 0},
        **{"area": instance.area, "bbox": [float(value) for value in instance.box], "segmentation": drawn},
        **({} if instance.score is None else {"score": round(instance.score, 4)}),
    }


def read(source: Path) -> Iterator[Drawn]:
    """All images of a JSON file, with run lengths or outlines."""
    coder, content = _coder(), read_json(source)
    try:
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        for image in content["images"]:
            size = (int(image["height"]), int(image["width"]))
            yield Drawn(image["file_name"], size, _painter(coder, source, of_image[image["id"]], size, names))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source}: no file of COCO instances ({error!r}); export segmentations as COCO") from None


def _painter(
    coder: Any, source: Path, annotations: Sequence[dict[str, Any]], size: tuple[int, int], names: dict[int, str]
) -> Any:
    def paint() -> Sequence[tuple[str | None, Bool[np.ndarray, "h w"]]]:
        try:
            return [
                (names[one["category_id"]], _decoded(coder, one["segmentation"], size))
                for one in annotations
                if names[one["category_id"]] not in BACKGROUND_NAMES
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"{source}: an annotation cannot be read ({error!r}); export it again") from None

    return paint


def _decoded(coder: Any, segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    if isinstance(segmentation, list):
        segmentation = coder.merge(coder.frPyObjects(segmentation, *size))
    elif list(segmentation["size"]) != list(size):
        raise ValueError(f"a mask of {segmentation['size']} for an image of {list(size)}")
    elif isinstance(segmentation["counts"], list):
        segmentation = coder.frPyObjects(segmentation, *size)
    with warnings.catch_warnings(action="ignore"):  # pycocotools does not know the copy keyword of NumPy 2
        return np.asarray(coder.decode(dict(segmentation))).astype(bool)


def _coder() -> Any:
    try:
        from pycocotools import mask  # noqa: PLC0415  (the extra `exchange`)
    except ImportError:
        raise RecipeError("COCO needs pycocotools; pip install 'baoseg[exchange]'") from None
    return mask
