import itertools
import logging

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg import nets
from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets import hub, official_names, segmentation, weights
from baoseg.nets.segmentation import ASPP, DilatedPair, LargeFOV
from baoseg.predict.segment import NetConfig

THIN = {"width": 1}  # options of a ResNet-38 with 64 channels in the end
SHALLOW = {"layers": (1, 1, 1, 1)}
TINY = "deeplabv2:timm:test_resnet"


def convolution(images, weight, bias, dilation):
    """What a dilated convolution is: for each output, the sum over the cells that its taps fall on."""
    count, _, height, width = images.shape
    middle = weight.shape[-1] // 2
    output = torch.zeros(count, len(weight), height, width, dtype=torch.float64) + bias[None, :, None, None]
    taps = range(weight.shape[-1])
    for row, column, i, j in itertools.product(range(height), range(width), taps, taps):
        y, x = row + dilation * (i - middle), column + dilation * (j - middle)
        if 0 <= y < height and 0 <= x < width:
            output[:, :, row, column] += images[:, :, y, x] @ weight[:, :, i, j].T
    return output


def normed(x, norm):
    mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


@torch.no_grad()
def test_large_fov_is_what_the_paper_says():
    torch.manual_seed(0)
    head = LargeFOV(3, 4, width=5, dilation=2).double().eval()
    for norm in (head.bn_fov, head.bn_fov2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.normal_()
        norm.bias.normal_()
    features = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    none = torch.zeros(5, dtype=torch.float64)
    x = normed(convolution(features, head.conv_fov.weight, none, 2), head.bn_fov).clamp(min=0)
    x = normed(convolution(x, head.conv_fov2.weight, none, 1), head.bn_fov2).clamp(min=0)
    torch.testing.assert_close(head(features), convolution(x, head.cls_conv.weight, head.cls_conv.bias, 1))


@torch.no_grad()
def test_mctformers_head_is_two_dilated_convolutions():
    torch.manual_seed(0)
    head = DilatedPair(3, 4, width=5, dilation=2).double()
    features = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    x = convolution(features, head.fc8_seg_conv1.weight, head.fc8_seg_conv1.bias, 2).clamp(min=0)
    expected = convolution(x, head.fc8_seg_conv2.weight, head.fc8_seg_conv2.bias, 2)
    torch.testing.assert_close(head(features), expected)
    wide = DilatedPair(512, 64)
    assert wide.fc8_seg_conv2.weight.abs().max() <= (6 / (9 * (512 + 64))) ** 0.5  # Xavier's uniform start


@torch.no_grad()
def test_aspp_is_a_sum_of_four_dilated_convolutions():
    torch.manual_seed(0)
    head = ASPP(3, 2, dilations=(1, 2, 3, 5)).double()
    features = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    for layer in (head.c0, head.c1, head.c2, head.c3):
        layer.bias.normal_()
    expected = sum(
        convolution(features, layer.weight, layer.bias, dilation)
        for layer, dilation in ((head.c0, 1), (head.c1, 2), (head.c2, 3), (head.c3, 5))
    )
    torch.testing.assert_close(head(features), expected)


def test_aspp_starts_small():
    torch.manual_seed(0)
    head = ASPP(256, 21)
    for layer in (head.c0, head.c1, head.c2, head.c3):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not layer.bias.any()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "body", "head", "dilations"),
    [
        # conv_fov, its norm, conv_fov2, its norm, cls_conv; with them the network has the 124 M of the literature
        (
            "deeplab-largefov:resnet38",
            105_070_912,
            4096 * 512 * 9 + 2 * 512 + 512 * 512 + 2 * 512 + 512 * 21 + 21,
            {12},
        ),
        ("mctformer:resnet38", 105_070_912, 4096 * 512 * 9 + 512 + 512 * 21 * 9 + 21, {12}),
        # ResNet-101 of torchvision less its classifier: 44,549,160 - 2,049,000
        ("deeplabv2:resnet101", 42_500_160, 4 * (2048 * 21 * 9 + 21), {6, 12, 18, 24}),
        ("deeplabv2:resnet101-caffe", 42_500_160, 4 * (2048 * 21 * 9 + 21), {6, 12, 18, 24}),
    ],
)
def test_the_published_networks(name, body, head, dilations):
    with torch.device("meta"):
        network = segmentation.build(name, 20)
        logits = network(torch.empty(1, 3, 513, 321))
    assert (parameters(network.backbone), parameters(network.head)) == (body, head)
    assert sum(parameter.numel() for parameter in network.head_parameters()) == head
    wide = [
        layer for layer in network.head.modules() if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size[0] > 1
    ]
    assert {layer.dilation[0] for layer in wide} == dilations
    assert all(layer.padding == layer.dilation for layer in wide)
    assert logits.shape == (1, 21, 65, 41)
    assert (network.num_classes, network.stride) == (20, 8)


