"""BAO against its equations, followed cell by cell and step by step."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import IGNORE, Batch
from baoseg.methods import bao
from baoseg.methods.bao import BAO, Background, ClassMaps, Config, Keep
from baoseg.methods.base import refine
from baoseg.methods.components.decisions import Cut, find_cut
from baoseg.methods.components.teacher import Follow
from baoseg.nets import Heads
from baoseg.nets.base import Features
from baoseg.seeds.normalise import normalise
from baoseg.training import losses
from baoseg.training.learner import Progress


def in_training(method: BAO) -> BAO:
    method.begin_training()
    return method


S = 5  # classes with background


@pytest.fixture(params=[True, False], ids=["attention", "no attention"])
def method(request, make_network) -> BAO:
    """Online and target network differ, as in the midst of training."""
    method = in_training(BAO(make_network(attends=request.param, heads=Heads(backgrounds=1)), Config(pcl_weight=0.7)))
    method.target.load_state_dict(make_network(attends=request.param, heads=Heads(backgrounds=1), seed=1).state_dict())
    return method.train()


def spread(maps: Tensor, features: Features) -> Tensor:
    """A* M with A* written out (eq. 2-5); the maps as they are without attention."""
    attention = features.attention
    if attention is None:
        return maps
    star = torch.zeros(len(maps), 13, 13, dtype=torch.float64)
    for queries, keys in zip(attention.queries, attention.keys, strict=True):
        star = star + (queries @ keys.transpose(2, 3) / 5**0.5).softmax(dim=3).mean(dim=1)
    return (maps.flatten(2) @ star[:, 1:, 1:].transpose(1, 2)).view(maps.shape)


def decide(refined: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Eq. 6, cell by cell: [1 - max, maps divided by their maxima] of the classes present; 255 on padding."""
    decided = torch.full(valid.shape, IGNORE)
    for picture in range(len(refined)):
        present = [s for s in range(S - 1) if labels[picture, s]]
        peaks = {s: max(0.0, float(refined[picture, s][valid[picture]].max())) for s in present}
        for row, column in valid[picture].nonzero().tolist():
            scores = {
                s + 1: max(0.0, float(refined[picture, s, row, column])) / peaks[s] if peaks[s] else 0.0
                for s in present
            }
            scores[0] = 1 - max(scores.values(), default=0.0)
            decided[picture, row, column] = max(scores, key=lambda s: scores[s])
    return decided


def test_pseudo_labels_are_equation_6_of_the_target(method, batch, valid_cells):
    features = method.target(batch.images)
    refined = spread(method.target.class_maps(features), features)
    expected = decide(refined, batch.labels, valid_cells)
    pseudo_labels = method.pseudo_labels(batch)
    assert torch.equal(pseudo_labels, expected)
    assert torch.equal(pseudo_labels == IGNORE, ~valid_cells)
    assert len(pseudo_labels.unique()) > 3  # background, ignored and several classes: the case says something


def test_absent_classes_are_never_chosen(method, batch):
    pseudo_labels = method.pseudo_labels(batch)
    for labels, decided in zip(batch.labels, pseudo_labels, strict=True):
        present = set((labels.nonzero()[:, 0] + 1).tolist())
        assert set(decided.unique().tolist()) <= present | {0, IGNORE}


def test_a_present_class_keeps_its_strongest_cell(method, batch):
    """The only class of an image has a cell with 1, where the background has 0 - if it is positive anywhere."""
    alone = Batch(batch.images, torch.eye(4, dtype=torch.float64)[:3], batch.valid)
    features = method.target(batch.images)
    refined = spread(method.target.class_maps(features), features)
    for picture, decided in enumerate(method.pseudo_labels(alone)):
        counted = decided != IGNORE
        positive = bool((refined[picture, picture][counted] > 0).any())
        assert bool((decided == picture + 1).any()) == positive


def test_an_image_without_labels_is_all_background(method, batch, valid_cells):
    nothing = Batch(batch.images, torch.zeros_like(batch.labels), batch.valid)
    assert torch.equal(method.pseudo_labels(nothing) == 0, valid_cells)


