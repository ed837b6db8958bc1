"""IRN's propagation of class maps: ours beside dense matrices, as published, and a product of torch.sparse_csr.

    python benchmarks/random_walk.py [--json FILE]

All ways run in one process on the same smooth random maps and edges. The largest relative differences say that they
agree; the first is to our own result in 64 bit. The published way squares T eight times. It runs on a smaller grid; its
time is scaled by the cube of the number of cells, its memory is that of the smaller grid. What ours moves at least is
T, once in each step.

Two threads meet after each step, so on a busy machine OMP_NUM_THREADS=1 is the steadier figure.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from figures import compare, publish_results, with_about, with_work
from torch import Tensor

from baoseg.refine.random_walk import Transition, edge_affinity, propagate_to_edge, transition

RADIUS, BETA, SQUARINGS = 5, 10, 8
STEPS = 2**SQUARINGS
WAYS = ("ours", "published", "sparse_csr")


@dataclass(frozen=True, kw_only=True)
class Options:
    height: int = 94  # of a VOC image at stride 4
    width: int = 125
    classes: int = 3
    dense_height: int = 24  # the grid of the dense way
    dense_width: int = 32
    rounds: int = 3
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


def moves_of(edge: Tensor) -> Transition:
    return transition(edge_affinity(edge[None], radius=RADIUS), beta=BETA)


def matrix_of(edge: Tensor) -> Tensor:
    """T, sparse."""
    starts, sources, rates = moves_of(edge)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # CSR is in beta
        return torch.sparse_csr_tensor(starts, sources, rates, (edge.numel(), edge.numel()), check_invariants=False)


RUNS = {"ours": ours, "published": dense, "sparse_csr": sparse}


def inputs(way: str, options: Options) -> tuple[Tensor, Tensor]:
    small = way == "published"
    height, width = (options.dense_height, options.dense_width) if small else (options.height, options.width)
    return scene(height, width, options.classes)


def prepare(way: str, options: Options) -> Callable[[], Tensor]:
    maps, edge = inputs(way, options)
    return lambda: RUNS[way](maps, edge)


def largest_relative_difference(found: Tensor, expected: Tensor) -> float:
    """Cell by cell."""
    return float(((found - expected).abs() / expected.abs().clamp(min=1e-30)).max())


def main(options: Options) -> None:
    cells = options.height * options.width
    scale = (cells / (options.dense_height * options.dense_width)) ** 3
    result, maps = compare(prepare, options, rounds=options.rounds, ways=WAYS, scale={"published": scale})
    moves = moves_of(inputs("ours", options)[1])
    result = with_work(result, gigabytes=STEPS * sum(part.nbytes for part in moves) / 1e9)
    result = with_about(
        result,
        published_measured_on=[options.dense_height, options.dense_width],
        largest_relative_difference={
            "to 64 bit": largest_relative_difference(
                maps["ours"], ours(*(each.double() for each in inputs("ours", options)))
            ),
            "to sparse_csr": largest_relative_difference(maps["sparse_csr"], maps["ours"]),
            "to published": largest_relative_difference(ours(*inputs("published", options)), maps["published"]),
        },
    )
    what = f"random walk, {options.height} x {options.width} cells, {options.classes} classes, {STEPS} steps"
    publish_results({what: result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
