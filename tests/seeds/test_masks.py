import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.errors import RecipeError
from baoseg.core.types import IGNORE
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import Config, best_class, confident_labels, to_mask


def seed_of(classes, scores, background=None, size=None, threshold=None):
    scores = torch.tensor(scores, dtype=torch.float32)
    return SeedMaps(
        classes=torch.tensor(classes, dtype=torch.int64),
        scores=scores,
        background=None if background is None else torch.tensor(background, dtype=torch.float32),
        size=tuple(scores.shape[-2:]) if size is None else size,
        threshold=threshold,
    )


def test_a_threshold_decides_where_there_is_no_background():
    seed = seed_of([3, 7], [[[0.1, 0.6, 0.3]], [[0.2, 0.5, 0.29]]])
    assert to_mask(seed, threshold=0.3).tolist() == [[0, 3, 3]]  # a value equal to the threshold is found
    assert to_mask(seed, threshold=0.2).tolist() == [[7, 3, 3]]
    assert to_mask(seed, threshold=0.0).tolist() == [[7, 3, 3]]
    assert to_mask(seed, threshold=1.0).tolist() == [[0, 0, 0]]


def test_the_learned_background_decides_without_a_threshold():
    seed = seed_of([3, 7], [[[0.1, 0.6, 0.4]], [[0.2, 0.5, 0.3]]], background=[[0.15, 0.7, 0.4]])
    assert to_mask(seed).tolist() == [[7, 0, 0]]  # a tie goes to the background


def test_an_explicit_threshold_overrides_the_learned_background():
    seed = seed_of([3], [[[0.1, 0.6]]], background=[[0.0, 1.0]])
    assert to_mask(seed, threshold=0.5).tolist() == [[0, 3]]


def test_a_seed_is_cut_at_its_own_threshold_unless_another_is_given():
    """Image-specific thresholds (BAS sec. 5.5): as if that threshold had been asked for."""
    scores = [[[0.1, 0.6, 0.3]], [[0.2, 0.5, 0.29]]]
    seed = seed_of([3, 7], scores, threshold=0.3)
    assert to_mask(seed).tolist() == [[0, 3, 3]]
    assert to_mask(seed, threshold=0.2).tolist() == [[7, 3, 3]]
    assert to_mask(seed, threshold=0.0).tolist() == [[7, 3, 3]]  # 0 is a threshold, not the lack of one
    assert to_mask(seed_of([3, 7], scores, threshold=0.0)).tolist() == [[7, 3, 3]]


def test_a_threshold_of_its_own_is_found_after_upsampling():
    seed = seed_of([1], [[[0.0, 1.0]]], size=(1, 4), threshold=0.8)  # bilinear: 0, 1/4, 3/4, 1
    assert to_mask(seed).tolist() == [[0, 0, 0, 1]]


def test_ties_between_classes_go_to_the_lower_index():
    assert to_mask(seed_of([2, 5], [[[0.5]], [[0.5]]]), threshold=0.5).tolist() == [[2]]


@pytest.mark.parametrize("background", [None, [[0.0, 0.0]]])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_a_seed_without_classes_is_all_background(background, threshold):
    seed = seed_of([], np.zeros((0, 1, 2)), background, size=(4, 8))
    assert (to_mask(seed, threshold=threshold) == torch.zeros(4, 8, dtype=torch.uint8)).all()


def test_a_seed_without_classes_needs_no_threshold_if_it_has_a_background():
    # even where the background map is 0, and so no larger than the missing classes
    seed = seed_of([], np.zeros((0, 1, 2)), [[0.0, -0.5]])
    assert to_mask(seed).tolist() == [[0, 0]]


def test_maps_are_compared_at_the_size_of_the_image():
    # two cells to four pixels: bilinear values are 0, 1/4, 3/4, 1; nearest would label half of each
    seed = seed_of([1], [[[0.0, 1.0]]], size=(1, 4))
    assert to_mask(seed, threshold=0.2).tolist() == [[0, 1, 1, 1]]
    assert to_mask(seed, threshold=0.8).tolist() == [[0, 0, 0, 1]]


