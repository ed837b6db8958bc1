"""Regions of an image from files that any tool may have made, e.g. the automatic mask generators of SAM and SAM 2.

FOLDER/NAME.png          one layer: the number of a region at each pixel, 8 or 16 bits; 0 is no region
FOLDER/NAME/*.png        a layer each; as SAM's `amg.py` writes them, a mask a file
FOLDER/NAME.json         masks as COCO run lengths, as `amg.py --convert-to-rle` and SA-1B have them: a list of objects
                         with a `segmentation` of `size` and `counts`, or such a list under `annotations`

NAME is the image's name in the data set, with its folders.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.files import read_document
from baoseg.core.types import Sample
from baoseg.data import run_lengths
from baoseg.data.images import read_numbers

NO_REGION = -1


def finder(folder: str) -> Callable[[Sample], Int32[Tensor, "n h w"]]:
    """What reads the regions of an image. Raises DataError without the folder, and for an image without a file."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of regions; give `superpixels`, `sam:MODEL` or a folder")
    return lambda sample: read(root, sample.name, (sample.image.shape[-2], sample.image.shape[-1]))


def read(root: Path, name: str, size: tuple[int, int]) -> Int32[Tensor, "n h w"]:
    """The layers of an image's regions, -1 where a layer has none; no layer if there is no region. Raises DataError."""
    image, several, listed = root / f"{name}.png", root / name, root / f"{name}.json"
    if listed.is_file():
        return packed(_masks(listed, size), size)
    files = [image] if image.is_file() else sorted(several.glob("*.png"))
    if not files:
        raise DataError(
            f"{root}: has no regions of {name}; add {name}.png, {name}.json or a folder {name}/ of PNG files"
        )
    layers = [(file, read_numbers(file)) for file in files]
    for file, layer in layers:
        if layer.shape != size:
            raise DataError(f"{file}: regions of {layer.shape} for an image of {size} (height, width)")
    if image.is_file():  # a layer as it is: it may have thousands of regions
        numbers = layers[0][1]
        return torch.from_numpy(np.where(numbers > 0, numbers, NO_REGION).astype(np.int32))[None]
    return packed((layer == number for _, layer in layers for number in np.unique(layer[layer > 0])), size)


def packed(masks: Iterable[Bool[np.ndarray, "h w"]], size: tuple[int, int]) -> Int32[Tensor, "n h w"]:
    """Masks that may overlap, as few layers: each goes to the first layer where it overlaps none.

    Empty masks are left out.
    """
    layers: list[np.ndarray] = []
    for number, mask in enumerate(masks):
        if not mask.any():
            continue
        free = next((layer for layer in layers if (layer[mask] == NO_REGION).all()), None)
        if free is None:
            free = np.full(size, NO_REGION, dtype=np.int32)
            layers.append(free)
        free[mask] = number
    return torch.from_numpy(np.stack(layers) if layers else np.empty((0, *size), dtype=np.int32))


def _masks(path: Path, size: tuple[int, int]) -> Iterator[Bool[np.ndarray, "h w"]]:
    content = read_document(path)
    found = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(found, list) or not all(isinstance(one, dict) and "segmentation" in one for one in found):
        raise DataError(f"{path}: no list of masks with a `segmentation` each, as SAM's `amg.py` writes it")
    for one in found:
        try:
            yield run_lengths.decode(one["segmentation"], size)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: a mask that is no run lengths of COCO ({error}); make the file again") from None
