"""What the networks of PSA and IRN share: both learn from pairs of cells whose labels are known."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from baoseg.core.errors import RecipeError
from baoseg.core.types import BACKGROUND, IGNORE, Batch
from baoseg.nets.base import Backbone
from baoseg.nets.grid import labels_on_grid, on_grid
from baoseg.refine.random_walk import HERE, Offset, offsets_within, within

EPSILON = 1e-5  # log 0 is no loss, and the mean over no pairs is 0; as released


class Pairs(NamedTuple):
    """The pairs of cells at one offset, by their labels. A pair with a label of 255 is of no kind."""

    background: Bool[Tensor, "b y x"]  # both background
    foreground: Bool[Tensor, "b y x"]  # both of one class
    different: Bool[Tensor, "b y x"]


def pairs_at(labels: Int[Tensor, "b h w"], offset: Offset) -> Pairs:
    first, second = within(labels, offset, HERE), within(labels, offset, offset)
    known = (first != IGNORE) & (second != IGNORE)
    alike = known & (first == second)
    return Pairs(alike & (first == BACKGROUND), alike & (first != BACKGROUND), known & ~alike)


def affinity_sums(affinity: Float[Tensor, "b y x"], pairs: Pairs) -> Float[Tensor, "2 3"]:
    """-log a over pairs of background and of one class, -log(1 - a) over different ones: sums and numbers of pairs."""
    alike, different = -(affinity + EPSILON).log(), -(1 + EPSILON - affinity).log()
    sums = [(alike * pairs.background).sum(), (alike * pairs.foreground).sum(), (different * pairs.different).sum()]
    return torch.stack([torch.stack(sums), torch.stack([kind.sum() for kind in pairs])])


def affinity_terms(means: Float[Tensor, "3"]) -> dict[str, Float[Tensor, ""]]:
    """Pairs that are alike and pairs that differ count half each, so do both kinds of those that are alike.

    L_bg / 4 + L_fg / 4 + L_neg / 2, as released: a quarter of PSA's loss (sec. 3.2), half of IRN's (sec. 4.4).
    """
    return {"background": means[0] / 4, "foreground": means[1] / 4, "different": means[2] / 2}


def means(
    sums: Callable[..., Float[Tensor, "2 n"]],
    labels: Int[Tensor, "b h w"],
    *fields: Float[Tensor, "b ..."],
    radius: int,
) -> Float[Tensor, "n"]:
    """Means over all pairs nearer than the radius; `sums(offset, labels, *fields)` gives n sums and n counts.

    The gradient computes each offset anew, so that there is only one of them in memory at a time.
    """
    totals = torch.stack(
        [
            checkpoint(sums, offset, labels, *fields, use_reentrant=False, preserve_rng_state=False)
            for offset in offsets_within(radius)
        ]
    ).sum(dim=0)
    return totals[0] / (totals[1] + EPSILON)


def labels_of(batch: Batch, maps: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
    """The batch's labels at the centres of the cells of `maps`, 255 on padding."""
    if batch.pixel_labels is None:
        raise RecipeError("affinities are learnt from labels made beforehand; make them from seeds (affinity_labels)")
    return labels_on_grid(batch.pixel_labels, maps).masked_fill(~on_grid(batch.valid, maps)[:, 0], IGNORE)


def stage_strides(backbone: Backbone) -> list[int]:
    """Pixels a cell for each of `backbone.stages`, as found on a small image."""
    training = [module for module in backbone.modules() if module.training]
    side = 2 * backbone.stride
    with torch.no_grad():
        stages = backbone.eval().stages(next(backbone.parameters()).new_zeros(1, 3, side, side))
    for module in training:
        module.training = True
    return [side // stage.shape[-1] for stage in stages]


def resize(features: Float[Tensor, "b c h w"], like: Float[Tensor, "b _ H W"]) -> Float[Tensor, "b c H W"]:
    """Bilinear, corners not aligned; what fits is left as it is."""
    size = like.shape[-2:]
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
