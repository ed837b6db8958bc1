import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import max_pool2d, pad

from baoseg.core.errors import DataError, RecipeError
from baoseg.data import synthetic
from baoseg.data.synthetic import CLASSES, Config, Synthetic

SMALL = Config(train_images=40, eval_images=20)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), index=st.integers(0, 39), size=st.sampled_from([32, 96, 128]))
def test_labels_name_exactly_the_classes_of_the_mask(seed, index, size):
    scenes = Synthetic(Config(train_images=40, size=size, seed=seed), "train")
    sample = scenes[index]
    assert sample.image.shape == (3, size, size) and sample.mask.shape == (size, size)
    seen = set(sample.mask.unique().tolist()) - {0}
    assert seen == set((sample.labels.nonzero().flatten() + 1).tolist())
    assert 1 <= len(seen) <= 2
    assert torch.equal(sample.labels, scenes.labels(index))
    assert torch.equal(sample.mask, scenes.mask(index))


def test_an_image_is_always_the_same_and_each_is_another():
    first, again = Synthetic(SMALL, "train"), Synthetic(SMALL, "train")
    again[0]  # the order of asking does not matter
    assert torch.equal(first[7].image, again[7].image) and torch.equal(first[7].mask, again[7].mask)
    others = [first[8], Synthetic(SMALL, "val")[7], Synthetic(Config(seed=1), "train")[7]]
    for other in others:
        assert not torch.equal(first[7].image, other.image)


def test_images_do_not_depend_on_how_many_there_are():
    assert torch.equal(Synthetic(SMALL, "train")[7].image, Synthetic(Config(), "train")[7].image)


def test_a_larger_image_shows_the_same_scene():
    small, large = Synthetic(Config(size=64))[3], Synthetic(Config(size=128))[3]
    same = large.mask[::2, ::2] == small.mask
    assert same.float().mean() > 0.97


def test_masks_are_exact(monkeypatch):
    """The mask of an animal is where painting it changed the image, but for half-covered pixels along its edge."""
    paint = synthetic._draw_animal
    painted = []

    def watched(rng, picture, mask, animal):
        before = picture.copy()
        paint(rng, picture, mask, animal)
        changed = torch.from_numpy((picture != before).any(0))
        shrunk = ~max_pool2d(pad((~changed)[None].float(), (2, 2, 2, 2), value=1.0), 5, 1)[0].bool()
        own = torch.from_numpy(mask == animal.kind + 1)
        assert (own | ~shrunk).all()  # all that lies inside the change is of its class
        assert changed.any()
        painted.append(changed)

    monkeypatch.setattr(synthetic, "_draw_animal", watched)
    for index in range(12):
        painted.clear()
        mask = Synthetic(SMALL, "train")[index].mask
        assert (torch.stack(painted).any(0) | (mask == 0)).all()  # and nothing lies outside


def test_all_classes_come_up_about_equally_often():
    labels = torch.stack([Synthetic(Config()).labels(index) for index in range(300)])
    share = labels.mean(0)
    assert share.min() > 0.15 and share.max() < 0.4
    assert 0.15 < (labels.sum(1) == 2).float().mean() < 0.5


def test_animals_cover_a_part_of_the_image():
    share = torch.stack([(Synthetic(SMALL).mask(index) > 0).float().mean() for index in range(40)])
    assert share.min() > 0.02 and share.max() < 0.6
    assert 0.1 < share.mean() < 0.3


def test_splits_names_and_fingerprint():
    train, val = Synthetic(SMALL, "train"), Synthetic(SMALL, "val")
    assert (len(train), len(val)) == (40, 20)
    assert train.classes == CLASSES and train.has_masks
    assert len(set(train.names) | set(val.names)) == 60
    assert train[3].name == train.names[3]
    prints = {scenes.fingerprint() for scenes in (train, val, Synthetic(Config(seed=1)), Synthetic(Config()))}
    assert len(prints) == 4
    assert train.fingerprint() == Synthetic(SMALL, "train").fingerprint()


def test_errors():
    with pytest.raises(DataError, match=r"'test'; the splits are train, val"):
        Synthetic(SMALL, "test")
    with pytest.raises(IndexError):
        Synthetic(SMALL, "val")[20]
    for wrong in ({"size": 8}, {"train_images": 0}, {"eval_images": 0}, {"seed": -1}):
        with pytest.raises(RecipeError):
            Config(**wrong)