def test_an_image_without_labels_has_no_cell_in_doubt(make_network, batch, valid_cells):
    network = make_network(heads=Heads(backgrounds=1))
    some = Batch(batch.images, batch.labels * torch.tensor([[1.0], [0.0], [1.0]]), batch.valid)
    for cut in Cut:
        method = in_training(BAO(network, Config(doubt=0.5, cut=cut)))
        labels = method.pseudo_labels(some)
        assert torch.equal(labels[1] == 0, valid_cells[1])  # all background
        assert int((labels[0] == IGNORE).sum()) == 6  # half of the 12 cells


def test_the_loss_of_images_without_labels_by_hand(make_network, batch):
    """The mean over classes of log(1 + e^z), and the cross-entropy of the background's channel."""
    method = in_training(BAO(make_network(attends=False, heads=Heads(backgrounds=1)), Config(smoothing=0.0)))
    whole = Batch(batch.images[:1], torch.zeros(1, 4, dtype=torch.float64), batch.valid[:1])
    features = method.network(whole.images)
    z = method.network.class_maps(features).mean(dim=(2, 3))
    background = method.activations(features, whole.labels).softmax(dim=1)[:, 0]
    terms = method.loss(whole)
    torch.testing.assert_close(terms["classification"], torch.log(1 + torch.exp(z)).mean())
    torch.testing.assert_close(terms["pcl"], -background.log().mean())


def test_what_lies_in_the_padding_does_not_matter(make_network, batch, valid_cells):
    """Without attention (which looks everywhere) and batch statistics, labels of image cells know it alone."""
    method = in_training(BAO(make_network(attends=False, heads=Heads(backgrounds=1)), Config()).train())
    pixels = valid_cells.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)[:, None]
    other = Batch(torch.where(pixels, batch.images, -40.0), batch.labels, batch.valid)
    assert torch.equal(method.pseudo_labels(batch), method.pseudo_labels(other))


def test_loss_is_equation_8(method, batch, valid_cells):
    """L = L_cls + lambda L_pcl(AM, p), AM = A* classifier(f * (W y + b)), all S channels."""
    terms = method.loss(batch)
    network = method.network
    features = network(batch.images)

    weights = network.class_head.weight[1:, :, 0, 0]
    class_maps = torch.einsum("s c, b c h w -> b s h w", weights, features.map)
    z = torch.stack([m[:, v].mean(dim=1) for m, v in zip(class_maps, valid_cells, strict=True)])
    if features.token_logits is not None:
        z = z + features.token_logits
    y = batch.labels
    fraction = 1 / (1 + torch.exp(-z))
    classification = -(y * fraction.log() + (1 - y) * (1 - fraction).log()).mean()

    encoder, head = network.label_encoder, network.activation_head
    conditioning = y @ encoder.weight.T + encoder.bias
    conditioned = features.map * conditioning[:, :, None, None]
    activations = spread(F.conv2d(conditioned, head.weight, head.bias, padding=1), features)
    target_features = method.target(batch.images)
    decided = decide(spread(method.target.class_maps(target_features), target_features), y, valid_cells)
    of_background, of_foreground = [], []
    for picture, row, column in valid_cells.nonzero().tolist():
        label = int(decided[picture, row, column])
        q = torch.full((S,), 0.4 / (S - 1), dtype=torch.float64)
        q[label] = 0.6
        loss = -(q * activations[picture, :, row, column].softmax(dim=0).log()).sum()
        (of_foreground if label else of_background).append(loss)
    pcl = (torch.stack(of_background).mean() + torch.stack(of_foreground).mean()) / 2

    assert terms.keys() == {"classification", "pcl"}
    torch.testing.assert_close(terms["classification"], classification)
    torch.testing.assert_close(terms["pcl"], 0.7 * pcl)


def test_gradients_reach_the_online_network_alone(method, batch):
    before = copy.deepcopy(method.target.state_dict())
    torch.stack(list(method.loss(batch).values())).sum().backward()
    assert all(parameter.grad is None for parameter in method.target.parameters())
    heads = (method.network.class_head, method.network.label_encoder, method.network.activation_head)
    for module in (method.network.backbone.features, *heads):
        assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    after = method.target.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_gradients_flow_through_the_attention(method, batch):
    method.loss(batch)["pcl"].backward()
    for projection in method.network.backbone.projections:
        attends = method.network.backbone.attends
        assert (projection.weight.grad is not None and bool(projection.weight.grad.any())) == attends


