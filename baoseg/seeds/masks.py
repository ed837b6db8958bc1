"""Masks from seeds: the class of each pixel.

With a background map, no threshold is needed. Without one, a threshold takes its place: a pixel is background if all
class maps are below the threshold.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.seeds import SeedMaps


@dataclass(frozen=True, kw_only=True)
class Config:
    """`threshold` applies to seeds without a background map and without a threshold of their own.

    The default is conventional and was not chosen on ground truth. `evaluate` reports the best threshold on the ground
    truth under the name "oracle".
    """

    threshold: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise RecipeError(f"masks.threshold is {self.threshold}; choose a value in 0..1, the range of the maps")


def to_mask(seed: SeedMaps, *, threshold: float | None = None) -> UInt8[Tensor, "h w"]:
    """The mask [h w] of a seed at the size of the image: 0 for the background, otherwise one of `seed.classes`.

    Without a threshold, the mask is the argmax over [background, class maps]; ties go to the background, then to the
    lower class index (BAO inference). With a threshold t, which overrides a background map, a pixel has the class of
    the largest map if this map is >= t, otherwise the background (attention-noise reduction, sec. 3.4); t is compared
    in single precision, as are the maps. If no threshold is given, the seed's own threshold applies (BAS sec. 5.5). A
    seed without classes is all background.

    Raises RecipeError if there is neither a background map nor a threshold.
    """
    seed = seed.upsample()
    classes, values = best_class(seed)
    threshold = seed.threshold if threshold is None else threshold
    if threshold is not None:
        found = values >= torch.tensor(threshold, dtype=values.dtype)
    elif seed.background is not None:
        found = values > seed.background
    else:
        raise RecipeError("these maps have no background map; give a threshold (masks.threshold, usually 0.3)")
    return torch.where(found, classes, BACKGROUND).to(torch.uint8)


def confident_labels(seed: SeedMaps, *, background: float, foreground: float) -> UInt8[Tensor, "h w"]:
    """Pixel labels [h w] from two thresholds, as in IRN and AMN (without a CRF).

    A pixel has the class of the largest map if this map is >= `foreground`, the background if it is < `background`, and
    255 (ignore) in between. A seed without classes is all background.
    """
    if seed.classes.numel() == 0:
        return torch.full(seed.size, BACKGROUND, dtype=torch.uint8)
    classes, values = best_class(seed.upsample())
    labels = torch.where(values >= torch.tensor(foreground, dtype=values.dtype), classes, IGNORE)
    return labels.masked_fill(values < torch.tensor(background, dtype=values.dtype), BACKGROUND).to(torch.uint8)


def margin(seed: SeedMaps, *, threshold: float | None = None) -> UInt8[Tensor, "h w"]:
    """The difference of the largest and the second largest of background and class maps, in 1/255, for each pixel.

    If the seed has no background map, its threshold or `threshold` is the background. Without classes, all pixels are
    255. Raises RecipeError if there is neither a background map nor a threshold.
    """
    seed = seed.upsample()
    if seed.classes.numel() == 0:
        return torch.full(seed.size, 255, dtype=torch.uint8)
    background = seed.background
    if background is None:
        cut = seed.threshold if seed.threshold is not None else threshold
        if cut is None:
            raise RecipeError("these maps have no background map; give a threshold (masks.threshold, usually 0.3)")
        background = torch.full(seed.size, cut)
    first, second = torch.cat([background[None], seed.scores]).topk(2, dim=0).values
    return (255 * (first - second)).round().clamp(0, 255).to(torch.uint8)


def best_class(seed: SeedMaps) -> tuple[Int[Tensor, "h w"], Float[Tensor, "h w"]]:
    """The index of the class with the largest map, and the value of this map, for each cell of the grid.

    Ties go to the lower class index. Without classes, the index is 0 (background) and the value is 0.
    """
    if seed.classes.numel() == 0:
        values = seed.scores.new_zeros(seed.scores.shape[-2:], dtype=torch.float32)
        return torch.full_like(values, BACKGROUND, dtype=torch.int64), values
    values, channels = seed.scores.float().max(dim=0)
    return seed.classes[channels].long(), values


label_image = to_mask  # the name up to version 0.1
