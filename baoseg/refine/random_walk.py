"""Random walk of class maps over a grid, shared by PSA and IRN.

PSA: Ahn and Kwak 2018, "Learning pixel-level semantic affinity with image-level supervision". IRN: Ahn, Cho and Kwak
2019, "Weakly supervised learning of instance segmentation with inter-pixel relations".

Cells i and j with a distance below a radius have an affinity a_ij = a_ji in [0, 1], and a_ii = 1. The walk is

    T = D^-1 A^beta,  d_i = sum_j a_ij^beta,  x <- T^t x            (PSA sec. 3.3; IRN sec. 5)

with the power of each entry. A row of T sums to 1, so after each step the value of a cell is a mean of the cells around
it. The code of PSA and IRN divides the columns of A by their sums and multiplies from the other side, which is the
same, because A is symmetric. It squares T log2(t) times (`logt`, `exp_times`; 8 means t = 256), which fills an N x N
matrix. Here T stays sparse (at most 69 entries per row for the radius 5 of the papers) and is applied t times.
"""

from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError

Offset = tuple[int, int]  # rows down, columns to the right
HERE: Offset = (0, 0)


class Affinity(NamedTuple):
    """The affinities of each cell to later cells in reading order; affinities to earlier cells are the same."""

    offsets: list[Offset]
    weights: Float[Tensor, "b p h w"]  # of a cell and the cell at the offset; 0 if that cell is outside the image


class Transition(NamedTuple):
    """T as a sparse matrix by rows; the cells of all images are numbered consecutively (n = b h w)."""

    starts: Int64[Tensor, "n+1"]  # index of the first entry of each row, and the number of entries
    sources: Int64[Tensor, "e"]  # column of each entry
    rates: Float[Tensor, "e"]


def propagate_to_edge(
    maps: Float[Tensor, "*b k h w"],
    edge: Float[Tensor, "*c y x"],
    *,
    radius: int,
    beta: float | int,
    steps: int,
) -> Float[Tensor, "*b k h w"]:
    """Class maps after the random walk T^t (M * (1 - B)), which does not cross class boundaries (IRN sec. 5).

    `edge` is the class boundary map B in [0, 1], on the grid of the maps; see `edge_affinity` for T. IRN uses radius 5,
    beta 10 and 256 steps. Several images of one size may be given, with equal leading dimensions. The result has
    at least 32-bit precision and is not scaled; IRN divides it by its maximum after enlarging it.

    Raises DataError if there is no map, if the grids differ, if a value is NaN or infinite, or B is outside [0, 1].
    """
    _check(maps, edge)
    dtype = torch.promote_types(maps.dtype, torch.float32)
    boundaries = edge.to(maps.device, dtype).reshape(-1, *edge.shape[-2:])
    scores = maps.to(dtype).reshape(-1, *maps.shape[-3:])
    moves = transition(edge_affinity(boundaries, radius=radius), beta=beta)
    return walk(scores * (1 - boundaries[:, None]), moves, steps=steps).reshape(maps.shape)


def powered(maps: Float[Tensor, "*b h w"], power: float) -> Float[Tensor, "*b h w"]:
    """Maps raised to a power before the walk, as in the released code of BAS (1.5) and AMN (1.3).

    A power above 1 reduces low scores, so that less of them is carried to other cells.
    """
    return maps if power == 1 else maps.clamp(min=0) ** power


def edge_affinity(edge: Float[Tensor, "b h w"], *, radius: int) -> Affinity:
    """Affinities a_ij = 1 - max of B over the cells on the path from i to j, both ends included (IRN sec. 4.4).

    Outside the image, B is 1, so there is no affinity.
    """
    batch, height, width = edge.shape
    offsets = offsets_within(radius)
    weights = edge.new_zeros(batch, len(offsets), height, width)
    for i, offset in enumerate(offsets):
        within(weights[:, i], offset, HERE).copy_(edge_affinity_at(edge, offset))
    return Affinity(offsets, weights)


def edge_affinity_at(edge: Float[Tensor, "b h w"], offset: Offset) -> Float[Tensor, "b y x"]:
    """`edge_affinity` for the pairs at one offset inside the image."""
    return 1 - reduce(torch.maximum, (within(edge, offset, cell) for cell in path(offset)))


def feature_affinity(features: Float[Tensor, "b c h w"], *, radius: int) -> Affinity:
    """Affinities a_ij = exp(-mean_c |f_ic - f_jc|) (PSA sec. 3.2).

    The paper has the sum over channels, the released code the mean, as here. The released code ignores pairs whose
    first cell is less than radius - 1 cells from the left, right or lower side; here, as in the paper, all pairs count.
    """
    batch, _, height, width = features.shape
    offsets = offsets_within(radius)
    weights = features.new_zeros(batch, len(offsets), height, width)
    for i, offset in enumerate(offsets):
        within(weights[:, i], offset, HERE).copy_(feature_affinity_at(features, offset))
    return Affinity(offsets, weights)