def test_maps_are_the_refined_background_and_class_maps(method, batch):
    """Sec. 4.4: AM's background channel and M*, both of the online network."""
    method.eval()
    method.config = Config(class_channels=ClassMaps.REFINED)
    maps = method.maps(batch.images, batch.labels)
    network = method.network
    features = network(batch.images)
    conditioning = batch.labels @ network.label_encoder.weight.T + network.label_encoder.bias
    conditioned = features.map * conditioning[:, :, None, None]
    head = network.activation_head
    activations = spread(F.conv2d(conditioned, head.weight, head.bias, padding=1), features)
    class_maps = torch.einsum("s c, b c h w -> b s h w", network.class_head.weight[1:, :, 0, 0], features.map)
    torch.testing.assert_close(maps.background, activations[:, :1] - activations.mean(dim=1, keepdim=True))
    torch.testing.assert_close(maps.scores, spread(class_maps, features))
    method.config = Config(class_channels=ClassMaps.REFINED, background=Background.RELEASED)
    torch.testing.assert_close(method.maps(batch.images, batch.labels).background, activations[:, :1])


def test_without_attention_the_online_network_scores_the_classes_itself(method, batch):
    """Class maps that no attention spreads know nothing of PCL; by default AM stands for all channels there."""
    default = method.eval().maps(batch.images, batch.labels)
    if method.network.backbone.attends:
        method.config = Config(class_channels=ClassMaps.REFINED, background=Background.CENTRED)
    else:
        method.config = Config(class_channels=ClassMaps.ACTIVATION, background=Background.RELEASED)
    explicit = method.maps(batch.images, batch.labels)
    assert torch.equal(default.scores, explicit.scores)
    assert torch.equal(default.background, explicit.background)


def test_centring_determines_what_the_loss_leaves_open(method, batch):
    """A map common to all channels changes neither PCL nor the centred background, but the released one."""
    method.eval()
    method.config = Config(background=Background.CENTRED)
    head = method.network.activation_head
    before = method.loss(batch)["pcl"], method.maps(batch.images, batch.labels).background
    with torch.no_grad():
        head.weight.add_(torch.randn(head.weight.shape[1:], dtype=head.weight.dtype))
        head.bias.add_(3)
    torch.testing.assert_close(method.loss(batch)["pcl"], before[0])
    torch.testing.assert_close(method.maps(batch.images, batch.labels).background, before[1])
    method.config = Config(background=Background.RELEASED)
    assert (method.maps(batch.images, batch.labels).background - before[1]).abs().max() > 0.1


@pytest.mark.parametrize("target_trains", [False, True])
def test_target_evaluates_while_the_online_network_trains(make_network, batch, target_trains):
    method = in_training(BAO(make_network(heads=Heads(backgrounds=1)), Config(target_trains=target_trains)))
    assert method.target.training == target_trains
    for module in (method, method.eval().train(), method.train(True)):
        assert module.network.training
        assert all(part.training == target_trains for part in module.target.modules())
    before = method.target.backbone.norm.running_mean.clone()
    method.loss(batch)
    assert torch.equal(method.target.backbone.norm.running_mean, before) != target_trains
    method.eval()
    assert not any(part.training for part in method.modules())


def momentum(done: float) -> float:
    """From 0.9995 to 1 on half a cosine."""
    return 1 - (1 - 0.9995) * (1 + math.cos(math.pi * done)) / 2


