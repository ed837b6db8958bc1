"""Labels to learn affinities from: 0 for background, the index of a class, or 255 where the seed is in doubt.

Three ways to be sure: PSA's two powers of the background score, IRN's two thresholds, and the background map that BAO
learns. All ask a dense CRF. A seed of no class is all background.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.refine import crf
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import best_class, label_image


def from_alphas(
    image: UInt8[Tensor, "3 h w"],
    seed: SeedMaps,
    *,
    low: float,
    high: float,
    config: crf.Config = crf.PROBABILITIES,
) -> UInt8[Tensor, "h w"]:
    """PSA sec. 3.2: the background scores (1 - max_s M_s)^alpha, which is strong for the low alpha, weak for the high.

    With either of them beside the class maps the CRF decides. A pixel that is of a class in spite of the strong
    background is of that class, one that is background in spite of the weak one is background.
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
    """IRN sec. 4.2: the masks at two thresholds, each after the CRF. AMN learns from such
    labels of CAM, and IRN after it from 0.15 and 0.45 on AMN's maps.

    What is of a class at the higher one is of that class, what is background at both is background. Deviation: a map
    that equals the threshold is above it (`masks.label_image`), in the released code below.
    """
    check(image, seed)
    lower, higher = (
        after_crf(image, label_image(seed, threshold=threshold), config) for threshold in (background, foreground)
    )
    labels = higher.masked_fill(higher == BACKGROUND, IGNORE)
    return labels.masked_fill((higher == BACKGROUND) & (lower == BACKGROUND), BACKGROUND)


def from_background(
    image: UInt8[Tensor, "3 h w"], seed: SeedMaps, *, config: crf.Config = crf.LABELS
) -> UInt8[Tensor, "h w"]:
    """For seeds with a background map (BAO; not of a paper): the mask where the CRF agrees with it. No threshold."""
    check(image, seed)
    mask = label_image(seed)
    return mask.masked_fill(after_crf(image, mask, config) != mask, IGNORE)


def after_crf(
    image: UInt8[Tensor, "3 h w"], labels: UInt8[Tensor, "h w"], config: crf.Config = crf.LABELS
) -> UInt8[Tensor, "h w"]:
    """The label of the largest marginal of `crf.from_labels`; a label that is alone is everywhere."""
    present = crf.present_labels(labels)
    if len(present) == 1:
        return torch.full_like(labels, int(present))
    marginals = crf.from_labels(image.permute(1, 2, 0), labels, config=config)
    return present[marginals.argmax(dim=0)].to(torch.uint8)


def background_score(seed: SeedMaps, *, alpha: float) -> Float[Tensor, "h w"]:
    """(1 - max_s M_s)^alpha on the seed's grid (PSA sec. 3.1); 1 without classes."""
    _, highest = best_class(seed)
    return (1 - highest).clamp(min=0) ** alpha


def check(image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> None:
    """Raises DataError for a seed of an image of another size, or with values that are no numbers."""
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
        return label_image(seed, threshold=1.0)  # all background
    scores = torch.cat([background_score(seed, alpha=alpha)[None], seed.scores])
    indices = torch.cat([seed.classes.new_tensor([BACKGROUND]), seed.classes])
    marginals = crf.from_probabilities(image.permute(1, 2, 0), scores, config=config)
    return indices[marginals.argmax(dim=0)].to(torch.uint8)
