"""IRNet: its branches, its losses and its walk, each rendered once more from the paper and the released layout."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import Batch
from baoseg.data.transforms import normalise
from baoseg.nets import timm_backbones
from baoseg.refine import affinity_labels, irn, pairs
from baoseg.refine.irn import Boundary, Config, Displacement, IRNet
from baoseg.refine.random_walk import propagate_to_edge
from baoseg.seeds import SeedMaps

few = settings(deadline=None, max_examples=25)
RESNET_50 = [64, 256, 512, 1024, 2048]


def network(stride: int = 16, config: Config | None = None, name: str = "test_resnet") -> IRNet:
    torch.manual_seed(0)
    return IRNet(timm_backbones.make(name, 2, stride=stride), config or Config())


def picture(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def seed_of(height: int, width: int, *, background: bool = False, classes: int = 2) -> SeedMaps:
    maps = torch.rand(classes + 1, height, width, generator=torch.Generator().manual_seed(1))
    return SeedMaps(torch.arange(classes) + 3, maps[1:], maps[0] if background else None, (height, width))


def batch_of(labels: Tensor) -> Batch:
    images = torch.rand(len(labels), 3, *labels.shape[1:], generator=torch.Generator().manual_seed(0))
    valid = torch.ones(len(labels), 1, *labels.shape[1:], dtype=torch.bool)
    return Batch(images, torch.ones(len(labels), 2), valid, labels.to(torch.uint8))


def grouped(values: Tensor, layer: torch.nn.Module, groups: int) -> Tensor:
    """1 x 1 convolution without bias and group normalisation, with its scale and shift."""
    convolution, norm = layer
    values = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], values)
    parts = values.unflatten(1, (groups, -1))
    mean, variance = parts.mean(dim=(2, 3, 4), keepdim=True), parts.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
    values = ((parts - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    return values * norm.weight[:, None, None] + norm.bias[:, None, None]


def up(values: Tensor, factor: int) -> Tensor:
    return F.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)


@pytest.fixture
def stages() -> list[Tensor]:
    """Of a small ResNet: strides 4, 4, 8, 16, 16."""
    generator = torch.Generator().manual_seed(3)
    sizes = [(5, 8), (7, 8), (9, 4), (11, 2), (6, 2)]
    return [torch.randn(2, count, side, side, generator=generator, dtype=torch.float64) for count, side in sizes]


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """In double precision, with scales and shifts that are not 1 and 0."""
    generator = torch.Generator().manual_seed(4)
    for parameter in module.double().parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def test_the_boundary_branch(stages):
    """32 channels of each stage in 4 groups, brought to stride 4, rectified; 1 x 1 convolution over all with a bias."""
    branch = shaken(Boundary([5, 7, 9, 11, 6]))
    parts = [
        up(grouped(stage, layer, 4), factor).relu()
        for stage, layer, factor in zip(stages, branch.stages, (1, 1, 2, 4, 4), strict=True)
    ]
    weight, bias = branch.joint.weight[0, :, 0, 0], branch.joint.bias
    expected = torch.einsum("c,bchw->bhw", weight, torch.cat(parts, dim=1)) + bias
    torch.testing.assert_close(branch(stages)[:, 0], expected)


def test_the_displacement_branch(stages):
    """64 and 128 channels at stride 4; 256 each of the coarser, joined at stride 8, enlarged, and joined again."""
    branch = shaken(Displacement([5, 7, 9, 11, 6], pooled=1, fine=2))
    fine = [grouped(stages[0], branch.fine[0], 8), grouped(stages[1], branch.fine[1], 16)]
    coarse = [
        up(grouped(stage, layer, 16), factor)
        for stage, layer, factor in zip(stages[2:], branch.coarse, (1, 2, 2), strict=True)
    ]
    joined = up(grouped(torch.cat(coarse, dim=1).relu(), branch.coarse_joint, 16), 2)
    first, _, last = branch.joint
    hidden = grouped(torch.cat([*fine, joined], dim=1).relu(), first, 16).relu()
    expected = torch.einsum("oc,bchw->bohw", last.weight[:, :, 0, 0], hidden)
    torch.testing.assert_close(branch(stages), expected)


def test_the_branches_on_resnet_50_have_the_published_sizes():
    """Convolutions without bias and two numbers a normalised channel, added up by hand."""
    assert sum(p.numel() for p in Boundary(RESNET_50).parameters()) == 32 * sum(RESNET_50) + 5 * 64 + 161
    widths = [64, 128, 256, 256, 256]
    ends = sum(c * w for c, w in zip(RESNET_50, widths, strict=True)) + 2 * sum(widths)
    joints = (768 * 256 + 512) + (448 * 256 + 512) + 512
    assert sum(p.numel() for p in Displacement(RESNET_50, pooled=1, fine=2).parameters()) == ends + joints


@pytest.mark.parametrize(("name", "stride"), [("test_resnet", 16), ("test_resnet", 32), ("test_convnext", 32)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 18), (64, 32)])
def test_the_grid_has_stride_4_at_any_size(name, stride, size):
    net = network(stride, name=name)
    logits, displacement = net.fields(torch.rand(2, 3, *size))
    grid = (math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    assert logits.shape == (2, *grid)
    assert displacement.shape == (2, 2, *grid)


def test_the_stem_is_pooled_to_stride_4():
    net = network()
    images = torch.rand(1, 3, 32, 32)
    read, stages = net._stages(images), net.backbone.stages(images)
    assert [stage.shape[-1] for stage in read] == [8, 8, 4, 2, 2]
    rows = F.pad(stages[0], (1, 1, 1, 1), value=-math.inf).unfold(2, 3, 2).unfold(3, 3, 2)
    assert torch.equal(read[0], rows.amax(dim=(4, 5)))
    assert all(torch.equal(one, other) for one, other in zip(read[1:], stages[1:], strict=True))


def way(one: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int]]:
    """The cells between two cells less than 1 from the line through them."""
    (y0, x0), (y1, x1) = one, other
    length = math.dist(one, other)
    return [
        (y, x)
        for y in range(min(y0, y1), max(y0, y1) + 1)
        for x in range(min(x0, x1), max(x0, x1) + 1)
        if abs((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length < 1 - 1e-9
    ]


def expected_terms(labels: Tensor, edge: Tensor, displacement: Tensor, radius: int) -> dict[str, float]:
    """Sec. 4.3 and 4.4, pair by pair, each pair once, all halved as released."""
    losses: dict[str, list[float]] = {
        name: []
        for name in ("background", "foreground", "different", "displacement_foreground", "displacement_background")
    }
    cells = [tuple(cell) for cell in torch.ones(labels.shape[1:]).nonzero().tolist()]
    for b in range(len(labels)):
        for i, one in enumerate(cells):
            for other in cells[i + 1 :]:
                first, second = int(labels[b, *one]), int(labels[b, *other])
                if math.dist(one, other) >= radius or 255 in (first, second):
                    continue
                affinity = 1 - max(float(edge[b, *cell]) for cell in way(one, other))
                moved = [float(value) for value in displacement[b, :, *one] - displacement[b, :, *other]]
                if first != second:
                    losses["different"].append(-math.log(1 + 1e-5 - affinity))
                    continue
                kind = "foreground" if first else "background"
                losses[kind].append(-math.log(affinity + 1e-5))
                target = [other[0] - one[0], other[1] - one[1]] if first else [0, 0]
                error = sum(abs(a - b) for a, b in zip(moved, target, strict=True)) / 2
                losses[f"displacement_{kind}"].append(error)
    weights = {"background": 0.25, "foreground": 0.25}
    return {name: weights.get(name, 0.5) * sum(v) / max(len(v), 1) for name, v in losses.items()}


@few
@given(height=st.integers(1, 6), width=st.integers(1, 6), radius=st.integers(2, 6), number=st.integers(0, 2**31))
def test_the_loss_pair_by_pair(height, width, radius, number):
    generator = torch.Generator().manual_seed(number)
    labels = torch.tensor([0, 1, 1, 2, 255])[torch.randint(5, (2, height, width), generator=generator)]
    edge = torch.rand(2, height, width, generator=generator, dtype=torch.float64)
    displacement = 3 * torch.randn(2, 2, height, width, generator=generator, dtype=torch.float64)
    found = pairs.means(irn._sums, labels, edge, displacement, radius=radius)
    expected = expected_terms(labels, edge, displacement, radius)
    for value, weight, name in zip(found, (0.25, 0.25, 0.5, 0.5, 0.5), expected, strict=True):
        assert weight * float(value) == pytest.approx(expected[name], rel=1e-4, abs=1e-9)


def test_the_loss_of_a_batch():
    """Of the network's own fields, with the labels in the middle of the cells and without padding."""
    net = network(config=Config(radius=4))
    cells = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 6, 5), generator=torch.Generator().manual_seed(2))]
    pixels = torch.full((2, 24, 20), 9)
    pixels[:, 2::4, 2::4] = cells
    batch = batch_of(pixels)
    batch.valid[0, :, 20:] = False
    cells[0, 5:] = 255
    logits, displacement = (field.detach() for field in net.fields(batch.images))
    expected = expected_terms(cells, logits.sigmoid(), displacement, radius=4)
    found = {name: float(value.detach()) for name, value in net.loss(batch).items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_displacement_to_the_middle_of_an_object_costs_nothing():
    """D_i = middle - i: then D_i - D_j = j - i. Background does not move."""
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    displacement = torch.stack([2.5 - rows, 2.5 - columns])[None]
    labels = torch.ones(1, 6, 6, dtype=torch.int64)
    found = pairs.means(irn._sums, labels, torch.zeros(1, 6, 6), displacement, radius=4)
    assert found[3:].abs().max() < 1e-6
    assert pairs.means(irn._sums, labels, torch.zeros(1, 6, 6), -displacement, radius=4)[3] > 1
    assert pairs.means(irn._sums, 0 * labels, torch.zeros(1, 6, 6), 0 * displacement + 7, radius=4)[4] == 0


def test_the_gradient_reaches_the_branches_alone():
    net = network()
    net.train()
    labels = torch.zeros(1, 32, 32)
    labels[:, 12:] = 1
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    sum(net.loss(batch_of(labels)).values()).backward()
    for branch in (net.boundary, net.displacement):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in branch.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.backbone.parameters())
    assert not any(module.training for module in net.backbone.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.backbone.state_dict().items())
    assert {id(p) for p in net.head_parameters()} == {id(p) for p in net.displacement.parameters()}


