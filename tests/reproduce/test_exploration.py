import itertools
import math
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baoseg import nets
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import Sample
from baoseg.data.synthetic import Synthetic
from baoseg.methods import cam, make
from baoseg.predict import maps
from baoseg.predict.labeler import Labeler
from baoseg.reproduce import exploration
from baoseg.reproduce.exploration import Config, Curve
from baoseg.seeds import masks

MASKS = (
    st.integers(1, 9)
    .flatmap(lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=9))
    .map(torch.tensor)
)


def window(mask: Tensor, y: int, x: int, size: int) -> list[bool]:
    """The pixels of the window of one pixel, those beyond the image left out."""
    height, width = mask.shape
    reach = range(-(size // 2), size - size // 2)
    return [
        bool(mask[y + down, x + right])
        for down in reach
        for right in reach
        if 0 <= y + down < height and 0 <= x + right < width
    ]


@settings(deadline=None, max_examples=40)
@given(mask=MASKS, size=st.integers(1, 12))
def test_erosion_and_dilation_are_all_and_any_of_each_window(mask: Tensor, size: int) -> None:
    height, width = mask.shape
    dilated, eroded = exploration.dilate(mask, size), exploration.erode(mask, size)
    for y in range(height):
        for x in range(width):
            assert bool(dilated[y, x]) == any(window(mask, y, x, size))
            assert bool(eroded[y, x]) == all(window(mask, y, x, size))


@settings(deadline=None, max_examples=30)
@given(mask=MASKS, kernel=st.integers(1, 5), steps=st.integers(1, 4))
def test_each_mask_holds_the_one_before_it_and_the_middle_is_the_truth(mask: Tensor, kernel: int, steps: int) -> None:
    grown = exploration.eroded_and_dilated(mask, Config(kernel=kernel, steps=steps))
    assert grown.shape == (2 * steps + 1, *mask.shape)
    assert torch.equal(grown[steps], mask)
    assert all((small <= large).all() for small, large in itertools.pairwise(grown))


def linear(features: Tensor) -> Tensor:
    """F2 and GAP of two classes: the mean of the one channel, and its negative."""
    pooled = features.mean(dim=(2, 3))
    return torch.cat([pooled, -pooled], dim=1)


def test_the_curve_of_a_linear_network_is_the_share_of_its_activation_inside_the_mask() -> None:
    features = torch.tensor([[[[4.0, 8.0], [0.0, 12.0]]]])  # mean 6
    cells = torch.zeros(3, 4, 4, dtype=torch.bool)  # pixels, four a cell
    cells[1, :2] = True  # the upper two cells: mean 3
    cells[2, :2] = True
    cells[2, 2:, 2] = True  # and half of the cell of 12: mean 4.5
    found = exploration.curve(features, cells, linear, channel=0, area=8)
    assert found is not None
    torch.testing.assert_close(found.area, torch.tensor([0.0, 1.0, 1.25]))
    foreground, entropy, background = found.values
    torch.testing.assert_close(foreground, torch.tensor([0.0, 0.5, 0.75]))
    torch.testing.assert_close(background, 1 - foreground)
    expected = [math.log(1 + math.exp(-2 * activation)) for activation in (0.0, 3.0, 4.5)]
    torch.testing.assert_close(entropy, torch.tensor(expected))


def test_negative_activations_count_as_none() -> None:
    features = torch.tensor([[[[-2.0, 6.0]]]])
    left = torch.tensor([[[True, False]]])
    found = exploration.curve(features, left, linear, channel=0, area=1)
    assert found is not None
    torch.testing.assert_close(found.values[[0, 2], 0], torch.tensor([0.0, 1.5]))  # ReLU(-1) / 2 and 3 / 2


def test_without_activation_there_is_no_curve() -> None:
    whole = torch.ones(1, 2, 2, dtype=torch.bool)
    assert exploration.curve(torch.ones(1, 1, 2, 2), whole, linear, channel=1, area=4) is None


def test_an_object_counts_once_in_a_bin_and_masks_beyond_the_range_do_not() -> None:
    def curve(areas: list[float], value: list[float]) -> Curve:
        return Curve(area=torch.tensor(areas), values=torch.tensor([value] * 3))

    found = exploration.summarise(
        [curve([0.0, 1.0, 1.2, 7.0], [0.0, 1.0, 3.0, 9.0]), curve([0.9, 2.0], [4.0, 5.0])],
        Config(bin_width=0.5, widest=2.0),
    )
    torch.testing.assert_close(found.area, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    assert found.objects.tolist() == [1, 0, 2, 0, 1]
    nan = math.nan
    torch.testing.assert_close(found.mean[0], torch.tensor([0.0, nan, 3.0, nan, 5.0]), equal_nan=True)  # (2 + 4) / 2
    torch.testing.assert_close(found.spread[2], torch.tensor([0.0, nan, 1.0, nan, 0.0]), equal_nan=True)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"bin_width": 0.0}, {"widest": 0.1}])
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(RecipeError, match="above 0"):
        Config(**wrong)


# ------------------------------------------------------------------------------------------ on a network


@pytest.fixture(scope="module")
def labeler() -> Labeler:
    """Untrained, with weights of the class head above 0: its features are not negative, so each class is activated."""
    pictures = Synthetic(tiny.RECIPE.data.synthetic, "val")
    network = nets.build(nets.Config(backbone="timm:resnet10t"), len(pictures.classes))
    network.class_head.weight.data.abs_()
    return Labeler(make(cam.Config(), network), pictures.classes, maps=maps.Config(sizes=(64,)), masks=masks.Config())


def test_a_mask_of_the_whole_image_has_its_whole_activation(labeler: Labeler) -> None:
    pictures = Synthetic(tiny.RECIPE.data.synthetic, "val")
    curves = exploration.explore(labeler, pictures, Config(kernel=200, steps=1))
    objects = sum(
        bool((sample.mask == 1 + channel).any())
        for sample in (pictures[i] for i in range(len(pictures)))
        if sample.mask is not None
        for channel in sample.labels.nonzero()[:, 0].tolist()
    )
    assert len(curves) == objects > 0
    for found in curves:
        assert found.area[1] == 1
        nothing, _, everything = found.values.unbind(dim=1)
        torch.testing.assert_close(everything[0], torch.tensor(1.0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(nothing[2], torch.tensor(1.0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(nothing[0], everything[2])  # both are the activation of features that are all 0
    assert len(exploration.draw(exploration.summarise(curves, Config()), curves[0]).axes) == len(exploration.QUANTITIES)


def test_no_ground_truth_is_an_error_that_says_so(labeler: Labeler) -> None:
    class Unmasked(Synthetic):
        def __getitem__(self, index: int) -> Sample:
            return replace(super().__getitem__(index), mask=None)

    with pytest.raises(DataError, match="val: no object whose class has both ground truth"):
        exploration.explore(labeler, Unmasked(tiny.RECIPE.data.synthetic, "val"), Config(steps=1))
