"""Seeds to label images: which class each pixel belongs to.

With a learned background nothing has to be chosen. Without one, a threshold stands for the background: a
class whose map stays below it has not been found.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.seeds import Seed


@dataclass(frozen=True, kw_only=True)
class Config:
    """`threshold` is for seeds that do not say themselves where the background is. Its default is a conventional one,
    not chosen on ground truth; `evaluate` reports the best one on the ground truth under the name oracle.
    """

    threshold: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise RecipeError(f"masks.threshold is {self.threshold}; maps lie in 0..1, choose a value in between")


def label_image(seed: Seed, *, threshold: float | None = None) -> UInt8[Tensor, "h w"]:
    """Class index of each pixel of the image: 0 for the background, else one of `seed.classes`.

    Without a threshold, the argmax over [background, class maps]; ties go to the background, then to the
    class of the lower index (BAO inference). With a threshold t, which overrides a background map, the class
    of the largest map where that is >= t and the background elsewhere (attention-noise reduction, sec. 3.4);
    t is compared in single precision, as the maps are. A seed that brings its own threshold is cut at that (BAS
    sec. 5.5) where none is given. A seed of no class is all background.

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


def confident_labels(seed: Seed, *, background: float, foreground: float) -> UInt8[Tensor, "h w"]:
    """Labels to learn from: the class of the largest map where that is >= `foreground`, the background where it is
    < `background`, and 255 between the two, where the seed is in doubt (the labels of IRN and AMN, without a CRF).
    A seed of no class is all background.
    """
    if seed.classes.numel() == 0:
        return torch.full(seed.size, BACKGROUND, dtype=torch.uint8)
    classes, values = best_class(seed.upsample())
    labels = torch.where(values >= torch.tensor(foreground, dtype=values.dtype), classes, IGNORE)
    return labels.masked_fill(values < torch.tensor(background, dtype=values.dtype), BACKGROUND).to(torch.uint8)


def margin(seed: Seed, *, threshold: float | None = None) -> UInt8[Tensor, "h w"]:
    """How far the largest of background and class maps is above the second, in 1/255; for each pixel of the image.

    A threshold stands for the background where the seed has none. Without classes all is sure.
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


def best_class(seed: Seed) -> tuple[Int[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Index of the class with the largest map and the value of that map, for each cell of the seed's grid.

    Ties go to the class of the lower index. Without classes, the background and 0.
    """
    if seed.classes.numel() == 0:
        values = seed.scores.new_zeros(seed.scores.shape[-2:], dtype=torch.float32)
        return torch.full_like(values, BACKGROUND, dtype=torch.int64), values
    values, channels = seed.scores.float().max(dim=0)
    return seed.classes[channels].long(), values
