"""BAS against its equations, followed image by image, class by class and cell by cell."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.two_stages import K, TwoStages, average, cells_of, make, seeing, slow_logits, slow_value
from torch import Tensor, nn

from baoseg.core.errors import RecipeError
from baoseg.core.settings import from_json, to_json
from baoseg.core.types import Batch
from baoseg.methods import Settings as MethodSettings
from baoseg.methods import bas
from baoseg.methods.bas import (
    BAS,
    Activation,
    Config,
    Foreground,
    Relu,
    Threshold,
    background_logits,
    empty_logits,
    margins,
)
from baoseg.nets.base import Heads
from baoseg.nets.network import Network


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """The classes that a loss draws: the last of an image's."""
    monkeypatch.setattr(bas.torch, "rand_like", lambda labels: torch.arange(labels[0].numel()).expand_as(labels) / 100)
    return [0, 3, 3]


def slow_terms(method: BAS, batch: Batch, cells: Tensor, drawn: list[int]) -> dict[str, Tensor]:
    """Eq. 10, and the class-agnostic map of sec. 5.5, in evaluation mode."""
    network, config = method.network, method.config
    features = network.backbone.first(batch.images)
    generated = F.conv2d(features, network.generator.weight, padding=1)
    predicted = 1 / (1 + torch.exp(-generated))
    whole = slow_logits(network, features, cells, config.relu)
    empty = slow_logits(network, torch.zeros_like(features), cells, config.relu)
    feature_map = network.backbone.last(features)
    size = len(batch.images)
    totals = dict.fromkeys(("classification", "guidance", "area", "suppression", "foreground"), 0.0)

    def ratios(masks: Tensor) -> list[list[float]]:
        background = slow_logits(network, features * (1 - masks), cells, config.relu)
        rows = []
        for picture, (seen, all_seen) in enumerate(zip(background, whole, strict=True)):
            absent = [k for k in range(network.num_classes) if not batch.labels[picture, k]]
            values = [
                [slow_value(logits, empty[picture], k, absent, config.activation) for logits in (seen, all_seen)]
                for k in range(network.num_classes)
            ]
            rows.append([min(b / (w + 1e-8), 1.0) for b, w in values])
        return rows

    chosen = torch.stack([predicted[picture, index] for picture, index in enumerate(drawn)])[:, None]
    suppressed = ratios(chosen)
    suppressed_all = ratios(predicted[:, -1:])
    labelled = 0
    for picture, index in enumerate(drawn):
        present = [k for k in range(network.num_classes) if batch.labels[picture, k]]
        absent = [k for k in range(network.num_classes) if not batch.labels[picture, k]]
        for k in present:  # eq. 9
            own = torch.exp(whole[picture][k])
            others = sum((torch.exp(whole[picture][j]) for j in absent), torch.zeros(()))
            totals["classification"] -= torch.log(own / (others + own)) / size
        if not present:
            continue
        labelled += 1
        mask = chosen[picture, 0]
        totals["area"] += average(mask, cells_of(mask, cells[picture]))  # eq. 4
        totals["suppression"] += suppressed[picture][index]  # eq. 3
        guiding = []
        factor = features.shape[-1] // feature_map.shape[-1]
        for k in range(network.num_classes):  # eq. 5
            values = []
            for i, j in cells_of(feature_map, cells[picture]):
                value = (network.class_head.weight[1 + k, :, 0, 0] * feature_map[picture, :, i, j]).sum()
                if config.relu is Relu.CONFERENCE:
                    value = value.clamp(min=0)
                block = mask[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
                values.append(block.sum() / factor**2 * value)
            guiding.append(sum(values) / len(values))
        powers = [torch.exp(value) for value in guiding]
        totals["guidance"] -= torch.log(powers[index] / sum(powers))  # eq. 6
        everything = predicted[picture, -1]
        totals["foreground"] += config.weight * sum(suppressed_all[picture][k] for k in present)
        totals["foreground"] += config.beta * average(everything, cells_of(everything, cells[picture]))
    factors = {"guidance": config.alpha, "area": config.beta, "suppression": config.weight, "foreground": 1.0}
    terms = {name: total * factors.get(name, labelled) / max(labelled, 1) for name, total in totals.items()}
    if config.foreground is Foreground.NONE:
        del terms["foreground"]
    return terms


def assert_terms(method: BAS, batch: Batch, cells: Tensor, drawn: list[int]) -> None:
    actual, expected = method.loss(batch), slow_terms(method, batch, cells, drawn)
    assert list(actual) == list(expected)
    for name, value in actual.items():
        torch.testing.assert_close(value, torch.as_tensor(expected[name]).to(value), msg=lambda m, n=name: f"{n}: {m}")


VARIANTS = list(
    itertools.product([4, 2], Relu, Foreground, Activation)
)  # a grid of stride 2: features finer than the maps


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant)))
def test_loss_is_equation_10(batch, valid_cells, drawn, variant):
    first, relu, foreground, activation = variant
    method = make(first=first, relu=relu, foreground=foreground, activation=activation)
    # padding of whole cells, so that it is the same on both grids
    valid = valid_cells.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    assert_terms(method, batch._replace(valid=valid), valid_cells, drawn)


