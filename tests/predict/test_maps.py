import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import Maps
from baoseg.data.transforms import Normalisation
from baoseg.methods.base import Method
from baoseg.predict.maps import Config, infer, input_size, middle, views
from baoseg.seeds.normalise import Scaling, normalise

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
ONE_SCALE = {"sizes": (32,), "flip": False, "stride": 1}


def random_maps(seed: int, *, shape=(2, 3, 4, 5), shift=0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) + shift


seeds = st.integers(0, 2**31)
few = settings(deadline=None, max_examples=20)


@few
@given(seeds, st.sampled_from(Scaling), st.floats(-2, 2))
def test_normalised_maps_lie_in_the_unit_interval(seed, scaling, shift):
    maps = random_maps(seed, shift=shift)
    result = normalise(maps, scaling=scaling)
    assert result.min() >= 0
    assert result.max() <= 1
    assert (result[maps <= 0] == 0).all()


@few
@given(seeds, st.floats(-1, 3))
def test_each_scaling_is_its_formula(seed, shift):
    maps = random_maps(seed, shift=shift)
    ranged, peaked = normalise(maps), normalise(maps, scaling=Scaling.PEAK)
    for picture in range(2):
        for channel in range(3):
            values = [max(value, 0.0) for value in maps[picture, channel].flatten().tolist()]
            low, high = min(values), max(values)
            expected = [(value - low) / ((high - low) or 1.0) for value in values]  # 0 where all values are alike
            assert ranged[picture, channel].flatten().tolist() == pytest.approx(expected)
            expected = [value / (high + 1e-5) for value in values]
            assert peaked[picture, channel].flatten().tolist() == pytest.approx(expected)


@few
@given(seeds, st.floats(1e-6, 1e6))
def test_the_scaling_knows_no_unit_and_is_done_once(seed, factor):
    maps = random_maps(seed)
    torch.testing.assert_close(normalise(factor * maps), normalise(maps))
    torch.testing.assert_close(normalise(normalise(maps)), normalise(maps))


@pytest.mark.parametrize("scaling", Scaling)
def test_maps_without_positive_values_become_zero(scaling):
    maps = torch.stack([torch.zeros(3, 3), -torch.rand(3, 3)])[None]
    assert (normalise(maps, scaling=scaling) == 0).all()


@few
@given(seeds, st.sampled_from([-1e3, 1e3]))
def test_invalid_cells_are_zero_and_do_not_set_the_extremes(seed, noise):
    maps = random_maps(seed, shift=3)
    valid = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(seed)) < 0.5
    valid[:, :, 0, :2] = True
    result = normalise(torch.where(valid, maps, noise), valid=valid)
    assert (result[~valid.expand_as(result)] == 0).all()
    for picture in range(2):
        for channel in range(3):
            cells = valid[picture, 0]
            inside = maps[picture, channel][cells].clamp(min=0)
            expected = (inside - inside.min()) / (inside.max() - inside.min())
            torch.testing.assert_close(result[picture, channel][cells], expected)


def test_a_constant_map_is_no_evidence():
    assert (normalise(torch.full((1, 1, 3, 3), 5.0)) == 0).all()
    assert (normalise(torch.ones(1, 1, 3, 3), valid=torch.zeros(1, 1, 3, 3, dtype=torch.bool)) == 0).all()


@few
@given(seeds, st.floats(-1, 3))
def test_released_scaling_is_the_released_formula(seed, shift):
    """Negative to 0; below min + 1e-5 to 0; (x - min - 1e-5) / (max - min + 1e-5). Ours stops at 0 after that."""
    maps = random_maps(seed, shift=shift)
    result = normalise(maps, scaling=Scaling.RELEASED).numpy()
    for picture in range(2):
        for channel in range(3):
            x = maps[picture, channel].numpy().copy()
            x[x < 0] = 0
            low, high = x.min(), x.max()
            x[x < low + 1e-5] = 0
            x = (x - low - 1e-5) / (high - low + 1e-5)
            np.testing.assert_allclose(result[picture, channel], np.maximum(x, 0), atol=1e-12)


class Probe(Method):
    """A method whose maps are a convolution at stride 4: no symmetry, or left-right symmetry, as asked for."""

    def __init__(self, *, background: bool, symmetric: bool = False) -> None:
        super().__init__()
        self.learns_background = background
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(5, 3, 4, 4, generator=generator)
        self.filters = nn.Parameter(weight + weight.flip(-1) if symmetric else weight)

    def maps(self, images, labels, *, classes=None):
        assert labels.shape == (len(images), 4)
        conditioned = F.conv2d(images, self.filters, stride=4) + labels.sum(dim=1)[:, None, None, None]
        wanted = slice(1, None) if classes is None else classes
        return Maps(conditioned[:, wanted], conditioned[:, :1] if self.learns_background else None)


def picture(height: int, width: int) -> Tensor:
    """Smooth colours, so that resizing and rounding to 8 bits change little."""
    small = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(9))
    large = F.interpolate(small, size=(height, width), mode="bicubic", align_corners=True)
    return (large[0].clamp(0, 1) * 255).to(torch.uint8)