def expected_momenta(config: Config, *, epochs: int, per_epoch: int) -> list[float]:
    """For each step; 0 is sharing. Written from the prose: share an epoch, then one cosine over all that is left."""
    momenta = []
    for epoch in range(epochs):
        for step in range(per_epoch):
            first_average = {Follow.SHARE: epochs, Follow.EMA: 0, Follow.SHARE_THEN_EMA: 1}[config.follow]
            if epoch < first_average:
                momenta.append(0.0)
            elif config.momentum_restarts:
                momenta.append(momentum(step / per_epoch))
            else:
                done = (epoch - first_average) * per_epoch + step
                momenta.append(momentum(done / ((epochs - first_average) * per_epoch)))
    return momenta


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("follow", Follow)
def test_target_follows_step_by_step(make_network, follow, restarts):
    config = Config(follow=follow, momentum_restarts=restarts)
    method = in_training(BAO(make_network(heads=Heads(backgrounds=1)), config))
    theta = {name: tensor.clone() for name, tensor in method.target.named_parameters()}
    generator = torch.Generator().manual_seed(4)
    momenta = expected_momenta(config, epochs=3, per_epoch=4)
    for step, share_of_theta in enumerate(momenta, start=1):
        with torch.no_grad():
            for tensor in (*method.network.parameters(), method.network.backbone.norm.running_mean):
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
        method.after_step(Progress(step=step, steps=12, steps_per_epoch=4))
        for name, omega in method.network.named_parameters():
            theta[name] = share_of_theta * theta[name] + (1 - share_of_theta) * omega.detach()
            actual = method.target.get_parameter(name)
            torch.testing.assert_close(actual, theta[name], rtol=0, atol=1e-12)
            assert torch.equal(actual, omega) == (share_of_theta == 0)
        for name, buffer in method.network.named_buffers():
            assert torch.equal(method.target.get_buffer(name), buffer)


@pytest.mark.parametrize(("share_epochs", "shared"), [(0.5, 2), (2.0, 8), (5.0, 12)])
def test_sharing_lasts_as_long_as_asked(make_network, share_epochs, shared):
    method = in_training(BAO(make_network(heads=Heads(backgrounds=1)), Config(share_epochs=share_epochs)))
    equal = []
    for step in range(1, 13):
        with torch.no_grad():
            method.network.class_head.weight.add_(1)
        method.after_step(Progress(step=step, steps=12, steps_per_epoch=4))
        equal.append(torch.equal(method.target.class_head.weight, method.network.class_head.weight))
    assert equal == [True] * shared + [False] * (12 - shared)


def test_online_network_and_target_start_equal_and_apart(make_network):
    method = in_training(bao.BAO(make_network(heads=Heads(backgrounds=1)), Config()))
    for name, parameter in method.network.named_parameters():
        target = method.target.get_parameter(name)
        assert torch.equal(target, parameter)
        assert target.data_ptr() != parameter.data_ptr()
        assert not target.requires_grad


@pytest.mark.parametrize("keep", Keep)
def test_the_network_kept_is_the_one_asked_for(make_network, keep):
    method = in_training(BAO(make_network(heads=Heads(backgrounds=1)), Config(keep=keep)))
    assert method.result() is (method.target if keep is Keep.TARGET else method.network)


def test_settings_outside_their_range_are_refused():
    beyond = ({"doubt": 1.0}, {"doubt": -0.1}, {"backgrounds": 0})
    for wrong in ({"smoothing": 1.0}, {"momentum": 1.5}, {"share_epochs": -1.0}, *beyond):
        with pytest.raises(RecipeError, match="bao"):
            Config(**wrong)


def strongest_class_map(method: BAO, batch: Batch, valid: Tensor) -> tuple[Tensor, Tensor]:
    """max_s M_fg of the target in each cell, and the class that it is of; cells of the padding are 0."""
    features = method.target(batch.images)
    refined = spread(method.target.class_maps(features), features).detach()
    present = normalise(refined, valid=valid[:, None]) * batch.labels[:, :, None, None]
    return present.max(dim=1)


