"""BAO+: pseudo-labels at stride 4, drawn to the edges of the images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baoseg import nets
from baoseg.core.types import IGNORE, Batch
from baoseg.data.transforms import Normalisation
from baoseg.methods.bao import BAO, PLUS, Config
from baoseg.methods.components.edges import draw_to_edges
from baoseg.nets.grid import on_grid
from baoseg.refine import crf
from baoseg.seeds.normalise import normalise
from baoseg.training import losses

PLAIN = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def make(config: Config) -> BAO:
    net = nets.Config(backbone="timm:mobilenetv2_035", activation_start=nets.ActivationStart.UNGATED)
    method = BAO(nets.build(net, 3, heads=BAO.heads(config)), config)
    torch.nn.init.normal_(method.network.activation_head.weight, std=0.3)
    method.begin_training()
    return method.eval()


@pytest.fixture
def batch(generator: torch.Generator) -> Batch:
    """Two images of 64 x 64 in blocks of one colour; the right half of the second one is padding."""
    blocks = torch.randn(2, 3, 4, 4, generator=generator)
    images = F.interpolate(blocks, scale_factor=16, mode="nearest")
    valid = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    valid[1, :, :, 32:] = False
    return Batch(images, torch.tensor([[1.0, 0, 0], [1, 0, 1]]), valid)


def enlarge(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=4, mode="bilinear")


def class_scores(method: BAO, batch: Batch) -> Tensor:
    """[1 - max, M_fg] of eq. 6, from class maps that were brought to [0, 1] on their own grid and then enlarged."""
    class_maps = method.target.class_maps(method.target(batch.images))
    coarse = normalise(class_maps, valid=on_grid(batch.valid, class_maps)) * batch.labels[:, :, None, None]
    fine = enlarge(coarse)
    return torch.cat([1 - fine.amax(dim=1, keepdim=True), fine], dim=1)


def drawn(scores: Tensor, batch: Batch) -> Tensor:
    """The best labels, padding left out, drawn to the edges."""
    labels = scores.argmax(dim=1)
    labels[1, :, 8:] = IGNORE
    return draw_to_edges(labels, batch.images, Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3))


@torch.no_grad()
def test_pseudo_labels_are_made_at_stride_4_and_drawn_to_the_edges(batch):
    method = make(Config(edges=True))
    labels = method.pseudo_labels(batch)
    assert labels.shape == (2, 16, 16)
    assert torch.equal(labels, drawn(class_scores(method, batch), batch))


@torch.no_grad()
def test_the_loss_enlarges_the_activation_maps_to_the_grid_of_the_labels(batch):
    method = make(Config(edges=True))
    activations = enlarge(method.network.activation_maps(method.network(batch.images), batch.labels))
    expected = losses.pixel_classification(activations, method.pseudo_labels(batch), smoothing=0.4)
    torch.testing.assert_close(method.loss(batch)["pcl"], expected)


def test_an_image_without_labels_is_background(batch):
    labels = make(Config(edges=True)).pseudo_labels(Batch(batch.images, torch.zeros(2, 3), batch.valid))
    assert set(labels[0].unique().tolist()) == {0}
    assert set(labels[1].unique().tolist()) == {0, IGNORE}


def halves(width: int) -> Tensor:
    """An image [1 3 32 32] that is dark up to column `width` and bright from there on."""
    image = torch.full((1, 3, 32, 32), 0.2)
    image[..., width:] = 0.8
    return image


def test_labels_move_to_the_edge_of_the_image():
    """The labels change at column 5 of 8, the colours at column 4."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[..., 5:] = 2
    drawn = draw_to_edges(labels, halves(16), PLAIN)
    expected = torch.zeros(1, 8, 8, dtype=torch.long)
    expected[..., 4:] = 2
    assert torch.equal(drawn, expected)


def test_drawing_is_the_crf_for_label_images_at_the_scale_of_the_grid(generator):
    colours = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
    images = colours.permute(2, 0, 1)[None].float().repeat_interleave(4, dim=2).repeat_interleave(4, dim=3) / 255
    labels = torch.randint(0, 3, (1, 8, 8), generator=generator)
    config = crf.Config(gaussian_sxy=3 / 4, bilateral_sxy=50 / 4, bilateral_srgb=5.0)
    expected = crf.from_labels(colours, labels[0], config=config).argmax(dim=0)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    normalised = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(draw_to_edges(labels, normalised, Normalisation(mean=mean, std=std))[0], expected)


def test_padding_stays_padding_and_one_label_stays_as_it_is():
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[..., 5:] = 2
    labels[..., 7] = IGNORE
    assert torch.equal(draw_to_edges(labels, halves(16), PLAIN)[..., 7], labels[..., 7])
    whole = torch.full((1, 8, 8), 3)
    assert torch.equal(draw_to_edges(whole, halves(16), PLAIN), whole)
    padding = torch.full((1, 8, 8), IGNORE)
    assert torch.equal(draw_to_edges(padding, halves(16), PLAIN), padding)


def test_as_published_takes_both_away():
    assert BAO.as_published(PLUS) == Config(momentum=None)
