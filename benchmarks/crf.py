"""The dense CRF beside the authors' C++ (pydensecrf2), on one thread, and how far they differ.

    python benchmarks/crf.py [--photos ../shared/data/msrc14/JPEGImages] [--json FILE]

The C++ is called with the labels that are present ("published") and, as research code does, with all 21. Our kernel of
positions is kept between images of one size, the C++ keeps nothing: "ours anew" is without our keeping it. Needs
`pip install baoseg[crf-reference]`. Without images, a generated scene.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from figures import Result, compare, publish_results, with_about
from PIL import Image
from predict import scene

from baoseg.refine import crf

ALL_LABELS = 21
WAYS = ("ours", "published", "ours anew", "published, 21 labels")


@dataclass(frozen=True, kw_only=True)
class Options:
    photos: Path | None = None  # a folder of photographs
    labels: tuple[int, ...] = (2, 3, 5)
    size: tuple[int, int] = (500, 375)
    rounds: int = 3
    json: Path | None = None


def photograph(folder: Path | None, size: tuple[int, int]) -> np.ndarray:
    if folder is None:
        return np.array(scene(size))
    with Image.open(min(folder.glob("*.jpg"))) as image:
        return np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def to_mask(count: int, height: int, width: int) -> np.ndarray:
    """Smooth regions of 0..count - 1."""
    coarse = torch.rand(1, count, 5, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].argmax(0).numpy()


def ours(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return crf.from_labels(image, labels).numpy()


def ours_anew(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As on the first image of a size."""
    crf.position_kernel.cache_clear()
    return ours(image, labels)


def theirs(image: np.ndarray, labels: np.ndarray, *, count: int) -> np.ndarray:
    import pydensecrf.densecrf as dense
    from pydensecrf.utils import unary_from_labels

    height, width = labels.shape
    settings = crf.LABELS
    model = dense.DenseCRF2D(width, height, count)
    model.setUnaryEnergy(unary_from_labels(labels, count, gt_prob=0.7, zero_unsure=False))
    model.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sxy, srgb=settings.bilateral_srgb, rgbim=image, compat=settings.bilateral_compat
    )
    return np.array(model.inference(settings.steps)).reshape(count, height, width)


def prepare(way: str, options: Options) -> Callable[[], np.ndarray]:
    """Of the one number of labels that the options name."""
    torch.set_num_threads(1)  # as the C++ has
    (count,) = options.labels
    image = photograph(options.photos, options.size)
    labels = to_mask(count, *image.shape[:2])
    runs: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: ours(image, labels),
        "ours anew": lambda: ours_anew(image, labels),
        "published": lambda: theirs(image, labels, count=count),
        "published, 21 labels": lambda: theirs(image, labels, count=ALL_LABELS),
    }
    return runs[way]


def compared(options: Options) -> Result:
    result, marginals = compare(prepare, options, rounds=options.rounds, ways=WAYS)
    mine, others = marginals["ours"], marginals["published"]
    about: dict[str, Any] = {
        "equal_labels": float((mine.argmax(0) == others.argmax(0)).mean()),
        "mean_difference": float(np.abs(mine - others).mean()),
    }
    return with_about(result, **about)


def main(options: Options) -> None:
    width, height = options.size
    what = f"CRF of a {'photograph' if options.photos else 'scene'}, {width} x {height}"
    results = {f"{what}, {count} labels": compared(replace(options, labels=(count,))) for count in options.labels}
    publish_results(results, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
