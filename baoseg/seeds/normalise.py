"""The one normalisation of maps to [0, 1]."""

import math
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baoseg.core.types import full_precision


class Scaling(StrEnum):
    """How a map comes to [0, 1] after its negative values became 0.

    The released code has three formulas; ours is one, for the pseudo-labels of training and for inference alike. It
    takes the floor away: A* averages, so a class that is present lifts its map everywhere.
    """

    RANGE = "range"  # (x - min) / (max - min)
    PEAK = "peak"  # x / (max + 1e-5), as the released training makes pseudo-labels
    RELEASED = "released"  # (x - min - 1e-5) / (max - min + 1e-5), as the released inference of TransCAM and BAO


def normalise(
    maps: Float[Tensor, "b k h w"],
    *,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    scaling: Scaling = Scaling.RANGE,
) -> Float[Tensor, "b k h w"]:
    """Each map to [0, 1]: negative values to 0, then by its own extremes over the valid cells.

    A map that is nowhere positive, or the same everywhere, becomes all zeros. Invalid cells are 0.
    """
    maps = full_precision(maps).clamp(min=0)
    inside = torch.ones_like(maps[:, :1], dtype=torch.bool) if valid is None else valid
    peak = maps.where(inside, 0).amax(dim=(2, 3), keepdim=True)
    floor = maps.where(inside, math.inf).amin(dim=(2, 3), keepdim=True).clamp(max=peak)
    match scaling:
        case Scaling.RANGE:
            scaled = (maps - floor) / (peak - floor).clamp(min=torch.finfo(maps.dtype).tiny)
        case Scaling.PEAK:
            scaled = maps / (peak + 1e-5)
        case Scaling.RELEASED:
            scaled = ((maps - floor - 1e-5) / (peak - floor + 1e-5)).clamp(min=0)
    return scaled.where(inside, 0)
