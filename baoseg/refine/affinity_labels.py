"""Pixel labels for learning affinities: 0 for the background, a class index, or 255 where the seed is uncertain.

There are three criteria: two powers of the background score (PSA), two thresholds (IRN), and the background map that
BAO learns. All use a dense CRF. A seed without classes gives background everywhere.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.refine import crf
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import best_class, to_mask


def from_alphas(
    image: UInt8[Tensor, "3 h w"],
    seed: SeedMaps,
    *,
    low: float,
    high: float,
    config: crf.Config = crf.PROBABILITIES,
) -> UInt8[Tensor, "h w"]:
    """Labels from two background scores (1 - max_s M_s)^alpha (PSA sec. 3.2): strong for `low`, weak for `high`.

    The CRF is applied to the class maps with each score. A pixel with a class despite the strong background has this
    class; a pixel that is background despite the weak background is background; others are 255.
    """
    check(image, seed)
    weak, strong = (_with_alpha(image, seed, alpha=alpha, config=config) for alpha in (high, low))
    labels = strong.masked_fill(strong == BACKGROUND, IGNORE)
    return labels.masked_fill(weak == BACKGROUND, BACKGROUND)


def from_thresholds(
    image: UInt8[Tensor, "3 h w"],
    seed: SeedMaps,
    *,
    background: float = 0.05,
    foreground: float = 0.30,
    config: crf.Config = crf.LABELS,
) -> UInt8[Tensor, "h w"]:
    """Labels from the masks at two thresholds, each after a CRF (IRN sec. 4.2).

    A pixel with a class at the threshold `foreground` has this class; a pixel that is background at both thresholds is
    background; others are 255. AMN learns from such labels of CAM; IRN on AMN uses 0.15 and 0.45. Deviation: a map
    equal to the threshold counts as above it (`masks.label_image`); in the released code it counts as below.
    """
    check(image, seed)
    lower, higher = (
        after_crf(image, to_mask(seed, threshold=threshold), config) for threshold in (background, foreground)
    )
    labels = higher.masked_fill(higher == BACKGROUND, IGNORE)
    return labels.masked_fill((higher == BACKGROUND) & (lower == BACKGROUND), BACKGROUND)


def from_background(
    image: UInt8[Tensor, "3 h w"], seed: SeedMaps, *, config: crf.Config = crf.LABELS
) -> UInt8[Tensor, "h w"]:
    """Labels from the mask of a seed with a background map: 255 where the CRF changes it (BAO; not from a paper)."""
    check(image, seed)
    mask = to_mask(seed)
    return mask.masked_fill(after_crf(image, mask, config) != mask, IGNORE)


def after_crf(
    image: UInt8[Tensor, "3 h w"], labels: UInt8[Tensor, "h w"], config: crf.Config = crf.LABELS
) -> UInt8[Tensor, "h w"]:
    """The mask after `crf.from_labels`: the label with the largest marginal.

    A mask with one label is filled with it.
    """
    present = crf.present_labels(labels)
    if len(present) == 1:
        return torch.full_like(labels, int(present))
    marginals = crf.from_labels(image.permute(1, 2, 0), labels, config=config)
    return present[marginals.argmax(dim=0)].to(torch.uint8)


def background_score(seed: SeedMaps, *, alpha: float) -> Float[Tensor, "h w"]:
    """The background score (1 - max_s M_s)^alpha on the grid of the seed (PSA sec. 3.1); 1 without classes."""
    _, highest = best_class(seed)
    return (1 - highest).clamp(min=0) ** alpha


def check(image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> None:
    """Raise DataError if the size of the seed is not that of the image, or if it has values NaN or infinite."""
    height, width = image.shape[-2:]
    if (height, width) != seed.size:
        raise DataError(
            f"refinement: an image of {height} x {width} pixels and maps of one of {seed.size[0]} x {seed.size[1]}; "
            "use the maps of this image"
        )
    if not all(bool(maps.isfinite().all()) for maps in (seed.scores, seed.background) if maps is not None):
        raise DataError("refinement: the maps have values that are NaN or infinite; make them again")


def _with_alpha(
    image: UInt8[Tensor, "3 h w"], seed: SeedMaps, *, alpha: float, config: crf.Config
) -> UInt8[Tensor, "h w"]:
    seed = seed.upsample()
    if len(seed.classes) == 0:
        return to_mask(seed, threshold=1.0)  # all background
    scores = torch.cat([background_score(seed, alpha=alpha)[None], seed.scores])
    indices = torch.cat([seed.classes.new_tensor([BACKGROUND]), seed.classes])
    marginals = crf.from_probabilities(image.permute(1, 2, 0), scores, config=config)
    return indices[marginals.argmax(dim=0)].to(torch.uint8)
