"""The dense CRF beside the authors' C++ (pydensecrf2), on one thread: CPU seconds, memory, and how far they differ.

    python benchmarks/crf.py --pictures ../shared/data/msrc14/JPEGImages [--json FILE]

Both ways alternate in this one process; a ratio is that of the medians of CPU time, below 1 where ours is faster. The
C++ is called with the labels that are present and, as research code does, with all 21. Our kernel of positions is kept
between pictures of one size, the C++ keeps nothing; the ratio of `anew` is that without our keeping it. Memory is what
one run adds to a process of its own. Needs `pip install baoseg[crf-reference]`.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydensecrf.densecrf as dense
import torch
import tyro
from figures import publish
from PIL import Image
from pydensecrf.utils import unary_from_labels

from baoseg.refine import crf

ALL_LABELS = 21


@dataclass(frozen=True, kw_only=True)
class Options:
    pictures: Path  # a folder of photographs
    labels: tuple[int, ...] = (2, 3, 5)
    size: tuple[int, int] = (500, 375)
    rounds: int = 5
    json: Path | None = None


def photograph(folder: Path, size: tuple[int, int]) -> np.ndarray:
    with Image.open(min(folder.glob("*.jpg"))) as image:
        return np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def label_image(count: int, height: int, width: int) -> np.ndarray:
    """Smooth regions of 0..count - 1."""
    coarse = torch.rand(1, count, 5, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].argmax(0).numpy()


def ours(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return crf.from_labels(image, labels).numpy()


def ours_anew(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As on the first picture of a size."""
    crf.position_kernel.cache_clear()
    return ours(image, labels)


def theirs(image: np.ndarray, labels: np.ndarray, *, count: int) -> np.ndarray:
    height, width = labels.shape
    settings = crf.LABELS
    model = dense.DenseCRF2D(width, height, count)
    model.setUnaryEnergy(unary_from_labels(labels, count, gt_prob=0.7, zero_unsure=False))
    model.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sxy, srgb=settings.bilateral_srgb, rgbim=image, compat=settings.bilateral_compat
    )
    return np.array(model.inference(settings.steps)).reshape(count, height, width)


def seconds(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def compare(image: np.ndarray, count: int, rounds: int) -> dict[str, Any]:
    labels = label_image(count, *image.shape[:2])
    ways = {
        "ours": lambda: ours(image, labels),
        "anew": lambda: ours_anew(image, labels),
        "theirs": lambda: theirs(image, labels, count=count),
        "theirs_21": lambda: theirs(image, labels, count=ALL_LABELS),
    }
    ours(image, labels)  # both start warm
    spent: dict[str, list[float]] = {way: [] for way in ways}
    results = {}
    for _ in range(rounds):
        for way, run in ways.items():
            taken, results[way] = seconds(run)
            spent[way].append(taken)
    medians = {way: statistics.median(values) for way, values in spent.items()}
    return {
        "seconds": medians,
        "ratio": medians["ours"] / medians["theirs"],
        "ratio_anew": medians["anew"] / medians["theirs"],
        "times_faster_than_21_labels": medians["theirs_21"] / medians["ours"],
        "equal_labels": float((results["ours"].argmax(0) == results["theirs"].argmax(0)).mean()),
        "mean_difference": float(np.abs(results["ours"] - results["theirs"]).mean()),
    }


def peak(image: np.ndarray, count: int) -> float:
    """Megabytes that one run adds to a process of its own. Linux."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (image, count))


def _peak(image: np.ndarray, count: int) -> float:
    torch.set_num_threads(1)
    before = _resident("VmRSS")
    ours(image, label_image(count, *image.shape[:2]))
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def main(options: Options) -> None:
    torch.set_num_threads(1)
    image = photograph(options.pictures, options.size)
    figures: dict[str, Any] = {}
    for count in options.labels:
        figures[f"{count} labels"] = compare(image, count, options.rounds) | {"peak_mb": peak(image, count)}
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
