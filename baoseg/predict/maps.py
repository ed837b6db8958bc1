"""From a trained method and an image to a seed: multi-scale inference and normalisation."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from baoseg.core.errors import DataError, RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.data.transforms import normalise as normalise_image
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import Config as MasksConfig
from baoseg.seeds.normalise import Scaling, normalise
from baoseg.training import guards

if TYPE_CHECKING:
    from baoseg.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Config:
    """Multi-scale inference: maps of all scales and flips are summed, then normalised (noise reduction sec. 4.2)."""

    sizes: tuple[int, ...] = (256, 512, 768)  # sides, in pixels, of the squares to which an image is resized
    flip: bool = True
    keep_aspect: bool = False  # resize to rectangles of the same area instead
    stride: int = 4  # pixels of the image per cell of the seed; the released code sums at full size
    scaling: Scaling = Scaling.RANGE

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.stride < 1:
            raise RecipeError(
                f"maps: sizes {self.sizes} at stride {self.stride}; give sizes and a stride of at least 1"
            )


@torch.inference_mode()
def infer(
    method: "Method",
    image: UInt8[Tensor, "3 h w"],
    labels: Float[Tensor, "K"],
    *,
    config: Config,
    normalisation: Normalisation,
    stride: int,
    fixed: float = MasksConfig().threshold,
) -> SeedMaps:
    """The seed of one image for its label vector; `normalisation` and `stride` are those of the backbone.

    `fixed` is the threshold for images for which a method that chooses thresholds finds none (BAS).

    Raises DataError if no class is present, and if maps are NaN or infinite.
    """
    classes = labels.nonzero()[:, 0] + 1
    if len(classes) == 0:
        raise DataError("an image without labels has no seed; give at least one label")
    device = next(method.parameters()).device
    size = (int(image.shape[1]), int(image.shape[2]))
    grid = (math.ceil(size[0] / config.stride), math.ceil(size[1] / config.stride))
    image, given, chosen = image.to(device), labels.to(device), classes.to(device)

    total = torch.zeros((), device=device)
    for side in config.sizes:
        inputs = views(image, side, config=config, normalisation=normalisation, stride=stride)
        maps = method.maps(inputs, given.expand(len(inputs), -1), classes=chosen)
        channels = maps.scores if maps.background is None else torch.cat([maps.background, maps.scores], dim=1)
        # finer than class maps (BAS), so averaged for a coarser grid
        finer = channels.shape[-1] * stride > inputs.shape[-1]
        channels = F.interpolate(channels.float(), size=grid, mode="bilinear", align_corners=False, antialias=finer)
        total = total + channels[0]
        if config.flip:
            total = total + channels[1].flip(-1)

    guards.numbers(total, "maps")  # before `normalise`, which would turn -inf into 0
    total = normalise(total[None], scaling=config.scaling)[0].cpu()
    if method.learns_background:
        return SeedMaps(classes, total[1:], total[0], size)
    threshold = None
    if method.chooses_threshold:
        inputs = views(image, middle(config), config=config, normalisation=normalisation, stride=stride)
        threshold = method.threshold(inputs, given, total.to(device), fixed=fixed)
        guards.numbers(threshold, "losses of masks")
    return SeedMaps(classes, total, None, size, threshold)


def middle(config: Config) -> int:
    """The middle scale, for decisions that use one scale."""
    return sorted(config.sizes)[len(config.sizes) // 2]


def views(
    image: UInt8[Tensor, "3 h w"], side: int, *, config: Config, normalisation: Normalisation, stride: int
) -> Float[Tensor, "v 3 h2 w2"]:
    """The normalised image at one scale and, with `config.flip`, its mirror image."""
    height, width = image.shape[-2:]
    size = list(input_size((height, width), side, config=config, stride=stride))
    scaled = TF.resize(image, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    view = normalise_image(scaled, normalisation)[None]
    return torch.cat([view, view.flip(-1)]) if config.flip else view


def input_size(size: tuple[int, int], side: int, *, config: Config, stride: int) -> tuple[int, int]:
    """Height and width to which an image of `size` is resized for the scale `side`.

    They are the nearest multiples of the stride, so that the cells of the feature map cover exactly the image.
    """
    height, width = size if config.keep_aspect else (1, 1)
    scale = side / math.sqrt(height * width)
    return max(1, round(height * scale / stride)) * stride, max(1, round(width * scale / stride)) * stride
