"""The interface of backbones: images to a feature map, with the self-attention of the backbone if it has any."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baoseg.core.errors import RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets.attention import Attention, Summed


class ActivationStart(StrEnum):
    """Initial values of the activation head of AMN and BAO, a classifier of f * (W y + b); W has std 0.02."""

    ZERO = "zero"  # b = 0, classifier 0: the heads learn first, and the backbone gets a gradient from them later
    UNGATED = "ungated"  # b = 1, so that f itself is classified at first, classifier 0: the head learns faster
    CLASS_MAPS = "class-maps"  # b = 1, classifier copied from the trained class head, its background output 0
    # b = 0, random classifier, as in the released code: the first products are tiny, with random signs
    RELEASED = "released"


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads that a method needs in addition to the class head."""

    # background channels of the activation head (AMN, BAO); 0: no label encoder and no activation head
    backgrounds: int = 0
    # stage of the backbone, from 1, whose features the generator of BAS reads; None: no generator
    generator_after: int | None = None
    foreground: bool = False  # whether the generator has a further, class-agnostic map (BAS sec. 5.5)
    generator_bias: bool = False  # whether the generator's convolution has a bias


@dataclass(frozen=True)
class Features:
    """The output of a backbone, on a grid of h x w = ceil(image / stride) cells, so the last cells may be partial.

    `token_logits` are the class token's scores of the K classes, None for backbones without such a token;
    `attention` is None for backbones without self-attention over the same grid.
    """

    map: Float[Tensor, "b c h w"]
    token_logits: Float[Tensor, "b K"] | None
    attention: Attention | Summed | None


class Split(NamedTuple):
    """A backbone cut in two: `upper(lower(images))` is its feature map. Both share the layers of the backbone."""

    lower: nn.Module  # images [b 3 H W] of any size to the features F [b channels h w] after a stage
    upper: nn.Module  # F to Features.map
    channels: int  # of F


class Backbone(nn.Module):
    """Any network that turns normalised images [b 3 H W] of any size into Features.

    `channels` is c of the feature map, `stride` is the width of a cell in pixels, and `normalisation` is the
    normalisation that images must have. `attends` says whether Features have attention, and `token_head` is the
    classifier of the class token (K + 1 outputs). `head_kernel` is the default kernel of the class head in `Network`.
    If `attends`, `forward` also takes `spreads`: whether scores will be spread through the attention (`Attending`).
    """

    channels: int
    stride: int
    normalisation: Normalisation
    attends: bool
    token_head: nn.Linear | None
    head_kernel: int = 1

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Features:
        raise NotImplementedError

    def split(self, after: int) -> Split:
        """Cut the backbone after the stage `after`, counted from 1.

        Raises RecipeError if the backbone does not have this stage.
        """
        raise RecipeError(
            f"{type(self).__name__}: no stages for a generator; use a convolutional network (timm:resnet50)"
        )

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each of the `stages`. Raises RecipeError for backbones without stages."""
        raise RecipeError(f"{type(self).__name__}: no stages; use a convolutional network (timm:resnet50)")

    def stages(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features after each stage, fine to coarse, the last at the backbone's stride; PSA and IRN read them.

        A stage of stride s has ceil(padded image / s) cells a side, the image padded to a multiple of the
        backbone's stride.
        """
        raise RecipeError(f"{type(self).__name__}: no stages; use a convolutional network (timm:resnet50)")

    def token_classifier(self) -> Iterator[nn.Parameter]:
        """Yields the parameters that only the token logits depend on."""
        if self.token_head is not None:
            yield from self.token_head.parameters()

    def initialise_head(self, head: nn.Module) -> None:
        """Initialise a head with normal weights (std 0.01) and zero biases, so that the first logits are near 0."""
        for layer in head.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def pad_to_multiple(images: Float[Tensor, "b c H W"], stride: int) -> Float[Tensor, "b c h w"]:
    """Repeat the last row and the last column until both sides are multiples of `stride`.

    Unlike zeros, repeated pixels add no edge to the image. The result has the memory format channels_last, which all
    later layers keep; on a CPU this is 5 to 30 % faster.
    """
    height, width = images.shape[-2:]
    if height % stride or width % stride:
        images = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
    return images.contiguous(memory_format=torch.channels_last)


def resize(maps: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Maps on another grid of the same extent: bilinear, corners not aligned; the maps themselves on their own grid."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=False)


def enlarge_cells(maps: Float[Tensor, "b c h w"], stride: int, size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Resize maps from a grid of ceil(size / stride) cells to the pixels of an image of `size` (bilinear).

    The cells cover the padded image (`pad_to_multiple`), so the maps are resized to the padded image and then cut.
    Resizing to the image itself would shift the maps by up to a cell at the right and lower border.
    """
    height, width = size
    pixels = F.interpolate(maps, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return pixels[..., :height, :width]


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards, each submodule has its previous mode."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def freeze_batch_norm(module: nn.Module) -> None:
    """Freeze the statistics and affine parameters of batch norm; small batches would spoil pretrained values.

    `train()` unfreezes the statistics again, so `Network.train` calls this function afterwards.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval().requires_grad_(False)
