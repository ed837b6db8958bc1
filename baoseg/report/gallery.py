"""Images of the evaluation split with what each method says about them, for the page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from baoseg import seeds
from baoseg.core.errors import DataError
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.data import Dataset
from baoseg.data.images import read_mask


def spread(total: int, count: int) -> list[int]:
    """`count` indices, or all, in the middles of as many equal parts of 0..total-1."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def heat() -> UInt8[np.ndarray, "256 3"]:
    colours = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)
    return np.asarray(colours)[:, :3]


def method_of(name: str, metrics: dict[str, Any] | None) -> dict[str, Any]:
    """What the threshold slider knows of a method beside its maps."""
    if metrics is None or metrics["sweep"] is None:
        return {"name": name, "fixed": None, "oracle": None, "sweep": None}
    return {
        "name": name,
        "fixed": metrics["fixed"]["threshold"] if metrics["fixed"] else None,
        "oracle": metrics["oracle"]["threshold"],
        "sweep": {"thresholds": metrics["sweep"]["thresholds"], "miou": metrics["sweep"]["miou"]},
    }


def image_of(run: RunFolder, stages: Sequence[str], dataset: Dataset, index: int, *, longest: int) -> dict[str, Any]:
    """An image of the gallery, shrunk to `longest` pixels where it is larger, with what each method says about it."""
    name, sample = dataset.names[index], dataset[index]
    height, width = sample.image.shape[-2:]
    scale = min(1, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))  # as Pillow says it: width first
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.LANCZOS)
    return {
        "name": name,
        "width": size[0],
        "height": size[1],
        "image": uri(image, "JPEG", quality=82),
        "labels": [1 + i for i in sample.labels.nonzero()[:, 0].tolist()],
        "truth": None if sample.mask is None else mask_uri(sample.mask.numpy(), size),
        "methods": [_result(run.stage(stage), dataset.split, name, size) for stage in stages],
    }


def _result(stage: StageFolder, split: str, name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Maps on their own grid (at most `size`; the page interpolates them) and mask of one method for one image.

    What refines or predicts masks has no maps: `classes` is null then.
    """
    mask = stage.mask(split, name)
    shown = mask_uri(read_mask(mask).numpy(), size) if mask.exists() else None
    if not stage.has_maps and stage.masks(split).is_dir():
        if shown is None:
            raise DataError(f"{mask}: no such mask; make it again with the command that made the run, or restore it")
        return {"classes": None, "maps": [], "background": None, "threshold": None, "mask": shown}
    seed = seeds.load(stage.maps(split, name))
    grid = (min(seed.scores.shape[-2], size[1]), min(seed.scores.shape[-1], size[0]))

    def levels_of(maps: Float[Tensor, "k h w"]) -> list[str]:
        levels = (255 * seeds.resize(maps, grid)).round().byte().numpy()
        return [uri(Image.fromarray(level), "PNG", optimize=True) for level in levels]

    return {
        "classes": seed.classes.tolist(),
        "maps": levels_of(seed.scores),
        "background": None if seed.background is None else levels_of(seed.background[None])[0],
        "threshold": seed.threshold,
        "mask": shown,
    }


def mask_uri(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> str:
    """Class indices as grey values, nearest neighbour: a browser hands them on unchanged."""
    return uri(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
