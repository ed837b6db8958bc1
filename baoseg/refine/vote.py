"""Region vote: each region of an image takes the class of the largest mean map.

    v_jc = mean of P_c over the region R_j,   P = [background, class maps]

Regions follow the edges of the image, so a vote draws coarse maps to these edges. With the background that BAO learns,
there is nothing to choose: it votes as the classes do. Where a method has no background map, its threshold stands for
it. After SAMS (FMA-WSSS, Yang and Gong, WACV 2024), which has no background map, and so scales the scores of each class
to [0, 1] over all regions and chooses a power of the background on ground truth.

Deviation: a pixel that lies in several regions (superpixels at several scales, or overlapping masks of SAM) takes the
mean of their votes, and a pixel in none keeps its own scores; SAMS paints surer regions over less sure ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import Sample
from baoseg.refine import region_files
from baoseg.seeds import SeedMaps

SUPERPIXELS = "superpixels"
SAM = "sam:"  # before the name of a model of the hub, or a folder that holds one

Regions = Int32[Tensor, "n h w"]  # n layers; in each the number of a pixel's region, or -1 where it is in none
Finder = Callable[[Sample], Regions]


@dataclass(frozen=True, kw_only=True)
class Config:
    """`source` is `superpixels`, `sam:MODEL`, or a folder with the regions of each image (`region_files`).

    Superpixels are those of Felzenszwalb and Huttenlocher ("Efficient graph-based image segmentation", IJCV 2004), a
    layer for each of the `scales`, their constant k: a larger one gives larger regions. The defaults are octaves.
    """

    source: str = SUPERPIXELS
    scales: tuple[int, ...] = (50, 100, 200, 400)
    sigma: float = 0.8  # of the Gaussian that smooths the image before, in pixels; theirs

    def __post_init__(self) -> None:
        if not self.source or not self.scales or min(self.scales) < 1 or self.sigma < 0:
            raise RecipeError(f"regions: {self}; name a source and a scale or more from 1 up, and a sigma from 0 up")

    @property
    def in_files(self) -> bool:
        """Whether the source is a folder."""
        return self.source != SUPERPIXELS and not self.source.startswith(SAM)

    def check(self) -> None:
        """Raise a BaosegError for a package that is missing, or a folder."""
        if self.in_files:
            region_files.finder(self.source)
        elif self.source == SUPERPIXELS:
            _felzenszwalb()


def by_regions(seed: SeedMaps, regions: Regions) -> SeedMaps:
    """The seed at the size of its image, every pixel with the mean scores of the regions that it is in.

    A threshold of the seed is kept: the mean of a constant is that constant. Raises DataError if the regions have
    another size.
    """
    if tuple(regions.shape[1:]) != seed.size:
        raise DataError(f"regions of {tuple(regions.shape[1:])} for an image of {seed.size} (height, width)")
    seed = seed.upsample()
    if seed.background is None:
        return replace(seed, scores=_mean_votes(seed.scores, regions))
    voted = _mean_votes(torch.cat([seed.background[None], seed.scores]), regions)
    return replace(seed, background=voted[0], scores=voted[1:])


def _mean_votes(scores: Float[Tensor, "s h w"], regions: Regions) -> Float[Tensor, "s h w"]:
    flat = scores.flatten(1).double()
    total, layers = torch.zeros_like(flat), torch.zeros_like(flat[:1])
    for layer in regions.flatten(1).long():
        inside = layer >= 0
        numbers = layer[inside]
        count = numbers.bincount().clamp(min=1)
        means = flat.new_zeros(len(flat), len(count)).index_add_(1, numbers, flat[:, inside]) / count
        total[:, inside] += means[:, numbers]
        layers[:, inside] += 1
    return torch.where(layers > 0, total / layers.clamp(min=1), flat).to(scores.dtype).view_as(scores)


def superpixels(image: UInt8[Tensor, "3 h w"], config: Config = Config()) -> Regions:
    """A layer of superpixels for each scale. Raises RecipeError without the extra `regions`."""
    felzenszwalb = _felzenszwalb()
    pixels = image.permute(1, 2, 0).numpy()
    layers = [
        felzenszwalb(pixels, scale=scale, sigma=config.sigma, min_size=max(20, scale // 2)) for scale in config.scales
    ]
    return torch.from_numpy(np.stack(layers).astype(np.int32))


def _felzenszwalb() -> Callable[..., np.ndarray]:
    try:
        from skimage.segmentation import felzenszwalb  # noqa: PLC0415  (the extra `regions`)
    except ImportError:
        raise RecipeError("superpixels need scikit-image; pip install 'baoseg[regions]'") from None
    return felzenszwalb


def finder(config: Config, *, device: torch.device) -> Finder:
    """What finds the regions of an image. Raises a BaosegError for a source that is not there."""
    if config.source == SUPERPIXELS:
        return lambda sample: superpixels(sample.image, config)
    if config.source.startswith(SAM):
        from baoseg.refine import sam  # noqa: PLC0415  (the extra `sam`)

        return sam.finder(config.source.removeprefix(SAM), device=device)
    return region_files.finder(config.source)
