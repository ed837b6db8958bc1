import copy
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from baoseg import nets
from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.nets import Heads, hub, timm_backbones, timm_cnn, weights
from baoseg.nets.attention import Attention, Summed

SMALL_VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}
VITS = {
    "plain": ("vit_tiny_patch16_224", {}, 1, 16),
    "queries and keys normed": ("vit_tiny_patch16_224", {"qk_norm": True, "init_values": 1.0}, 1, 16),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {}, 5, 14),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, 2, 16),
    "no class token": ("vit_base_patch16_siglip_gap_224", {}, 0, 16),
}


def vit(kind):
    name, options, _, _ = VITS[kind]
    torch.manual_seed(0)
    backbone = timm_backbones.make(name, 3, options={**SMALL_VIT, **options}).eval()
    # values of a trained network: freshly made ones attend to everything alike
    for parameter in backbone.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def star(captured: Attention) -> torch.Tensor:
    """A* of the patches."""
    blocks = zip(captured.queries, captured.keys, strict=True)
    total = sum((query @ key.mT * captured.scale).softmax(-1).mean(dim=1) for query, key in blocks)
    return total[:, captured.prefix :, captured.prefix :]


@pytest.mark.parametrize("kind", VITS)
def test_captured_queries_and_keys_are_those_that_attended(kind):
    """softmax(Q K^T scale) V, put through the block's own projection, is what the block's attention gave out."""
    backbone = vit(kind)
    model = backbone.model
    seen = []
    hooks = [
        block.attn.register_forward_hook(lambda module, args, output: seen.append((module, args[0], output)))
        for block in model.blocks
    ]
    features = backbone(torch.randn(2, 3, 50, 70))
    for hook in hooks:
        hook.remove()
    captured = features.attention
    assert captured.prefix == VITS[kind][2]
    assert len(captured.queries) == len(captured.keys) == len(seen) == 2
    for query, key, (module, entering, output) in zip(captured.queries, captured.keys, seen, strict=True):
        value = module.qkv(entering)[..., 2 * 24 :].unflatten(-1, (2, 12)).transpose(1, 2)
        matrix = (query @ key.transpose(-1, -2) * captured.scale).softmax(-1)
        attended = module.proj((matrix @ value).transpose(1, 2).flatten(2))
        assert torch.allclose(attended, output, atol=1e-4, rtol=1e-4)
    rows, columns = captured.grid
    total = star(captured).sum(-1)  # of 2 blocks, the prefix's share removed
    assert total.shape == (2, rows * columns)
    assert (total <= 2 + 1e-5).all()
    if captured.prefix == 0:
        assert torch.allclose(total, torch.full_like(total, 2))


@pytest.mark.parametrize("kind", VITS)
@torch.no_grad()
def test_vit_features_are_the_models_own(kind):
    _, _, prefix, stride = VITS[kind]
    backbone = vit(kind)
    assert (backbone.stride, backbone.channels, backbone.attends) == (stride, 24, True)
    images = torch.randn(2, 3, 2 * stride, 3 * stride)
    features = backbone(images)
    tokens = backbone.model.forward_features(images)
    patches = features.map.flatten(2).transpose(1, 2)
    assert torch.allclose(patches, tokens[:, prefix:], atol=1e-4)
    assert features.map.shape[-2:] == features.attention.grid == (2, 3)
    if backbone.model.has_class_token:
        expected = tokens[:, 0] @ backbone.token_head.weight[1:].T + backbone.token_head.bias[1:]
        assert torch.allclose(features.token_logits, expected, atol=1e-4)
    else:
        assert features.token_logits is None


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize("autocast", [False, True])
def test_summed_while_attending_equals_captured(kind, autocast):
    """Without gradients, features and A* are those that queries and keys of the same pass give with them."""
    backbone = vit(kind)
    for parameter in backbone.parameters():
        parameter.data.mul_(0.3)
    images = torch.randn(2, 3, 50, 70)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        captured = backbone(images)
        with torch.no_grad():
            summed = backbone(images, spreads=True)
            expected = star(captured.attention)
    assert isinstance(captured.attention, Attention)
    assert isinstance(summed.attention, Summed)
    assert (summed.attention.grid, summed.attention.blocks) == (captured.attention.grid, 2)
    tolerance = {"atol": 0.02, "rtol": 0.02} if autocast else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(summed.attention.matrix.float(), expected.float(), **tolerance)
    torch.testing.assert_close(summed.map, captured.map, atol=0.05 if autocast else 1e-4, rtol=0.05)


@torch.no_grad()
def test_without_fused_attention_queries_and_keys_are_captured():
    backbone = vit("plain")
    for block in backbone.model.blocks:
        block.attn.fused_attn = False
    assert isinstance(backbone(torch.randn(1, 3, 32, 32), spreads=True).attention, Attention)


def test_a_copy_of_a_vit_captures_for_itself():
    backbone = vit("plain")
    twin = copy.deepcopy(backbone)
    images = torch.randn(1, 3, 32, 32)
    assert len(twin(images).attention.queries) == len(backbone(images).attention.queries) == 2
    assert not any(module._forward_hooks for module in backbone.modules())


