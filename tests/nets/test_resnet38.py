import math

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from baoseg import nets
from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets import weights
from baoseg.nets.resnet38 import ResNet38

# block: inputs, outputs of its convolutions (in widths), kernels, stride, dilations; from the code of PSA
BLOCKS = {
    "b2": (1, (2, 2), (3, 3), 2, (1, 1)),
    "b2_1": (2, (2, 2), (3, 3), 1, (1, 1)),
    "b2_2": (2, (2, 2), (3, 3), 1, (1, 1)),
    "b3": (2, (4, 4), (3, 3), 2, (1, 1)),
    "b3_1": (4, (4, 4), (3, 3), 1, (1, 1)),
    "b3_2": (4, (4, 4), (3, 3), 1, (1, 1)),
    "b4": (4, (8, 8), (3, 3), 2, (1, 1)),
    **{f"b4_{index}": (8, (8, 8), (3, 3), 1, (1, 1)) for index in range(1, 6)},
    "b5": (8, (8, 16), (3, 3), 1, (1, 2)),
    "b5_1": (16, (8, 16), (3, 3), 1, (2, 2)),
    "b5_2": (16, (8, 16), (3, 3), 1, (2, 2)),
    "b6": (16, (8, 16, 32), (1, 3, 1), 1, (1, 4, 1)),
    "b7": (32, (16, 32, 64), (1, 3, 1), 1, (1, 4, 1)),
}
BRANCHES = ("branch2a", "branch2b1", "branch2b2")