def feature_affinity_at(features: Float[Tensor, "b c h w"], offset: Offset) -> Float[Tensor, "b y x"]:
    """`feature_affinity` for the pairs at one offset inside the image."""
    distance = (within(features, offset, HERE) - within(features, offset, offset)).abs().mean(dim=1)
    return (-distance).exp()


def transition(affinity: Affinity, *, beta: float | int) -> Transition:
    """T = D^-1 A^beta as a sparse matrix."""
    if beta <= 0:
        raise RecipeError(f"random walk: beta is {beta}; use a number above 0")
    width = affinity.weights.shape[-1]
    forward = affinity.weights**beta
    # The affinity to the cell at +offset is also that cell's affinity to -offset. The values that `roll` wraps are 0.
    backward = [forward[:, i : i + 1].roll(offset, dims=(2, 3)) for i, offset in enumerate(affinity.offsets)]
    weights = rearrange(torch.cat([forward, *backward], dim=1), "b entry h w -> (b h w) entry")
    rates = weights / (1 + weights.sum(dim=1, keepdim=True))
    # The cell itself gets the rest of 1 and is summed last; otherwise, rounding errors grow with the steps.
    kept = (1 - rates.sum(dim=1, keepdim=True, dtype=torch.float64)).to(rates.dtype)
    rates = torch.cat([rates, kept], dim=1)

    ahead = [row * width + column for row, column in affinity.offsets]
    distances = torch.tensor([*ahead, *(-cells for cells in ahead), 0], device=rates.device)
    sources = torch.arange(len(rates), device=rates.device)[:, None] + distances
    entries = rates > 0
    starts = F.pad(entries.sum(dim=1).cumsum(dim=0), (1, 0))
    return Transition(starts, sources[entries], rates[entries])


def walk(maps: Float[Tensor, "b k h w"], moves: Transition, *, steps: int) -> Float[Tensor, "b k h w"]:
    """T^steps x for each map."""
    if steps < 0:
        raise RecipeError(f"random walk: {steps} steps; use 0 or more")
    batch, _, height, width = maps.shape
    values = rearrange(maps, "b k h w -> (b h w) k").contiguous()
    for _ in range(steps):
        # A sparse product: each row is a weighted sum. The product of torch.sparse_csr is in beta, and warns.
        values = F.embedding_bag(
            moves.sources,
            values,
            moves.starts,
            mode="sum",
            per_sample_weights=moves.rates,
            include_last_offset=True,
        )
    return rearrange(values, "(b h w) k -> b k h w", b=batch, h=height, w=width)


def offsets_within(radius: int) -> list[Offset]:
    """The offsets below the radius to later cells in reading order."""
    if radius < 1:
        raise RecipeError(f"random walk: a radius of {radius}; use 1 or more")
    reach = range(1 - radius, radius)
    return [
        (row, column)
        for row in range(radius)
        for column in reach
        if (row, column) > (0, 0) and row**2 + column**2 < radius**2
    ]


def path(offset: Offset) -> list[Offset]:
    """The cells on the path from (0, 0) to the offset, as in the released code of IRN.

    These are the cells in the box around both with a distance below 1 from the line through both. The distance of (y,
    x) from the line is |down x - right y| / |offset|.
    """
    down, right = offset
    return [
        (y, x)
        for y in range(down + 1)
        for x in range(min(0, right), max(0, right) + 1)
        if (down * x - right * y) ** 2 < down**2 + right**2
    ]


def within(grid: Shaped[Tensor, "*b h w"], offset: Offset, cell: Offset) -> Shaped[Tensor, "*b y x"]:
    """A view of the values at `cell`, relative to the first cell, for each pair of cells with this `offset`.

    `cell` is in the box around both cells. The view is empty if the grid has no such pair.
    """
    (down, right), (row, column) = offset, cell
    height, width = max(grid.shape[-2] - down, 0), max(grid.shape[-1] - abs(right), 0)
    column += max(-right, 0)
    return grid[..., row : row + height, column : column + width]


def _check(maps: Tensor, edge: Tensor) -> None:
    if maps.numel() == 0:
        raise DataError(f"random walk: maps of shape {tuple(maps.shape)} are empty; give at least one class and cell")
    if maps.shape[:-3] + maps.shape[-2:] != edge.shape:
        raise DataError(
            f"random walk: class maps of shape {tuple(maps.shape)} do not fit an edge map of shape {tuple(edge.shape)};"
            " bring both to one grid"
        )
    for name, values in (("class maps", maps), ("edge map", edge)):
        if not values.isfinite().all():
            raise DataError(
                f"random walk: the {name} have NaN or infinite values; check the network or file that they come from"
            )
    if edge.min() < 0 or edge.max() > 1:
        low, high = float(edge.min()), float(edge.max())
        raise DataError(f"random walk: edge values reach from {low:g} to {high:g}; bring them into 0..1")
