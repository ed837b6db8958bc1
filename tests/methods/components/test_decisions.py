"""Cuts against brute force and slow renderings, in plain Python numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baoseg.methods.components.decisions import EM_STEPS, Cut, find_cut, in_doubt, mixture, otsu

few = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**31)
coarse = st.lists(st.integers(0, 16).map(lambda n: n / 16), min_size=1, max_size=30)  # many equal values
fine = st.lists(st.floats(0, 1), min_size=1, max_size=30).map(lambda values: [round(value, 4) for value in values])
FROM_THE_MAP = [Cut.OTSU, Cut.MIXTURE]


def of(rule, values: list[float]) -> float:
    row = torch.tensor([values], dtype=torch.float64)
    return float(rule(row, torch.ones_like(row, dtype=torch.bool)))


def two_kinds(seed: int, *, sizes=(1500, 500), means=(0.25, 0.7), deviation=0.1) -> list[float]:
    """A sample of two Gaussians with one variance."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [
        mean + deviation * torch.randn(size, generator=generator, dtype=torch.float64)
        for size, mean in zip(sizes, means, strict=True)
    ]
    return torch.cat(kinds).clamp(0, 1).tolist()


def between(values: list[float], cut: float) -> float:
    """The between-class variance of a cut that leaves values on both sides."""
    low, high = [value for value in values if value <= cut], [value for value in values if value > cut]
    difference = math.fsum(low) / len(low) - math.fsum(high) / len(high)
    return len(low) / len(values) * len(high) / len(values) * difference**2


@few
@given(coarse | fine)
def test_no_cut_has_more_variance_between_its_sides_than_otsus(values):
    different = sorted(set(values))
    cut = of(otsu, values)
    if len(different) == 1:
        assert cut == 0.5
        return
    best = max(between(values, value) for value in different[:-1])
    assert between(values, cut) == pytest.approx(best, rel=1e-9)
    lower, upper = max(v for v in different if v <= cut), min(v for v in different if v > cut)
    assert cut == pytest.approx((lower + upper) / 2)


def test_otsu_by_hand():
    assert of(otsu, [0.0, 0.125, 0.25, 1.0]) == 0.625
    assert of(otsu, [0.0, 0.5, 1.0]) == 0.25  # as good as 0.75, and lower


def fit(values: list[float]) -> tuple[list[float], list[float], float]:
    """EM with densities: weights, means and common variance after `EM_STEPS` M steps."""
    middle = (min(values) + max(values)) / 2
    belongs = [[float(value <= middle) for value in values], [float(value > middle) for value in values]]
    for _ in range(EM_STEPS):
        sizes = [math.fsum(row) for row in belongs]
        means = [math.fsum(p * x for p, x in zip(belongs[k], values, strict=True)) / sizes[k] for k in (0, 1)]
        squares = [p * (x - means[k]) ** 2 for k in (0, 1) for p, x in zip(belongs[k], values, strict=True)]
        variance = max(math.fsum(squares) / len(values), 1e-6)
        weights = [size / len(values) for size in sizes]
        for i, x in enumerate(values):
            joint = [w * math.exp(-((x - m) ** 2) / (2 * variance)) for w, m in zip(weights, means, strict=True)]
            for k in (0, 1):
                belongs[k][i] = joint[k] / sum(joint)
    return weights, means, variance


@pytest.mark.parametrize("sizes", [(60, 60), (100, 20), (10, 70)])
def test_posteriors_of_the_mixture_are_equal_at_its_cut(sizes):
    values = two_kinds(3, sizes=sizes, deviation=0.15)
    cut = of(mixture, values)
    weights, means, variance = fit(values)
    low, high = (w * math.exp(-((cut - m) ** 2) / (2 * variance)) for w, m in zip(weights, means, strict=True))
    assert means[0] < cut < means[1]
    assert low == pytest.approx(high, rel=1e-6)


@settings(deadline=None, max_examples=10)
@given(seed=seeds, foreground=st.sampled_from([250, 500, 1000, 1700]))
def test_the_mixture_finds_the_boundary_of_two_known_gaussians(seed, foreground):
    """Means 0.25 and 0.7, deviation 0.1: 0.475 - 0.01 / 0.45 * log(w_1 / w_0)."""
    values = two_kinds(seed, sizes=(2000 - foreground, foreground))
    boundary = 0.475 - 0.01 / 0.45 * math.log(foreground / (2000 - foreground))
    assert of(mixture, values) == pytest.approx(boundary, abs=0.03)