@torch.no_grad()
def test_a_vit_of_unknown_attention_serves_without_it():
    backbone = timm_backbones.make(
        "vit_tiny_patch16_224", 3, options={**SMALL_VIT, "embed_dim": 32, "attn_layer": "diff"}
    ).eval()
    assert not backbone.attends
    assert backbone(torch.randn(1, 3, 32, 48)).attention is None


CNNS = {
    "mobilenet at 16": ("mobilenetv2_035", 16, {"pad_type": "same"}),
    "resnet at 8": ("resnet10t", 8, {}),
    "convnext at 32": ("convnext_atto", 32, {"depths": (1, 1, 1, 1)}),
    "swin, channels last": (
        "swin_tiny_patch4_window7_224",
        32,
        {"depths": (1, 1, 1, 1), "embed_dim": 24, "strict_img_size": False},
    ),
}


@pytest.mark.parametrize("kind", CNNS)
@torch.no_grad()
def test_cnn_features_are_the_models_own_on_the_padded_image(kind):
    name, stride, options = CNNS[kind]
    backbone = timm_backbones.make(name, 3, stride=stride, options=options).eval()
    assert not backbone.attends
    height, width = 2 * stride + 3, 3 * stride
    images = torch.randn(1, 3, height, width)
    features = backbone(images)
    assert features.token_logits is None
    assert features.attention is None
    padded = images[:, :, torch.arange(3 * stride).clamp(max=height - 1)]
    expected = backbone.model.forward_features(padded)
    if "swin" in kind:
        expected = expected.permute(0, 3, 1, 2)
    assert torch.allclose(features.map, expected, atol=1e-4, rtol=1e-4)
    assert features.map.shape == (1, backbone.channels, 3, 3)


def test_trying_a_model_out_changes_nothing():
    backbone = timm_backbones.make("mobilenetv2_035", 3)
    state = backbone.model.state_dict()
    assert backbone.model.training
    assert all(state[key] == 0 for key in state if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("no_such_net", {}, "no such model"),
        ("vgg11", {"stride": 16}, "cannot be built with output_stride=16"),
        ("mobilenetv3_small_050", {"stride": 16}, "has stride 32 and not 16; set stride to 32"),
        ("resnet10t", {"options": {"flavour": 1}}, "flavour"),
        ("swin_tiny_patch4_window7_224", {"stride": 32, "options": {"embed_dim": 24}}, "accepts only some image sizes"),
        ("beit_base_patch16_224", {"options": {"depth": 1, "img_size": (64, 96)}}, "returns tokens"),
        ("resnet10t", {"options": {"output_stride": 8}}, "has stride 8 and not 16; set stride to 8"),
    ],
)
def test_models_that_cannot_serve(name, settings, message):
    with pytest.raises(RecipeError, match=message) as caught:
        timm_backbones.make(name, 3, **settings)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network\nat all")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(hub, "_no_answer", lambda: "")
    with pytest.raises(CheckpointError, match=r"timm:resnet18: .*cannot be loaded \(no network\)"):
        timm_backbones.make("resnet18", 3, pretrained=True)


def test_timm_names_from_a_local_file(tmp_path):
    config = nets.Config(backbone="timm:resnet10t", weights=str(tmp_path / "resnet.safetensors"))
    donor = timm.create_model("resnet10t")  # with its classifier of 1000 classes
    safetensors.torch.save_file(donor.state_dict(), config.weights)
    made = nets.build(config, 2)
    own = made.backbone.model.state_dict()
    assert all(torch.equal(own[key], donor.state_dict()[key]) for key in own)

    damaged = {**donor.state_dict(), "conv9.weight": torch.zeros(1)}
    del damaged["layer1.0.conv1.weight"]
    safetensors.torch.save_file(damaged, config.weights)
    with pytest.raises(CheckpointError, match=r"1 missing .layer1.0.conv1.weight.; 1 unexpected .conv9.weight."):
        nets.build(config, 2)


def test_own_file_of_a_timm_network_comes_back(tmp_path):
    config = nets.Config(backbone="timm:resnet10t")
    made = nets.build(config, 2, heads=Heads(backgrounds=1), seed=1)
    path = tmp_path / "network.safetensors"
    weights.save(path, made, {})
    again = nets.build(config, 2, heads=Heads(backgrounds=1), initialise=False)
    weights.load_into(again, weights.read_checkpoint(path))
    state = made.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_normalisation_is_the_weights_own_unless_set():
    plain = nets.build(nets.Config(backbone="timm:mobilenetv2_035"), 2)
    assert plain.normalisation.mean == (0.485, 0.456, 0.406)
    half = (0.5, 0.5, 0.5)
    config = nets.Config(backbone="timm:mobilenetv2_035", mean=half, std=half)
    changed = nets.build(config, 2)
    assert (changed.normalisation.mean, changed.normalisation.std) == (half, half)


