"""AMN against its loss, followed cell by cell from labels made beforehand."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import IGNORE, Batch
from baoseg.methods.amn import AMN, Config
from baoseg.nets import Heads
from baoseg.nets.grid import labels_on_grid
from baoseg.nets.network import Network
from baoseg.training import train
from baoseg.training.train import Optimizer

S = 5  # classes with background


@pytest.fixture(params=[True, False], ids=["attention", "no attention"])
def method(request, make_network) -> AMN:
    return AMN(make_network(attends=request.param, heads=Heads(backgrounds=1)), Config())


def labelled(batch: Batch, choices: list[int]) -> Batch:
    """The batch with a label of `choices` at each pixel, and 255 on the padding."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.tensor(choices)[torch.randint(len(choices), (3, 12, 16), generator=generator)]
    return batch._replace(pixel_labels=drawn.masked_fill(~batch.valid[:, 0], IGNORE).to(torch.uint8))


def activation_maps(network: Network, images: Tensor, labels: Tensor) -> Tensor:
    """AM = A* classifier(f * (W y + b)), all S channels, with A* written out."""
    features = network(images)
    encoder, head = network.label_encoder, network.activation_head
    conditioned = features.map * (labels @ encoder.weight.T + encoder.bias)[:, :, None, None]
    maps = F.conv2d(conditioned, head.weight, head.bias, padding=1)
    attention = features.attention
    if attention is None:
        return maps
    star = torch.zeros(len(maps), 13, 13, dtype=torch.float64)
    for queries, keys in zip(attention.queries, attention.keys, strict=True):
        star = star + (queries @ keys.transpose(2, 3) / 5**0.5).softmax(dim=3).mean(dim=1)
    return (maps.flatten(2) @ star[:, 1:, 1:].transpose(1, 2)).view(maps.shape)


def balanced_loss(maps: Tensor, pixel_labels: Tensor, cells: Tensor, *, smoothing: float) -> float:
    """PCL, cell by cell: a cell has the label of the pixel in its middle, the third of four along each side."""
    losses: dict[bool, list[float]] = {False: [], True: []}
    for picture, row, column in cells.nonzero().tolist():
        label = int(pixel_labels[picture, 4 * row + 2, 4 * column + 2])
        if label == IGNORE:
            continue
        powers = maps[picture, :, row, column].detach().exp()
        loss = 0.0
        for channel, power in enumerate(powers):
            share = 1 - smoothing if channel == label else smoothing / (S - 1)
            loss -= share * float(torch.log(power / powers.sum()))
        losses[label > 0].append(loss)
    means = [sum(kind) / len(kind) for kind in losses.values() if kind]
    return sum(means) / len(means) if means else 0.0