def test_nothing_to_learn_from_is_a_loss_of_0():
    for labels in (torch.full((1, 32, 32), 255), torch.zeros(1, 3, 4)):  # all in doubt; one cell, no pair
        assert float(sum(network().loss(batch_of(labels)).values()).detach()) == 0


def test_the_edge_is_that_of_the_image_and_its_mirror_image():
    net = network()
    image = picture(24, 20)
    inputs = normalise(image, net.backbone.normalisation)[None]
    one, other = net.fields(inputs)[0][0], net.fields(inputs.flip(-1))[0][0].flip(-1)
    expected = 1 / (1 + (-(one / 2 + other / 2)).exp())
    torch.testing.assert_close(net.edge(image), expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.edge(image.flip(-1)), net.edge(image).flip(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("background", "learned"), [(True, True), (True, False), (False, True)])
def test_the_walk_up_to_the_boundaries(background, learned):
    net = network(config=Config(steps=4, learned_background=learned))
    image, seed = picture(24, 20), seed_of(24, 20, background=background)
    found = net.walked(image, seed)

    takes_along = background and learned
    maps = torch.cat([seed.background[None], seed.scores]) if takes_along else seed.scores
    maps = F.interpolate(maps[None], size=(6, 5), mode="bilinear", align_corners=False)[0]
    walked = propagate_to_edge(maps, net.edge(image), radius=5, beta=10, steps=4)
    walked = walked / walked.max()
    scores = walked[1:] if takes_along else walked
    torch.testing.assert_close(found.scores, scores)
    assert torch.equal(found.classes, seed.classes)
    if takes_along:
        torch.testing.assert_close(found.background, walked[0])
        assert found.threshold is None
    else:
        assert found.background is None
        assert found.threshold == 0.25

    floor = walked[:1] if takes_along else torch.full((1, 6, 5), 0.25)
    enlarged = F.interpolate(torch.cat([floor, scores])[None], size=(24, 20), mode="bilinear", align_corners=False)[0]
    mask = torch.tensor([0, 3, 4])[enlarged.argmax(dim=0)]
    assert torch.equal(net.refine(image, seed), mask.to(torch.uint8))


@pytest.mark.parametrize("power", [1.0, 1.3, 1.5])
def test_the_walk_of_maps_to_a_power(power):
    """T^steps of M^power (1 - B), with T as a full matrix: BAS has a power of 1.5, AMN of 1.3, IRN none."""
    net = network(config=Config(steps=4, walk_radius=3, beta=2.0, power=power))
    image, seed = picture(24, 20), seed_of(24, 20)
    edge = net.edge(image).double()
    maps = F.interpolate(seed.scores[None], size=(6, 5), mode="bilinear", align_corners=False)[0].double()
    cells = [(y, x) for y in range(6) for x in range(5)]
    matrix = torch.zeros(30, 30, dtype=torch.float64)
    for i, one in enumerate(cells):
        for j, other in enumerate(cells):
            if one == other:
                matrix[i, j] = 1
            elif math.dist(one, other) < 3:
                matrix[i, j] = (1 - max(edge[cell].item() for cell in way(one, other))) ** 2
    matrix /= matrix.sum(dim=1, keepdim=True)
    start = torch.exp(power * torch.log(maps)) * (1 - edge)
    expected = (start.flatten(1) @ torch.linalg.matrix_power(matrix, 4).T).view(maps.shape)
    found = net.walked(image, seed)
    torch.testing.assert_close(found.scores.double(), expected / expected.max(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 3), (37, 50)])
