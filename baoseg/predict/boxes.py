"""Maps, classes and boxes of single images, as the field sees images of one label (BAS sec. 4.1).

An image is squashed to a square; the box is drawn on the centre crop, and the class is the mean of ten crops.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.data.boxed import squash, squash_mask
from baoseg.data.transforms import normalise as normalise_image
from baoseg.evaluate.localization import Truth
from baoseg.methods import Method, bas
from baoseg.predict import maps
from baoseg.seeds import SeedMaps
from baoseg.training import guards


@dataclass(frozen=True, kw_only=True)
class BoxConfig:
    """How a stage draws its box."""

    threshold: float  # a share of the map's maximum
    top_k: int = 1  # classes whose maps are averaged (BAS); no more than there are classes count

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or self.top_k < 1:
            raise RecipeError(f"threshold {self.threshold}, top_k {self.top_k}; a threshold is in [0, 1), k at least 1")


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How an image is seen."""

    side: int = 256  # of the square that it is squashed to
    crop: int = 224
    ten_crops: bool = True  # for the class; else the centre crop alone

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.side:
            raise RecipeError(
                f"crops of {self.crop} pixels do not fit into squares of {self.side}; choose smaller ones"
            )


@dataclass(frozen=True)
class Found:
    """What a method says of one image, on its centre crop."""

    averages: Float[Tensor, "k c c"]  # the map for each k asked for, in [0, 1]
    rank: int | None  # classes more probable than the true one; None where the network does not know it
    threshold: float | None  # image-specific, for the first of the maps


@torch.inference_mode()
def localize(
    method: Method,
    image: UInt8[Tensor, "3 h w"],
    target: int | None,
    *,
    view: ViewConfig,
    top: Sequence[int],
    fixed: float | None = None,
) -> Found:
    """Maps and class of one image whose true class is `target` (0..K-1), or None if the network does not know it.

    The map for k is the mean over k classes (`bas.top_averages`), enlarged to the crop, bilinear, and brought to
    [0, 1] by its minimum and maximum; CAM's negative values stay in their order (Choe et al.). The true class is among
    the k; without one the most probable takes its place. As released, k classes are chosen on the centre crop, and the
    rank is that of the mean softmax over ten crops (sec. 4.1).

    With `fixed`, a method that finds thresholds chooses one for this image, too; where nothing tells it, that is
    `fixed`.
    """
    device = next(method.parameters()).device
    square, crop = squash(image.to(device), view.side), [view.crop, view.crop]
    crops = TF.ten_crop(square, crop) if view.ten_crops else (TF.center_crop(square, crop),)
    views = normalise_image(torch.stack(tuple(crops)), method.network.normalisation)
    logits = method.classify(views)
    guards.numbers(logits, "class logits")
    middle = slice(4, 5) if view.ten_crops else slice(1)  # the corners come before the centre
    centre, of_centre = views[middle], logits[middle]
    known, averages = _averages(method, centre, of_centre, target)
    chosen = averages[[min(k, len(averages)) - 1 for k in top]]
    large = F.interpolate(chosen[None].float(), size=crop, mode="bilinear", align_corners=False)
    large = maps.normalise(large - large.amin(dim=(2, 3), keepdim=True))[0]

    probabilities = logits.softmax(dim=1).mean(dim=0)
    rank = None if target is None else int((probabilities > probabilities[target]).sum())
    threshold = None
    if fixed is not None and method.finds_thresholds:
        labels = F.one_hot(torch.tensor(known, device=device), logits.shape[1]).float()
        threshold = method.threshold(centre, labels, large[:1], fixed=fixed)
    return Found(large.cpu(), rank, threshold)


@torch.inference_mode()
def seed_of(method: Method, image: UInt8[Tensor, "3 h w"], target: int | None, *, side: int, top_k: int) -> SeedMaps:
    """The map of a whole image, as `localize` makes that of its centre crop, on the seeds' grid."""
    size = (int(image.shape[1]), int(image.shape[2]))
    device = next(method.parameters()).device
    square = normalise_image(squash(image.to(device), side)[None], method.network.normalisation)
    known, averages = _averages(method, square, method.classify(square), target)
    stride = maps.Config().stride
    grid = (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    chosen = averages[None, min(top_k, len(averages)) - 1, None].float()
    scores = F.interpolate(chosen, size=grid, mode="bilinear", align_corners=False, antialias=True)
    scores = maps.normalise(scores - scores.amin(dim=(2, 3), keepdim=True))[0].cpu()
    return SeedMaps(torch.tensor([known + 1]), scores, None, size)


def _averages(
    method: Method, image: Float[Tensor, "1 3 h w"], logits: Float[Tensor, "1 K"], target: int | None
) -> tuple[int, Float[Tensor, "K h2 w2"]]:
    """The class looked for, and its map averaged with those of k - 1 others, for each k."""
    scores = method.maps(image, torch.zeros_like(logits)).scores
    guards.numbers(logits, "class logits")
    guards.numbers(scores, "maps")
    known = int(logits.argmax()) if target is None else target
    return known, bas.top_averages(scores, logits, torch.tensor([known], device=logits.device))[0]


def truth_on_crop(
    boxes: Integer[Tensor, "m 4"], mask: UInt8[Tensor, "h w"] | None, size: tuple[int, int], *, view: ViewConfig
) -> Truth:
    """Boxes and mask of an image of `size` (height, width) on its centre crop; boxes end at its sides, as released.

    Raises DataError for a box that lies outside the image.
    """
    height, width = size
    outside = (boxes[:, :2] >= torch.tensor([width, height])).any(dim=1) | (boxes[:, 2:] < 0).any(dim=1)
    if outside.any():
        raise DataError(
            f"the box {boxes[outside][0].tolist()} lies outside the image of {width}x{height} pixels; correct it"
        )
    margin = (view.side - view.crop) // 2
    scaled = (boxes * view.side).div(torch.tensor([width, height, width, height]), rounding_mode="floor")
    on_crop = (scaled - margin).clamp(0, view.crop - 1)
    if mask is None:
        return Truth(boxes=on_crop)
    square = TF.center_crop(squash_mask(mask, view.side)[None], [view.crop, view.crop])[0]
    return Truth(boxes=on_crop, mask=square.where(square == IGNORE, (square > BACKGROUND).to(torch.uint8)))
