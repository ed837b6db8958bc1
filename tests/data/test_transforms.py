import dataclasses
import math

import pytest
import torch
import torchvision.transforms.v2.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.errors import RecipeError
from baoseg.core.types import IGNORE
from baoseg.data import transforms
from baoseg.data.transforms import Config, Normalisation, augment, cut, normalise, random_place

PLAIN = Normalisation(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))  # leaves values as they are
STILL = Config(flip=False, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)  # resize and crop only

sides = st.integers(1, 24)
seeds = st.integers(0, 1000)


def picture(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def numbered(height, width):
    """An image in which no two pixels are alike, and none is 0."""
    return (1 + torch.arange(3 * height * width)).reshape(3, height, width).float()


def random_crop(image, side, generator):
    """A square of the image, and which of its pixels are image."""
    place = random_place(image.shape[-2:], side, generator=generator)
    return cut(image, place, side), cut(torch.ones_like(image[:1], dtype=torch.bool), place, side)


@settings(deadline=None, max_examples=50)
@given(height=sides, width=sides, side=sides, seed=seeds)
def test_crop_is_one_block_of_the_image_and_valid_is_where_it_lies(height, width, side, seed):
    image = numbered(height, width)
    crop, valid = random_crop(image, side, torch.Generator().manual_seed(seed))
    assert crop.shape == (3, side, side)
    assert valid.sum() == min(height, side) * min(width, side)
    assert torch.equal(valid.expand(3, -1, -1), crop != 0)  # padding is 0, the mean colour; no pixel of ours is
    seen = crop[valid.expand(3, -1, -1)].reshape(3, min(height, side), min(width, side))
    row, column = divmod(int(seen[0, 0, 0]) - 1, width)
    assert torch.equal(seen, image[:, row : row + seen.shape[1], column : column + seen.shape[2]])


def test_crop_reaches_every_place():
    generator = torch.Generator().manual_seed(0)
    inside = {random_crop(numbered(1, 4), 2, generator)[0].max().item() for _ in range(100)}
    assert len(inside) == 3  # of an image of 4 columns: columns 0-1, 1-2, 2-3
    around = {tuple(random_crop(numbered(3, 2), 3, generator)[1][0, 0].tolist()) for _ in range(100)}
    assert around == {(True, True, False), (False, True, True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool])
def test_one_place_cuts_images_of_any_kind_and_pads_as_asked(dtype):
    image = torch.ones(2, 2, 5, dtype=dtype)
    place = ((slice(0, 2), slice(1, 3)), (slice(1, 4), slice(0, 3)))  # rows 0-1 go to 1-2; columns 1-3 to 0-2
    result = cut(image, place, 3, padding=7)
    assert result.dtype == dtype
    assert (result[:, 1:] == 1).all()
    assert (result[:, 0] == torch.tensor(7).to(dtype)).all()
    assert (cut(image, place, 3)[:, 0] == 0).all()


@settings(deadline=None, max_examples=20)
@given(height=sides, width=sides, seed=seeds, low=st.integers(2, 40), more=st.integers(0, 20))
def test_resize_draws_the_long_side_and_keeps_the_proportions(height, width, seed, low, more):
    generator = torch.Generator().manual_seed(seed)
    resized = transforms.random_resize(picture(height, width), (low, low + more), generator=generator)
    long, short = max(resized.shape[1:]), min(resized.shape[1:])
    assert low <= long <= low + more
    assert abs(short - max(1, long * min(height, width) / max(height, width))) <= 0.5
    assert (resized.shape[1] >= resized.shape[2]) == (height >= width) or long == short


def test_both_ends_of_the_range_are_drawn():
    generator = torch.Generator().manual_seed(0)
    drawn = {transforms.random_resize(picture(2, 4), (7, 9), generator=generator).shape[2] for _ in range(60)}
    assert drawn == {7, 8, 9}


def test_resize_to_its_own_size_changes_nothing(generator):
    image = picture(11, 17)
    assert torch.equal(transforms.random_resize(image, (17, 17), generator=generator), image)


def test_shrinking_averages_instead_of_picking(generator):
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 200
    shrunk = transforms.random_resize(stripes, (8, 8), generator=generator)
    assert (shrunk[:, :, 1:-1].int() - 100).abs().max() <= 2


def test_normalise_by_hand():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None]
    normalisation = Normalisation(mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 0.25))
    assert torch.allclose(normalise(image, normalisation).flatten(), torch.tensor([-1.0, 0.0, 4.0]), atol=1e-6)
    batch = torch.stack([image, image])
    assert torch.equal(normalise(batch, normalisation)[1], normalise(image, normalisation))