def test_a_cut_never_passes_a_mean():
    """A large Gaussian and a small one in its tail: the posteriors are equal beyond the mean of the small one."""
    values = two_kinds(1, sizes=(100, 4), means=(0.3, 0.6), deviation=0.12)
    weights, means, variance = fit(values)
    assert sum(means) / 2 - variance / (means[1] - means[0]) * math.log(weights[1] / weights[0]) > means[1]
    assert of(mixture, values) == pytest.approx(means[1])
    assert of(mixture, [1 - value for value in values]) == pytest.approx(1 - means[1])


def draw(seed: int, shape=(3, 1, 5, 6)) -> tuple[Tensor, Tensor]:
    """Maps, and which of their cells count: a part, all and none of an image's."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(shape, generator=generator, dtype=torch.float64) ** 2
    valid = torch.rand(shape, generator=generator) < 0.6
    valid[0, :, 0, :2] = True
    valid[1], valid[2] = True, False
    return maps.where(valid, 0), valid


@few
@given(seed=seeds, cut=st.sampled_from(Cut))
def test_cuts_are_the_images_own_and_know_nothing_of_padding_and_places(seed, cut):
    maps, valid = draw(seed)
    cuts = find_cut(maps, valid, cut=cut).flatten().tolist()
    assert cuts[2] == 0.5  # all padding
    assert find_cut(maps.where(valid, 0.9), valid, cut=cut).flatten().tolist() == pytest.approx(cuts)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    moved, moved_valid = (part.flatten(1)[:, shuffled].view(part.shape) for part in (maps, valid))
    assert find_cut(moved, moved_valid, cut=cut).flatten().tolist() == pytest.approx(cuts)
    for picture in range(2):
        alone = maps[picture][valid[picture]][None, None, None]
        assert find_cut(alone, torch.ones_like(alone, dtype=torch.bool), cut=cut).item() == pytest.approx(cuts[picture])


@few
@given(seed=seeds, cut=st.sampled_from(FROM_THE_MAP))
def test_stretching_the_map_stretches_the_cut(seed, cut):
    maps, valid = draw(seed)
    cuts = find_cut(maps, valid, cut=cut)[:2]
    torch.testing.assert_close(find_cut(0.5 * maps + 0.25, valid, cut=cut)[:2], 0.5 * cuts + 0.25)


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_maps_are_cut_in_the_middle(cut, dtype):
    valid = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    for value in (0.0, 0.3, 1.0):
        assert find_cut(torch.full((1, 1, 3, 4), value, dtype=dtype), valid, cut=cut).item() == 0.5
    assert find_cut(torch.full((1, 1, 1, 1), 0.7, dtype=dtype), valid[..., :1, :1], cut=cut).item() == 0.5
    for ones in range(1, 12):  # two values: halfway between them
        maps = (torch.arange(12) < ones).to(dtype).view(1, 1, 3, 4)
        assert find_cut(maps, valid, cut=cut).item() == pytest.approx(0.5, abs=1e-4)


@few
@given(seed=seeds, share=st.integers(0, 63).map(lambda n: n / 64), ties=st.booleans())
def test_doubt_takes_its_share_of_the_cells_nearest_to_the_cut(seed, share, ties):
    maps, valid = draw(seed)
    margin = (maps * 8).round() / 8 - 0.5 if ties else maps - 0.3
    doubtful = in_doubt(margin, valid, share=share)
    for picture in range(3):
        cells = valid[picture, 0].nonzero().tolist()
        nearest_first = sorted(cells, key=lambda cell: abs(float(margin[picture, 0, cell[0], cell[1]])))
        expected = nearest_first[: round(share * len(cells))]  # sorting is stable: ties in reading order
        assert sorted(expected) == doubtful[picture, 0].nonzero().tolist()


@pytest.mark.parametrize("cut", Cut)
def test_nothing_waits_for_the_device(cut):
    """Meta tensors have shapes and no values: whatever asks for a value fails on them."""
    maps = torch.empty(2, 1, 4, 4, device="meta")
    valid = torch.empty(2, 1, 4, 4, device="meta", dtype=torch.bool)
    found = find_cut(maps, valid, cut=cut)
    assert found.shape == (2, 1, 1, 1)
    assert in_doubt(maps - found, valid, share=0.2).shape == maps.shape
