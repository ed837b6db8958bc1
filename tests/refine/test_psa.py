"""AffinityNet: its features, its loss and its walk, each rendered once more from the paper."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import Batch
from baoseg.data.transforms import normalise
from baoseg.nets import timm_backbones
from baoseg.refine import affinity_labels, crf, psa
from baoseg.refine.psa import AffinityNet, Config
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import to_mask


def network(stride: int = 8, config: Config | None = None) -> AffinityNet:
    torch.manual_seed(0)
    backbone = timm_backbones.make("test_resnet", 2, stride=stride, options={"zero_init_last": False})
    return AffinityNet(backbone, config or Config())


def picture(height: int, width: int, number: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8)


def seed_of(height: int, width: int, *, background: bool = False, classes: int = 2) -> SeedMaps:
    maps = torch.rand(classes + 1, height, width, generator=torch.Generator().manual_seed(1))
    return SeedMaps(torch.arange(classes) + 3, maps[1:], maps[0] if background else None, (height, width))


def batch_of(labels: Tensor, number: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    images = torch.rand(len(labels), 3, *labels.shape[1:], generator=torch.Generator().manual_seed(number))
    valid = torch.ones(len(labels), 1, *labels.shape[1:], dtype=torch.bool)
    return Batch(images.to(dtype), torch.ones(len(labels), 2, dtype=dtype), valid, labels.to(torch.uint8))


def elu(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, values.exp() - 1)


def test_features_are_two_layers_of_matrices_over_three_stages():
    """f = elu(W [elu(W_3 x_3), elu(W_4 x_4), elu(W_5 x_5)]) in each cell, where all stages are at stride 8."""
    net = network().double().eval()
    images = batch_of(torch.zeros(2, 24, 16)).images
    stages = net.backbone.stages(images)[-3:]
    found = net.features(images)
    assert found.shape == (2, 448, 3, 2)
    for row in range(3):
        for column in range(2):
            parts = [
                elu(stage[:, :, row, column] @ head.weight[:, :, 0, 0].T)
                for stage, head in zip(stages, net.heads, strict=True)
            ]
            expected = elu(torch.cat(parts, dim=1) @ net.joint.weight[:, :, 0, 0].T)
            torch.testing.assert_close(found[:, :, row, column], expected)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 17), (64, 32)])
def test_the_grid_has_stride_8_at_any_size(stride, size):
    """Coarser stages are enlarged; the heads read 48, 192 and 96 channels, the stages from stride 8 on."""
    net = network(stride).eval()
    assert [head.in_channels for head in net.heads] == [48, 192, 96]
    assert net.features(torch.rand(1, 3, *size)).shape == (1, 448, math.ceil(size[0] / 8), math.ceil(size[1] / 8))


def test_of_a_network_that_is_coarse_early_the_last_stage_of_stride_8_is_read():
    net = AffinityNet(timm_backbones.make("test_convnext", 2, stride=32), Config())  # strides 4, 8, 16, 32
    assert (net.stages, net.stride) == ((1, 2, 3), 8)
    net = AffinityNet(timm_backbones.make("test_convnext", 2, stride=8), Config())  # strides 4, 8, 8, 8
    assert (net.stages, net.stride) == ((1, 2, 3), 8)


def test_the_loss_pair_by_pair():
    """L_bg / 4 + L_fg / 4 + L_neg / 2 over pairs of cells less than 3 apart, each mean over its own pairs."""
    net = network(config=Config(radius=3)).double().eval()
    cells = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 4, 5), generator=torch.Generator().manual_seed(2))]
    pixels = torch.full((2, 32, 40), 9)
    pixels[:, 4::8, 4::8] = cells  # the pixel in the middle of a cell speaks for it
    batch = batch_of(pixels)
    batch.valid[1, :, :, 24:] = False
    found = net.loss(batch)

    cells[1, :, 3:] = 255
    features = net.features(batch.images).detach()
    places = torch.ones(4, 5).nonzero().tolist()
    losses: dict[str, list[float]] = {"background": [], "foreground": [], "different": []}
    for b in range(2):
        for i, one in enumerate(places):
            for other in places[i + 1 :]:
                first, second = int(cells[b, *one]), int(cells[b, *other])
                if math.dist(one, other) >= 3 or 255 in (first, second):
                    continue
                affinity = math.exp(-float((features[b, :, *one] - features[b, :, *other]).abs().sum()) / 448)
                if first != second:
                    losses["different"].append(-math.log(1 + 1e-5 - affinity))
                else:
                    losses["foreground" if first else "background"].append(-math.log(affinity + 1e-5))
    weights = {"background": 0.25, "foreground": 0.25, "different": 0.5}
    assert found.keys() == weights.keys()
    for kind, weight in weights.items():
        assert losses[kind]
        assert float(found[kind].detach()) == pytest.approx(weight * sum(losses[kind]) / len(losses[kind]), rel=1e-4)


def test_the_gradient_reaches_all_but_batch_norm():
    net = network()
    net.train()
    labels = torch.zeros(1, 32, 32)
    labels[:, 16:], labels[:, :, 16:] = 1, 255
    labels[:, :8, 16:] = 1
    sum(net.loss(batch_of(labels, dtype=torch.float32)).values()).backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name
    norms = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(layer.training or layer.weight.requires_grad for layer in norms)


def test_the_heads_are_the_four_convolutions():
    found = list(network().head_parameters())
    assert [tuple(weight.shape) for weight in found] == [
        (64, 48, 1, 1),
        (128, 192, 1, 1),
        (256, 96, 1, 1),
        (448, 448, 1, 1),
    ]


def test_nothing_to_learn_from_is_a_loss_of_0():
    net = network()
    for labels in (torch.full((1, 32, 32), 255), torch.zeros(1, 8, 8)):  # all in doubt; one cell, no pair
        terms = net.loss(batch_of(labels, dtype=torch.float32))
        assert float(sum(terms.values()).detach()) == 0


def dense_walk(features: Tensor, maps: Tensor, *, radius: int, beta: float, steps: int) -> Tensor:
    """T^t x with T = D^-1 A^beta, entry by entry (sec. 3.3)."""
    _, height, width = features.shape
    cells = torch.ones(height, width).nonzero().tolist()
    affinity = torch.zeros(len(cells), len(cells), dtype=torch.float64)
    for i, one in enumerate(cells):
        for j, other in enumerate(cells):
            if math.dist(one, other) < radius:
                distance = float((features[:, *one] - features[:, *other]).abs().mean())
                affinity[i, j] = math.exp(-beta * distance)
    matrix = torch.linalg.matrix_power(affinity / affinity.sum(dim=1, keepdim=True), steps)
    return (maps.flatten(1) @ matrix.T).view(maps.shape)


@pytest.mark.parametrize(("background", "learned"), [(True, True), (True, False), (False, True)])
def test_the_walk_takes_the_background_along(background, learned):
    """The seed's own where it has one, else (1 - max)^16; maps are averages over cells of 8 x 8 pixels."""
    net = network(config=Config(radius=3, steps=8, learned_background=learned))
    image, seed = picture(32, 24), seed_of(32, 24, background=background)
    found = net.walked(image, seed)

    own = seed.background if background and learned else (1 - seed.scores.amax(dim=0)) ** 16
    maps = F.avg_pool2d(torch.cat([own[None], seed.scores])[None], 8)[0].double()
    features = net.features(normalise(image, net.backbone.normalisation)[None])[0].detach()
    expected = dense_walk(features.double(), maps, radius=3, beta=8, steps=8)
    torch.testing.assert_close(found.background.double(), expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.scores.double(), expected[1:], rtol=1e-4, atol=1e-6)
    assert torch.equal(found.classes, seed.classes)
    assert found.size == (32, 24)

    channels = torch.cat([found.background[None], found.scores])[None]
    enlarged = F.interpolate(channels, size=(32, 24), mode="bilinear", align_corners=False)[0]
    mask = torch.tensor([0, 3, 4])[enlarged.argmax(dim=0)]
    assert torch.equal(net.refine(image, seed), mask.to(torch.uint8))


