import pytest
import torch

from baoseg import data
from baoseg.core.errors import RecipeError
from baoseg.data import Config, Dataset, Excerpt
from baoseg.data.synthetic import Config as SyntheticConfig

SCENES = SyntheticConfig(size=64, train_images=10, eval_images=3)


def scenes(**choices) -> Dataset:
    return data.open_dataset(Config(path="synthetic", synthetic=SCENES, **choices), "train")


def test_images_are_spread_evenly_and_stay_what_they_are() -> None:
    whole, few = scenes(), scenes(limit=4)
    assert isinstance(few, Dataset) and isinstance(few, Excerpt)
    assert list(few.names) == [whole.names[index] for index in (0, 2, 5, 7)]
    assert (len(few), few.classes, few.split, few.has_masks) == (4, whole.classes, "train", True)
    for own, index in enumerate((0, 2, 5, 7)):
        assert torch.equal(few[own].image, whole[index].image)
        assert torch.equal(few[own].mask, whole[index].mask)
        assert torch.equal(few.labels(own), whole.labels(index))
        assert torch.equal(few.mask(own), whole.mask(index))


def test_a_limit_above_the_number_of_images_is_none() -> None:
    assert list(scenes(limit=99).names) == list(scenes().names)


def test_long_images_are_shrunk_with_their_masks() -> None:
    whole, small = scenes(), scenes(long_side=32)
    sample = small[3]
    assert sample.image.shape == (3, 32, 32)
    # every second pixel, from the second on: those whose centres are nearest, of two the later
    assert torch.equal(sample.mask, whole[3].mask[1::2, 1::2])
    assert torch.equal(small.mask(3), sample.mask)
    assert abs(sample.image.float().mean() - whole[3].image.float().mean()) < 1
    assert scenes(long_side=65)[3].image.shape == (3, 64, 64)  # never enlarged


def test_the_fingerprint_tells_what_was_left_out() -> None:
    prints = {scenes(**choices).fingerprint() for choices in ({}, {"limit": 4}, {"limit": 5}, {"long_side": 32})}
    assert len(prints) == 4
    assert scenes(limit=4).fingerprint() == scenes(limit=4).fingerprint()


@pytest.mark.parametrize("choices", [{"limit": 0}, {"long_side": -1}])
def test_nothing_is_no_excerpt(choices: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=r"^data: limit .*; choose at least 1"):
        Config(path="synthetic", **choices)
