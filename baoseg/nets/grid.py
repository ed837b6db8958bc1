"""Masks and labels on the grid of a feature map."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


def on_grid(valid: Bool[Tensor, "b 1 H W"], maps: Float[Tensor, "b k h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Whether at least half of each cell of the feature grid is image, not padding."""
    return F.interpolate(valid.to(maps.dtype), size=maps.shape[-2:], mode="area") >= 0.5


def labels_on_grid(labels: UInt8[Tensor, "b H W"], maps: Float[Tensor, "b S h w"]) -> Int[Tensor, "b h w"]:
    """Labels of the pixels at the centres of the cells of a feature grid."""
    picked: Tensor = F.interpolate(labels[:, None].to(torch.float32), size=maps.shape[-2:], mode="nearest-exact")
    return picked[:, 0].long()
