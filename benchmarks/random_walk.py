"""IRN's propagation of class maps: ours beside a plain product of torch.sparse_csr, and beside squaring dense matrices.

    python benchmarks/random_walk.py [--json FILE]

All ways run in one process on the same smooth random maps and edges, ours first in each round. The largest relative
differences say that they agree; the first is to our own result in 64 bit. The dense way runs on a smaller grid, and its
time is scaled by the cube of the number of cells. Peak memory is what ours adds to a fresh process (Linux).
Two threads meet after each step, so on a busy machine `--threads 1` is the steadier figure.
"""

import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from figures import publish
from torch import Tensor

from baoseg.refine.random_walk import edge_affinity, propagate_to_edge, transition

RADIUS, BETA, SQUARINGS = 5, 10, 8
STEPS = 2**SQUARINGS


@dataclass(frozen=True, kw_only=True)
class Options:
    height: int = 94  # of a VOC picture at stride 4
    width: int = 125
    classes: int = 3
    dense_height: int = 24  # the grid of the dense way
    dense_width: int = 32
    rounds: int = 3
    threads: int = 2
    json: Path | None = None


def scene(height: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Class maps, and an edge map with ridges where a smooth random surface is 0."""
    noise = torch.randn(1, classes + 1, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, (height, width), mode="bicubic")[0]
    return smooth[1:].sigmoid(), (1 - 4 * smooth[0].abs()).clamp(0, 1)


def ours(maps: Tensor, edge: Tensor) -> Tensor:
    return propagate_to_edge(maps, edge, radius=RADIUS, beta=BETA, steps=STEPS)


def sparse(maps: Tensor, edge: Tensor) -> Tensor:
    matrix, values = matrix_of(edge), (maps * (1 - edge)).flatten(1).T.contiguous()
    for _ in range(STEPS):
        values = matrix @ values
    return values.T.reshape(maps.shape)


def dense(maps: Tensor, edge: Tensor) -> Tensor:
    matrix = matrix_of(edge).to_dense()
    for _ in range(SQUARINGS):
        matrix = matrix @ matrix
    return (matrix @ (maps * (1 - edge)).flatten(1).T).T.reshape(maps.shape)


def matrix_of(edge: Tensor) -> Tensor:
    """T, sparse."""
    starts, sources, rates = transition(edge_affinity(edge[None], radius=RADIUS), beta=BETA)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # CSR is in beta
        return torch.sparse_csr_tensor(starts, sources, rates, (edge.numel(), edge.numel()), check_invariants=False)


def timed(way: Callable[[Tensor, Tensor], Tensor], maps: Tensor, edge: Tensor) -> tuple[float, Tensor]:
    start = time.perf_counter()
    result = way(maps, edge)
    return time.perf_counter() - start, result


def largest_relative_difference(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs().clamp(min=1e-30)).max())


def peak(options: Options) -> float:
    """Megabytes that one run of ours adds to this process."""
    maps, edge = scene(options.height, options.width, options.classes)
    before = resident("VmRSS")
    ours(maps, edge)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Megabytes of this process, now (VmRSS) or at its highest (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    scenes = {
        "ours": (ours, scene(options.height, options.width, options.classes)),
        "sparse": (sparse, scene(options.height, options.width, options.classes)),
        "dense": (dense, scene(options.dense_height, options.dense_width, options.classes)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in scenes}
    results = {}
    for _ in range(options.rounds):
        for name, (way, inputs) in scenes.items():
            spent, results[name] = timed(way, *inputs)
            seconds[name].append(spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    cells, dense_cells = options.height * options.width, options.dense_height * options.dense_width
    medians["dense"] *= (cells / dense_cells) ** 3
    exact = ours(*(each.double() for each in scenes["ours"][1]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        megabytes = pool.apply(peak, (options,))
    figures = {
        "grid": [options.height, options.width],
        "steps": STEPS,
        "classes": options.classes,
        "threads": options.threads,
        "seconds": medians,
        "dense_measured_on": [options.dense_height, options.dense_width],
        "ratio_to_sparse": medians["ours"] / medians["sparse"],
        "ratio_to_dense": medians["ours"] / medians["dense"],
        "peak_mb": megabytes,
        "largest_relative_difference": {
            "to 64 bit": largest_relative_difference(results["ours"], exact),
            "to sparse": largest_relative_difference(results["sparse"], results["ours"]),
            "to dense": largest_relative_difference(ours(*scenes["dense"][1]), results["dense"]),
        },
    }
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
