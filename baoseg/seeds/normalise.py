"""Normalisation of activation maps to [0, 1]: one function for training and inference."""

import math
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baoseg.core.types import full_precision


class Scaling(StrEnum):
    """The formula that scales a map to [0, 1], after negative values have become 0.

    The released code of TransCAM and BAO has several formulas. RANGE, our default, is used for the pseudo-labels of
    training and for inference. It subtracts the minimum, because A* averages over the image, so that a present class
    raises its map everywhere.
    """

    RANGE = "range"  # (x - min) / (max - min)
    PEAK = "peak"  # x / (max + 1e-5): pseudo-labels of the released training
    RELEASED = "released"  # (x - min - 1e-5) / (max - min + 1e-5): the released inference of TransCAM and BAO


def normalise(
    maps: Float[Tensor, "b k h w"],
    *,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    scaling: Scaling = Scaling.RANGE,
) -> Float[Tensor, "b k h w"]:
    """Scale each map to [0, 1]: negative values become 0, then `scaling` uses the map's extremes over the valid cells.

    A map without positive values becomes zeros, as does, with RANGE, a constant map. Invalid cells become 0.
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
