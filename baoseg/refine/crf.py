"""Fully connected CRF (Kraehenbuehl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge
potentials", NIPS 2011): refines labels or class probabilities towards the edges of the image.

    E(x) = sum_i psi_u(x_i) + sum_{i<j} [x_i != x_j] k(f_i, f_j)                                           (eq. 1-3)
    k    = w1 exp(-|p_i - p_j|^2 / 2 a^2 - |I_i - I_j|^2 / 2 b^2) + w2 exp(-|p_i - p_j|^2 / 2 c^2)         (eq. 3)

p is a position, I a colour. Mean field (algorithm 1) filters the marginals with both Gaussians in each step. The filter
is the permutohedral lattice of Adams, Baek and Davis ("Fast high-dimensional filtering using the permutohedral
lattice", Eurographics 2010): splat, blur along d + 1 axes, slice. Each of these is a sparse product here, made once an
image and applied to all labels together.

Deviations from the paper, as in the authors' C++: each Gaussian is normalised on both sides, D^-1/2 K D^-1/2 with
D = K 1, and the message of a pixel to itself is not removed.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int32, Int64, Shaped, UInt8
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import IGNORE

LEAST_PROBABILITY = 1e-5  # lower bound of probabilities, so that their logarithm is finite
TOO_SMALL = "crf: the widths are too small for this image; choose larger ones"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Standard deviations in pixels (`sxy`) and in grey levels (`srgb`), weights (`compat`), mean field steps."""

    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0
    steps: int = 10
    # for `from_labels`: number of labels that share 1 - gt_prob; None: the labels in the mask
    n_labels: int | None = None

    def __post_init__(self) -> None:
        if min(self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb) <= 0:
            raise RecipeError(f"crf: {self}; widths must be above 0")
        if min(self.gaussian_compat, self.bilateral_compat, self.steps) < 0:
            raise RecipeError(f"crf: {self}; compatibilities and steps must not be negative")
        if self.n_labels is not None and self.n_labels < 2:
            raise RecipeError(f"crf: n_labels is {self.n_labels}; choose 2 or more, or None: those of each mask")


LABELS = Config()  # IRN and methods based on it, for masks
PROBABILITIES = Config(bilateral_sxy=80.0, bilateral_srgb=13.0)  # for class probabilities


def from_labels(
    image: Tensor | np.ndarray, labels: Tensor | np.ndarray, *, gt_prob: float = 0.7, config: Config = LABELS
) -> Float[Tensor, "k h w"]:
    """Marginals [k h w] of the k labels in a mask, in the order of `present_labels`, on the device of the mask.

    `image` is uint8 [h w 3], `labels` are integers [h w]. The label of a pixel has the probability `gt_prob`, and the
    other labels share the rest; at a pixel with 255, all labels have the same probability. The refined mask is
    `present_labels(labels)[marginals.argmax(0)]`; it may lack a label. A single label has the marginal 1 everywhere.

    With `config.n_labels`, there are this many labels: labels that the mask lacks share 1 - `gt_prob` with the others,
    but are left out of the result, whose marginals then sum to less than 1. They are never the largest.

    Raises DataError if image and labels do not fit each other, if there is no label but 255, or if there are more than
    `config.n_labels`.
    """
    if not 0 < gt_prob < 1:
        raise RecipeError(f"crf: gt_prob is {gt_prob}; choose a probability between 0 and 1")
    labels = _tensor(labels)
    if labels.dtype.is_floating_point or labels.ndim != 2:
        raise DataError(f"crf: labels of {labels.dtype} {tuple(labels.shape)}; give integers of [h w]")
    image = _checked_image(image, labels)
    present = present_labels(labels)
    if len(present) == 0:
        raise DataError(f"crf: no class present; the labels are {IGNORE} everywhere")
    count = config.n_labels or len(present)
    if len(present) > count:
        raise DataError(f"crf: {len(present)} labels in a mask, and n_labels is {count}; choose a higher n_labels")
    others = (1 - gt_prob) / max(count - 1, 1)
    probabilities = torch.where(labels == present[:, None, None], gt_prob, others)
    absent = count - len(present)
    if absent:
        probabilities = torch.cat([probabilities, torch.full_like(probabilities[:1], others)])
    unaries = torch.where(labels == IGNORE, 1 / count, probabilities).log()
    return _mean_field(image, unaries, config, alike=max(absent, 1))[: len(present)]


