"""Seeds: the normalised activation maps of one image, in memory and on disk.

A seed has a map in [0, 1] for each class that the labels of the image name and, if the method learns a background, a
map of the background. Its grid is coarser than the image (by default a quarter of the sides), and its file is in half
precision: the seeds of 10,000 images of 500 x 375 pixels take less than a gigabyte. `upsample` gives maps of the size
of the image.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.files import atomic

_DAMAGED = (  # the errors of NumPy and zipfile for a file that is damaged, encrypted or of another kind
    *(OSError, KeyError, TypeError, ValueError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class SeedMaps:
    """The maps of one image on one grid. Either `background` or `threshold` is None, or both are."""

    classes: Int[Tensor, "k"]  # class indices 1..K of the channels, ascending
    scores: Float[Tensor, "k h w"]  # in [0, 1]
    background: Float[Tensor, "h w"] | None  # in [0, 1]; None: the method learns no background
    size: tuple[int, int]  # height and width of the image in pixels
    threshold: float | None = None  # in [0, 1], for this image, from methods that choose one

    @property
    def decided(self) -> bool:
        """Whether the seed has a background map or a threshold, so that its mask needs no other threshold."""
        return self.background is not None or self.threshold is not None

    def upsample(self) -> "SeedMaps":
        """The seed at the size of the image: bilinear, corners not aligned."""
        if tuple(self.scores.shape[-2:]) == self.size:
            return self
        background = None if self.background is None else resize(self.background[None], self.size)[0]
        return SeedMaps(self.classes, resize(self.scores, self.size), background, self.size, self.threshold)


def resize(maps: Float[Tensor, "k h w"], size: tuple[int, int]) -> Float[Tensor, "k H W"]:
    """Maps at another size (height, width): bilinear, corners not aligned; also for k = 0."""
    if maps.shape[0] == 0:
        return maps.new_zeros((0, *size))
    return F.interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def save(path: Path, seed: SeedMaps) -> None:
    """Write an .npz file without pickles, atomically. Raises RunError.

    It has `classes` [k], `scores` [k h w] (half precision), `size` [2] and, if the seed has them, `background` [h w]
    (half precision) or `threshold` [].
    """
    arrays: dict[str, Any] = {
        "classes": seed.classes.numpy().astype(np.int16),
        "scores": seed.scores.numpy().astype(np.float16),
        "size": np.asarray(seed.size, dtype=np.int32),
    }
    if seed.background is not None:
        arrays["background"] = seed.background.numpy().astype(np.float16)
    if seed.threshold is not None:
        arrays["threshold"] = np.float64(seed.threshold)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load(path: Path) -> SeedMaps:
    """Read the file of a seed. Raises DataError if the file is missing, damaged or of another kind."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            classes = torch.from_numpy(arrays["classes"].astype(np.int64))
            scores = torch.from_numpy(arrays["scores"].astype(np.float32))
            background = None
            if "background" in arrays:
                background = torch.from_numpy(arrays["background"].astype(np.float32))
            threshold = float(arrays["threshold"]) if "threshold" in arrays else None
            height, width = (int(side) for side in arrays["size"])
        _check(classes, scores, background)
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"a threshold of {threshold}")
    except FileNotFoundError:
        raise DataError(f"{path}: no such maps; run `bao maps` on the run folder first") from None
    except _DAMAGED as error:
        raise DataError(f"{path}: not a file of maps ({error}); delete it and run `bao maps` again") from None
    return SeedMaps(classes, scores, background, (height, width), threshold)


def _check(classes: Tensor, scores: Tensor, background: Tensor | None) -> None:
    if scores.ndim != 3 or classes.shape != scores.shape[:1]:
        raise ValueError(f"{tuple(classes.shape)} classes for maps of {tuple(scores.shape)}")
    if background is not None and background.shape != scores.shape[1:]:
        raise ValueError(f"a background of {tuple(background.shape)} for maps of {tuple(scores.shape)}")
    if not all(bool(maps.isfinite().all()) for maps in (scores, background) if maps is not None):
        raise ValueError("maps with values that are NaN or infinite")