def test_images_of_any_size(size):
    net, image = network(), picture(*size)
    for background in (True, False):
        mask = net.refine(image, seed_of(*size, background=background))
        assert mask.shape == size
        assert {*mask.unique().tolist()} <= {0, 3, 4}
        assert (net.refine(image, seed_of(*size, background=background, classes=0)) == 0).all()


def test_maps_of_nothing_stay_nothing():
    seed = SeedMaps(torch.tensor([3]), torch.zeros(1, 8, 8), None, (8, 8))
    assert (network().walked(picture(8, 8), seed).scores == 0).all()
    assert (network().refine(picture(8, 8), seed) == 0).all()


def test_labels_come_from_the_background_map_or_the_thresholds():
    image, seed = picture(16, 16), seed_of(16, 16, background=True)
    by_background = affinity_labels.from_background(image, seed)
    by_thresholds = affinity_labels.from_thresholds(image, seed, background=0.3, foreground=0.8)
    assert not torch.equal(by_background, by_thresholds)
    assert torch.equal(irn.labels(image, seed, Config()), by_background)
    config = Config(background=0.3, foreground=0.8, learned_background=False)
    assert torch.equal(irn.labels(image, seed, config), by_thresholds)
    assert torch.equal(irn.labels(image, seed_of(16, 16), config), by_thresholds)