def test_the_walk_of_maps_to_a_power():
    """Class maps and background alike, after they came to the grid of the walk: without any step that is all."""
    seed = seed_of(32, 24, background=True)
    maps = F.avg_pool2d(torch.cat([seed.background[None], seed.scores])[None], 8)[0]
    found = network(config=Config(steps=0, power=1.5)).walked(picture(32, 24), seed)
    channels = torch.cat([found.background[None], found.scores])
    torch.testing.assert_close(channels, maps * maps.sqrt())


@pytest.mark.parametrize("size", [(37, 51), (5, 16), (32, 20)])
def test_cells_reach_beyond_the_image_where_it_is_no_multiple_of_the_stride(size):
    """Averages over cells of 8 x 8 of the image with its last row and column repeated; enlarged eightfold, then cut.

    With 0 steps the walk is the identity, so the seed is what it was, but for the cells.
    """
    net = network(config=Config(steps=0))
    image, seed = picture(*size), seed_of(*size, background=True)
    found = net.walked(image, seed)
    height, width = size
    maps = torch.cat([seed.background[None], seed.scores])
    rows, columns = (torch.arange(-(-side // 8) * 8).clamp(max=side - 1) for side in size)
    cells = maps[:, rows][:, :, columns].unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).mean(dim=(2, 4))
    place = [((torch.arange(side) + 0.5) / 8 - 0.5).clamp(min=0) for side in size]
    expected = torch.empty_like(maps)
    for y, x in itertools.product(range(height), range(width)):
        (top, low), (left, far) = (
            (int(at), min(int(at) + 1, n - 1))
            for at, n in zip((place[0][y], place[1][x]), cells.shape[1:], strict=True)
        )
        dy, dx = place[0][y] - top, place[1][x] - left
        upper = cells[:, top, left] * (1 - dx) + cells[:, top, far] * dx
        lower = cells[:, low, left] * (1 - dx) + cells[:, low, far] * dx
        expected[:, y, x] = upper * (1 - dy) + lower * dy
    assert found.size == size
    torch.testing.assert_close(torch.cat([found.background[None], found.scores]), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (37, 51)])
def test_images_of_any_size(size):
    net, image, seed = network(), picture(*size), seed_of(*size)
    mask = net.refine(image, seed)
    assert mask.shape == size
    assert {*mask.unique().tolist()} <= {0, 3, 4}
    assert not net.training
    empty = seed_of(*size, classes=0)
    assert (net.refine(image, empty) == 0).all()


def test_labels_come_from_the_background_map_or_the_alphas():
    image, seed = picture(16, 16), seed_of(16, 16, background=True)
    by_background = affinity_labels.from_background(image, seed)
    by_alphas = affinity_labels.from_alphas(image, seed, low=4.0, high=24.0)
    assert not torch.equal(by_background, by_alphas)
    assert torch.equal(psa.labels(image, seed, Config()), by_background)
    assert torch.equal(psa.labels(image, seed, Config(learned_background=False)), by_alphas)
    without = seed_of(16, 16)
    assert torch.equal(psa.labels(image, without, Config()), by_alphas)


def test_fixed_scores_are_two_thresholds_by_hand():
    """A CRF of sharp colours changes nothing here: 0.2 is background, 0.5 in doubt, 0.7 of its class."""
    image = torch.zeros(3, 24, 24, dtype=torch.uint8)
    image[0, :, 8:16], image[2, :, 16:] = 255, 255
    columns = torch.tensor([0.2, 0.5, 0.7]).repeat_interleave(8)
    seed = SeedMaps(torch.tensor([4]), columns.expand(1, 24, 24), None, (24, 24))
    fixed = Config(fixed_scores=True)
    expected = torch.tensor([0, 255, 4]).repeat_interleave(8).expand(24, 24)
    assert torch.equal(psa.labels(image, seed, fixed).long(), expected)
    lower = Config(fixed_scores=True, low_score=0.1, high_score=0.5)
    expected = torch.tensor([255, 4, 4]).repeat_interleave(8).expand(24, 24)
    assert torch.equal(psa.labels(image, seed, lower).long(), expected)


@pytest.mark.parametrize("n_labels", [None, 21])
def test_fixed_scores_as_transcam_released_them(n_labels):
    """The masks at 0.60 and at 0.25 after the CRF; what is of a class in the first, background in both, and doubt."""
    image, seed = picture(24, 24), seed_of(24, 24)
    config = crf.Config(n_labels=n_labels)
    sure, all_of_it = (
        affinity_labels.after_crf(image, to_mask(seed, threshold=score), config) for score in (0.60, 0.25)
    )
    label = sure.clone()
    label[sure == 0] = 255
    label[sure.int() + all_of_it.int() == 0] = 0
    found = psa.labels(image, seed, Config(fixed_scores=True, n_labels=n_labels))
    assert torch.equal(found, label)
    with_background = seed_of(24, 24, background=True)  # which stands for them, unless it is not asked
    own = affinity_labels.from_background(image, with_background, config=config)
    assert torch.equal(psa.labels(image, with_background, Config(fixed_scores=True, n_labels=n_labels)), own)
    deaf = Config(fixed_scores=True, learned_background=False, n_labels=n_labels)
    assert torch.equal(psa.labels(image, with_background, deaf), label)


@pytest.mark.parametrize("size", [(32, 24), (37, 51)])
def test_the_fixed_score_of_the_walk_is_the_same_everywhere(size):
    """The rates of a cell sum to 1, so that a constant stays what it is."""
    net = network(config=Config(fixed_scores=True, steps=16))
    found = net.walked(picture(*size), seed_of(*size))
    torch.testing.assert_close(found.background, torch.full_like(found.background, 0.42))
    by_alpha = network(config=Config(steps=16)).walked(picture(*size), seed_of(*size))
    torch.testing.assert_close(found.scores, by_alpha.scores)


def test_it_learns_two_halves():
    """After 20 steps cells of one half are alike and those of different halves are not."""
    net = network()
    image = torch.full((3, 64, 64), 60, dtype=torch.uint8)
    image[:, :, 32:] = 200
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[:, :, :32] = 1
    inputs = normalise(image, net.backbone.normalisation)[None]
    batch = Batch(inputs, torch.ones(1, 2), torch.ones(1, 1, 64, 64, dtype=torch.bool), labels)
    optimizer = torch.optim.Adam([value for value in net.parameters() if value.requires_grad], lr=0.01)
    losses = []
    for _ in range(20):
        loss = sum(net.loss(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    seed = SeedMaps(torch.tensor([1]), torch.zeros(1, 64, 64), torch.zeros(64, 64), (64, 64))
    seed.scores[0, 24:40, 8:16] = 1  # a part of each half
    seed.background[24:40, 48:56] = 1
    mask = net.refine(image, seed)
    assert (mask == labels[0]).float().mean() > 0.9
    assert (to_mask(seed) == labels[0]).float().mean() < 0.6


def test_bad_input():
    net = network()
    with pytest.raises(DataError, match="image of 8 x 8 pixels and maps of one of 8 x 9"):
        net.refine(picture(8, 8), seed_of(8, 9))
    seed = seed_of(8, 8)
    seed.scores[0, 0, 0] = math.nan
    with pytest.raises(DataError, match="NaN"):
        net.refine(picture(8, 8), seed)
    with pytest.raises(RecipeError, match="learnt from pixel labels"):
        net.loss(batch_of(torch.zeros(1, 8, 8), dtype=torch.float32)._replace(pixel_labels=None))
    with pytest.raises(RecipeError, match="no stages"):
        AffinityNet(timm_backbones.make("test_vit", 2), Config())


@pytest.mark.parametrize(
    "settings",
    [
        *({"radius": 1}, {"low_alpha": 30.0}, {"low_alpha": 0.0}, {"beta": 0.0}, {"steps": -1}, {"widths": (0, 1, 1)}),
        *({"low_score": 0.7}, {"high_score": 1.1}, {"walk_score": -0.1}, {"n_labels": 1}, {"power": 0.0}),
    ],
)
def test_bad_settings(settings):
    with pytest.raises(RecipeError, match=r"psa:|crf: n_labels"):
        Config(**settings)