def present_labels(labels: Tensor | np.ndarray) -> Int64[Tensor, "k"]:
    """The labels in a mask [k], ascending, without 255."""
    present = _tensor(labels).long().unique()
    return present[present != IGNORE]


def from_probabilities(
    image: Tensor | np.ndarray, probabilities: Tensor | np.ndarray, *, config: Config = PROBABILITIES
) -> Float[Tensor, "k h w"]:
    """Marginals [k h w] of the k classes of a probability map, on its device.

    `image` is uint8 [h w 3], `probabilities` are [k h w], clipped to [1e-5, 1]. A class with probability 0
    everywhere is absent: its marginal is 0, and it takes no time.

    Raises DataError if image and probabilities do not fit each other, if a probability is not finite, or if no class
    is present.
    """
    probabilities = _tensor(probabilities).float()
    if probabilities.ndim != 3:
        raise DataError(f"crf: probabilities of {tuple(probabilities.shape)}; give [k h w]")
    image = _checked_image(image, probabilities)
    if not probabilities.isfinite().all():
        raise DataError("crf: probabilities that are NaN or infinite; check the maps that they come from")
    present = (probabilities > 0).flatten(1).any(dim=1)
    if not present.any():
        raise DataError("crf: no class present; at least one needs a probability above 0")
    marginals = torch.zeros_like(probabilities)
    marginals[present] = _mean_field(image, probabilities[present].clamp(LEAST_PROBABILITY, 1).log(), config)
    return marginals


def _checked_image(image: Tensor | np.ndarray, maps: Tensor) -> UInt8[Tensor, "h w 3"]:
    image = _tensor(image)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.numel() == 0:
        raise DataError(f"crf: {image.dtype} {tuple(image.shape)} is no image; give uint8 of [h w 3]")
    if image.shape[:2] != maps.shape[-2:]:
        (height, width), (rows, columns) = image.shape[:2], maps.shape[-2:]
        raise DataError(f"crf: an image of {height} x {width} and maps of {rows} x {columns} pixels; resize the maps")
    return image.to(maps.device)


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(values.copy())


@torch.no_grad()
def _mean_field(
    image: UInt8[Tensor, "h w 3"], log_unaries: Float[Tensor, "k h w"], config: Config, *, alike: int = 1
) -> Float[Tensor, "k h w"]:
    """Algorithm 1 (mean field) with Potts compatibility.

    The last label is not filtered: the marginals of a pixel sum to 1 and the filters are linear, so its filtered
    marginals are those of a constant 1 minus those of all other labels.

    The last channel stands for `alike` labels with the same unary. By symmetry, their marginals stay equal, so one
    channel holds their sum, and each of these labels gets an equal share of its filtered marginals.
    """
    if len(log_unaries) == 1:
        return torch.ones_like(log_unaries)
    height, width = image.shape[:2]
    positions, colours = _positions(height, width, image.device), image.flatten(0, 1).T.float()
    features = torch.cat([positions / config.bilateral_sxy, colours / config.bilateral_srgb])
    gaussian = position_kernel(height, width, config.gaussian_sxy, config.gaussian_compat, image.device)
    bilateral = _kernel(features, compat=config.bilateral_compat)

    unaries = log_unaries.flatten(1)
    if alike > 1:
        unaries = torch.cat([unaries[:-1], unaries[-1:] + math.log(alike)])
    ones = unaries.new_ones(height * width, 1)
    of_all = (gaussian.filter(ones) + bilateral.filter(ones))[:, 0]
    marginals = unaries.softmax(dim=0)
    for _ in range(config.steps):
        most = _points_first(marginals[:-1])
        messages = (gaussian.filter(most) + bilateral.filter(most)).unbind(dim=1)
        last = of_all - sum(messages)
        marginals = (unaries + torch.stack([*messages, last if alike == 1 else last / alike])).softmax(dim=0)
    return marginals.unflatten(1, (height, width))


