"""Where the background of an image ends, without ground truth: cuts of one map m in [0, 1], and the cells in doubt."""

import math
from enum import StrEnum

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

EM_STEPS = 20
TINY = 1e-6  # least variance, distance of means and number of cells of a mixture


class Cut(StrEnum):
    """How high a map must be to count as foreground."""

    HALF = "half"  # 0.5, whatever the map
    OTSU = "otsu"  # the cut with the largest variance between its two sides
    MIXTURE = "mixture"  # where two Gaussians, fitted to the map, are equally likely


def find_cut(
    strongest: Float[Tensor, "b 1 h w"], valid: Bool[Tensor, "b 1 h w"], *, cut: Cut
) -> Float[Tensor, "b 1 1 1"]:
    """A cut in [0, 1] for each image, from its valid cells: background where m <= cut.

    A map that has the same value everywhere says nothing about its cut; that is 0.5 then, as for an image without
    valid cells.
    """
    values, inside = strongest.flatten(1), valid.flatten(1)
    match cut:
        case Cut.HALF:
            found = torch.full_like(values[:, :1], 0.5)
        case Cut.OTSU:
            found = otsu(values, inside)
        case Cut.MIXTURE:
            found = mixture(values, inside)
    return found[:, :, None, None]


def otsu(values: Float[Tensor, "b n"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b 1"]:
    """The cut that maximises the between-class variance w_0 w_1 (mu_0 - mu_1)^2 (Otsu 1979, eq. 14 and 19).

    Exact: all cuts between two different values are tried, not the bins of a histogram. The cut lies halfway between
    the two; of equally good ones it is the lowest.
    """
    ordered = F.pad(values.where(valid, math.inf).sort(dim=1).values, (0, 1), value=math.inf)
    lower, upper = ordered[:, :-1], ordered[:, 1:]
    count = valid.sum(dim=1, keepdim=True)
    below = torch.arange(1, values.shape[1] + 1, device=values.device)  # cells up to `lower`
    above = count - below
    sums = lower.where(below <= count, 0).cumsum(dim=1)
    mean_below, mean_above = sums / below, (sums[:, -1:] - sums) / above.clamp(min=1)
    between = below * above * (mean_below - mean_above) ** 2
    variance, best = between.where((above > 0) & (lower < upper), -1).max(dim=1, keepdim=True)
    return ((lower + upper) / 2).gather(1, best).where(variance >= 0, 0.5)


def mixture(values: Float[Tensor, "b n"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b 1"]:
    """Where the posteriors of two Gaussians are equal, fitted to the values by `EM_STEPS` steps of EM.

    The start is the split at the middle of the range. Both have one variance: a Gaussian of its own would shrink
    onto the many cells that are exactly 0, and there would be two cuts. With one, log p_1(x) / p_0(x) is the line
    (mu_1 - mu_0) / var (x - cut), cut = (mu_0 + mu_1) / 2 - var / (mu_1 - mu_0) log(w_1 / w_0). Unlike Otsu's,
    that cut knows that one side may have more cells. It is kept between the two means.
    """
    highest = values.where(valid, 0).amax(dim=1, keepdim=True)
    lowest = values.where(valid, 1).amin(dim=1, keepdim=True)
    foreground = (values > (lowest + highest) / 2).to(values.dtype)
    for _ in range(EM_STEPS):
        posteriors = torch.stack([1 - foreground, foreground]) * valid
        sizes = posteriors.sum(dim=2, keepdim=True).clamp(min=TINY)
        means = (posteriors * values).sum(dim=2, keepdim=True) / sizes
        spread = (posteriors * (values - means) ** 2).sum(dim=(0, 2))[:, None]
        variance = (spread / sizes.sum(dim=0)).clamp(min=TINY)
        distance = (means[1] - means[0]).clamp(min=TINY)
        cut = means.mean(dim=0) - variance / distance * (sizes[1] / sizes[0]).log()
        foreground = ((values - cut) * distance / variance).sigmoid()
    return cut.clamp(means[0], means[1]).where(highest > lowest, 0.5)


def in_doubt(
    margin: Float[Tensor, "b 1 h w"], valid: Bool[Tensor, "b 1 h w"], *, share: float
) -> Bool[Tensor, "b 1 h w"]:
    """The `share` of an image's valid cells with the smallest |margin|, round(share * n) of n.

    How wide the band around the cut is follows from the map: narrow where many cells are undecided, wide where few
    are. That holds for every way to cut, and no image loses more than its share; a bound on a posterior needs a
    model of the map and can ignore a whole image. Of equal margins, the cell that comes first in reading order.
    """
    order = margin.abs().where(valid, math.inf).flatten(1).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1).view(margin.shape)
    return rank < (share * valid.sum(dim=(2, 3), keepdim=True)).round()