LABELS = torch.tensor([0.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("stride", [1, 4])
def test_scales_and_flips_are_summed_and_then_normalised(background, flip, stride):
    image, method = picture(30, 41), Probe(background=background)
    config = Config(sizes=(32, 48), flip=flip, stride=stride)
    seed = infer(method, image, LABELS, config=config, normalisation=NORMALISATION, stride=4)

    grid = (30, 41) if stride == 1 else (8, 11)
    total = np.zeros((3, *grid))
    mean, std = (torch.tensor(values)[:, None, None] for values in (NORMALISATION.mean, NORMALISATION.std))
    for side in (32, 48):
        scaled = TF.resize(image, [side, side], interpolation=InterpolationMode.BICUBIC, antialias=True)
        inputs = (scaled / 255 - mean) / std
        for mirrored in (False, True) if flip else (False,):
            view = inputs.flip(-1) if mirrored else inputs
            channels = F.conv2d(view[None], method.filters, stride=4) + 2  # two labels
            full = F.interpolate(channels, size=grid, mode="bilinear", align_corners=False)[0]
            total += (full.flip(-1) if mirrored else full)[[0, 2, 4]].detach().numpy()
    total = np.maximum(total, 0)
    total -= total.min(axis=(1, 2), keepdims=True)
    total /= total.max(axis=(1, 2), keepdims=True)

    assert seed.classes.tolist() == [2, 4]
    assert seed.size == (30, 41)
    np.testing.assert_allclose(seed.scores.numpy(), total[1:], atol=1e-5)
    if background:
        np.testing.assert_allclose(seed.background.numpy(), total[0], atol=1e-5)
    else:
        assert seed.background is None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((256, 512, 768), 512), ((768, 256, 512), 512), ((64,), 64), ((96, 144), 144), ((1, 2, 3, 4), 3)],
)
def test_the_middle_scale_is_the_median_or_the_larger_of_two(sizes, expected):
    assert middle(Config(sizes=sizes)) == expected


class Chooser(Probe):
    """Asks to be asked for a threshold and keeps what it is shown."""

    chooses_threshold = True

    def threshold(self, images, labels, scores, *, fixed):
        self.shown, self.fixed = (images, labels, scores), fixed
        return 0.375


@pytest.mark.parametrize("flip", [True, False])
def test_a_method_that_chooses_thresholds_sees_the_middle_scale_and_its_own_maps(flip):
    image, method = picture(30, 41), Chooser(background=False)
    config = Config(sizes=(32, 64, 48), flip=flip)
    seed = infer(method, image, LABELS, config=config, normalisation=NORMALISATION, stride=4, fixed=0.15)
    assert seed.threshold == 0.375
    assert method.fixed == 0.15
    images, labels, scores = method.shown
    assert images.shape == (2 if flip else 1, 3, 48, 48)
    assert torch.equal(images, views(image, 48, config=config, normalisation=NORMALISATION, stride=4))
    assert torch.equal(labels, LABELS)
    assert torch.equal(scores, seed.scores)


def test_other_methods_are_not_asked_for_a_threshold():
    for background in (True, False):
        method = Probe(background=background)
        seed = infer(method, picture(30, 41), LABELS, config=Config(**ONE_SCALE), normalisation=NORMALISATION, stride=4)
        assert seed.threshold is None


@pytest.mark.parametrize(("flip", "symmetric"), [(True, False), (False, True)])
def test_a_mirrored_image_gives_the_mirrored_seed(flip, symmetric):
    """Summing the flips makes any method symmetric; a symmetric one is so without them."""
    image, method = picture(32, 48), Probe(background=True, symmetric=symmetric)
    config = Config(sizes=(32, 64), flip=flip, stride=2)
    seed, mirrored = (
        infer(method, view, LABELS, config=config, normalisation=NORMALISATION, stride=4)
        for view in (image, image.flip(-1))
    )
    torch.testing.assert_close(mirrored.scores, seed.scores.flip(-1), atol=0.02, rtol=0)
    torch.testing.assert_close(mirrored.background, seed.background.flip(-1), atol=0.02, rtol=0)
    assert (seed.scores - seed.scores.flip(-1)).abs().max() > 0.2  # the image itself is not symmetric


def test_without_flips_an_asymmetric_method_stays_asymmetric():
    image, method = picture(32, 32), Probe(background=False)
    config = Config(**ONE_SCALE)
    seed, mirrored = (
        infer(method, view, LABELS, config=config, normalisation=NORMALISATION, stride=4)
        for view in (image, image.flip(-1))
    )
    assert (mirrored.scores - seed.scores.flip(-1)).abs().max() > 0.1