def _positions(height: int, width: int, device: torch.device) -> Float[Tensor, "2 n"]:
    """Column and row of each pixel, n = height * width."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.stack([columns.repeat(height), rows.repeat_interleave(width)]).float()


@lru_cache(maxsize=1)  # cached: equal for all images of one size, and about a tenth of the work
def position_kernel(height: int, width: int, sxy: float, compat: float, device: torch.device) -> "Lattice":
    return _kernel(_positions(height, width, device) / sxy, compat=compat)


def _kernel(features: Float[Tensor, "d n"], *, compat: float) -> "Lattice":
    """The operator compat * D^-1/2 K D^-1/2."""
    lattice = build_lattice(features)
    scale = lattice.filter(features.new_ones(features.shape[1], 1))[:, 0].rsqrt()
    return Lattice(lattice.splat.times_columns(scale), lattice.blurs, lattice.slice.times_rows(compat * scale))


class SparseMatrix(NamedTuple):
    """A sparse matrix by rows. A row of a product is a weighted sum of some rows of the other factor."""

    columns: Int32[Tensor, "entries"]
    weights: Float[Tensor, "entries"]
    starts: Int32[Tensor, "rows"]  # index of the first entry of each row

    def __matmul__(self, values: Float[Tensor, "columns k"]) -> Float[Tensor, "rows k"]:
        # embedding_bag is the fastest sparse product in PyTorch if the other factor has few columns
        return F.embedding_bag(self.columns, values, self.starts, mode="sum", per_sample_weights=self.weights)

    def times_columns(self, factors: Float[Tensor, "columns"]) -> "SparseMatrix":
        return self._replace(weights=self.weights * factors.index_select(0, self.columns))

    def times_rows(self, factors: Float[Tensor, "rows"]) -> "SparseMatrix":
        """Only where all rows have equally many entries."""
        return self._replace(weights=(self.weights.view(len(factors), -1) * factors[:, None]).flatten())


class Lattice(NamedTuple):
    """Filters n points of d dimensions with a Gaussian of unit variance, up to a constant factor.

    The last of the m vertices is a dummy for missing neighbours; its value stays 0.
    """

    splat: SparseMatrix  # [m n]
    blurs: tuple[SparseMatrix, ...]  # [m m] for each of the d + 1 axes
    slice: SparseMatrix  # [n m]

    def filter(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        on_vertices = self.splat @ values
        for blur in self.blurs:
            on_vertices = blur @ on_vertices
        return self.slice @ on_vertices


def build_lattice(features: Float[Tensor, "d n"]) -> Lattice:
    """Find the vertices around the points, and build the sparse products of Adams et al., sec. 3.

    The steps of the blurs (d on one axis and -1 on the others), without one of the d + 1, are a basis of the lattice.
    The integer coordinates of a vertex in this basis are packed into one integer. Packing is linear, so the difference
    of neighbours on an axis is the same for all vertices.
    """
    dims, count = features.shape
    if not features.abs().amax() < 2**20:  # beyond this, float32 cannot resolve simplices and weights
        raise RecipeError(TOO_SMALL)
    cell, turn, weights = _simplices(features)
    first, strides = _numbers(cell[:-1] - cell[-1])
    ahead = torch.cat([strides, -strides.sum(dtype=strides.dtype)[None]])  # the sum of all d + 1 steps is 0
    # the next corner is one step back on the next axis in rank order
    steps = ahead.new_empty(turn.shape).scatter_(0, turn, (-ahead)[:, None].expand(-1, count))
    numbers = torch.stack(list(accumulate([first, *steps[:-1]])))

    ordered, order = numbers.flatten().sort(stable=True)
    vertices, owner, entries = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    corners = torch.empty_like(order, dtype=torch.int32).scatter_(0, order, owner.int()).view_as(numbers)
    points = torch.arange(count, dtype=torch.int32, device=features.device).repeat(dims + 1)
    return Lattice(
        splat=SparseMatrix(
            points.index_select(0, order),
            weights.flatten().index_select(0, order),
            F.pad(entries.cumsum(0), (1, 0)).int(),
        ),
        blurs=_blurs(vertices, ahead),
        slice=SparseMatrix(
            _points_first(corners).flatten(),
            _points_first(weights).flatten(),
            _starts(count, dims + 1, features.device),
        ),
    )


def _simplices(
    features: Float[Tensor, "d n"],
) -> tuple[Float[Tensor, "d+1 n"], Int64[Tensor, "d+1 n"], Float[Tensor, "d+1 n"]]:
    """The simplex around each point (Adams et al., sec. 3.1 and 3.2).

    Returns its corner of remainder 0 divided by d + 1, the position of each coordinate in the order of the corners (d
    minus its rank), and the barycentric weights of the corners of remainder 0..d.
    """
    dims, count = features.shape
    # E of sec. 3.1 as a recurrence, divided by d + 1 and scaled so that the blurs have unit variance
    elevated, tail = features.new_empty(dims + 1, count), features.new_zeros(count)
    for i in range(dims, 0, -1):
        scaled = features[i - 1] * math.sqrt(2 / 3 / (i * (i + 1)))
        elevated[i] = tail - i * scaled
        tail += scaled
    elevated[0] = tail

    cell = elevated.round()
    residual = elevated - cell
    rank = (torch.arange(dims + 1, device=features.device)[:, None] + cell.sum(dim=0)).to(torch.int8)
    for i in range(dims):
        for j in range(i + 1, dims + 1):
            lower = (residual[i] < residual[j]).to(torch.int8)
            rank[i] += lower
            rank[j] -= lower
    over = (rank < 0).to(torch.int8) - (rank > dims).to(torch.int8)  # the rounded point was not in the plane
    turn = (dims - rank - over * (dims + 1)).long()

    falling = torch.empty_like(residual).scatter_(0, turn, residual - over)
    weights = torch.cat([falling[:1] - falling[-1:] + 1, falling.diff(dim=0)])
    return cell + over, turn, weights


def _numbers(coordinates: Float[Tensor, "d n"]) -> tuple[Int[Tensor, "n"], Int[Tensor, "d"]]:
    """Pack the coordinates of each point into one integer; returns the integers and the strides.

    With these strides, all corners around the points, and their neighbours, have different integers.
    """
    low, high = coordinates.amin(dim=1), coordinates.amax(dim=1)  # aminmax is many times slower
    extents = (high - low + 5).long().tolist()  # corners differ by at most 1 from the first, neighbours by at most 2
    *strides, end = accumulate(extents, mul, initial=1)
    if end >= 2**62:
        raise RecipeError(TOO_SMALL)
    kind = torch.int32 if end < 2**31 else torch.int64  # saves half the work in most images
    packing = torch.tensor(strides, dtype=kind, device=coordinates.device)
    return ((coordinates - low[:, None] + 2).to(kind) * packing[:, None]).sum(dim=0, dtype=kind), packing


def _blurs(vertices: Int[Tensor, "m"], ahead: Int[Tensor, "axes"]) -> tuple[SparseMatrix, ...]:
    """The blurs (1/2, 1, 1/2) along each axis, for all vertices that a point touches and for the dummy vertex."""
    nowhere = len(vertices)
    rows = torch.arange(nowhere + 1, device=vertices.device)
    weights = torch.tensor([0.5, 1, 0.5], device=vertices.device).repeat(nowhere + 1)
    starts = _starts(nowhere + 1, 3, vertices.device)
    blurs = []
    for distance in ahead:
        numbers = vertices + distance
        found = torch.searchsorted(vertices, numbers).clamp_(max=nowhere - 1)
        after = F.pad(found.where(vertices.gather(0, found) == numbers, nowhere), (0, 1), value=nowhere)
        before = torch.full_like(rows, nowhere).scatter_(0, after, rows)
        before[nowhere] = nowhere
        blurs.append(SparseMatrix(torch.stack([before, rows, after], dim=1).int().flatten(), weights, starts))
    return tuple(blurs)


def _points_first(rows: Shaped[Tensor, "rows n"]) -> Shaped[Tensor, "n rows"]:
    """The contiguous transpose; for few rows several times faster than `rows.T.contiguous()`."""
    points = rows.new_empty(rows.shape[::-1])
    for column, row in zip(points.T, rows, strict=True):
        column.copy_(row)
    return points


def _starts(rows: int, entries: int, device: torch.device) -> Int32[Tensor, "rows"]:
    return torch.arange(0, rows * entries, entries, dtype=torch.int32, device=device)