def test_no_background_and_no_threshold_is_an_error_that_names_the_setting():
    with pytest.raises(RecipeError, match=r"no background map; give a threshold \(masks\.threshold"):
        to_mask(seed_of([1], [[[0.5]]]))


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_outside_of_the_maps_range_is_refused(threshold):
    with pytest.raises(RecipeError, match=r"choose a value in 0\.\.1"):
        Config(threshold=threshold)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.integers(0, 4),
    learned=st.booleans(),
)
def test_label_images_equal_a_loop_over_the_pixels(seed, height, width, channels, learned):
    random = np.random.default_rng(seed)
    classes = sorted(random.permutation(9)[:channels] + 1)
    scores = np.round(random.random((channels, height, width)), 1)  # coarse, so that there are ties
    background = np.round(random.random((height, width)), 1) if learned else None
    given_seed = seed_of(classes, scores, background)
    threshold = None if learned else 0.5
    expected = np.zeros((height, width), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            label, best = 0, background[y, x] if learned else -1.0
            for index, value in zip(classes, scores[:, y, x], strict=True):
                if value > best:
                    label, best = index, value
            if not learned and best < threshold:
                label = 0
            expected[y, x] = label
    result = to_mask(given_seed, threshold=threshold)
    np.testing.assert_array_equal(result.numpy(), expected)
    assert result.dtype == torch.uint8


def test_best_class_gives_the_value_of_the_class_it_names():
    labels, values = best_class(seed_of([4, 9], [[[0.25, 0.5]], [[0.75, 0.125]]]))
    assert labels.tolist() == [[9, 4]]
    assert values.tolist() == [[0.75, 0.5]]


def test_confident_labels_by_hand():
    seed = seed_of([3, 7], [[[0.1, 0.14, 0.15, 0.44, 0.45, 0.9]], [[0.2, 0.0, 0.1, 0.4, 0.46, 0.9]]])
    labels = confident_labels(seed, background=0.15, foreground=0.45)
    assert labels.tolist() == [[IGNORE, 0, IGNORE, IGNORE, 7, 3]]
    assert labels.dtype == torch.uint8


def test_one_cut_leaves_no_doubt():
    """With both at t nothing is ignored, and the labels are the mask at the threshold t."""
    seed = seed_of([2, 4], np.random.default_rng(0).random((2, 6, 7)).round(1), size=(12, 14))
    labels = confident_labels(seed, background=0.4, foreground=0.4)
    assert torch.equal(labels, to_mask(seed, threshold=0.4))
    everything = confident_labels(seed, background=0.0, foreground=1.0)
    assert set(everything.unique().tolist()) <= {2, 4, IGNORE}


def test_a_seed_without_classes_labels_the_image_as_background():
    seed = seed_of([], np.zeros((0, 1, 2)), size=(4, 8))
    for background in (0.15, 0.0):  # below 0 there is nothing
        labels = confident_labels(seed, background=background, foreground=0.45)
        assert torch.equal(labels, torch.zeros(4, 8, dtype=torch.uint8))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    channels=st.integers(0, 3),
    cuts=st.tuples(st.integers(1, 10), st.integers(1, 10)).map(sorted),
)
def test_confident_labels_equal_a_loop_over_the_pixels(seed, channels, cuts):
    random = np.random.default_rng(seed)
    classes = sorted(random.permutation(9)[:channels] + 1)
    scores = np.round(random.random((channels, 4, 5)), 1)  # coarse, so that some are equal to a cut
    low, high = cuts[0] / 10, cuts[1] / 10
    labels = confident_labels(seed_of(classes, scores), background=low, foreground=high)
    for y in range(4):
        for x in range(5):
            values = scores[:, y, x].round(1).tolist()
            best = max(values, default=0.0)
            expected = 0 if best < low else classes[values.index(best)] if best >= high else IGNORE
            assert labels[y, x] == expected