ALL = torch.ones(3, 4, dtype=torch.float64)
KINDS = {
    "everything": [0, 1, 2, 3, 4, IGNORE],
    "one class": [0, 3, IGNORE],
    "nothing ignored": [0, 1, 2, 3, 4],
    "background alone": [0, IGNORE],
    "foreground alone": [1, 4, IGNORE],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", [0.4, 0.0])
def test_loss_is_the_balanced_cross_entropy_of_the_labels(method, batch, valid_cells, kind, smoothing):
    method.config = Config(smoothing=smoothing)
    image_labels = torch.eye(4, dtype=torch.float64)[[2, 2, 2]] if kind == "one class" else ALL
    given_batch = labelled(batch, KINDS[kind])._replace(labels=image_labels)
    terms = method.loss(given_batch)
    maps = activation_maps(method.network, batch.images, image_labels)
    expected = balanced_loss(maps, given_batch.pixel_labels, valid_cells, smoothing=smoothing)
    assert terms.keys() == {"pcl"}
    assert expected > 0
    assert terms["pcl"].item() == pytest.approx(expected, rel=1e-9)


def test_labels_on_the_padding_are_not_learnt(method, batch, valid_cells):
    """Even if somebody labelled it: a cell that is padding for the most part is left out."""
    honest = labelled(batch, KINDS["everything"])
    on_padding = torch.where(batch.valid[:, 0], honest.pixel_labels, 2).to(torch.uint8)
    maps = activation_maps(method.network, batch.images, batch.labels)
    expected = balanced_loss(maps, on_padding, valid_cells, smoothing=0.4)
    loss = method.loss(batch._replace(pixel_labels=on_padding))["pcl"]
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_nothing_to_learn_from_is_a_loss_of_zero(method, batch):
    loss = method.loss(labelled(batch, [IGNORE]))["pcl"]
    loss.backward()
    assert loss.item() == 0
    gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_without_seeds_there_is_no_loss_but_a_remedy(method, batch):
    with pytest.raises(RecipeError, match=r"learns from seeds; name the stage that makes them .*labelled_by"):
        method.loss(batch)


def test_a_single_class_is_told_from_the_background(make_network, batch):
    """K = 1, so S = 2 and the whole of eps goes to the other one of the two."""
    backbone = make_network().backbone
    network = Network(backbone, 1, heads=Heads(backgrounds=1)).double()
    method = AMN(network, Config())
    only = Batch(batch.images, ALL[:, :1], batch.valid, torch.ones(3, 12, 16, dtype=torch.uint8))
    scores = activation_maps(network, batch.images, only.labels)
    cells = [scores[:, :, row, column] for row in range(2) for column in range(2)]  # image in all three of them
    margin = torch.stack([cell[:, 1] - cell[:, 0] for cell in cells])
    expected = (0.6 * torch.log1p(torch.exp(-margin)) + 0.4 * torch.log1p(torch.exp(margin))).mean()
    corner = torch.full((3, 12, 16), IGNORE, dtype=torch.uint8)
    corner[:, :8, :8] = 1
    torch.testing.assert_close(method.loss(only._replace(pixel_labels=corner))["pcl"], expected)
    assert method.maps(only.images, only.labels).scores.shape == (3, 1, 3, 4)


def test_maps_are_shares_of_all_classes_and_the_background(method, batch):
    method.eval()
    maps = method.maps(batch.images, batch.labels)
    powers = activation_maps(method.network, batch.images, batch.labels).exp()
    for s in range(1, S):
        torch.testing.assert_close(maps.scores[:, s - 1], powers[:, s] / sum(powers[:, t] for t in range(S)))
    some = method.maps(batch.images, batch.labels, classes=torch.tensor([1, 4]))
    assert torch.equal(some.scores, maps.scores[:, [0, 3]])  # absent classes keep their share
    assert maps.background is None
    assert some.background is None
    assert not method.learns_background


@pytest.mark.parametrize("optimizer", Optimizer)
def test_a_step_changes_all_but_the_heads_that_take_no_part(method, batch, optimizer):
    frozen = {"class_head.weight", "backbone.token_head.weight", "backbone.token_head.bias"}
    before = {name: parameter.detach().clone() for name, parameter in method.network.named_parameters()}
    config = train.Config(epochs=1, batch_size=3, lr=0.1, optimizer=optimizer)
    stepper = train.make_optimizer(method, config)
    chosen = {id(parameter) for group in stepper.param_groups for parameter in group["params"]}
    method.train().loss(labelled(batch, KINDS["everything"]))["pcl"].backward()
    stepper.step()
    attends = method.network.backbone.attends
    for name, parameter in method.network.named_parameters():
        if name in frozen:
            assert id(parameter) not in chosen
            assert torch.equal(parameter, before[name])
        elif attends or not name.startswith(("backbone.projections", "backbone.class_token")):
            assert not torch.equal(parameter, before[name]), name


def test_a_cell_has_the_label_of_its_middle():
    labels = torch.arange(48, dtype=torch.uint8).view(1, 6, 8)  # label = 8 * row + column
    maps = torch.zeros(1, 2, 2, 2)
    assert labels_on_grid(labels, maps).tolist() == [[[8 * 1 + 2, 8 * 1 + 6], [8 * 4 + 2, 8 * 4 + 6]]]
    extremes = torch.tensor([[[0, 254], [255, 1]]], dtype=torch.uint8)
    on_grid = labels_on_grid(extremes, maps)
    assert on_grid.tolist() == extremes.tolist()
    assert on_grid.dtype == torch.int64


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 2**16),
)
def test_labels_that_are_constant_in_each_cell_come_back(rows, columns, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(256, (2, rows, columns), generator=generator)
    pixels = cells.repeat_interleave(height, dim=1).repeat_interleave(width, dim=2).to(torch.uint8)
    assert torch.equal(labels_on_grid(pixels, torch.zeros(2, 3, rows, columns)), cells)


@pytest.mark.parametrize(
    "wrong",
    [
        {"background_below": 0.5},  # above 0.30, the default of the other
        {"background_below": -0.1},
        {"foreground_above": 1.1},
        {"foreground_above": 0.04},
        {"smoothing": 1.0},
        {"smoothing": -0.1},
        {"smoothing": float("nan")},
        {"background_below": float("nan")},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(RecipeError, match="background_below <= foreground_above"):
        Config(**wrong)
