"""Augmentation of 8-bit images for training, and the normalisation that a backbone expects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torchvision.transforms.v2.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from baoseg.core.errors import RecipeError
from baoseg.core.types import IGNORE


@dataclass(frozen=True, kw_only=True)
class Config:
    """Augmentation of training images; the defaults are those of TransCAM and BAO on VOC."""

    resize_long: tuple[int, int] = (320, 640)  # range of the long side in pixels, ends included
    crop: int = 512  # side of the square crop in pixels
    flip: bool = True  # left-right, with probability 0.5
    brightness: float = 0.3  # x: factors come from [1 - x, 1 + x], the hue shift from [-x, x] turns
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.1
    mark_padding: bool = True  # False: padding counts as image, as in the released code of TransCAM and BAO

    def __post_init__(self) -> None:
        low, high = self.resize_long
        if not 2 <= low <= high or self.crop < 1:
            raise RecipeError(
                f"resize_long {self.resize_long} with crop {self.crop} is not valid; write the smaller end of "
                "resize_long first, with at least 2 pixels, and a crop of at least 1"
            )
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise RecipeError("a strength of colour jitter is out of range; use at least 0, and at most 0.5 for hue")


SAME_COLOURS = Config(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of RGB in [0, 1] that the weights of a backbone expect."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @classmethod
    def of(
        cls, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
    ) -> "Normalisation | None":
        """The normalisation of two settings; None without them. Raises RecipeError for one without the other."""
        if (mean is None) != (std is None):
            raise RecipeError("network: mean or std is set without the other; set both or none")
        if mean is None or std is None:
            return None
        if min(std) <= 0:
            raise RecipeError(f"network: std is {std}; all must be above 0")
        return cls(mean=mean, std=std)


def normalise(image: UInt8[Tensor, "*batch 3 h w"], normalisation: Normalisation) -> Float[Tensor, "*batch 3 h w"]:
    """Scale to [0, 1], subtract the mean, divide by the standard deviation; on the device of the image."""
    mean = torch.tensor(normalisation.mean, device=image.device)[:, None, None]
    std = torch.tensor(normalisation.std, device=image.device)[:, None, None]
    return (image / 255 - mean) / std


class Crop(NamedTuple):
    """An augmented crop of c x c pixels; `valid` is False on the padding."""

    image: Float[Tensor, "3 c c"]
    valid: Bool[Tensor, "1 c c"]
    pixel_labels: UInt8[Tensor, "c c"] | None
    pixel_weights: UInt8[Tensor, "c c"] | None


def augment(
    image: UInt8[Tensor, "3 h w"],
    *,
    config: Config,
    normalisation: Normalisation,
    generator: torch.Generator,
    pixel_labels: UInt8[Tensor, "h w"] | None = None,
    pixel_weights: UInt8[Tensor, "h w"] | None = None,
) -> Crop:
    """Resize, flip, change colours, normalise and crop an image.

    Pixel labels and pixel weights, if given, are resized (nearest neighbour), flipped and cropped in the same way;
    padding gets the label 255 and the weight 0.
    """
    image = random_resize(image, config.resize_long, generator=generator)
    flipped = config.flip and _uniform(0.0, 1.0, generator) < 0.5
    if flipped:
        image = F.horizontal_flip(image)
    image = jitter_colours(image, config=config, generator=generator)
    place = random_place(image.shape[-2:], config.crop, generator=generator)
    crop = cut(normalise(image, normalisation), place, config.crop)
    valid = cut(torch.ones_like(image[:1], dtype=torch.bool), place, config.crop)

    def follow(values: UInt8[Tensor, "h w"] | None, *, padding: int) -> UInt8[Tensor, "c c"] | None:
        if values is None:
            return None
        scaled = F.resize(values[None], list(image.shape[-2:]), interpolation=InterpolationMode.NEAREST_EXACT)
        return cut(F.horizontal_flip(scaled) if flipped else scaled, place, config.crop, padding=padding)[0]

    return Crop(
        crop,
        valid if config.mark_padding else torch.ones_like(valid),
        follow(pixel_labels, padding=IGNORE),
        follow(pixel_weights, padding=0),
    )


def random_resize(
    image: UInt8[Tensor, "3 h w"], long_side: tuple[int, int], *, generator: torch.Generator
) -> UInt8[Tensor, "3 H W"]:
    """Resize so that the long side is uniform in the range, ends included; bicubic, antialiased."""
    low, high = long_side
    target = int(torch.randint(low, high + 1, (), generator=generator))
    height, width = image.shape[-2:]
    scale = target / max(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    return F.resize(image, size, interpolation=InterpolationMode.BICUBIC, antialias=True)


def jitter_colours(
    image: UInt8[Tensor, "3 h w"], *, config: Config, generator: torch.Generator
) -> UInt8[Tensor, "3 h w"]:
    """Change brightness, contrast, saturation and hue in random order; strength 0 means no change."""
    strengths = (config.brightness, config.contrast, config.saturation, config.hue)
    changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    centres = (1.0, 1.0, 1.0, 0.0)
    for step in torch.randperm(len(changes), generator=generator).tolist():
        strength, centre = strengths[step], centres[step]
        amount = _uniform(centre - strength, centre + strength, generator)
        if strength > 0:
            image = changes[step](image, max(amount, 0.0) if centre == 1 else amount)
    return image


# for rows and for columns: the part of the image, and its part of the crop
Place = tuple[tuple[slice, slice], tuple[slice, slice]]


def random_place(size: Sequence[int], side: int, *, generator: torch.Generator) -> Place:
    """A random position of a square of `side` pixels in an image of `size` (height, width).

    Along an axis on which the image is smaller than the square, it is the position of the image in the square.
    """
    height, width = size
    return _overlap(height, side, generator), _overlap(width, side, generator)


def cut(
    image: Shaped[Tensor, "channels h w"], place: Place, side: int, *, padding: int = 0
) -> Shaped[Tensor, "channels c c"]:
    """The square crop of an image at a position.

    Outside the image, the crop is `padding`; 0 is the mean colour after normalisation, as in the code of TransCAM, IRN
    and AffinityNet.
    """
    (from_rows, to_rows), (from_columns, to_columns) = place
    crop = image.new_full((image.shape[0], side, side), padding)
    crop[:, to_rows, to_columns] = image[:, from_rows, from_columns]
    return crop


def _overlap(length: int, side: int, generator: torch.Generator) -> tuple[slice, slice]:
    """Along one axis: the part of the image, and its part of the crop."""
    shift = int(torch.randint(0, abs(length - side) + 1, (), generator=generator))
    taken = min(length, side)
    shifted, unshifted = slice(shift, shift + taken), slice(0, taken)
    return (shifted, unshifted) if length > side else (unshifted, shifted)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
