"""BAO+: pseudo-labels at stride 4, drawn to the edges, and made by the target's own AM after the epochs of sharing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.core.types import IGNORE, Batch
from baoseg.data.transforms import Normalisation
from baoseg.methods.bao import BAO, ClassMaps, Config
from baoseg.methods.components.edges import draw_to_edges
from baoseg.nets.grid import on_grid
from baoseg.refine import crf
from baoseg.seeds.normalise import normalise
from baoseg.training.learner import Progress

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


@torch.no_grad()
def test_pseudo_labels_are_made_on_the_grid_of_the_decoder(batch):
    """Eq. 6 of class maps that were brought to [0, 1] on their own grid and then enlarged."""
    method = make(Config(decoder=True))
    class_maps = method.target.class_maps(method.target(batch.images))
    coarse = normalise(class_maps, valid=on_grid(batch.valid, class_maps)) * batch.labels[:, :, None, None]
    fine = F.interpolate(coarse, scale_factor=4, mode="bilinear")
    strongest, best = fine.max(dim=1)
    expected = torch.where(strongest > 0.5, best + 1, 0)
    expected[1, :, 8:] = IGNORE
    assert torch.equal(method.pseudo_labels(batch), expected)
    assert method.loss(batch)["pcl"] > 0


@torch.no_grad()
def test_the_target_labels_by_its_own_activation_maps_after_sharing(batch):
    method = make(Config(decoder=True, own_labels=True))
    by_class_maps = make(Config(decoder=True)).pseudo_labels(batch)
    activations = method.target.activation_maps(method.target(batch.images), batch.labels)
    own = torch.empty(2, 16, 16, dtype=torch.long)
    for image, possible in enumerate(([0, 1], [0, 1, 3])):
        own[image] = torch.tensor(possible)[activations[image, possible].argmax(dim=0)]
    own[1, :, 8:] = IGNORE
    assert not torch.equal(own, by_class_maps)

    for step in range(1, 5):  # 2 steps an epoch, of which the first shares
        assert torch.equal(method.pseudo_labels(batch), own if step > 2 else by_class_maps)
        method.after_step(Progress(step=step, steps=4, steps_per_epoch=2))


def test_whose_labels_they_are_is_kept_with_the_state(batch):
    method = make(Config(decoder=True, own_labels=True))
    method.after_step(Progress(step=2, steps=4, steps_per_epoch=2))
    continued = make(Config(decoder=True, own_labels=True))
    continued.load_state_dict(copy.deepcopy(method.state_dict()))
    assert bool(continued.labels_itself)
    assert torch.equal(continued.pseudo_labels(batch), method.pseudo_labels(batch))
    assert "labels_itself" not in make(Config(decoder=True)).state_dict()


@torch.no_grad()
def test_doubt_leaves_out_the_cells_of_the_smallest_margin(batch):
    method = make(Config(decoder=True, own_labels=True, doubt=0.25))
    method.labels_itself.fill_(True)
    labels = method.pseudo_labels(batch)
    activations = method.target.activation_maps(method.target(batch.images), batch.labels)[0, :2]
    margin = (activations.softmax(dim=0)[1] - activations.softmax(dim=0)[0]).abs()
    left_out = labels[0] == IGNORE
    assert int(left_out.sum()) == 64
    assert float(margin[left_out].max()) <= float(margin[~left_out].min())


def test_an_image_without_labels_is_background_in_both_ways(batch):
    method = make(Config(decoder=True, own_labels=True, edges=True))
    nothing = Batch(batch.images, torch.zeros(2, 3), batch.valid)
    for own in (False, True):
        method.labels_itself.fill_(own)
        labels = method.pseudo_labels(nothing)
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


def test_maps_come_from_the_decoder_and_hold_the_classes_asked_for(batch):
    method = make(Config(decoder=True))
    maps = method.maps(batch.images, batch.labels, classes=torch.tensor([3, 1]))
    activations = method.network.activation_maps(method.network(batch.images), batch.labels)
    torch.testing.assert_close(maps.scores, activations[:, [3, 1]])
    torch.testing.assert_close(maps.background, activations[:, :1])


def test_what_does_not_go_together_is_refused():
    with pytest.raises(RecipeError, match="edges without decoder"):
        Config(edges=True)
    for channels in (ClassMaps.REFINED, ClassMaps.WITH_ACTIVATION):
        with pytest.raises(RecipeError, match="different grids"):
            Config(decoder=True, class_channels=channels)
