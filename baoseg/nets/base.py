"""What a backbone is: images in, a feature map out, and attention where the backbone has some."""

from collections.abc import Iterator, Sequence
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
    """How the heads of AMN and BAO start, f * (W y + b) and its classifier; W has std 0.02 each way."""

    ZERO = "zero"  # b = 0 and a classifier of zeros: they learn alone until they have something to say to the backbone
    UNGATED = "ungated"  # b = 1, so that it classifies f itself at first, and a classifier of zeros: it learns faster
    CLASS_MAPS = "class-maps"  # b = 1 and the classifier a copy of the trained class head, its background output 0
    RELEASED = "released"  # b = 0 and a random classifier: products are tiny and of random signs at first


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What a network carries beside the class head, as its method needs it."""

    backgrounds: int = 0  # background channels of the activation head (AMN, BAO); 0: no label encoder, no such head
    generator_after: int | None = None  # stage of the backbone, from 1, after which BAS's generator sits; None: none
    foreground: bool = False  # whether the generator has one more map, of all classes together (BAS sec. 5.5)
    generator_bias: bool = False  # whether the generator's convolution has a bias
    decoder: bool = False  # whether the activation head reads a decoder at stride 4 and not the feature map


@dataclass(frozen=True)
class Features:
    """What the methods work on. The grid is ceil(image / stride): h x w covers an unfinished last cell too.

    `token_logits` are the class token's scores of the K classes, None for backbones without such a token;
    `attention` is None for backbones without self-attention over the same grid. `pyramid` holds the features of the
    stages from stride 4 on, fine to coarse, with `map` last; it is empty unless `Backbone.with_pyramid` made it.
    """

    map: Float[Tensor, "b c h w"]
    token_logits: Float[Tensor, "b K"] | None
    attention: Attention | Summed | None
    pyramid: tuple[Float[Tensor, "b _ _ _"], ...] = ()


class Split(NamedTuple):
    """A backbone in two: `upper(lower(images))` is its feature map. The modules share the backbone's layers."""

    lower: nn.Module  # images [b 3 H W] of any size to the features F [b channels h w] after a stage
    upper: nn.Module  # F to Features.map
    channels: int  # of F


class Backbone(nn.Module):
    """Any network that turns normalised images [b 3 H W] of any size into Features.

    `channels` is c of the feature map, `stride` the pixels a cell is wide, `normalisation` what the images
    must have undergone, `attends` whether Features carry attention, `token_head` the
    class token's classifier (K + 1 outputs). `head_kernel` is the family's default for the
    class head in `Network`; `initialise_head` fills all heads. Those that attend take
    `spreads` as well: whether maps will be spread through the attention, so that it is prepared for that (`Attending`).
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
        """The layers up to and with stage `after`, counted from 1, and those behind it.

        Raises RecipeError for backbones that have no stages, or not so many.
        """
        raise RecipeError(
            f"{type(self).__name__}: no stages to put a generator between; use a convolutional network (timm:resnet50)"
        )

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of `stages`. Raises RecipeError for backbones that have no stages."""
        raise RecipeError(f"{type(self).__name__}: no stages; use a convolutional network (timm:resnet50)")

    def stages(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features after each stage, fine to coarse, the last at the backbone's stride; PSA and IRN read them.

        A stage of stride s has ceil(padded image / s) cells a side, the image padded to a multiple of the
        backbone's stride.
        """
        raise RecipeError(f"{type(self).__name__}: no stages; use a convolutional network (timm:resnet50)")

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of `Features.pyramid`. Raises RecipeError for backbones without stages."""
        raise RecipeError(
            f"{type(self).__name__}: no stages for a decoder; use a convolutional network (timm:resnet50)"
        )

    def with_pyramid(self, images: Float[Tensor, "b 3 H W"]) -> Features:
        """As `forward`, with the features of the stages that a decoder reads."""
        raise NotImplementedError

    def token_classifier(self) -> Iterator[nn.Parameter]:
        """Parameters that make the token logits and nothing else."""
        if self.token_head is not None:
            yield from self.token_head.parameters()

    def initialise_head(self, head: nn.Module) -> None:
        """Small normal weights (std 0.01) and zero biases: the first logits are near 0 on any backbone."""
        for layer in head.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def pad_to_multiple(images: Float[Tensor, "b c H W"], stride: int) -> Float[Tensor, "b c h w"]:
    """Repeat the last row and column until both sides are multiples of `stride`.

    Repeating adds no edge for the network to see, as zeros would. The result lies in memory channels last, which
    all layers after it take over: on a CPU that is 5 to 30 % faster.
    """
    height, width = images.shape[-2:]
    if height % stride or width % stride:
        images = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
    return images.contiguous(memory_format=torch.channels_last)


def enlarge_cells(maps: Float[Tensor, "b c h w"], stride: int, size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Maps on a grid of ceil(size / stride) cells, enlarged to the pixels of an image of this size: bilinear.

    The cells cover the padded image (`pad_to_multiple`), so they are enlarged to all of it, and that is cut. Enlarged
    to the image alone they would be squeezed: what belongs at its far end would be up to a cell before it.
    """
    height, width = size
    pixels = F.interpolate(maps, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return pixels[..., :height, :width]


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep statistics and affine parameters as they are: small batches can only spoil pretrained ones.

    `train()` wakes the statistics up again, so `Network` calls this after it.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval().requires_grad_(False)