def test_it_learns_where_two_regions_meet():
    """A bright band of 6 cells on dark ground, 16 cells wide: boundaries between cells 4, 5 and 10, 11."""
    net = network(config=Config(radius=4))
    image = torch.full((3, 32, 64), 60, dtype=torch.uint8)
    image[:, :, 20:44] = 200
    labels = torch.zeros(1, 32, 64, dtype=torch.uint8)
    labels[:, :, 20:44] = 1
    inputs = normalise(image, net.backbone.normalisation)[None]
    batch = Batch(inputs, torch.ones(1, 2), torch.ones(1, 1, 32, 64, dtype=torch.bool), labels)
    optimizer = torch.optim.Adam([value for value in net.parameters() if value.requires_grad], lr=0.02)
    losses = []
    for _ in range(20):
        loss = sum(net.loss(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    edge = net.edge(image)
    borders = torch.stack([edge[:, 4:6], edge[:, 10:12]]).amax(dim=2)
    assert borders.min() > 2 * edge[:, [1, 2, 7, 8, 13, 14]].max()


def test_bad_input():
    net = network()
    with pytest.raises(DataError, match="image of 8 x 8 pixels and maps of one of 8 x 9"):
        net.refine(picture(8, 8), seed_of(8, 9))
    seed = seed_of(8, 8, background=True)
    seed.background[0, 0] = math.nan
    with pytest.raises(DataError, match="NaN"):
        net.refine(picture(8, 8), seed)
    with pytest.raises(RecipeError, match="learnt from pixel labels"):
        net.loss(batch_of(torch.zeros(1, 8, 8))._replace(pixel_labels=None))
    with pytest.raises(RecipeError, match="no stages"):
        IRNet(timm_backbones.make("test_vit", 2), Config())


@pytest.mark.parametrize(
    "settings",
    [
        {"radius": 1},
        {"background": 0.5},
        {"threshold": 1.5},
        {"walk_radius": 0},
        {"beta": 0.0},
        {"steps": -1},
        {"power": 0.0},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(RecipeError, match="irn:"):
        Config(**settings)
