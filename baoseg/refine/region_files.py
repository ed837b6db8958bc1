"""Regions of an image from files that any tool may have made, e.g. the automatic mask generators of SAM and SAM 2.

FOLDER/NAME.png          one layer: the number of a region at each pixel, 8 or 16 bits; 0 is no region
FOLDER/NAME/*.png        a layer each; as SAM's `amg.py` writes them, a mask a file
FOLDER/NAME.json         masks as COCO run lengths, as `amg.py --convert-to-rle` and SA-1B have them: a list of objects
                         with a `segmentation` of `size` and `counts`, or such a list under `annotations`

NAME is the image's name in the data set, with its folders.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int32
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import read_json
from baoseg.core.types import Sample
from baoseg.data.images import read_numbers

NO_REGION = -1


def finder(folder: str) -> Callable[[Sample], Int32[Tensor, "n h w"]]:
    """What reads the regions of an image. Raises DataError without the folder, and for an image without regions."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of regions; give `superpixels`, `sam:MODEL` or a folder")
    return lambda sample: read(root, sample.name)


def read(root: Path, name: str) -> Int32[Tensor, "n h w"]:
    """The layers of an image's regions; -1 where a layer has none. Raises DataError."""
    image, several, listed = root / f"{name}.png", root / name, root / f"{name}.json"
    if listed.is_file():
        return packed(_masks(listed))
    files = [image] if image.is_file() else sorted(several.glob("*.png"))
    if not files:
        raise DataError(
            f"{root}: has no regions of {name}; add {name}.png, {name}.json or a folder {name}/ of PNG files"
        )
    layers = [read_numbers(file) for file in files]
    if len({layer.shape for layer in layers}) > 1:
        raise DataError(f"{several}: layers of several sizes; all must have the size of the image")
    if len(layers) > 1:
        return packed(layer == number for layer in layers for number in np.unique(layer[layer > 0]))
    return torch.from_numpy(np.where(layers[0] > 0, layers[0], NO_REGION).astype(np.int32))[None]


def packed(masks: Iterable[Bool[np.ndarray, "h w"]]) -> Int32[Tensor, "n h w"]:
    """Masks that may overlap, as few layers: each goes to the first layer where it overlaps none. Empty masks are left
    out. Raises DataError where there is none."""
    layers: list[np.ndarray] = []
    for number, mask in enumerate(masks):
        if not mask.any():
            continue
        free = next((layer for layer in layers if (layer[mask] == NO_REGION).all()), None)
        if free is None:
            free = np.full(mask.shape, NO_REGION, dtype=np.int32)
            layers.append(free)
        free[mask] = number
    if not layers:
        raise DataError("no regions; all masks are empty")
    return torch.from_numpy(np.stack(layers))


def _masks(path: Path) -> Iterable[Bool[np.ndarray, "h w"]]:
    try:
        from pycocotools import mask as coco  # noqa: PLC0415  (the extra `exchange`)
    except ImportError:
        raise RecipeError(f"{path}: needs pycocotools; pip install 'baoseg[exchange]'") from None
    for segmentation in _segmentations(path):
        try:
            height, width = (int(side) for side in segmentation["size"])
            counts = segmentation["counts"]
            coded = coco.frPyObjects(segmentation, height, width) if isinstance(counts, list) else dict(segmentation)
            with warnings.catch_warnings(action="ignore"):  # pycocotools does not know the copy keyword of NumPy 2
                mask = coco.decode(coded).astype(bool)
        except (KeyError, TypeError, ValueError, MemoryError) as error:
            raise DataError(f"{path}: a mask that is no run lengths of COCO ({error}); make the file again") from None
        yield mask


def _segmentations(path: Path) -> Sequence[Any]:
    content = read_json(path)
    found = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(found, list) or not all(isinstance(one, dict) and "segmentation" in one for one in found):
        raise DataError(f"{path}: no list of masks with a `segmentation` each, as SAM's `amg.py` writes it")
    return [one["segmentation"] for one in found]
