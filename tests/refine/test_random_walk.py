"""The walk against dense matrices: built entry by entry from the papers, multiplied as often as the walk steps."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.refine.random_walk import (
    edge_affinity,
    feature_affinity,
    offsets_within,
    path,
    propagate_to_edge,
    transition,
    walk,
)

few = settings(deadline=None, max_examples=25)
sides, radii, betas = st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.5, 1, 3.0, 10])
step_counts = st.sampled_from([0, 1, 2, 5, 64])
seeds = st.integers(0, 2**31)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells_of(height: int, width: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(height) for x in range(width)]


def crossed(one: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int]]:
    """The cells of the box around two cells less than 1 from the line through them, by the distance in the plane."""
    (y0, x0), (y1, x1) = one, other
    length = math.hypot(y1 - y0, x1 - x0)
    return [
        (y, x)
        for y in range(min(y0, y1), max(y0, y1) + 1)
        for x in range(min(x0, x1), max(x0, x1) + 1)
        if abs((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length < 1 - 1e-9
    ]


def dense(height: int, width: int, radius: int, affinity) -> Tensor:
    """A with the unit diagonal; `affinity(one, other)` of two cells nearer than the radius."""
    cells = cells_of(height, width)
    matrix = torch.eye(len(cells), dtype=torch.float64)
    for i, one in enumerate(cells):
        for j, other in enumerate(cells):
            if i != j and math.dist(one, other) < radius - 1e-9:
                matrix[i, j] = affinity(one, other)
    return matrix


def of_edge(edge: Tensor, radius: int) -> Tensor:
    def affinity(one, other):
        return 1 - max(float(edge[cell]) for cell in crossed(one, other))

    return dense(*edge.shape, radius, affinity)


def of_features(features: Tensor, radius: int) -> Tensor:
    def affinity(one, other):
        pairs = zip(features[:, *one].tolist(), features[:, *other].tolist(), strict=True)
        return math.exp(-math.fsum(abs(a - b) for a, b in pairs) / len(features))

    return dense(*features.shape[1:], radius, affinity)


def powers(matrix: Tensor, beta: float) -> Tensor:
    """A^beta entry by entry, where 0 stays 0."""
    return torch.where(matrix > 0, matrix**beta, 0)


def stepped(maps: Tensor, matrix: Tensor, beta: float, steps: int) -> Tensor:
    """T^t x of the papers: T = D^-1 A^beta, rows divided by their sums, times column vectors."""
    scaled = powers(matrix, beta)
    rows = scaled / scaled.sum(dim=1, keepdim=True)
    product = torch.eye(len(matrix), dtype=torch.float64)
    for _ in range(steps):
        product = rows @ product
    return (product @ maps.flatten(1).T).T.view(maps.shape)


def squared(maps: Tensor, matrix: Tensor, beta: float, squarings: int) -> Tensor:
    """x T^t as PSA and IRN compute it: columns divided by their sums, T squared, row vectors from the left."""
    scaled = powers(matrix, beta)
    columns = scaled / scaled.sum(dim=0, keepdim=True)
    for _ in range(squarings):
        columns = columns @ columns
    return (maps.flatten(1) @ columns).view(maps.shape)


def as_matrix(affinity, beta: float) -> Tensor:
    """T, from walking one step from each cell."""
    height, width = affinity.weights.shape[-2:]
    each = torch.eye(height * width, dtype=affinity.weights.dtype).view(1, -1, height, width)
    return walk(each, transition(affinity, beta=beta), steps=1).flatten(2)[0].T


@few
@given(height=sides, width=sides, radius=radii, beta=betas, steps=step_counts, seed=seeds)
def test_irn_is_the_dense_walk(*, height, width, radius, beta, steps, seed):
    edge, maps = random(height, width, seed=seed), random(2, height, width, seed=seed + 1)
    expected = stepped(maps * (1 - edge), of_edge(edge, radius), beta, steps)
    found = propagate_to_edge(maps, edge, radius=radius, beta=beta, steps=steps)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@few
@given(height=sides, width=sides, radius=radii, beta=betas, steps=step_counts, seed=seeds)
def test_psa_is_the_dense_walk(*, height, width, radius, beta, steps, seed):
    features, maps = 4 * random(3, height, width, seed=seed), random(2, height, width, seed=seed + 1)
    expected = stepped(maps, of_features(features, radius), beta, steps)
    moves = transition(feature_affinity(features[None], radius=radius), beta=beta)
    torch.testing.assert_close(walk(maps[None], moves, steps=steps)[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 9), (1, 12), (10, 2)])
def test_the_settings_of_irn_in_single_precision(shape):
    """Radius 5, beta 10 and 8 squarings, with columns normalised as released."""
    edge, maps = (random(*shape) ** 3).float(), random(3, *shape, seed=1).float()
    expected = squared((maps * (1 - edge)).double(), of_edge(edge.double(), 5), 10, 8)
    found = propagate_to_edge(maps, edge, radius=5, beta=10, steps=256)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_the_settings_of_psa_in_single_precision():
    """Radius 5, beta 8 and 8 squarings, with columns normalised as released."""
    features, maps = 3 * random(4, 8, 7), random(3, 8, 7, seed=1)
    expected = squared(maps, of_features(features, 5), 8, 8)
    moves = transition(feature_affinity(features.float()[None], radius=5), beta=8)
    found = walk(maps.float()[None], moves, steps=256)[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_a_walk_by_hand():
    """Three cells in a row, radius 2, an edge of 1/2 in the last: a_01 = 1, a_12 = 1/2, squared 1/4."""
    edge = torch.tensor([[0.0, 0.0, 0.5]])
    maps = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 2.0]]])
    found = propagate_to_edge(maps, edge, radius=2, beta=2, steps=1)
    # rows of T: (1/2, 1/2, 0), (4/9, 4/9, 1/9), (0, 1/5, 4/5); maps times 1 - B: (1, 0, 0) and (0, 0, 1)
    torch.testing.assert_close(found, torch.tensor([[[1 / 2, 4 / 9, 0.0]], [[0.0, 1 / 9, 4 / 5]]]))


def test_the_pairs_within_radius_5():
    """34 offsets: half of the 69 lattice points inside the circle, without its centre; all come later."""
    offsets = offsets_within(5)
    inside = {(y, x) for y in range(-5, 6) for x in range(-5, 6) if math.hypot(y, x) < 5}
    assert len(offsets) == 34
    assert {*offsets, *((-y, -x) for y, x in offsets), (0, 0)} == inside
    assert all(y > 0 or (y == 0 and x > 0) for y, x in offsets)


def test_paths_by_hand():
    assert path((0, 3)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert sorted(path((1, 1))) == [(0, 0), (0, 1), (1, 0), (1, 1)]  # both corners are 0.7 away
    assert sorted(path((2, -1))) == [(0, -1), (0, 0), (1, -1), (1, 0), (2, -1), (2, 0)]  # 0.89 at most
    assert (0, 2) not in path((2, 2))  # 1.41 away


@pytest.mark.parametrize("offset", offsets_within(5))
def test_a_path_and_the_way_back_cross_the_same_cells(offset):
    down, right = offset
    assert sorted(path(offset)) == sorted(crossed((0, 0), offset))
    assert sorted((down - y, right - x) for y, x in path(offset)) == sorted(path(offset))


@few
@given(height=sides, width=sides, radius=radii, beta=betas, seed=seeds)
def test_rows_of_t_sum_to_1_and_t_is_balanced(height, width, radius, beta, seed):
    """d_i T_ij = d_j T_ji, where d_i = 1 / T_ii as a_ii = 1."""
    for affinity in (
        edge_affinity(random(1, height, width, seed=seed), radius=radius),
        feature_affinity(random(1, 3, height, width, seed=seed), radius=radius),
    ):
        matrix = as_matrix(affinity, beta)
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(height * width, dtype=torch.float64))
        symmetric = matrix / matrix.diag()[:, None]
        torch.testing.assert_close(symmetric, symmetric.T)


@few
@given(radius=radii, steps=step_counts, seed=seeds)
def test_a_walk_keeps_constants_and_stays_within_the_range(radius, steps, seed):
    moves = transition(edge_affinity(random(1, 4, 5, seed=seed), radius=radius), beta=2)
    maps = random(1, 2, 4, 5, seed=seed + 1)
    maps[:, 0] = 0.25
    found = walk(maps, moves, steps=steps)
    torch.testing.assert_close(found[:, 0], maps[:, 0])
    assert maps[:, 1].min() - 1e-12 <= found[:, 1].min() <= found[:, 1].max() <= maps[:, 1].max() + 1e-12


def test_nothing_crosses_a_wall_of_edge():
    edge = torch.zeros(5, 9)
    edge[:, 4] = 1
    maps = torch.zeros(1, 5, 9)
    maps[..., :4] = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    found = propagate_to_edge(maps, edge, radius=5, beta=10, steps=500)
    assert (found[..., 4:] == 0).all()
    # On its side the walk forgets where it began: everywhere the mean, cells counting as many neighbours as they have.
    neighbours = of_edge(edge, 5).sum(dim=1).view(5, 9)[:, :4].float()
    mean = (neighbours * maps[0, :, :4]).sum() / neighbours.sum()
    torch.testing.assert_close(found[0, :, :4], mean.expand(5, 4))


def test_without_edges_an_image_becomes_its_mean():
    found = propagate_to_edge(torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 2), radius=2, beta=10, steps=1)
    assert found.tolist() == [[[0.5, 0.5]]]


def test_all_edge_leaves_nothing():
    assert (propagate_to_edge(torch.ones(2, 4, 4), torch.ones(4, 4), radius=5, beta=10, steps=256) == 0).all()


def test_a_large_beta_or_the_least_radius_or_no_step_only_weighs_the_maps():
    edge, maps = 0.1 + 0.8 * random(4, 5), random(3, 4, 5, seed=1)
    for radius, beta, steps in [(5, 1e5, 256), (1, 10, 256), (5, 10, 0)]:
        found = propagate_to_edge(maps, edge, radius=radius, beta=beta, steps=steps)
        torch.testing.assert_close(found, maps * (1 - edge))


def test_images_together_are_images_one_by_one():
    edge, maps = random(2, 3, 4, 6).float(), random(2, 3, 2, 4, 6, seed=1).float()
    together = propagate_to_edge(maps, edge, radius=3, beta=4, steps=20)
    for i in range(2):
        for j in range(3):
            alone = propagate_to_edge(maps[i, j], edge[i, j], radius=3, beta=4, steps=20)
            torch.testing.assert_close(together[i, j], alone)


def test_maps_in_half_precision_walk_in_single():
    edge, maps = random(4, 5).float(), random(1, 4, 5, seed=1).half()
    found = propagate_to_edge(maps, edge, radius=3, beta=4, steps=9)
    assert torch.equal(found, propagate_to_edge(maps.float(), edge, radius=3, beta=4, steps=9))


def with_value(tensor: Tensor, value: float) -> Tensor:
    tensor[..., 1, 1] = value
    return tensor


@pytest.mark.parametrize(
    ("maps", "edge", "message"),
    [
        (torch.ones(2, 4, 5), torch.zeros(5, 4), r"\(2, 4, 5\) do not fit .* \(5, 4\)"),
        (torch.ones(3, 2, 4, 5), torch.zeros(2, 4, 5), "do not fit"),
        (torch.ones(0, 4, 5), torch.zeros(4, 5), "at least one class"),
        (with_value(torch.ones(2, 4, 5), math.nan), torch.zeros(4, 5), "the class maps have NaN"),
        (torch.ones(2, 4, 5), with_value(torch.zeros(4, 5), math.inf), "the edge map have NaN or infinite"),
        (torch.ones(2, 4, 5), with_value(torch.zeros(4, 5), -1), "from -1 to 0"),
        (torch.ones(2, 4, 5), with_value(torch.zeros(4, 5), 1.5), "from 0 to 1.5"),
    ],
)
def test_bad_maps(maps, edge, message):
    with pytest.raises(DataError, match=message):
        propagate_to_edge(maps, edge, radius=5, beta=10, steps=4)


@pytest.mark.parametrize(("radius", "beta", "steps"), [(0, 10, 4), (5, 0, 4), (5, -1.0, 4), (5, 10, -1)])
def test_bad_settings(radius, beta, steps):
    with pytest.raises(RecipeError, match="random walk"):
        propagate_to_edge(torch.ones(1, 3, 3), torch.zeros(3, 3), radius=radius, beta=beta, steps=steps)