@pytest.mark.parametrize("doubt", [0.0, 0.5])  # Otsu's cut is as far from the cells below as from those above
@pytest.mark.parametrize("cut", Cut)
def test_cut_and_doubt_decide_cell_by_cell(method, batch, valid_cells, cut, doubt):
    method.config = Config(cut=cut, doubt=doubt)
    values, best = strongest_class_map(method, batch, valid_cells)
    cuts = find_cut(values[:, None], valid_cells[:, None], cut=cut).flatten().tolist()
    assert cut is Cut.HALF or len(set(cuts)) == 3
    expected = torch.full(valid_cells.shape, IGNORE)
    for picture, height in enumerate(cuts):
        cells = valid_cells[picture].nonzero().tolist()
        cells.sort(key=lambda cell: abs(float(values[picture, cell[0], cell[1]]) - height))
        for row, column in cells[round(doubt * len(cells)) :]:
            found = float(values[picture, row, column]) > height
            expected[picture, row, column] = int(best[picture, row, column]) + 1 if found else 0
    pseudo_labels = method.pseudo_labels(batch)
    assert torch.equal(pseudo_labels, expected)
    counts = (pseudo_labels == IGNORE).sum(dim=(1, 2)) - (~valid_cells).sum(dim=(1, 2))
    assert counts.tolist() == [round(doubt * n) for n in (12, 6, 8)]


@pytest.mark.parametrize("cut", Cut)
def test_a_map_that_says_nothing_is_background(method, batch, valid_cells, cut):
    method.config = Config(cut=cut)
    torch.nn.init.zeros_(method.target.class_head.weight)
    assert torch.equal(method.pseudo_labels(batch) == 0, valid_cells)


@pytest.mark.parametrize("cut", Cut)
def test_an_image_that_is_all_padding_teaches_nothing(method, batch, cut):
    """Nor does it change what the others of its batch are labelled with."""
    method.config = Config(cut=cut, doubt=0.2)
    method.eval()
    last = batch.valid.clone()
    last[2] = False
    padded = Batch(batch.images, batch.labels, last)
    assert (method.pseudo_labels(padded)[2] == IGNORE).all()
    assert torch.equal(method.pseudo_labels(padded)[:2], method.pseudo_labels(batch)[:2])
    first = Batch(*(part[:1] for part in padded[:3]))
    assert torch.equal(method.pseudo_labels(first), method.pseudo_labels(batch)[:1])
    only_padding = Batch(*(part[2:] for part in padded[:3]))
    assert float(method.loss(only_padding)["pcl"].detach()) == 0


@pytest.fixture(params=[True, False], ids=["attention", "no attention"])
def several(request, make_network) -> BAO:
    """Three backgrounds."""
    config = Config(backgrounds=3)
    return in_training(BAO(make_network(attends=request.param, heads=BAO.heads(config)), config)).eval()


def test_several_backgrounds_count_as_the_sum_of_their_probabilities(several, batch):
    """PCL of the softmax over K_b + K channels, the background's probability being the sum of K_b."""
    features = several.network(batch.images)
    spread_maps = spread(several.network.activation_maps(features, batch.labels), features)
    assert spread_maps.shape[1] == 3 + 4
    labels = several.pseudo_labels(batch)
    of_background, of_foreground = [], []
    for picture, row, column in (labels != IGNORE).nonzero().tolist():
        label = int(labels[picture, row, column])
        shares = spread_maps[picture, :, row, column].exp() / spread_maps[picture, :, row, column].exp().sum()
        probabilities = [shares[0] + shares[1] + shares[2], *shares[3:]]
        smooth = [0.6 if s == label else 0.4 / 4 for s in range(5)]
        loss = -sum(q * p.log() for q, p in zip(smooth, probabilities, strict=True))
        (of_foreground if label else of_background).append(loss)
    expected = (torch.stack(of_background).mean() + torch.stack(of_foreground).mean()) / 2
    torch.testing.assert_close(several.loss(batch)["pcl"], expected)


def test_gradients_reach_every_background(several, batch):
    several.loss(batch)["pcl"].backward()
    head = several.network.activation_head
    assert (head.weight.grad.flatten(1).abs().sum(dim=1) > 0).all()
    assert (head.weight.grad[0] != head.weight.grad[1]).any()


