"""Shared by PSA and IRN: the affinity loss over pairs of cells with known labels."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from baoseg.core.errors import RecipeError
from baoseg.core.types import BACKGROUND, IGNORE, Batch
from baoseg.nets.base import Backbone, evaluation
from baoseg.nets.grid import labels_on_grid, on_grid
from baoseg.refine.random_walk import HERE, Offset, offsets_within, within

EPSILON = 1e-5  # keeps log finite, and the mean over no pairs 0; as in the released code


class Pairs(NamedTuple):
    """The kind of each pair of cells at one offset. A pair with a label of 255 has no kind."""

    background: Bool[Tensor, "b y x"]  # both are background
    foreground: Bool[Tensor, "b y x"]  # both have the same class
    different: Bool[Tensor, "b y x"]


def pairs_at(labels: Int[Tensor, "b h w"], offset: Offset) -> Pairs:
    """The kinds of the pairs at an offset; y x are the cells with a neighbour at the offset."""
    first, second = within(labels, offset, HERE), within(labels, offset, offset)
    known = (first != IGNORE) & (second != IGNORE)
    alike = known & (first == second)
    return Pairs(alike & (first == BACKGROUND), alike & (first != BACKGROUND), known & ~alike)


def affinity_sums(affinity: Float[Tensor, "b y x"], pairs: Pairs) -> Float[Tensor, "2 3"]:
    """Sums of -log a (background, foreground) and -log(1 - a) (different), and below them the numbers of pairs."""
    alike, different = -(affinity + EPSILON).log(), -(1 + EPSILON - affinity).log()
    sums = [(alike * pairs.background).sum(), (alike * pairs.foreground).sum(), (different * pairs.different).sum()]
    return torch.stack([torch.stack(sums), torch.stack([kind.sum() for kind in pairs])])


def affinity_terms(means: Float[Tensor, "3"]) -> dict[str, Float[Tensor, ""]]:
    """The terms of the affinity loss L_bg / 4 + L_fg / 4 + L_neg / 2, from the means of the three kinds of pairs.

    The weights are those of the released code: a quarter of the loss of PSA (sec. 3.2), half of that of IRN (sec. 4.4).
    """
    return {"background": means[0] / 4, "foreground": means[1] / 4, "different": means[2] / 2}


def means(
    sums: Callable[..., Float[Tensor, "2 n"]],
    labels: Int[Tensor, "b h w"],
    *fields: Float[Tensor, "b ..."],
    radius: int,
) -> Float[Tensor, "n"]:
    """The means over all pairs within the radius; `sums(offset, labels, *fields)` returns n sums and n counts.

    The backward pass recomputes each offset, so that only one offset is in memory at a time.
    """
    totals = torch.stack(
        [
            checkpoint(sums, offset, labels, *fields, use_reentrant=False, preserve_rng_state=False)
            for offset in offsets_within(radius)
        ]
    ).sum(dim=0)
    return totals[0] / (totals[1] + EPSILON)


def labels_of(batch: Batch, maps: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
    """The pixel labels of a batch at the centres of the cells of `maps`; 255 on padding.

    Raises RecipeError if the batch has no pixel labels.
    """
    if batch.pixel_labels is None:
        raise RecipeError("affinities are learnt from pixel labels; make them from seeds (refine.affinity_labels)")
    return labels_on_grid(batch.pixel_labels, maps).masked_fill(~on_grid(batch.valid, maps)[:, 0], IGNORE)


def stage_strides(backbone: Backbone) -> list[int]:
    """The strides of `backbone.stages` in pixels, measured on a small image."""
    side = 2 * backbone.stride
    with torch.no_grad(), evaluation(backbone):
        stages = backbone.stages(next(backbone.parameters()).new_zeros(1, 3, side, side))
    return [side // stage.shape[-1] for stage in stages]