def test_padding_is_cut_as_by_all_methods(batch, valid_cells, drawn):
    method = make()
    assert_terms(method, batch, valid_cells, drawn)
    assert 0.05 < method.loss(batch)["suppression"] / method.config.weight < 0.95  # neither nothing nor the constant


@given(
    seed=st.integers(0, 1000),
    rows=st.lists(st.integers(0, 2**K - 1), min_size=1, max_size=3),
    activation=st.sampled_from(Activation),
)
@settings(deadline=None, max_examples=20)
def test_any_labels(seed, rows, activation):
    """Also none, and all: nothing is ever NaN, and images without classes count nowhere but in the mean of eq. 9."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([[float(row >> k & 1) for k in range(K)] for row in rows], dtype=torch.float64)
    images = torch.randn(len(rows), 3, 12, 16, generator=generator, dtype=torch.float64)
    batch = Batch(images, labels, torch.ones(len(rows), 1, 12, 16, dtype=torch.bool))
    method = make(seed=seed, foreground=Foreground.AVERAGE, activation=activation)
    torch.manual_seed(seed)
    drawn = (labels * (1 + torch.rand_like(labels))).argmax(dim=1).tolist()
    assert all(labels[picture, index] or not labels[picture].any() for picture, index in enumerate(drawn))
    torch.manual_seed(seed)
    assert_terms(method, batch, torch.ones(len(rows), 3, 4, dtype=torch.bool), drawn)
    torch.stack(list(method.loss(batch).values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in method.network.parameters() if p.grad is not None)


def test_every_present_class_is_drawn_as_often(batch):
    method = make()
    labels = torch.tensor([[1, 0, 1, 1]], dtype=torch.float64).expand(3000, -1)
    torch.manual_seed(0)
    drawn = (labels * (1 + torch.rand_like(labels))).argmax(dim=1)
    counts = drawn.bincount(minlength=K).tolist()
    assert counts[1] == 0
    assert all(abs(count - 1000) < 150 for count in (counts[0], counts[2], counts[3]))
    torch.manual_seed(1)
    terms = [method.loss(batch)["area"].item() for _ in range(20)]
    assert len(set(terms)) > 1


def test_multilabel_softmax_by_hand():
    """Present 0 and 2, logits 1, 0, 2, -1: each against classes 1 and 3, and not against one another."""
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0], [9.0, 9.0, 9.0, 9.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    absent = 1 + math.exp(-1)
    expected = math.log((absent + math.e) / math.e) + math.log((absent + math.e**2) / math.e**2)
    loss = bas.multilabel_softmax(logits, labels)
    assert loss.item() == pytest.approx(expected / 2)
    loss.backward()
    assert logits.grad[1].eq(0).all()


@pytest.mark.parametrize("classes", [1, 3])
def test_with_all_classes_present_there_is_nothing_to_tell_apart(classes):
    logits = torch.tensor([[50.0, -50.0, 3.0][:classes]], requires_grad=True)
    loss = bas.multilabel_softmax(logits, torch.ones(1, classes))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


def test_one_class(batch, valid_cells):
    method = make(classes=1)
    alone = batch._replace(labels=torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64))
    assert_terms(method, alone, valid_cells, [0, 0, 0])
    terms = method.loss(alone)
    assert terms["classification"] == 0
    assert terms["guidance"] == 0
    assert terms["suppression"] > 0


@pytest.mark.parametrize(("generated", "area"), [(-1e3, 0.0), (1e3, 1.0)], ids=["no foreground", "no background"])
def test_a_map_that_is_empty_or_full(batch, drawn, generated, area):
    """M = 0: the background is the image, the ratio 1 where the class is seen. M = 1: of features that are all 0
    the classifier sees what its biases say."""
    method = make(weight=1.0, beta=1.0)
    nn.init.constant_(method.network.generator.weight, generated)
    nn.init.constant_(method.network.backbone.first[1].bias, 1.0)
    nn.init.constant_(method.network.class_head.weight, 0.3)  # all classes are seen
    for parameter in method.network.backbone.last[1].parameters():
        nn.init.ones_(parameter)
    terms = method.loss(batch)
    assert terms["area"].item() == pytest.approx(area)
    features = method.network.backbone.first(batch.images)
    black = background_logits(method.network, torch.zeros_like(features), relu=Relu.RAW)
    empty = method.network.backbone.last(torch.zeros_like(features))
    weight = method.network.class_head.weight[1:, :, 0, 0]
    expected = torch.einsum("s c, b c h w -> b s h w", weight, empty).mean(dim=(2, 3))
    torch.testing.assert_close(black, expected)
    if area == 0:
        assert terms["suppression"].item() == pytest.approx(1, abs=1e-6)


def test_suppression_by_hand():
    """S = 2, -1, 2, 0, 4; S^b = 1, 1, 3, -2, -1."""
    whole = torch.tensor([[2.0, -1.0, 2.0, 0.0, 4.0]], requires_grad=True)
    background = torch.tensor([[1.0, 1.0, 3.0, -2.0, -1.0]], requires_grad=True)
    ratios = bas.suppression(background, whole)
    torch.testing.assert_close(ratios, torch.tensor([[0.5, 1.0, 1.0, 0.0, 0.0]]))
    ratios.sum().backward()
    assert whole.grad is None
    torch.testing.assert_close(background.grad, torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0]]))


def gradients(method: BAS, term: str, batch: Batch) -> dict[str, bool]:
    """Which parts a term of the loss moves."""
    method.zero_grad()
    torch.manual_seed(3)
    method.loss(batch)[term].backward()
    network = method.network
    parts = {
        "lower": network.backbone.first,
        "upper": network.backbone.last,
        "head": network.class_head,
        "generator": network.generator,
    }
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for name, part in parts.items()
    }


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_each_term_moves_what_it_should(batch, mode):
    method = make(seed=1, foreground=Foreground.AVERAGE).train(mode)  # whose ratios are not all the constant 1
    classifier = {"lower": True, "upper": True, "head": True, "generator": False}
    generator = {"lower": True, "upper": False, "head": False, "generator": True}
    assert gradients(method, "classification", batch) == classifier
    for term in ("guidance", "area", "suppression", "foreground"):
        assert gradients(method, term, batch) == generator


def test_guidance_moves_the_classifier_where_it_should(batch):
    """Eq. 5 as released for localization: the value is the same, the gradient reaches all that it is made of."""
    detached, guided = make(seed=1), make(seed=1, guide_classifier=True)
    torch.manual_seed(3)
    expected = detached.loss(batch)
    torch.manual_seed(3)
    torch.testing.assert_close(guided.loss(batch), expected)
    assert gradients(guided, "guidance", batch) == dict.fromkeys(("lower", "upper", "head", "generator"), True)


def test_suppression_reaches_the_lower_layers_through_the_map_alone(batch, drawn):
    """F itself is detached from the background branch: with a map that ignores F nothing is left."""
    method = make()
    nn.init.zeros_(method.network.generator.weight)
    method.loss(batch)["suppression"].backward()
    assert method.network.generator.weight.grad.any()
    assert not any(p.grad.any() for p in method.network.backbone.first.parameters())


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("relu", Relu)
def test_background_branch_is_a_copy_of_the_layers(batch, mode, relu):
    """Their values and, in training, batch statistics of the masked features - but not their running statistics."""
    network = make().network.train(mode)
    twin = copy.deepcopy(network)
    features = network.backbone.first(batch.images).detach()
    mask = torch.rand(3, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    before = copy.deepcopy(network.state_dict())
    logits = background_logits(network, features * mask, relu=relu)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    maps = twin.class_head(twin.backbone.last(features * mask))[:, 1:]
    expected = (maps.clamp(min=0) if relu is Relu.CONFERENCE else maps).mean(dim=(2, 3))
    torch.testing.assert_close(logits, expected)
    weight = torch.randn_like(logits)
    (gradient,) = torch.autograd.grad((logits * weight).sum(), mask)
    (of_copy,) = torch.autograd.grad((expected * weight).sum(), mask)
    torch.testing.assert_close(gradient, of_copy)


def test_frozen_batch_norm_stays_frozen(batch):
    method = make()
    frozen = Network(TwoStages(4), K, heads=method.network.heads, frozen_batch_norm=True).double()
    frozen.load_state_dict(method.network.state_dict())
    masked = frozen.backbone.first(batch.images) * torch.rand(3, 1, 3, 4, dtype=torch.float64)
    in_training = background_logits(frozen.train(), masked, relu=Relu.RAW)
    torch.testing.assert_close(in_training, background_logits(method.network, masked, relu=Relu.RAW))


def test_what_lies_in_the_padding_does_not_matter_to_a_classifier_of_single_cells(batch, valid_cells, drawn):
    """With convolutions that see one cell each, the terms know the image alone."""
    method = make()
    for layer in (method.network.backbone.last[0], method.network.generator):
        around = torch.ones(3, 3, dtype=torch.bool)
        around[1, 1] = False
        layer.weight.data[..., around] = 0
    pixels = valid_cells.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    other = batch._replace(images=torch.where(pixels, batch.images, -40.0))
    for name, value in method.loss(batch).items():
        torch.testing.assert_close(method.loss(other)[name], value)


@pytest.mark.parametrize("first", [4, 2], ids=["one grid", "finer features"])
@pytest.mark.parametrize("foreground", Foreground)
def test_maps_cell_by_cell(batch, first, foreground):
    method = make(first=first, foreground=foreground)
    maps = method.maps(batch.images, batch.labels)
    assert maps.background is None
    features = method.network.backbone.first(batch.images)
    predicted = 1 / (1 + torch.exp(-F.conv2d(features, method.network.generator.weight, padding=1)))
    factor = 4 // first
    expected = torch.zeros(3, K, 3 * factor, 4 * factor, dtype=torch.float64)
    for b, k, i, j in itertools.product(range(3), range(K), range(3 * factor), range(4 * factor)):
        own, every = predicted[b, k, i, j], predicted[b, -1, i, j]
        if own > every and foreground is Foreground.REPLACE:
            own = every
        elif own > every and foreground is Foreground.AVERAGE:
            own = (own + every) / 2
        expected[b, k, i, j] = own
    torch.testing.assert_close(maps.scores, expected)
    some = method.maps(batch.images, batch.labels, classes=torch.tensor([4, 2]))
    torch.testing.assert_close(some.scores, expected[:, [3, 1]])


@pytest.mark.parametrize("relu", Relu)
def test_classify_is_equation_1(batch, relu):
    method = make(relu=relu)
    features = method.network.backbone.first(batch.images)
    expected = slow_logits(method.network, features, torch.ones(3, 3, 4, dtype=torch.bool), relu)
    torch.testing.assert_close(method.classify(batch.images), torch.stack([torch.stack(row) for row in expected]))


def test_margins_by_hand():
    """Logits 1, 0, 2, -1. Present 0 and 2: against log(e^0 + e^-1). All present: against nothing."""
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]] * 2, dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    absent = math.log(1 + math.exp(-1))
    found = margins(logits, labels)
    torch.testing.assert_close(found[0, [0, 2]], torch.tensor([1 - absent, 2 - absent], dtype=torch.float64))
    assert torch.equal(found[1], logits[1])
    assert found.isfinite().all()


def test_activation_values_by_hand():
    """z^0 = 3, 0, 1; z = 4, 0, 3. Class 0 is present. RELATIVE: 1; MARGIN: 4 - log(e^0 + e^3) - 3 + log(e^0 + e^1)."""
    network = seeing([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    network.class_head.bias = nn.Parameter(torch.tensor([9.0, 3.0, 0.0, 1.0], dtype=torch.float64))
    features = network.split().lower(torch.ones(1, 3, 12, 16, dtype=torch.float64))
    logits = torch.tensor([[4.0, 0.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(background_logits(network, features, relu=Relu.RAW), logits)
    empty = torch.tensor([[3.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(empty_logits(network, features, relu=Relu.RAW), empty)
    margin = 4 - math.log(1 + math.exp(3)) - 3 + math.log(1 + math.exp(1))
    labels = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    for activation, expected in {Activation.RAW: 4.0, Activation.RELATIVE: 1.0, Activation.MARGIN: margin}.items():
        values = bas.activation_values(network, features, labels, config=Config(activation=activation))
        assert values(logits)[0, 0].item() == pytest.approx(expected)


@given(
    seed=st.integers(0, 100),
    offset=st.floats(-20, 20),
    row=st.integers(1, 2**K - 1),
    activation=st.sampled_from([Activation.RELATIVE, Activation.MARGIN]),
)
@settings(deadline=None, max_examples=25)
def test_a_constant_added_to_all_logits_changes_nothing(seed, offset, row, activation):
    """Neither eq. 9 nor a term of the loss nor the threshold sees it. With MARGIN it may depend on the features: one
    vector is added to the weights of all classes."""
    method = make(seed=seed, activation=activation, foreground=Foreground.REPLACE)
    other = copy.deepcopy(method)
    with torch.no_grad():
        head = other.network.class_head
        head.bias = nn.Parameter(torch.full((K + 1,), offset, dtype=torch.float64))
        if activation is Activation.MARGIN:
            head.weight += torch.linspace(-0.5, 0.5, head.weight.shape[1], dtype=torch.float64)[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 12, 16, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[float(row >> k & 1) for k in range(K)]] * 2, dtype=torch.float64)
    batch = Batch(images, labels, torch.ones(2, 1, 12, 16, dtype=torch.bool))
    terms = []
    for one in (method, other):
        torch.manual_seed(seed)
        terms.append(one.loss(batch))
    if not labels.all() or activation is Activation.RELATIVE:  # without an absent class MARGIN is RELATIVE
        # eq. 6 multiplies the class maps with M, so the offset weighs as much as M covers; it is left alone
        for name in ("classification", "area", "suppression", "foreground"):
            torch.testing.assert_close(terms[1][name], terms[0][name], atol=1e-6, rtol=1e-6)
        scores = torch.rand(int(labels[0].sum()), 12, 16, generator=generator, dtype=torch.float64)
        assert len({one.threshold(images, labels[0], scores, fixed=0.3) for one in (method, other)}) == 1


def test_the_raw_activation_is_not_blind_to_a_constant(batch, drawn):
    """Why there are others: eq. 9 does not see the offset, and L_bas of the same maps becomes 0."""
    method = make()
    before = method.loss(batch)
    method.network.class_head.bias = nn.Parameter(torch.full((K + 1,), -50.0, dtype=torch.float64))
    after = method.loss(batch)
    torch.testing.assert_close(after["classification"], before["classification"])
    assert before["suppression"] > 0.05
    assert after["suppression"] == 0


def test_empty_logits_are_those_of_inference_in_training_too(batch):
    """They leave modes and running statistics as they are, and padding is left out as everywhere."""
    network = make().network
    features = network.backbone.first(batch.images)
    expected = background_logits(network, torch.zeros_like(features), relu=Relu.RAW)
    network.train()
    modes = {name: module.training for name, module in network.named_modules()}
    state = copy.deepcopy(network.state_dict())
    found = empty_logits(network, features, relu=Relu.RAW)
    torch.testing.assert_close(found, expected[:1])
    assert not found.requires_grad
    assert modes == {name: module.training for name, module in network.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    valid = torch.ones(2, 1, 3, 4, dtype=torch.bool)
    valid[1, :, :, 2:] = False
    whole, part = empty_logits(network.eval(), features, valid, relu=Relu.RAW)
    feature_map = network.backbone.last(torch.zeros_like(features[:1]))
    maps = network.class_head(feature_map)[0, 1:]
    torch.testing.assert_close(whole, maps.mean(dim=(1, 2)))
    torch.testing.assert_close(part, maps[:, :, :2].mean(dim=(1, 2)))


def test_settings_of_before_the_activation_was_one_are_raw():
    """Network files and run folders of before have no such field."""
    written = to_json(Config(threshold=Threshold.IMAGE), MethodSettings)
    del written["activation"]
    assert from_json(written, MethodSettings, source="here") == Config(
        threshold=Threshold.IMAGE, activation=Activation.RAW
    )


def test_heads_and_threshold_follow_the_settings():
    assert BAS.heads(Config()) == Heads(generator_after=3)
    assert BAS.heads(Config(generator_after=2, foreground=Foreground.REPLACE)) == Heads(
        generator_after=2, foreground=True
    )
    assert not make().chooses_threshold
    assert Config().thresholds == pytest.approx([0.05 * step for step in range(1, 20)])


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"generator_after": 0}, {"thresholds": ()}, {"thresholds": (0.5, 1.5)}]
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(RecipeError, match="bas"):
        Config(**wrong)
