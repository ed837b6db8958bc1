"""From a trained method and an image to a seed: multi-scale inference and THE one normalisation."""

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
    """Multi-scale inference: scales and flips are summed, then normalised (noise reduction sec. 4.2)."""

    sizes: tuple[int, ...] = (256, 512, 768)  # sides in pixels of the squares that an image is resized to
    flip: bool = True
    keep_aspect: bool = False  # rectangles of the same area instead of squares
    stride: int = 4  # of the seeds: pixels of the image a cell. The released code sums at full size
    scaling: Scaling = Scaling.RANGE

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.stride < 1:
            raise RecipeError(f"maps: sizes {self.sizes} at stride {self.stride}; name a size, all of at least 1 pixel")


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
    """The seed of one image; `normalisation` and `stride` are those of the method's backbone.

    `fixed` is the threshold for images for which a method that chooses thresholds cannot find one.

    Raises DataError when no class is present, as there is nothing to look for then, and for maps that are NaN or
    infinite.
    """
    classes = labels.nonzero()[:, 0] + 1
    if len(classes) == 0:
        raise DataError("an image without labels has no seed; give it at least one label")
    device = next(method.parameters()).device
    size = (int(image.shape[1]), int(image.shape[2]))
    grid = (math.ceil(size[0] / config.stride), math.ceil(size[1] / config.stride))
    image, given, chosen = image.to(device), labels.to(device), classes.to(device)

    total = torch.zeros((), device=device)
    for side in config.sizes:
        inputs = views(image, side, config=config, normalisation=normalisation, stride=stride)
        maps = method.maps(inputs, given.expand(len(inputs), -1), classes=chosen)
        channels = maps.scores if maps.background is None else torch.cat([maps.background, maps.scores], dim=1)
        finer = channels.shape[-1] * stride > inputs.shape[-1]  # than class maps (BAS): averaged for coarser seeds
        channels = F.interpolate(channels.float(), size=grid, mode="bilinear", align_corners=False, antialias=finer)
        total = total + channels[0]
        if config.flip:
            total = total + channels[1].flip(-1)

    guards.numbers(total, "maps")  # before `normalise`, which would make 0 of -inf
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
    """The scale for what is decided at one scale."""
    return sorted(config.sizes)[len(config.sizes) // 2]


def views(
    image: UInt8[Tensor, "3 h w"], side: int, *, config: Config, normalisation: Normalisation, stride: int
) -> Float[Tensor, "v 3 h2 w2"]:
    """The image at one scale, normalised, and its mirror image where the configuration asks for it."""
    height, width = image.shape[-2:]
    size = list(input_size((height, width), side, config=config, stride=stride))
    scaled = TF.resize(image, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    view = normalise_image(scaled, normalisation)[None]
    return torch.cat([view, view.flip(-1)]) if config.flip else view


def input_size(size: tuple[int, int], side: int, *, config: Config, stride: int) -> tuple[int, int]:
    """Height and width that an image of `size` is resized to for the scale `side`.

    The nearest multiples of the stride, so that the cells of the feature map cover the image and nothing else.
    """
    height, width = size if config.keep_aspect else (1, 1)
    scale = side / math.sqrt(height * width)
    return max(1, round(height * scale / stride)) * stride, max(1, round(width * scale / stride)) * stride