def rendering(state, images, *, training=False):
    """PSA's network from a state dict, one operation after another; conv4, conv5 and conv6 of it."""

    def norm(x, name):
        statistics = (None, None) if training else (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        return F.relu(F.batch_norm(x, *statistics, state[f"{name}.weight"], state[f"{name}.bias"], training=training))

    inputs = {}
    x = F.conv2d(images, state["conv1a.weight"], padding=1)
    for block, (_, outputs, kernels, stride, dilations) in BLOCKS.items():
        y = inputs[block] = norm(x, f"{block}.bn_branch2a")
        shortcut = f"{block}.conv_branch1.weight"
        skipped = F.conv2d(y, state[shortcut], stride=stride) if shortcut in state else x
        for index, branch in enumerate(BRANCHES[: len(outputs)]):
            if index > 0:
                y = norm(y, f"{block}.bn_{branch}")
            y = F.conv2d(
                y,
                state[f"{block}.conv_{branch}.weight"],
                stride=stride if index == 0 else 1,
                padding=dilations[index] * (kernels[index] // 2),
                dilation=dilations[index],
            )
        x = skipped + y
    return inputs["b5"], inputs["b6"], norm(x, "bn7")


def small(dtype=torch.float64):
    """Two channels in the first layer, and values of a network that has seen something."""
    torch.manual_seed(0)
    network = ResNet38(width=2).to(dtype).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
    return network


def test_tensors_are_those_of_the_published_network():
    with torch.device("meta"):
        network = ResNet38()
    expected = {"conv1a.weight": (64, 3, 3, 3)}
    norms = {"bn7": 4096}
    for block, (inputs, outputs, kernels, stride, _) in BLOCKS.items():
        channels = 64 * inputs
        for branch, output, kernel in zip(BRANCHES, outputs, kernels, strict=False):
            norms[f"{block}.bn_{branch}"] = channels
            expected[f"{block}.conv_{branch}.weight"] = (64 * output, channels, kernel, kernel)
            channels = 64 * output
        if inputs != outputs[-1] or stride == 2:
            expected[f"{block}.conv_branch1.weight"] = (channels, 64 * inputs, 1, 1)
    for norm, channels in norms.items():
        expected |= {f"{norm}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    state = {key: tuple(value.shape) for key, value in network.state_dict().items() if "num_batches" not in key}
    assert state == expected
    convolutions = sum(math.prod(shape) for shape in expected.values() if len(shape) == 4)
    levels = 1_728 + 819_200 + 3_276_800 + 27_262_976 + 26_476_544 + 9_437_184 + 37_748_736  # conv1a, b2 .. b7, by hand
    assert convolutions == levels and sum(norms.values()) == 23_872
    assert sum(p.numel() for p in network.parameters()) == convolutions + 2 * sum(norms.values())


@torch.no_grad()
def test_features_are_those_of_the_rendering():
    network = small()
    images = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    conv4, conv5, conv6 = rendering(network.state_dict(), images)
    features = network(images)
    torch.testing.assert_close(features.map, conv6)
    assert features.token_logits is None and features.attention is None
    stages = network.stages(images)
    assert [stage.shape[1] for stage in stages] == list(network.stage_channels) == [4, 8, 16, 32, 128]
    assert [stage.shape[-2:] for stage in stages] == [(16, 20), (8, 10), (4, 5), (4, 5), (4, 5)]
    for ours, theirs in zip(stages[-3:], (conv4, conv5, conv6), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_the_rendering():
    """What is computed in place spoils nothing that the gradients need."""
    network = small().train()
    for block in (network.b6, network.b7):
        block.dropout_2b1.p = block.dropout_2b2.p = 0.0
    images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    network(images).map.square().sum().backward()
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in network.named_parameters()}
    rendering(leaves, images, training=True)[-1].square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, leaves[name].grad)


@torch.no_grad()
def test_odd_sizes_are_padded_with_their_last_row_and_column():
    network = small()
    images = torch.randn(1, 3, 21, 30, dtype=torch.float64)
    padded = F.pad(images, (0, 2, 0, 3), mode="replicate")
    torch.testing.assert_close(network(images).map, network(padded).map)
    assert network(images).map.shape == (1, 128, 3, 4)


def test_it_is_built_like_any_backbone():
    config = nets.Config(backbone="resnet38", options=(("width", 1),), freeze_batch_norm=True)
    network = nets.build(config, 3)
    assert network.normalisation == Normalisation()
    assert network.class_head.weight.shape == (4, 64, 1, 1)
    assert not network.backbone.bn7.training
    with pytest.raises(RecipeError, match="unknown options depth; there are width"):
        nets.build(nets.Config(backbone="resnet38", options=(("depth", 1),)), 3)
    with pytest.raises(RecipeError, match="give an official checkpoint"):
        nets.build(nets.Config(backbone="resnet38", pretrained=True), 3)
    with pytest.raises(RecipeError, match=r"unknown backbone 'resnet39'; use .*, resnet38 or timm:NAME"):
        nets.build(nets.Config(backbone="resnet39"), 3)


@pytest.mark.parametrize("heads", [(), ("fc8",), ("f8_3", "f8_4", "f8_5", "f9")])
def test_published_files_fill_it_whatever_their_heads(tmp_path, heads):
    state = ResNet38(width=1).state_dict()
    path = tmp_path / "res38_cls.pth"
    torch.save(state | {f"{head}.weight": torch.zeros(2, 64, 1, 1) for head in heads}, path)
    loaded = nets.build(nets.Config(backbone="resnet38", options=(("width", 1),), weights=str(path)), 2).backbone
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if not k.startswith("b5_1.")}, "10 missing .b5_1.bn_branch2a.weight"),
        (lambda s: {**s, "b2.fc.weight": torch.zeros(1)}, "1 unexpected .b2.fc.weight"),
        (lambda s: {**s, "bn7.bias": torch.zeros(1)}, r"1 mismatched .bn7.bias \[1\] for \[64\]"),
    ],
)
def test_files_that_do_not_fit(tmp_path, damage, message):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(damage(ResNet38(width=1).state_dict()), path)
    with pytest.raises(CheckpointError, match=message):
        nets.build(nets.Config(backbone="resnet38", options=(("width", 1),), weights=str(path)), 2)


def test_a_trained_network_comes_back(tmp_path):
    config = nets.Config(backbone="resnet38", options=(("width", 1),))
    trained = nets.build(config, 2, seed=1)
    weights.save(tmp_path / "own.safetensors", trained, {})
    again = nets.build(nets.Config(**{**vars(config), "weights": str(tmp_path / "own.safetensors")}), 2)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in trained.state_dict().items())
