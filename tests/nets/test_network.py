import dataclasses

import pytest
import torch
from torch import nn

from baoseg import nets
from baoseg.core import settings
from baoseg.core.errors import RecipeError
from baoseg.nets import Heads, weights

NANO = nets.Config(backbone="conformer_nano", options=(("depth", 3),))
MOBILE = nets.Config(backbone="timm:mobilenetv2_035", options=(("pad_type", "same"),))


@pytest.fixture(scope="module", params=[NANO, MOBILE], ids=["conformer", "cnn"])
def network(request):
    return nets.build(request.param, 4, heads=Heads(backgrounds=1)).eval()


@torch.no_grad()
def test_class_maps_of_some_classes_are_those_of_all(network):
    features = network(torch.randn(2, 3, 40, 64))
    every = network.class_maps(features)
    full = network.class_head(features.map)
    assert torch.allclose(every, full[:, 1:], atol=1e-5)
    some = network.class_maps(features, classes=torch.tensor([2, 4]))
    assert torch.allclose(some, full[:, [2, 4]], atol=1e-5)


@torch.no_grad()
def test_activation_maps_follow_the_formula(network):
    features = network(torch.randn(2, 3, 40, 64))
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    encoder, head = network.label_encoder, network.activation_head
    head.weight.normal_()  # it starts at 0
    for image in range(2):
        conditioning = encoder.bias + sum(encoder.weight[:, i] for i in range(4) if labels[image, i])
        conditioned = features.map[image] * conditioning[:, None, None]
        expected = head(conditioned[None])[0]
        activations = network.activation_maps(features, labels)[image]
        background = network.background_map(features, labels, centred=False)[image]
        assert torch.allclose(activations, expected, atol=1e-5)
        assert torch.allclose(background, expected[:1], atol=1e-5)


def test_heads_of_other_backbones_start_near_zero_and_hardly_conditioned():
    network = nets.build(MOBILE, 4, heads=Heads(backgrounds=1))
    features = network(torch.randn(4, 3, 64, 64))
    assert network.class_head.kernel_size == (1, 1)
    assert network.class_head.bias is None
    assert network.class_maps(features).mean(dim=(2, 3)).abs().max() < 1
    conditioning = network.label_encoder(torch.eye(4))
    assert conditioning.mean().item() == pytest.approx(0, abs=0.01)
    assert conditioning.std().item() == pytest.approx(0.02, rel=0.2)


def test_head_settings_override_the_family():
    config = dataclasses.replace(MOBILE, head_kernel=3, activation_start=nets.ActivationStart.CLASS_MAPS)
    network = nets.build(config, 2, heads=Heads(backgrounds=1))
    assert network.class_head.kernel_size == (3, 3)
    assert network.class_head.bias is not None
    assert (network.label_encoder.bias == 1).all()


def test_a_network_carries_the_heads_that_its_method_asks_for():
    plain = nets.build(MOBILE, 3)
    assert plain.heads == Heads()
    assert plain.label_encoder is None
    assert plain.activation_head is None
    for backgrounds in (1, 3):
        network = nets.build(MOBILE, 3, heads=Heads(backgrounds=backgrounds))
        activations = network.activation_maps(network(torch.randn(2, 3, 64, 64)), torch.ones(2, 3))
        assert activations.shape[1] == backgrounds + 3


@pytest.mark.parametrize("head_kernel", [1, 3])
def test_several_backgrounds_start_apart_beside_the_class_maps(head_kernel):
    """Equal channels would get equal gradients; the classes are copied behind them."""
    config = dataclasses.replace(MOBILE, head_kernel=head_kernel, activation_start=nets.ActivationStart.CLASS_MAPS)
    network = nets.build(config, 3, heads=Heads(backgrounds=2)).eval()
    before = network.activation_head.weight[:2].detach().clone()
    weights.load_into(network, nets.build(config, 3, seed=1).state_dict(), allow_missing_heads=True)
    assert torch.equal(network.activation_head.weight[:2], before)
    assert not torch.equal(before[0], before[1])
    features = network(torch.randn(2, 3, 64, 64))
    with torch.no_grad():
        network.label_encoder.weight.zero_()
    activations = network.activation_maps(features, torch.ones(2, 3))
    torch.testing.assert_close(activations[:, 2:], network.class_maps(features))