@pytest.fixture(scope="module")
def thin():
    return segmentation.build("deeplab-largefov:resnet38", 3, options=THIN).eval()


@pytest.fixture(scope="module")
def fpn():
    return segmentation.build("smp:fpn/tu-test_resnet", 3).eval()


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
@torch.no_grad()
def test_any_size_goes_in(thin, fpn, height, width):
    images = torch.randn(1, 3, height, width)
    assert thin(images).shape == (1, 4, -(-height // 8), -(-width // 8))
    assert fpn(images).shape == (1, 4, height, width)


@torch.no_grad()
def test_smp_sees_the_padded_image(fpn):
    images = torch.randn(1, 3, 33, 60)
    padded = F.pad(images, (0, 4, 0, 31), mode="replicate")
    torch.testing.assert_close(fpn(images), fpn.model(padded)[..., :33, :60])


@pytest.mark.parametrize(("stride", "largefov", "pyramid"), [(16, 6, [3, 6, 9, 12]), (8, 12, [6, 12, 18, 24])])
def test_the_field_of_view_keeps_its_pixels(stride, largefov, pyramid):
    first = segmentation.build("deeplab-largefov:timm:test_resnet", 2, stride=stride)
    assert first.head.conv_fov.dilation == (largefov, largefov)
    second = segmentation.build(TINY, 2, stride=stride)
    assert [layer.dilation[0] for layer in second.head.children()] == pyramid


@torch.no_grad()
def test_a_transformer_carries_a_head_too():
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}
    network = segmentation.build("deeplabv2:timm:vit_tiny_patch16_224", 2, options=options).eval()
    assert network(torch.randn(1, 3, 40, 70)).shape == (1, 3, 3, 5)
    assert not [name for name, _ in network.named_parameters() if "token_head" in name]


def test_frozen_batch_norm_is_about_the_backbone():
    network = NetConfig(name="deeplab-largefov:timm:test_resnet", freeze_batch_norm=True).build(2)
    assert not network.backbone.model.bn1.training and network.head.bn_fov.training
    network.eval().train()
    assert not network.backbone.model.bn1.training and network.head.bn_fov.training
    assert not network.backbone.model.bn1.weight.requires_grad
    assert segmentation.build("deeplab-largefov:timm:test_resnet", 2).backbone.model.bn1.training


def test_the_seed_decides_and_nothing_else_changes():
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    first, second = (segmentation.build(TINY, 2, seed=1) for _ in range(2))
    assert same(first.state_dict(), second.state_dict())
    assert not same(first.state_dict(), segmentation.build(TINY, 2, seed=2).state_dict())
    assert torch.equal(torch.get_rng_state(), drawn)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def save(path, state):
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def part(network, prefix):
    return {k.removeprefix(prefix): v for k, v in network.state_dict().items() if k.startswith(prefix)}


NETWORKS = {
    "deeplab-largefov:resnet38": (THIN, "head.cls_conv."),
    "deeplabv2:resnet101-caffe": (SHALLOW, "head."),
    TINY: ({}, "head."),
    "smp:fpn/tu-test_resnet": ({}, "model.segmentation_head."),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_and_starts_one_for_other_classes(tmp_path, caplog, name):
    options, classes = NETWORKS[name]
    trained = segmentation.build(name, 3, options=options, seed=1)
    path = save(tmp_path / "trained.safetensors", trained.state_dict())
    assert same(segmentation.build(name, 3, options=options, weights=path).state_dict(), trained.state_dict())
    fresh = segmentation.build(name, 5, options=options).state_dict()
    with caplog.at_level(logging.INFO):
        other = segmentation.build(name, 5, options=options, weights=str(path)).state_dict()
    assert f"mismatched: {classes}" in caplog.text
    for key, value in other.items():
        assert torch.equal(value, (fresh if key.startswith(classes) else trained.state_dict())[key])


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_are_asked_for(tmp_path, name):
    options, classes = NETWORKS[name]
    network = segmentation.build(name, 3, options=options)
    state = network.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    body, head = next(iter(state)), next(key for key in state if key.startswith(classes))
    others = {key: value + 1 for key, value in state.items()}
    for lacking in (body, head):
        path = save(tmp_path / "part.safetensors", {k: v for k, v in others.items() if k != lacking})
        with pytest.raises(CheckpointError, match=rf"1 missing \({lacking}\)"):
            segmentation.load(network, path)
    path = save(tmp_path / "more.safetensors", {**others, f"{head}.more": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="1 unexpected"):
        segmentation.load(network, path)
    path = save(tmp_path / "misshapen.safetensors", {**others, body: torch.zeros(1)})
    with pytest.raises(CheckpointError, match="1 mismatched"):
        segmentation.load(network, path)
    assert same(network.state_dict(), before)


def test_the_released_head_lies_beside_the_backbone(tmp_path):
    """SEAM's deeplabv1: backbone.conv1a ..., conv_fov, bn_fov, conv_fov2, bn_fov2, cls_conv."""
    trained = segmentation.build("deeplab-largefov:resnet38", 3, options=THIN, seed=1)
    state = {f"module.{key.removeprefix('head.')}": value for key, value in trained.state_dict().items()}
    assert {"module.backbone.b4_5.conv_branch2b1.weight", "module.cls_conv.bias", "module.bn_fov2.running_var"} <= set(
        state
    )
    path = save(tmp_path / "deeplabv1.safetensors", state)
    loaded = segmentation.build("deeplab-largefov:resnet38", 3, options=THIN, weights=path)
    assert same(loaded.state_dict(), trained.state_dict())


def test_mctformers_network_has_no_prefix(tmp_path):
    """conv1a ..., fc8_seg_conv1, fc8_seg_conv2."""
    trained = segmentation.build("mctformer:resnet38", 3, options=THIN, seed=1)
    state = {key.removeprefix("head.").removeprefix("backbone."): value for key, value in trained.state_dict().items()}
    assert {"b4_5.conv_branch2b1.weight", "bn7.running_var", "fc8_seg_conv1.bias", "fc8_seg_conv2.weight"} <= set(state)
    path = save(tmp_path / "model_29.safetensors", state)
    loaded = segmentation.build("mctformer:resnet38", 3, options=THIN, weights=path)
    assert same(loaded.state_dict(), trained.state_dict())
    fewer = segmentation.build(
        "mctformer:resnet38", 2, options=THIN, weights=path
    )  # other classes: the last layer starts
    assert same(part(fewer, "backbone."), part(trained, "backbone."))
    assert torch.equal(fewer.head.fc8_seg_conv1.weight, trained.head.fc8_seg_conv1.weight)
    body = {key: value for key, value in state.items() if not key.startswith("fc8")} | {"fc8.weight": torch.zeros(1)}
    started = segmentation.build(
        "mctformer:resnet38", 3, options=THIN, weights=save(tmp_path / "cls.safetensors", body)
    )
    assert same(part(started, "backbone."), part(trained, "backbone."))
    with pytest.raises(CheckpointError, match="1 missing"):
        state.pop("bn7.running_var")
        segmentation.build("mctformer:resnet38", 3, options=THIN, weights=save(tmp_path / "less.safetensors", state))


@pytest.mark.parametrize("name", ["deeplab-largefov:resnet38", TINY])
def test_a_backbone_alone_starts_a_network(tmp_path, name):
    options = NETWORKS[name][0]
    trained = segmentation.build(name, 2, options=options, seed=1)
    if name == TINY:
        state = part(trained, "backbone.model.") | {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
    else:
        state = part(trained, "backbone.") | {"fc8.weight": torch.zeros(20, 64, 1, 1)}
    loaded = segmentation.build(name, 3, options=options, weights=save(tmp_path / "body.safetensors", state))
    assert same(part(loaded, "backbone."), part(trained, "backbone."))
    assert same(part(loaded, "head."), part(segmentation.build(name, 3, options=options), "head."))


def test_the_network_of_a_labeler_starts_one(tmp_path):
    config = nets.Config(backbone="timm:test_resnet", stride=8)
    labeler = nets.build(config, 3, heads=nets.Heads(backgrounds=1), seed=1)
    weights.save(tmp_path / "network.safetensors", labeler, {})
    loaded = segmentation.build(TINY, 3, weights=tmp_path / "network.safetensors")
    assert same(part(loaded, "backbone."), part(labeler, "backbone."))


def caffe_state(outputs, *, prefix="base.", shortcut="shortcut", head="aspp."):
    """Random values of DeepLab v2 with one block a stage, in the names of the PyTorch port; channels of ResNet-101."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def unit(name, inputs, units, kernel):
        state[f"{name}.conv.weight"] = torch.randn(units, inputs, kernel, kernel, generator=generator) * (
            (2 / inputs) ** 0.5 / kernel
        )
        for leaf, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            state[f"{name}.bn.{leaf}"] = value + 0.2 * torch.rand(units, generator=generator)

    unit("layer1.conv1", 3, 64, 7)
    channels = 64
    for stage, middle in enumerate((64, 128, 256, 512), start=2):
        block = f"layer{stage}.block1"
        unit(f"{block}.reduce", channels, middle, 1)
        unit(f"{block}.conv3x3", middle, middle, 3)
        unit(f"{block}.increase", middle, 4 * middle, 1)
        unit(f"{block}.{shortcut}", channels, 4 * middle, 1)
        channels = 4 * middle
    for index in range(4):
        state[f"{head}c{index}.weight"] = 0.01 * torch.randn(outputs, channels, 3, 3, generator=generator)
        state[f"{head}c{index}.bias"] = torch.randn(outputs, generator=generator)
    return {f"{prefix}{key}": value for key, value in state.items()}


def caffe_logits(state, images):
    """Of BGR images in 0..255 less their mean; the first pooling rounds down."""

    def unit(x, name, *, stride=1, dilation=1):
        weight, norm = state[f"base.{name}.conv.weight"], f"base.{name}.bn"
        x = F.conv2d(x, weight, stride=stride, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)
        leaves = [state[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *leaves)

    x = F.max_pool2d(F.relu(unit(images, "layer1.conv1", stride=2)), 3, 2, 1)
    for stage, stride, dilation in ((2, 1, 1), (3, 2, 1), (4, 1, 2), (5, 1, 4)):
        block = f"layer{stage}.block1"
        y = F.relu(unit(x, f"{block}.reduce", stride=stride))
        y = F.relu(unit(y, f"{block}.conv3x3", dilation=dilation))
        x = F.relu(unit(y, f"{block}.increase") + unit(x, f"{block}.shortcut", stride=stride))
    return sum(
        F.conv2d(x, state[f"base.aspp.c{i}.weight"], state[f"base.aspp.c{i}.bias"], padding=d, dilation=d)
        for i, d in enumerate((6, 12, 18, 24))
    )


@torch.no_grad()
def test_the_caffe_model_gives_what_its_port_gives(tmp_path):
    state = caffe_state(4)
    network = segmentation.build(
        "deeplabv2:resnet101-caffe", 3, options=SHALLOW, weights=save(tmp_path / "msc.safetensors", state)
    ).eval()
    pixels = 255 * torch.rand(1, 3, 64, 72)  # RGB
    mean = torch.tensor([122.675, 116.669, 104.008])[:, None, None]
    expected = caffe_logits(state, (pixels - mean).flip(1))
    normalisation = network.normalisation
    given = pixels / 255 - torch.tensor(normalisation.mean)[:, None, None]
    given /= torch.tensor(normalisation.std)[:, None, None]
    torch.testing.assert_close(network(given), expected, rtol=1e-3, atol=1e-2)
    assert expected.std() > 1


@pytest.mark.parametrize(
    "names", [{"prefix": ""}, {"prefix": "scale.", "shortcut": "proj", "head": "aspp.stages."}], ids=["plain", "first"]
)
def test_other_spellings_of_the_caffe_model(names):
    usual = official_names.from_caffe_deeplab(caffe_state(4), blocks=(1, 1, 1, 1))
    assert same(official_names.from_caffe_deeplab(caffe_state(4, **names), blocks=(1, 1, 1, 1)), usual)


def test_the_coco_model_has_a_classifier_and_no_pyramid(tmp_path):
    state = {k: v for k, v in caffe_state(4, prefix="").items() if not k.startswith("aspp")}
    path = save(tmp_path / "deeplabv1_resnet101-coco.safetensors", {**state, "fc.weight": torch.zeros(91, 2048, 1, 1)})
    network = segmentation.build("deeplabv2:resnet101-caffe", 3, options=SHALLOW, weights=path)
    assert torch.equal(network.backbone.model.layer4[0].conv2.weight, state["layer5.block1.conv3x3.conv.weight"])


def test_the_two_resnets_are_not_mistaken_for_one_another(tmp_path):
    path = save(tmp_path / "caffe.safetensors", caffe_state(4))
    with pytest.raises(CheckpointError, match="use deeplabv2:resnet101-caffe"):
        segmentation.build("deeplabv2:resnet101", 3, options=SHALLOW, weights=path)
    usual = part(segmentation.build("deeplabv2:resnet101", 3, options=SHALLOW), "backbone.model.")
    path = save(tmp_path / "torchvision.safetensors", usual)
    with pytest.raises(CheckpointError, match=r"use deeplabv2:resnet101$"):
        segmentation.build("deeplabv2:resnet101-caffe", 3, options=SHALLOW, weights=path)
    assert segmentation.build("deeplabv2:resnet101", 3, options=SHALLOW, weights=path).num_classes == 3


@pytest.mark.parametrize("names", ["smp", "encoder", "timm"])
def test_smp_takes_weights_in_all_their_names(tmp_path, names):
    name = "smp:fpn/tu-test_convnext"  # whose stages timm's feature extractor calls stages_0
    trained = segmentation.build(name, 2, seed=1)
    state = {
        "smp": part(trained, "model."),
        "encoder": part(trained, "model.encoder."),
        "timm": {
            key.replace("stages_", "stages.").replace("stem_", "stem."): value
            for key, value in part(trained, "model.encoder.model.").items()
        }
        | {"head.fc.weight": torch.zeros(1)},
    }[names]
    assert names != "timm" or "stages.0.blocks.0.conv_dw.weight" in state
    loaded = segmentation.build(name, 2, weights=save(tmp_path / "weights.safetensors", state))
    assert same(part(loaded, "model.encoder."), part(trained, "model.encoder."))
    assert same(loaded.state_dict(), trained.state_dict()) == (names == "smp")
    incomplete = dict(list(state.items())[1:])
    with pytest.raises(CheckpointError, match="1 missing"):
        segmentation.build(name, 2, weights=save(tmp_path / "incomplete.safetensors", incomplete))


def test_smp_knows_normalisation_and_heads():
    network = segmentation.build("smp:unet/resnet18", 2)
    assert network.normalisation == Normalisation()
    encoder = {id(parameter) for parameter in network.model.encoder.parameters()}
    heads = {id(parameter) for parameter in network.head_parameters()}
    assert encoder | heads == {id(p) for p in network.parameters()} and not encoder & heads
    halves = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert segmentation.build("smp:fpn/tu-test_resnet", 2).normalisation == halves
    assert (
        segmentation.build("smp:fpn/tu-test_resnet", 2, normalisation=Normalisation()).normalisation == Normalisation()
    )
    assert segmentation.build(TINY, 2, normalisation=Normalisation()).normalisation == Normalisation()


@pytest.mark.shared
@torch.no_grad()
def test_timm_weights_of_a_mobilenet_fill_an_encoder_of_smp(shared):
    path = shared / "weights" / "mobilenetv2_100_imagenet.safetensors"
    name, options = "smp:fpn/tu-mobilenetv2_100", {"pad_type": "same"}
    network = segmentation.build(name, 14, weights=path, options=options).eval().double()
    state = safetensors.torch.load_file(path)
    backbone = (
        nets.build(
            nets.Config(backbone="timm:mobilenetv2_100", stride=32, options=(("pad_type", "same"),), weights=str(path)),
            14,
        )
        .backbone.eval()
        .double()
    )
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    ours = network.model.encoder(images)[-1]
    theirs = backbone.stages(images)[-1]
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(network.model.encoder.model.conv_stem.weight.float(), state["conv_stem.weight"])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "deeplabv3:resnet101",
            {},
            "unknown network 'deeplabv3:resnet101'; use deeplab-largefov or mctformer or deeplabv2 with",
        ),
        ("deeplabv2", {}, "unknown network 'deeplabv2'"),
        ("deeplabv2:conformer_small", {}, "resnet38, resnet101, resnet101-caffe or timm:NAME"),
        ("deeplabv2:timm:nothing", {}, "no such model"),
        ("deeplabv2:resnet38", {"pretrained": True}, "give an official checkpoint"),
        ("deeplabv2:resnet101-caffe", {"pretrained": True}, "give a local file"),
        (TINY, {"pretrained": True, "weights": "here.pth"}, "both pretrained and weights here.pth"),
        ("smp:unit/resnet18", {}, "no such architecture; use unet"),
        ("smp:unet/resnot", {}, "no such encoder"),
        ("smp:unet", {}, "no such encoder"),
        ("smp:unet/tu-resnot", {}, "no such encoder"),
        ("smp:unet/tu-vit_tiny_patch16_224", {}, "cannot be built"),
        ("smp:dpt/tu-vit_tiny_patch16_224", {}, "cannot be built .*doesn't match model"),
        ("smp:fpn/tu-test_resnet", {"options": {"colour": 1}}, "cannot be built .*colour"),
    ],
)
def test_networks_that_cannot_be(name, settings, message):
    with pytest.raises(RecipeError, match=message) as caught:
        segmentation.build(name, 3, **settings)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched(monkeypatch):
    import segmentation_models_pytorch as smp

    def offline(*given, encoder_weights, **settings):
        raise FileNotFoundError(f"{encoder_weights} is not here\ntry again")

    monkeypatch.setattr(smp, "create_model", offline)
    monkeypatch.setattr(hub, "_no_answer", lambda: "")
    for name, wanted in {"smp:unet/resnet18": "imagenet", "smp:unet/tu-resnet18": "True"}.items():
        with pytest.raises(CheckpointError, match=rf"cannot be loaded \({wanted} is not here\); .*give --weights"):
            segmentation.build(name, 3, pretrained=True)


def test_weights_of_something_else(tmp_path):
    path = save(tmp_path / "linear.safetensors", torch.nn.Linear(2, 2).state_dict())
    for name, (options, _) in NETWORKS.items():
        if not name.startswith("smp:") and "caffe" not in name:
            with pytest.raises(CheckpointError, match=r"missing \(.*, \.\.\.\)"):
                segmentation.build(name, 3, options=options, weights=path)
