import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.errors import DataError
from baoseg.seeds import SeedMaps
from baoseg.seeds.fusion import fuse, scaled
from baoseg.seeds.normalise import Scaling


def seed_of(classes, scores, background=None, *, size=(8, 12), threshold=None):
    return SeedMaps(
        classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.as_tensor(scores, dtype=torch.float32),
        background=None if background is None else torch.as_tensor(background, dtype=torch.float32),
        size=size,
        threshold=threshold,
    )


@st.composite
def seeds_of_one_image(draw, *, longest=4):
    """Seeds on one grid, of any classes, all with or all without a background; scaled as our own are."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    background = draw(st.booleans())
    made = []
    for _ in range(draw(st.integers(1, longest))):
        classes = sorted(draw(st.sets(st.integers(1, 5), max_size=4)))
        maps = scaled(torch.rand(len(classes) + 1, 3, 4, generator=generator), (3, 4))
        made.append(seed_of(classes, maps[1:], maps[0] if background else None))
    return made


def same(one, other, atol=0.0):
    assert torch.equal(one.classes, other.classes)
    assert one.size == other.size
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=atol)
    assert (one.background is None) == (other.background is None)
    if one.background is not None:
        torch.testing.assert_close(one.background, other.background, rtol=0, atol=atol)


def test_a_hand_computed_fusion():
    first = seed_of([1, 3], [[[0.0, 0.5, 1.0]], [[0.2, 0.4, 0.6]]], [[1.0, 0.0, 0.5]])
    second = seed_of([3, 4], [[[0.0, 0.2, 0.1]], [[0.0, 0.0, 0.0]]], [[0.0, 0.0, 0.4]])
    fused = fuse([first, second])
    assert fused.classes.tolist() == [1, 3, 4]
    # class 1: the first alone. Class 3: (0, 1/2, 1) + (0, 1, 1/2) = (0, 3/2, 3/2). Class 4: nothing anywhere
    expected = torch.tensor([[[0.0, 0.5, 1.0]], [[0.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]])
    torch.testing.assert_close(fused.scores, expected)
    # (1, 0, 1/2) + (0, 0, 1) = (1, 0, 3/2)
    torch.testing.assert_close(fused.background, torch.tensor([[2 / 3, 0.0, 1.0]]))
    assert fused.size == (8, 12)


def test_a_source_of_small_values_counts_as_much_as_one_of_large_values():
    large, small = [[[0.0, 1.0, 0.0]]], [[[0.0, 0.0, 0.001]]]
    assert fuse([seed_of([2], large), seed_of([2], small)]).scores.tolist() == [[[0.0, 1.0, 1.0]]]


@settings(deadline=None, max_examples=30)
@given(made=seeds_of_one_image(longest=1))
def test_one_seed_is_its_own_fusion(made):
    same(fuse(made), made[0])


@settings(deadline=None, max_examples=30)
@given(made=seeds_of_one_image(longest=1), times=st.integers(2, 5))
def test_equal_seeds_are_their_own_fusion(made, times):
    same(fuse(made * times), made[0], atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(made=seeds_of_one_image(), data=st.data())
def test_the_order_does_not_matter(made, data):
    same(fuse(data.draw(st.permutations(made))), fuse(made), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(made=seeds_of_one_image())
def test_the_fusion_of_any_seeds_is_the_formula_of_the_paper(made):
    """Each map of each seed to (x - min) / (max - min), the sum over the seeds, and once more; in loops, in float64."""

    def to_range(values):
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]

    fused = fuse(made)
    assert fused.classes.tolist() == sorted({index for seed in made for index in seed.classes.tolist()})
    for index, channel in zip(fused.classes.tolist(), fused.scores, strict=True):
        total = [0.0] * 12
        for seed in made:
            for own, scores in zip(seed.classes.tolist(), seed.scores, strict=True):
                if own == index:
                    total = [a + b for a, b in zip(total, to_range(scores.flatten().tolist()), strict=True)]
        np.testing.assert_allclose(channel.flatten().tolist(), to_range(total), atol=1e-5)


def test_a_background_needs_one_in_every_seed():
    with_one = seed_of([1], [[[0.0, 1.0]]], [[1.0, 0.0]])
    without = seed_of([1], [[[1.0, 0.0]]])
    assert fuse([with_one, with_one]).background.tolist() == [[1.0, 0.0]]
    assert fuse([with_one, without]).background is None
    assert fuse([without, with_one]).background is None


def test_thresholds_do_not_survive():
    seed = seed_of([1], [[[0.0, 1.0]]], threshold=0.4)
    assert fuse([seed]).threshold is None


def test_the_grid_is_that_of_the_first():
    coarse = seed_of([1], [[[0.0, 1.0]]])
    fine = seed_of([1], [[[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]], [[0.0, 0.0, 0.5, 1.0]] * 2)
    assert fuse([coarse, fine]).scores.tolist() == [[[0.0, 0.0]]]  # opposite halves: the sum is the same everywhere
    assert fuse([fine, coarse]).scores.shape == (1, 2, 4)
    assert fuse([coarse, coarse, fine]).scores.tolist() == [[[0.0, 1.0]]]


def test_the_formula_of_the_scaling_can_be_chosen():
    seed = seed_of([1], [[[0.2, 0.4]]])
    assert fuse([seed], scaling=Scaling.RANGE).scores.tolist() == [[[0.0, 1.0]]]
    torch.testing.assert_close(
        fuse([seed], scaling=Scaling.PEAK).scores, torch.tensor([[[0.5, 1.0]]]), atol=1e-4, rtol=0
    )


def test_seeds_of_different_images_are_refused():
    with pytest.raises(DataError, match=r"8 x 12 and for 12 x 8 pixels cannot be fused; make all seeds"):
        fuse([seed_of([1], [[[0.0, 1.0]]]), seed_of([1], [[[0.0, 1.0]]], size=(12, 8))])


def test_no_seeds_are_refused():
    with pytest.raises(DataError, match="no seeds to fuse; name at least one source"):
        fuse([])


def triangle(row, count):
    """A row on fewer cells: each the mean of the old ones weighted with a triangle one new cell wide on either side."""
    width = len(row) / count
    cells = []
    for cell in range(count):
        centre = (cell + 0.5) * width
        weights = [max(0.0, 1 - abs(position + 0.5 - centre) / width) for position in range(len(row))]
        cells.append(sum(weight * value for weight, value in zip(weights, row, strict=True)) / sum(weights))
    return cells


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(4, 13), st.integers(4, 13)),
    grid=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    value=st.integers(0, 2**31),
)
def test_fewer_cells_average_all_old_ones(size, grid, value):
    maps = torch.randn(2, *size, generator=torch.Generator().manual_seed(value))
    for old, new in zip(maps.double().clamp(min=0).numpy(), scaled(maps, grid), strict=True):
        rows = np.array([triangle(row, grid[1]) for row in old])
        cells = np.array([triangle(column, grid[0]) for column in rows.T]).T
        np.testing.assert_allclose(new.numpy(), (cells - cells.min()) / np.ptp(cells), atol=1e-4)


def test_no_maps_stay_no_maps():
    assert scaled(torch.zeros(0, 5, 7), (2, 3)).shape == (0, 2, 3)
