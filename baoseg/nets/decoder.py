"""A decoder that returns the features of a convolutional network at stride 4: a small feature pyramid."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 96  # channels
GROUPS = 8  # of the group norms, whose statistics do not depend on the (small) batch


class Decoder(nn.Module):
    """The top-down sum of the stages, each projected to one width, and a convolution on the finest grid.

    It is a feature pyramid (Lin et al., CVPR 2017, sec. 3) with only its finest level. Stages are ordered fine to
    coarse.
    """

    channels = WIDTH

    def __init__(self, stage_channels: Sequence[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, WIDTH, 1), nn.GroupNorm(GROUPS, WIDTH)) for channels in stage_channels
        )
        self.smooth = nn.Sequential(
            nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GroupNorm(GROUPS, WIDTH), nn.ReLU()
        )

    def forward(self, stages: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """Features on the grid of the first stage."""
        levels = [lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)]
        total = levels.pop()
        for level in reversed(levels):
            total = level + F.interpolate(total, size=level.shape[-2:], mode="bilinear", align_corners=False)
        features: Tensor = self.smooth(total)
        return features
