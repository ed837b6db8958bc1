"""The region vote: means over regions, by hand and by a slow rendering."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baoseg.core.errors import DataError, RecipeError
from baoseg.refine import vote
from baoseg.seeds import SeedMaps, masks


def test_a_region_takes_the_class_of_the_largest_mean_map() -> None:
    """Means of background and class: 0.25 and 0.75 in columns 0 and 1, which are a region, 0.5 and 0.25 in 2 and 3."""
    background = torch.tensor([[0.5, 0.0, 0.5, 0.5]])
    scores = torch.tensor([[[0.5, 1.0, 0.5, 0.0]]])
    seed = SeedMaps(torch.tensor([2]), scores, background, (1, 4))
    voted = vote.by_regions(seed, torch.tensor([[[0, 0, 1, 1]]], dtype=torch.int32))
    torch.testing.assert_close(voted.scores, torch.tensor([[[0.75, 0.75, 0.25, 0.25]]]))
    torch.testing.assert_close(voted.background, torch.tensor([[0.25, 0.25, 0.5, 0.5]]))
    assert masks.to_mask(voted).tolist() == [[2, 2, 0, 0]]
    assert masks.margin(voted).tolist() == [[128, 128, 64, 64]]  # a half and a quarter of 255


@given(st.integers(0, 2**32 - 1))
def test_votes_of_layers_are_averaged_and_pixels_in_no_region_keep_their_scores(random: int) -> None:
    draw = np.random.default_rng(random)
    size = tuple(int(side) for side in draw.integers(1, 7, 2))
    regions = draw.integers(-1, 4, (int(draw.integers(1, 4)), *size)).astype(np.int32)
    scores = draw.random((2, *size)).astype(np.float32)
    expected = scores.copy()
    for row, column in np.ndindex(size):
        votes = [scores[:, layer == layer[row, column]].mean(axis=1) for layer in regions if layer[row, column] >= 0]
        if votes:
            expected[:, row, column] = np.mean(votes, axis=0)
    seed = SeedMaps(torch.tensor([1]), torch.from_numpy(scores[1:]), torch.from_numpy(scores[0]), size)
    voted = vote.by_regions(seed, torch.from_numpy(regions))
    assert voted.background is not None
    np.testing.assert_allclose(voted.background, expected[0], rtol=1e-5)
    np.testing.assert_allclose(voted.scores[0], expected[1], rtol=1e-5)


def test_a_threshold_stands_for_the_background_and_is_kept() -> None:
    seed = SeedMaps(torch.tensor([1]), torch.tensor([[[0.2, 0.6, 0.1, 0.1]]]), None, (1, 4), threshold=0.4)
    voted = vote.by_regions(seed, torch.tensor([[[0, 0, 1, 1]]], dtype=torch.int32))
    assert voted.threshold == 0.4 and voted.background is None
    assert masks.to_mask(voted).tolist() == [[1, 1, 0, 0]]  # the mean is 0.4, as the threshold


def test_maps_are_enlarged_to_the_image_and_an_image_without_classes_stays_background() -> None:
    seed = SeedMaps(torch.tensor([3]), torch.rand(1, 2, 3), torch.rand(2, 3), (8, 12))
    assert vote.by_regions(seed, torch.zeros(1, 8, 12, dtype=torch.int32)).scores.shape == (1, 8, 12)
    none = SeedMaps(torch.tensor([], dtype=torch.int64), torch.zeros(0, 2, 3), torch.ones(2, 3), (8, 12))
    assert not masks.to_mask(vote.by_regions(none, torch.zeros(1, 8, 12, dtype=torch.int32))).any()


def test_without_a_region_all_scores_stay() -> None:
    seed = SeedMaps(torch.tensor([1]), torch.rand(1, 4, 4), torch.rand(4, 4), (4, 4))
    voted = vote.by_regions(seed, torch.empty((0, 4, 4), dtype=torch.int32))
    assert torch.equal(voted.scores, seed.scores) and torch.equal(voted.background, seed.background)


def test_regions_of_another_size_are_refused() -> None:
    seed = SeedMaps(torch.tensor([1]), torch.rand(1, 2, 2), None, (4, 4))
    with pytest.raises(DataError, match=r"regions of \(4, 5\) for an image of \(4, 4\)"):
        vote.by_regions(seed, torch.zeros(1, 4, 5, dtype=torch.int32))


def test_superpixels_follow_an_edge_at_every_scale() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, :, 25:] = 200
    regions = vote.superpixels(image)
    assert regions.shape == (4, 40, 60)
    for layer in regions:
        left, right = layer[:, :23].unique(), layer[:, 27:].unique()
        assert not set(left.tolist()) & set(right.tolist())


def test_superpixels_without_their_package_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(RecipeError, match=r"pip install 'baoseg\[regions\]'"):
        vote.superpixels(torch.zeros(3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("odd", [{"source": ""}, {"scales": ()}, {"scales": (0,)}, {"sigma": -1.0}])
def test_settings_without_a_meaning_are_refused(odd: dict) -> None:
    with pytest.raises(RecipeError, match="regions:"):
        vote.Config(**odd)