@pytest.mark.parametrize("start", nets.ActivationStart)
@pytest.mark.parametrize("head_kernel", [1, 3])
def test_activation_maps_of_a_classifier_start_where_they_are_asked_to(start, head_kernel):
    """As class maps: with a conditioning of 1 the activation maps are the class maps, and the background is 0."""
    classifier = nets.build(dataclasses.replace(MOBILE, head_kernel=head_kernel), 3)
    config = dataclasses.replace(MOBILE, head_kernel=head_kernel, activation_start=start)
    network = nets.build(config, 3, heads=Heads(backgrounds=1))
    before = network.activation_head.weight.clone()
    weights.load_into(network, classifier.state_dict(), allow_missing_heads=True)
    if start is nets.ActivationStart.RELEASED:
        assert torch.equal(network.activation_head.weight, before)
        return
    network.eval()
    features = network(torch.randn(2, 3, 64, 64))
    with torch.no_grad():
        network.label_encoder.weight.zero_()
    activations = network.activation_maps(features, torch.ones(2, 3))
    expected = network.class_maps(features) if start is nets.ActivationStart.CLASS_MAPS else 0 * activations[:, 1:]
    torch.testing.assert_close(activations[:, 1:], expected)
    assert (activations[:, 0] == 0).all()
    trained = network.activation_head.weight.detach().clone()
    weights.load_into(nets.build(config, 3, heads=Heads(backgrounds=1)), network.state_dict())
    assert torch.equal(network.activation_head.weight, trained)


def test_a_classifier_of_zeros_learns_alone_at_first_and_its_backgrounds_apart():
    for backgrounds in (1, 3):
        network = nets.build(MOBILE, 2, heads=Heads(backgrounds=backgrounds))
        features = network(torch.randn(1, 3, 64, 64))
        features.map.retain_grad()
        activations = network.activation_maps(features, torch.ones(1, 2))
        activations[:, -1].square().add(activations[:, -1]).sum().backward()
        assert (features.map.grad == 0).all()
        assert network.activation_head.weight.grad[-1].any()
        apart = network.activation_head.weight[:backgrounds]
        assert backgrounds == 1 or not torch.equal(apart[0], apart[1])


@pytest.mark.parametrize("start", nets.ActivationStart)
def test_the_label_encoder_gates_from_the_start_or_later(start):
    config = dataclasses.replace(MOBILE, activation_start=start)
    bias = nets.build(config, 2, heads=Heads(backgrounds=1)).label_encoder.bias
    gated = start in (nets.ActivationStart.ZERO, nets.ActivationStart.RELEASED)
    assert (bias == (0 if gated else 1)).all()


def test_head_parameters_are_all_but_the_pretrained_ones():
    network = nets.build(NANO, 2, heads=Heads(backgrounds=1))
    heads = {id(parameter) for parameter in network.head_parameters()}
    names = {key.rpartition(".")[0] for key, p in network.named_parameters() if id(p) in heads}
    assert names == {"backbone.token_head", "class_head", "activation_head", "label_encoder"}


def test_the_same_seed_builds_the_same_network_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, second = (nets.build(NANO, 2, heads=Heads(backgrounds=1), seed=3) for _ in range(2))
    other = nets.build(NANO, 2, heads=Heads(backgrounds=1), seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.class_head.weight, other.class_head.weight)


def test_frozen_batch_norm_keeps_statistics_and_affine_parameters_through_training():
    config = dataclasses.replace(MOBILE, freeze_batch_norm=True)
    network = nets.build(config, 2).train()
    assert network.training
    norms = {
        f"{name}.{leaf}": tensor.clone()
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for leaf, tensor in module.state_dict().items()
    }
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    network(torch.randn(2, 3, 64, 64)).map.mean().backward()
    optimizer.step()
    state = network.state_dict()
    assert norms
    assert all(torch.equal(state[name], tensor) for name, tensor in norms.items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (nets.Config(backbone="conformer_huge"), "unknown backbone 'conformer_huge'; use conformer_nano"),
        (nets.Config(backbone="conformer_nano", pretrained=True), "timm has no weights for it"),
        (nets.Config(backbone="conformer_nano", options=(("pad_type", "same"),)), "unknown options pad_type"),
        (nets.Config(pretrained=True, weights="a.pth"), "choose one"),
        (nets.Config(backbone="timm:resnet9000"), "no such model"),
    ],
)
def test_contradictory_settings(config, message):
    with pytest.raises(RecipeError, match=message) as caught:
        nets.build(config, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "set both or none"),
        ({"mean": (0.5, 0.5, 0.5), "std": (1.0, 0.0, 1.0)}, "all must be above 0"),
        ({"stride": 0}, "the stride is at least 1 pixel"),
        ({"head_kernel": 2}, "an odd number of cells a side"),
    ],
)
def test_settings_that_no_network_has(setting, message):
    with pytest.raises(RecipeError, match=message) as caught:
        nets.Config(**setting)
    assert "\n" not in str(caught.value)


def test_config_survives_json():
    config = dataclasses.replace(MOBILE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), head_kernel=3)
    assert settings.from_json(settings.to_json(config), nets.Config, source="here") == config
