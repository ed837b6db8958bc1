import importlib.util
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets import Heads, attention, conformer, weights
from baoseg.nets.attention import Attending
from baoseg.nets.conformer import Conformer

spec = importlib.util.spec_from_file_location("published", Path(__file__).with_name("published.py"))
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)


def relative(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("size", [(64, 64), (48, 112)], ids=["square", "oblong"])
@pytest.mark.parametrize(("width", "depth", "heads"), [(24, 6, 3), (64, 3, 1)])
@torch.no_grad()
def test_equals_the_published_network(size, width, depth, heads):
    state = published.random_state(ratio=0.25, width=width, depth=depth, classes=4)
    network = weights.official_conformer(state, heads=heads).eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]])

    expected = published.forward(state, images, labels, heads=heads)
    features = network(images)
    class_maps = network.class_maps(features)
    background = network.background_map(features, labels, centred=False)
    actual = {
        "class_maps": class_maps,
        "token_logits": features.token_logits,
        "refined": attention.spread(class_maps, features.attention),
        "activations": network.activation_maps(features, labels),
        "background": attention.spread(background, features.attention),
    }
    assert set(actual) == set(expected)
    for name, values in expected.items():
        assert actual[name].shape == values.shape
        assert relative(actual[name], values) < 1e-4, name


def test_batch_norm_folded_for_inference_changes_nothing():
    network = weights.official_conformer(published.random_state(ratio=0.25, width=24, depth=3, classes=4))
    images = torch.randn(2, 3, 32, 48)
    network.eval()
    plain = network(images)
    with torch.no_grad():
        folded = network(images)
    assert plain.map.requires_grad
    assert relative(folded.map, plain.map) < 1e-5
    network.train()
    with torch.no_grad():
        assert relative(network(images).map, plain.map) > 0.01  # statistics of the batch, not the kept ones


@pytest.mark.parametrize("mixed", [False, True], ids=["single precision", "mixed precision"])
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_what_is_made_again_in_the_backward_pass_changes_nothing(mixed, mode):
    """Gradients and running statistics are the same to the bit."""
    images = torch.randn(2, 3, 32, 48)
    outcomes = []
    for way in (conformer._recomputed, lambda *args: nullcontext()):
        torch.manual_seed(0)
        backbone = Conformer(conformer.VARIANTS["conformer_nano"], 1, normalisation=Normalisation()).train(mode)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
        with mock.patch.object(conformer, "_recomputed", way), autocast:
            loss = backbone(images).map.square().mean()
        loss.backward()
        gradients = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
        outcomes.append({**gradients, **dict(backbone.named_buffers())})
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(value, outcomes[1][name]) for name, value in outcomes[0].items())


def test_what_is_made_again_is_not_kept():
    norm, value = nn.BatchNorm2d(2), torch.randn(1, 2, 3, 3, requires_grad=True)
    other = torch.full((1, 2, 3, 3), 7.0)
    with conformer._recomputed(value, lambda: other):
        result = norm(value)
    assert torch.equal(result.grad_fn._saved_input, other)
    assert torch.equal(norm(value).grad_fn._saved_input, value)


@torch.no_grad()
def test_attention_prepared_for_a_spread_gives_the_same():
    network = nets.build(nets.Config(backbone="conformer_nano"), 3).eval()
    images, scores = torch.randn(2, 3, 40, 56), torch.rand(2, 4, 5, 7)
    plain, prepared = network(images), network(images, spreads=True)
    assert isinstance(plain.attention, attention.Attention)
    assert isinstance(prepared.attention, attention.Summed)
    assert prepared.attention.blocks == plain.attention.blocks == 6
    torch.testing.assert_close(prepared.map, plain.map, atol=1e-4, rtol=1e-4)
    expected = attention.spread(scores, plain.attention)
    torch.testing.assert_close(attention.spread(scores, prepared.attention), expected, atol=1e-4, rtol=1e-4)