def test_real_weights(shared):
    config = nets.Config(
        backbone="timm:mobilenetv2_100",
        weights=str(shared / "weights" / "mobilenetv2_100_imagenet.safetensors"),
        options=(("pad_type", "same"),),
    )
    made = nets.build(config, 14, heads=Heads(backgrounds=1))
    assert (made.backbone.channels, made.backbone.stride) == (1280, 16)
    statistics = made.backbone.model.bn2.running_var
    assert not torch.equal(statistics, torch.ones_like(statistics))


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet10t"])
def test_stages_are_the_features_before_the_last_map(name: str) -> None:
    backbone = timm_backbones.make(name, 3, stride=16).eval()
    images = torch.randn(2, 3, 75, 101, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stages = backbone.stages(images)
        features = backbone(images).map
    assert tuple(stage.shape[1] for stage in stages) == backbone.stage_channels
    strides = [80 // stage.shape[2] for stage in stages]
    assert strides == sorted(strides) and stages[-1].shape[2:] == features.shape[2:] == (5, 7)


def test_a_model_without_features_of_stages_is_named() -> None:
    with pytest.raises(RecipeError, match="vgg11"):
        timm_backbones.make("vgg11", 3, stride=32).stages(torch.zeros(1, 3, 64, 64))


# --- InceptionV3 ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception() -> timm_cnn.TimmConvolutional:
    return timm_backbones.make("inception_v3", 3, stride=32).eval()


@pytest.fixture(scope="module")
def published(inception: timm_cnn.TimmConvolutional) -> torch.nn.Module:
    """timm's own, with the same weights."""
    with torch.device("meta"):
        model = timm.create_model("inception_v3", num_classes=0).eval()
    model.load_state_dict(inception.model.state_dict(), assign=True)
    return model


@pytest.mark.parametrize(("stride", "widths"), [(32, (4, 8, 16, 32)), (16, (4, 8, 8, 16)), (8, (4, 8, 8, 8))])
@torch.no_grad()
def test_inception_has_whole_cells_in_one_and_in_two(inception, stride: int, widths: tuple[int, ...]) -> None:
    model = copy.deepcopy(inception.model)
    timm_cnn.pad_inception(model, stride)
    backbone = timm_cnn.TimmConvolutional(model, stride)
    images = torch.randn(1, 3, 70, 64)
    height = -(-70 // stride) * stride  # of the image in whole cells
    expected = backbone(images).map
    assert expected.shape == (1, 2048, height // stride, 64 // stride)
    for after, width in enumerate(widths, start=1):
        lower, upper, channels = backbone.split(after)
        features = lower(images)
        assert features.shape == (1, channels, height // width, 64 // width)
        torch.testing.assert_close(upper(features), expected)


@torch.no_grad()
def test_inside_an_image_padded_inception_is_the_published_one(inception, published) -> None:
    """Without padding a cell j of stage 2 has its centre at 8 j + 13, with it at 8 j: five pixels less, one cell more.

    To every side it sees 15 pixels by the stem and 2 cells by each of three blocks: 63 pixels. Four see no border.
    """
    picture = torch.randn(1, 3, 160, 160)
    layers = torch.nn.Sequential(*list(published.children())[:10])
    assert layers[-1] is published.Mixed_5d
    ours = inception.split(2).lower(picture[..., 5:, 5:])
    torch.testing.assert_close(ours[..., 8:12, 8:12], layers(picture)[..., 7:11, 7:11], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["Mixed_6a", "Mixed_7a"])
@torch.no_grad()
def test_inside_a_grid_padded_reductions_are_the_published_ones(inception, published, name: str) -> None:
    """Without padding a cell j has its centre at 2 j + 1, with it at 2 j, and sees 4 to every side.

    At stride 1 there are the cells between as well.
    """
    theirs, ours = published.get_submodule(name), inception.model.get_submodule(name)
    channels = {"Mixed_6a": 288, "Mixed_7a": 768}[name]
    features = torch.randn(1, channels, 20, 20)
    shifted = features[..., 1:, 1:]
    coarse = ours(shifted)
    torch.testing.assert_close(coarse[..., 2:8, 2:8], theirs(features)[..., 2:8, 2:8])
    fine = copy.deepcopy(inception.model)
    timm_cnn.pad_inception(fine, 8)
    torch.testing.assert_close(fine.get_submodule(name)(shifted)[..., ::2, ::2], coarse)


def test_inception_loads_published_weights_without_the_second_classifier(inception) -> None:
    with torch.device("meta"):
        released = timm.create_model("inception_v3", aux_logits=True)
    state = {key: torch.ones(value.shape, dtype=value.dtype) for key, value in released.state_dict().items()}
    assert any(key.startswith("AuxLogits.") for key in state)
    backbone = copy.deepcopy(inception)
    timm_backbones.load(backbone, state, source=Path("inception.pth"))
    assert all(value.eq(1).all() for value in backbone.model.state_dict().values())