def test_an_image_without_labels_is_refused():
    with pytest.raises(DataError, match="label"):
        infer(
            Probe(background=True),
            picture(8, 8),
            torch.zeros(4),
            config=Config(**ONE_SCALE),
            normalisation=NORMALISATION,
            stride=4,
        )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 400), (224, 288)),  # 256 / sqrt(300 * 400) = 0.739: 221.7 x 295.6, the next multiples of 32
        ((256, 256), (256, 256)),
        ((1000, 10), (2560, 32)),  # 25.6 wide: at least one multiple
    ],
)
def test_keep_aspect_gives_rectangles_of_the_squares_area(size, expected):
    assert input_size(size, 256, config=Config(keep_aspect=True), stride=32) == expected
    assert input_size(size, 256, config=Config(), stride=32) == (256, 256)
    assert input_size(size, 256, config=Config(), stride=14) == (252, 252)  # 18 cells of DINOv2


@few
@given(height=st.integers(50, 2000), width=st.integers(50, 2000), side=st.sampled_from([256, 512, 768]))
def test_keep_aspect_turns_with_the_image(height, width, side):
    config = Config(keep_aspect=True)
    rows, columns = input_size((height, width), side, config=config, stride=32)
    assert (columns, rows) == input_size((width, height), side, config=config, stride=32)
    assert rows % 32 == columns % 32 == 0
    exact = side * (height / width) ** 0.5
    assert abs(rows - exact) <= 16 or rows == 32


def test_keep_aspect_seeds_lie_on_the_images_own_grid():
    shapes = []

    class Recorder(Probe):
        def maps(self, images, labels, *, classes=None):
            shapes.append(tuple(images.shape))
            return super().maps(images, labels, classes=classes)

    config = Config(sizes=(64,), keep_aspect=True, stride=4)
    seed = infer(
        Recorder(background=True), picture(30, 121), LABELS, config=config, normalisation=NORMALISATION, stride=4
    )
    assert shapes == [(2, 3, 32, 128)]  # 31.9 x 128.5 to multiples of the method's stride, 4
    assert seed.background.shape == (8, 31)


@pytest.mark.parametrize("wrong", [{"sizes": ()}, {"sizes": (0,)}, {"stride": 0}])
def test_settings_that_make_no_map_are_refused(wrong):
    with pytest.raises(RecipeError, match="give sizes and a stride"):
        Config(**wrong)


class FinerProbe(Method):
    """A map at stride 1 of a backbone of stride 4, as BAS's generator after an early stage makes it."""

    learns_background = False

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(5)))

    def maps(self, images, labels, *, classes=None):
        return Maps(F.conv2d(images, self.filters)[:, slice(None) if classes is None else classes - 1])


def tents(cells: int, wanted: int) -> np.ndarray:
    """[wanted, cells]: how much each cell counts. A tent as wide as two of the larger cells."""
    scale = cells / wanted
    width = max(scale, 1.0)
    weights = np.zeros((wanted, cells))
    for row in range(wanted):
        centre = (row + 0.5) * scale
        for cell in range(cells):
            weights[row, cell] = max(0.0, 1 - abs(cell + 0.5 - centre) / width)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(30, 41), (90, 200)])
def test_a_map_finer_than_the_seeds_is_averaged_at_each_scale(size):
    """Of 48 x 48 cells every one counts where the seed has 8 x 11; where it has more, maps are enlarged."""
    image, method = picture(*size), FinerProbe().eval()
    image[:, ::2, ::3] = 255  # details that sampling would see or miss by chance
    seed = infer(method, image, LABELS, config=Config(sizes=(32, 48)), normalisation=NORMALISATION, stride=4)
    grid = ((size[0] + 3) // 4, (size[1] + 3) // 4)
    total = np.zeros((2, *grid))
    mean, std = (np.array(values)[:, None, None] for values in (NORMALISATION.mean, NORMALISATION.std))
    for side in (32, 48):
        scaled = TF.resize(image, [side, side], interpolation=InterpolationMode.BICUBIC, antialias=True).numpy()
        for mirrored in (False, True):
            view = ((scaled / 255 - mean) / std)[:, :, :: -1 if mirrored else 1]
            maps = np.einsum("kc, c h w -> k h w", method.filters.detach().numpy()[[1, 3], :, 0, 0], view)
            found = np.einsum("y h, k h w, x w -> k y x", tents(side, grid[0]), maps, tents(side, grid[1]))
            total += found[:, :, :: -1 if mirrored else 1]
    total = np.maximum(total, 0)
    total -= total.min(axis=(1, 2), keepdims=True)
    total /= total.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(seed.scores.numpy(), total, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("scaling", Scaling)
def test_maps_that_are_no_numbers_are_no_seed(value, background, scaling):
    """Scaled, -inf would be 0 and NaN the background; a class that is absent is not looked at."""
    method = Probe(background=background)

    def seed():
        config = Config(**ONE_SCALE, scaling=scaling)
        return infer(method, picture(40, 56), LABELS, config=config, normalisation=NORMALISATION, stride=4)

    with torch.no_grad():
        method.filters[1] = value
        assert seed().scores.isfinite().all()
        method.filters[2] = value
    with pytest.raises(DataError, match="the network gives maps of this image that are NaN or infinite; use --"):
        seed()