@settings(deadline=None, max_examples=20)
@given(height=st.integers(2, 24), width=sides, side=sides, seed=seeds)
def test_padding_is_marked_or_by_choice_counts_as_image(height, width, side, seed):
    long = max(height, width)
    config = dataclasses.replace(STILL, resize_long=(long, long), crop=side)
    unmarked = dataclasses.replace(config, mark_padding=False)
    first, second = (
        augment(
            picture(height, width),
            config=choice,
            normalisation=PLAIN,
            generator=torch.Generator().manual_seed(seed),
        )
        for choice in (config, unmarked)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1][0], (first[0] != 0).all(0))
    assert second[1].all()


PALETTE = torch.tensor([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], dtype=torch.uint8)


def surely(labels, radius):
    """Pixels whose label is that of all pixels up to `radius` away: no other colour is mixed in. Not at the edge."""
    windows = labels.unfold(0, 2 * radius + 1, 1).unfold(1, 2 * radius + 1, 1)
    inner = labels[radius:-radius, radius:-radius]
    same = (windows == inner[:, :, None, None]).all(dim=3).all(dim=2)
    return torch.nn.functional.pad(same & (inner != IGNORE), (radius,) * 4)


@settings(deadline=None, max_examples=40)
@given(
    grid=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    long_side=st.integers(32, 96),
    side=st.sampled_from([32, 48, 96]),
    flip=st.booleans(),
    seed=seeds,
)
def test_labels_of_pixels_stay_on_their_pixels(grid, long_side, side, flip, seed):
    """Colours encode the labels of blocks of 16 x 16 pixels: what is resized, flipped and cut still agrees."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(len(PALETTE), grid, generator=generator)
    labels = blocks.repeat_interleave(16, dim=0).repeat_interleave(16, dim=1)
    image = PALETTE[labels].permute(2, 0, 1).contiguous()
    config = dataclasses.replace(STILL, resize_long=(long_side, long_side), crop=side, flip=flip)
    crop, valid, moved, _ = augment(
        image, config=config, normalisation=PLAIN, generator=generator, pixel_labels=labels.to(torch.uint8)
    )
    scale = long_side / max(image.shape[1:])
    clear = surely(moved.long(), 1 + math.ceil(2 * max(1.0, scale)))  # a bicubic kernel reaches two pixels far
    seen = crop.round().to(torch.uint8).permute(1, 2, 0)
    assert torch.equal(seen[clear], PALETTE[moved[clear].long()])
    assert torch.equal(moved != IGNORE, valid[0])
    assert set(moved.unique().tolist()) <= {*blocks.unique().tolist(), IGNORE}
    alone = augment(image, config=config, normalisation=PLAIN, generator=torch.Generator().manual_seed(seed))
    assert alone[2] is None


@pytest.mark.parametrize("long_side", [64, 160])
@pytest.mark.parametrize("flip", [False, True])
def test_a_border_of_labels_lies_where_the_image_is_half_of_each(long_side, flip):
    """No shift, not even of half a pixel, between the two ways of resizing."""
    config = dataclasses.replace(STILL, resize_long=(long_side, long_side), crop=long_side, flip=flip)
    for border in range(20, 80, 3):
        labels = torch.zeros(100, 100, dtype=torch.uint8)
        labels[:, border:] = 1
        crop, _, moved, _ = augment(
            (250 * labels).expand(3, -1, -1),
            config=config,
            normalisation=PLAIN,
            generator=torch.Generator().manual_seed(border),
            pixel_labels=labels,
        )
        assert torch.equal(moved == 1, crop[0] > 125)


def test_the_check_of_labels_looks_at_most_of_an_image():
    labels = torch.zeros(20, 30, dtype=torch.long)
    labels[:, 15:] = 1
    labels[0] = IGNORE
    clear = surely(labels, 3)
    assert clear.sum() == 2 * (20 - 1 - 6) * (15 - 6)
    assert not clear[:4].any()
    assert not clear[:, 12:18].any()


@pytest.mark.parametrize("mark_padding", [True, False])
def test_padding_has_no_label_even_where_it_counts_as_image(mark_padding):
    config = dataclasses.replace(STILL, resize_long=(8, 8), crop=12, mark_padding=mark_padding)
    _, valid, labels, _ = augment(
        picture(4, 8),
        config=config,
        normalisation=PLAIN,
        generator=torch.Generator().manual_seed(0),
        pixel_labels=torch.full((4, 8), 3, dtype=torch.uint8),
    )
    assert (labels == 3).sum() == 32
    assert (labels == IGNORE).sum() == 144 - 32
    assert valid.sum() == (32 if mark_padding else 144)


def test_weights_of_pixels_go_the_way_of_their_labels():
    labels = torch.arange(48, dtype=torch.uint8).view(6, 8)
    config = Config(resize_long=(10, 30), crop=24)
    for seed in range(8):
        crop = augment(
            picture(6, 8),
            config=config,
            normalisation=PLAIN,
            generator=torch.Generator().manual_seed(seed),
            pixel_labels=labels,
            pixel_weights=labels,
        )
        assert torch.equal(crop.pixel_weights, crop.pixel_labels.where(crop.pixel_labels != IGNORE, 0))


def test_labels_change_nothing_about_the_image():
    """Nor do they draw from the generator: with and without them training sees the same crops."""
    config = Config(resize_long=(20, 40), crop=24)
    results = [
        augment(
            picture(30, 22),
            config=config,
            normalisation=PLAIN,
            generator=torch.Generator().manual_seed(4),
            pixel_labels=labels,
        )
        for labels in (None, torch.zeros(30, 22, dtype=torch.uint8))
    ]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_flip_comes_every_second_time(generator):
    image = picture(4, 4)
    config = dataclasses.replace(STILL, flip=True, resize_long=(4, 4), crop=4)
    crops = [augment(image, config=config, normalisation=PLAIN, generator=generator)[0].round() for _ in range(200)]
    straight = sum(torch.equal(crop, image.float()) for crop in crops)
    mirrored = sum(torch.equal(crop, image.flip(2).float()) for crop in crops)
    assert straight + mirrored == 200
    assert 70 < straight < 130


def test_randomness_is_that_of_the_generator_alone():
    config = Config(resize_long=(20, 40), crop=24)
    image = picture(30, 22)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return augment(image, config=config, normalisation=PLAIN, generator=generator)

    before = torch.get_rng_state()
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


CHANGES = {
    "brightness": (F.adjust_brightness, 0.4),
    "contrast": (F.adjust_contrast, 0.4),
    "saturation": (F.adjust_saturation, 0.4),
    "hue": (F.adjust_hue, 0.2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_jitter_stays_within_its_strength(name, generator):
    change, strength = CHANGES[name]
    image = torch.tensor([[60, 90], [120, 75], [90, 100]], dtype=torch.uint8)[:, None, :]
    config = dataclasses.replace(STILL, **{name: strength})
    centre = 0 if name == "hue" else 1
    possible = [
        change(image, float(amount))
        for amount in torch.linspace(centre - strength, centre + strength, 801, dtype=torch.float64)
    ]
    results = [transforms.jitter_colours(image, config=config, generator=generator) for _ in range(20)]
    for result in results:
        assert min(int((result.int() - one.int()).abs().max()) for one in possible) <= 1
    assert len({tuple(result.flatten().tolist()) for result in results}) > 10


def test_jitter_of_no_strength_changes_nothing(generator):
    image = picture(5, 6)
    assert torch.equal(transforms.jitter_colours(image, config=STILL, generator=generator), image)


def test_jitter_takes_the_changes_in_any_order():
    image = torch.tensor([200, 120, 40], dtype=torch.uint8)[:, None, None].repeat(1, 2, 2)
    image[:, 0] = 255 - image[:, 0]
    config = dataclasses.replace(STILL, contrast=0.9, brightness=0.9)
    orders = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        result = transforms.jitter_colours(image, config=config, generator=generator)
        # replay the draws: the order first, then one number for each change in this order
        generator.manual_seed(seed)
        order = torch.randperm(4, generator=generator).tolist()
        factors = {step: 0.1 + 1.8 * float(torch.rand((), generator=generator)) for step in order}
        expected = image
        for step in order:
            if step < 2:
                expected = (F.adjust_brightness, F.adjust_contrast)[step](expected, factors[step])
        assert torch.equal(result, expected)
        orders.add(order.index(0) < order.index(1))
    assert orders == {True, False}


@pytest.mark.parametrize(
    "wrong",
    [{"resize_long": (640, 320)}, {"resize_long": (1, 10)}, {"crop": 0}, {"hue": 0.6}, {"contrast": -0.1}],
)
def test_impossible_settings(wrong):
    with pytest.raises(RecipeError):
        Config(**wrong)