@pytest.mark.parametrize("background", [Background.CENTRED, Background.RELEASED])
def test_maps_of_several_backgrounds_are_their_log_sum_exp(several, batch, background):
    several.config = Config(backgrounds=3, background=background, class_channels=ClassMaps.REFINED)
    features = several.network(batch.images)
    spread_maps = spread(several.network.activation_maps(features, batch.labels), features)
    joined = torch.log(spread_maps[:, 0].exp() + spread_maps[:, 1].exp() + spread_maps[:, 2].exp())
    mean = (joined + spread_maps[:, 3] + spread_maps[:, 4] + spread_maps[:, 5] + spread_maps[:, 6]) / 5
    expected = joined - mean if background is Background.CENTRED else joined
    maps = several.maps(batch.images, batch.labels)
    torch.testing.assert_close(maps.background, expected[:, None])
    torch.testing.assert_close(maps.scores, spread(several.network.class_maps(features), features))


def test_one_background_stays_as_it_is_bit_for_bit(method, batch):
    """The joined activation maps are AM itself, in the loss and in its gradients."""
    method.eval()
    parameters = list(method.network.parameters())

    def pcl_and_gradients(activations: Tensor) -> list[Tensor]:
        pcl = losses.pixel_classification(activations, method.pseudo_labels(batch), smoothing=0.4)
        return [pcl, *torch.autograd.grad(pcl, parameters, materialize_grads=True)]

    features = method.network(batch.images)
    plain = refine(method.network.activation_maps(features, batch.labels), features)
    joined = method.activations(method.network(batch.images), batch.labels)
    assert torch.equal(joined, plain)
    assert all(map(torch.equal, pcl_and_gradients(joined), pcl_and_gradients(plain)))


@pytest.mark.parametrize("class_channels", [ClassMaps.REFINED, ClassMaps.WITH_ACTIVATION, ClassMaps.ACTIVATION])
@pytest.mark.parametrize("background", [Background.CENTRED, Background.RELEASED])
def test_class_channels_at_inference(method, batch, class_channels, background):
    """The background is the same whatever scores the classes; AM is centred for all channels or for none."""
    method.eval()
    method.config = Config(background=background, class_channels=class_channels)
    maps = method.maps(batch.images, batch.labels)
    features = method.network(batch.images)
    activations = spread(method.network.activation_maps(features, batch.labels), features)
    if background is Background.CENTRED:
        activations = activations - activations.mean(dim=1, keepdim=True)
    torch.testing.assert_close(maps.background, activations[:, :1])

    refined = spread(method.network.class_maps(features), features)
    for picture in range(3):
        for s in range(4):
            parts = []
            for part in (refined[picture, s], activations[picture, s + 1]):
                positive = [max(value, 0.0) for value in part.flatten().tolist()]
                low, high = min(positive), max(positive)
                parts.append([(value - low) / (high - low) if high > low else 0.0 for value in positive])
            expected = {
                ClassMaps.REFINED: refined[picture, s].flatten().tolist(),
                ClassMaps.WITH_ACTIVATION: [one + other for one, other in zip(*parts, strict=True)],
                ClassMaps.ACTIVATION: activations[picture, s + 1].flatten().tolist(),
            }
            assert maps.scores[picture, s].flatten().tolist() == pytest.approx(expected[class_channels], abs=1e-9)


@pytest.mark.parametrize("class_channels", ClassMaps)
@pytest.mark.parametrize("backgrounds", [1, 3])
@pytest.mark.parametrize("wanted", [[2], [4, 1], [1, 2, 3, 4]])
def test_classes_asked_for_are_those_of_all(make_network, batch, class_channels, backgrounds, wanted):
    config = Config(class_channels=class_channels, backgrounds=backgrounds)
    method = BAO(make_network(heads=BAO.heads(config)), config).eval()
    every = method.maps(batch.images, batch.labels)
    some = method.maps(batch.images, batch.labels, classes=torch.tensor(wanted))
    torch.testing.assert_close(some.scores, every.scores[:, [s - 1 for s in wanted]])
    torch.testing.assert_close(some.background, every.background)


def test_options_beyond_the_paper_are_off_by_default():
    config = Config()
    assert (config.cut, config.doubt, config.backgrounds) == (Cut.HALF, 0.0, 1)
    assert not config.edges
    assert BAO.heads(config) == Heads(backgrounds=1)
