"""A backbone in two parts is the backbone."""

import copy

import pytest
import torch
from torch import nn

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.nets import Heads, timm_backbones, weights

CNNS = {  # timm's name, stride, options, the last layer before a cut after stage 3 and its channels
    "resnet18": (16, {}, "layer3.1", 256),
    "resnet50": (16, {"layers": (1, 1, 1, 1)}, "layer3.0", 1024),
    "mobilenetv2_035": (16, {"pad_type": "same"}, "blocks.4.2", 32),
    "efficientnet_b0": (16, {}, "blocks.4.2", 112),
    "vgg11": (32, {}, "features.19", 512),
    "convnext_atto": (32, {}, "stages.2", 160),
    "regnety_002": (16, {}, "s3", 152),
}


def make(name: str, stride: int, **options):
    torch.manual_seed(0)
    return timm_backbones.make(name, 3, stride=stride, options=options).eval()


@pytest.mark.parametrize("name", CNNS)
@torch.no_grad()
def test_the_parts_in_a_row_are_the_backbone(name):
    stride, options, last, channels = CNNS[name]
    backbone = make(name, stride, **options)
    images = torch.randn(2, 3, 2 * stride + 3, 3 * stride)  # to be padded
    expected = backbone(images).map
    for after in (1, 2, 3, 4):
        lower, upper, between = backbone.split(after)
        features = lower(images)
        assert features.shape[1] == between
        torch.testing.assert_close(upper(features), expected)
    lower, upper, between = backbone.split(3)
    assert between == channels
    assert lower[-1] is backbone.model.get_submodule(last)
    assert not {id(p) for p in lower.parameters()} & {id(p) for p in upper.parameters()}


def test_resnet_stages_are_those_of_the_paper():
    backbone = make("test_resnet", 16)
    for after in (1, 2, 3, 4):
        assert backbone.split(after).lower[-1] is backbone.model.get_submodule(f"layer{after}.0")
    assert len(backbone.split(4).upper) == 0


def test_splitting_changes_nothing_in_the_backbone():
    backbone = make("test_resnet", 16).train()
    backbone.model.layer2.eval()  # modes differ, as with frozen layers
    modes = [module.training for module in backbone.modules()]
    state = copy.deepcopy(backbone.state_dict())
    drawn = torch.get_rng_state()
    backbone.split(3)
    assert [module.training for module in backbone.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    after = backbone.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(value, after[name]) for name, value in state.items())


def test_a_copy_is_split_into_its_own_layers():
    backbone = make("test_resnet", 16)
    backbone.split(3)
    twin = copy.deepcopy(backbone)
    ours = {id(parameter) for parameter in backbone.split(3).upper.parameters()}
    assert not ours & {id(parameter) for parameter in twin.split(3).upper.parameters()}


class InPlace(nn.Module):
    """A layer that spoils its input."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.add_(1)


def side_path(model: nn.Module) -> None:
    """A model whose features do not pass through its layers alone."""
    own = model.forward_features
    model.forward_features = lambda images: own(images) + 1


def spoil(model: nn.Module) -> None:
    model.layer4.insert(0, InPlace())


@pytest.mark.parametrize("change", [side_path, spoil])
def test_models_whose_layers_are_not_a_row_are_refused(change):
    backbone = make("test_resnet", 16)
    change(backbone.model)
    with pytest.raises(RecipeError, match=r"timm:test_resnet: .*cannot be cut after stage 3; use a ResNet"):
        backbone.split(3)


def test_models_of_branches_are_refused():
    backbone = make("hrnet_w18_small", 32)
    with pytest.raises(RecipeError, match=r"timm:hrnet_w18_small: its layers do not run one after the other"):
        backbone.split(3)


@pytest.mark.parametrize("after", [0, 5])
def test_stages_that_do_not_exist_are_refused(after):
    with pytest.raises(RecipeError, match=rf"timm:test_resnet: has 4 stages; .* after stage {after}"):
        make("test_resnet", 16).split(after)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("conformer_nano", "Conformer"), ("timm:test_vit", "TimmTransformer")],
)
def test_backbones_without_stages_are_refused(name, kind):
    with pytest.raises(RecipeError, match=rf"{kind}: no stages .*; use a convolutional network"):
        nets.build(nets.Config(backbone=name), 2, heads=Heads(generator_after=3))


def test_swin_is_refused():
    """Its features come channels last."""
    options = {"depths": (1, 1, 1, 1), "embed_dim": 24, "strict_img_size": False}
    with pytest.raises(RecipeError, match="cannot be cut"):
        make("swin_tiny_patch4_window7_224", 32, **options).split(3)


RESNET = nets.Config(backbone="timm:test_resnet")


@pytest.mark.parametrize("foreground", [False, True])
def test_generator_is_a_convolution_without_bias(foreground):
    network = nets.build(RESNET, 5, heads=Heads(generator_after=3, foreground=foreground)).eval()
    weight = network.generator.weight
    assert weight.shape == (5 + foreground, 192, 3, 3)
    assert network.generator.bias is None
    bound = (6 / (9 * (192 + 5 + foreground))) ** 0.5  # Xavier, uniform
    assert 0.99 * bound < weight.abs().max() <= bound
    assert any(parameter is weight for parameter in network.head_parameters())
    features = network.split().lower(torch.randn(1, 3, 64, 48))
    expected = 1 / (1 + torch.exp(-nn.functional.conv2d(features, weight, padding=1)))
    torch.testing.assert_close(network.prediction_maps(features), expected)


def test_a_generator_with_a_bias_starts_at_none_and_takes_weights_of_one_without():
    network = nets.build(RESNET, 5, heads=Heads(generator_after=3, generator_bias=True)).eval()
    assert network.generator.bias.tolist() == [0.0] * 5
    torch.nn.init.normal_(network.generator.bias, std=2)
    features = network.split().lower(torch.randn(1, 3, 64, 48))
    plain = nn.functional.conv2d(features, network.generator.weight, padding=1)
    expected = 1 / (1 + torch.exp(-plain - network.generator.bias[:, None, None]))
    torch.testing.assert_close(network.prediction_maps(features), expected)
    without = nets.build(RESNET, 5, heads=Heads(generator_after=3), seed=3)
    report = weights.load_into(network, without.state_dict(), allow_missing_heads=True)
    assert report.missing == ("generator.bias",)
    assert torch.equal(network.generator.weight, without.generator.weight)


def test_other_networks_have_no_generator():
    network = nets.build(RESNET, 5)
    assert network.generator is None
    assert not any("generator" in name for name in network.state_dict())


def test_a_classifier_starts_a_network_with_a_generator():
    classifier = nets.build(RESNET, 5, seed=1)
    network = nets.build(RESNET, 5, heads=Heads(generator_after=3))
    before = network.generator.weight.clone()
    report = weights.load_into(network, classifier.state_dict(), allow_missing_heads=True)
    assert report.missing == ("generator.weight",)
    assert torch.equal(network.generator.weight, before)
    assert torch.equal(network.class_head.weight, classifier.class_head.weight)
    weights.load_into(classifier, network.state_dict(), allow_missing_heads=True)


def test_heads_are_the_same_with_and_without_a_generator():
    """From one seed, so that methods begin alike."""
    plain = nets.build(RESNET, 5).state_dict()
    generating = nets.build(RESNET, 5, heads=Heads(generator_after=3)).state_dict()
    assert all(torch.equal(value, generating[name]) for name, value in plain.items())
