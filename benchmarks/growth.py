"""How time and memory grow with the size of an image, the number of classes and the number of images.

    python benchmarks/growth.py [--json FILE] [--plot docs/growth.svg]

Maps (Conformer-S, one view, two classes present), CRF, random walk (radius 5, 64 steps) and evaluation (101 thresholds,
two classes present). CRF and random walk see only classes that are present, so there the number of classes is that of
an image. One thread; seconds are those of the processor, which other work on the machine disturbs little. Each point is
measured in a process of its own, in a second run, and its memory is what the first one adds.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import crf as crf_benchmark
import inference
import matplotlib.pyplot as plt
import random_walk
import torch
import tyro
from figures import added_memory, alone, publish

from baoseg import evaluate, seeds
from baoseg.refine import crf
from baoseg.refine.random_walk import propagate_to_edge

STEPS = 64
CELL = 4  # pixels a cell of seeds, and of the grid that is walked on
PRESENT = 2  # classes of an image, where those of the data vary


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a path is given."""

    side: int = 128  # of an image, in pixels
    classes: int
    images: int = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    side: tuple[int, ...] = (128, 256, 512, 1024)
    classes: tuple[int, ...] = (20, 80, 254)  # the most that masks of 8 bit can have
    images: tuple[int, ...] = (1, 4, 16)
    plot: Path | None = None
    json: Path | None = None


def for_maps(point: Point) -> Callable[[], Any]:
    model = inference.method("conformer_small", classes=point.classes)
    (image,) = inference.test_images((point.side,), model.network.backbone.stride)
    present, labels = torch.arange(PRESENT) + 1, torch.zeros(1, point.classes)
    labels[:, :PRESENT] = 1
    return torch.no_grad()(lambda: repeat(point, lambda: model.maps(image, labels, classes=present)))


def for_crf(point: Point) -> Callable[[], Any]:
    image = crf_benchmark.photograph(None, (point.side, point.side))
    scores = random_walk.scene(point.side, point.side, point.classes)[0]
    probabilities = scores / scores.sum(dim=0)
    return lambda: repeat(point, lambda: crf.from_probabilities(image, probabilities))


def for_walk(point: Point) -> Callable[[], Any]:
    grid = point.side // CELL
    maps, edge = random_walk.scene(grid, grid, point.classes)
    return lambda: repeat(
        point, lambda: propagate_to_edge(maps, edge, radius=random_walk.RADIUS, beta=random_walk.BETA, steps=STEPS)
    )


def for_evaluation(point: Point) -> Callable[[], Any]:
    grid, size = point.side // CELL, (point.side, point.side)
    scores = random_walk.scene(grid, grid, PRESENT)[0]
    seed = seeds.SeedMaps(torch.arange(PRESENT) + 1, scores, None, size)
    truth = (seed.upsample().scores[0] > 0.5).byte()
    return lambda: evaluate.evaluate_seeds([(seed, truth)] * point.images, point.classes, threshold=0.3)


def repeat(point: Point, run: Callable[[], Any]) -> None:
    for _ in range(point.images):
        run()


# Each path and the number of classes that it has where others vary.
PATHS = {"maps": (for_maps, 20), "CRF": (for_crf, 2), "random walk": (for_walk, 2), "evaluation": (for_evaluation, 20)}


def prepare(path: str, point: Point) -> Callable[[], Any]:
    torch.set_num_threads(1)
    return PATHS[path][0](point)


def seconds(path: str, point: Point) -> float:
    """Of the processor, in the second run."""
    run = prepare(path, point)
    run()
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(path: str, point: Point) -> dict[str, Any]:
    return {**asdict(point), "seconds": alone(seconds, path, point), "peak_mb": added_memory(prepare, path, point)}


def draw(figures: dict[str, dict[str, list[dict[str, Any]]]], plot: Path) -> None:
    figure, rows = plt.subplots(2, 3, figsize=(10, 6), sharey="row", layout="constrained")
    labels = {"side": "side of the image, pixels", "classes": "classes", "images": "images"}
    for row, (key, unit) in zip(rows, {"seconds": "core seconds", "peak_mb": "added memory, MB"}.items(), strict=True):
        for axes, (axis, paths) in zip(row, figures.items(), strict=True):
            for path, points in paths.items():
                axes.loglog([point[axis] for point in points], [point[key] for point in points], "o-", label=path)
            measured = [point[axis] for point in next(iter(paths.values()))]
            axes.set_xticks(measured, [f"{value:,}" for value in measured])
            axes.minorticks_off()
            axes.set_xlabel(labels[axis])
            axes.grid(alpha=0.3)
        row[0].set_ylabel(unit)
    rows[0, 0].legend()
    figure.savefig(plot, metadata={"Date": None})


def main(options: Options) -> None:
    figures: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for axis in ("side", "classes", "images"):
        figures[axis] = {}
        for path, (_, classes) in PATHS.items():
            points = [replace(Point(classes=classes), **{axis: value}) for value in getattr(options, axis)]
            figures[axis][path] = [measure(path, point) for point in points]
    publish(figures, options.json)
    if options.plot is not None:
        draw(figures, options.plot)


if __name__ == "__main__":
    main(tyro.cli(Options))