def count(ratio, width, depth=12):
    """Parameters of a published classifier of 1000 classes, added up layer by layer."""

    def bottleneck(inputs, outputs, residual):
        inner = outputs // 4
        convs = inputs * inner + 9 * inner * inner + inner * outputs
        return convs + 4 * inner + 2 * outputs + (inputs * outputs + 2 * outputs if residual else 0)

    transformer = 12 * width * width + 13 * width
    stages = [64 * ratio, 128 * ratio, 256 * ratio]
    total = 64 * 3 * 49 + 2 * 64 + width + (64 * 16 + 1) * width  # stem, class token, patches
    total += bottleneck(64, stages[0], True) + transformer
    for index in range(1, depth):
        stage, first = divmod(index, depth // 3)
        entry = first == 0
        channels, inner = stages[stage], stages[stage] // 4
        total += bottleneck(stages[stage - 1] if entry else channels, channels, entry) + transformer
        total += bottleneck(channels, channels, index == depth - 1)
        total += (inner + 1) * width + 2 * width + (width + 1) * inner + 2 * inner
    return total + 2 * width + 1000 * (width + 1) + 1000 * (stages[2] + 1)


@pytest.mark.parametrize(
    ("name", "millions"), [("conformer_tiny", 23.5), ("conformer_small", 37.7), ("conformer_base", 83.3)]
)
def test_parameters_are_as_many_as_published(name, millions):
    config = conformer.VARIANTS[name]
    with torch.device("meta"):
        backbone = Conformer(config, 1, normalisation=Normalisation())
    body = sum(p.numel() for key, p in backbone.named_parameters() if not key.startswith("token_head"))
    total = body + 1000 * (backbone.channels + 1) + 1000 * (config.embed_dim + 1)
    assert total == count(config.channel_ratio, config.embed_dim)
    assert round(total / 1e6, 1) == millions


@pytest.mark.parametrize("size", [(50, 33), (16, 16), (1, 40)])
@torch.no_grad()
def test_odd_sizes_equal_the_image_with_its_border_repeated(size):
    network = nets.build(nets.Config(backbone="conformer_nano"), 3).eval()
    height, width = size
    images = torch.randn(1, 3, height, width)
    rows, columns = -(-height // 8), -(-width // 8)
    padded = images[:, :, torch.arange(rows * 8).clamp(max=height - 1)]
    padded = padded[:, :, :, torch.arange(columns * 8).clamp(max=width - 1)]
    features, expected = network(images), network(padded)
    assert features.attention.grid == (rows, columns) == features.map.shape[-2:]
    assert torch.equal(features.map, expected.map)
    assert torch.equal(features.token_logits, expected.token_logits)


def test_paths_are_dropped_in_the_transformer_alone_and_linearly():
    backbone = Conformer(conformer.Config(embed_dim=64, heads=1), 1, normalisation=Normalisation())
    blocks = [backbone.transformer_block, *(block.transformer_block for block in backbone.blocks)]
    assert [block.drop_path for block in blocks] == pytest.approx([0.1 * i / 11 for i in range(12)])
    block = blocks[-1]
    block.drop_path = 1.0
    tokens = torch.randn(2, 5, 64)
    attending = Attending(tokens[:, None], blocks=2, width=64, scale=0.125, prefix=1, grid=(2, 2), spreads=False)
    assert torch.equal(block.train()(tokens, attending), tokens)  # nothing but the way around is left
    assert not torch.equal(block.eval()(tokens, attending), tokens)


def test_starts_as_released():
    config = nets.Config(
        backbone="conformer_tiny", options=(("depth", 3),), activation_start=nets.ActivationStart.RELEASED
    )
    network = nets.build(config, 20, heads=Heads(backgrounds=1))
    backbone = network.backbone
    assert network.class_head.weight.std().item() == pytest.approx((2 / (21 * 9)) ** 0.5, rel=0.02)
    assert network.activation_head.weight.std().item() == pytest.approx((2 / (21 * 9)) ** 0.5, rel=0.02)
    assert backbone.patch_embed.weight.std().item() == pytest.approx((2 / (384 * 16)) ** 0.5, rel=0.02)
    for layer in (network.label_encoder, backbone.token_head, backbone.blocks[0].transformer_block.qkv):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias.count_nonzero() == 0
    eps = {module.eps for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == {1e-5, 1e-6}
    assert backbone.stem_norm.eps == backbone.token_norm.eps == 1e-5


def test_gradients_reach_every_parameter_but_the_class_heads_background():
    config = nets.Config(backbone="conformer_nano", activation_start=nets.ActivationStart.RELEASED)
    network = nets.build(config, 3, heads=Heads(backgrounds=1))
    features = network(torch.randn(2, 3, 32, 32))
    maps = attention.spread(network.class_maps(features), features.attention)
    activations = network.activation_maps(features, torch.ones(2, 3))
    (maps.square().mean() + features.token_logits.square().mean() + activations.square().mean()).backward()
    assert all(parameter.grad.count_nonzero() > 0 for parameter in network.parameters())
    assert network.class_head.weight.grad[0].count_nonzero() == 0


@pytest.mark.parametrize(
    ("options", "message"), [({"depth": 4}, "multiple of 3"), ({"heads": 5}, "5 heads do not divide")]
)
def test_impossible_sizes(options, message):
    with pytest.raises(RecipeError, match=message):
        Conformer(conformer.Config(**options), 2, normalisation=Normalisation())
