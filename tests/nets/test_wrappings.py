"""The same tensors in the wrappings that people publish, and tensors that no network can compute with."""

import argparse

import pytest
import safetensors.torch
import torch

from baoseg import nets
from baoseg.core.errors import CheckpointError
from baoseg.nets import segmentation, weights, wrappings

STATE = {f"layer{i}.weight": torch.full((2,), float(i)) for i in range(1, 21)}
MEAN = {name: value + 100 for name, value in STATE.items()}
MOBILENET = "timm:mobilenetv2_035"


def prefixed(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (STATE, []),
        ({"model": STATE, "epoch": 3, "args": argparse.Namespace(lr=1)}, ["read from model"]),
        ({"model_state_dict": STATE}, ["read from model_state_dict"]),
        ({"net": STATE, "acc": 91.0}, ["read from net"]),
        ({"module": STATE}, ["read from module"]),
        ({"state_dict": {"model": STATE}}, ["read from state_dict/model"]),
        ({"model": {"name": "resnet50", "depth": 50}, "state_dict": STATE}, ["read from state_dict"]),
        ({"model_ema": STATE}, ["read from model_ema"]),
        ({"state_dict_ema": prefixed("module.")}, ["read from state_dict_ema", "cut the prefix module. off"]),
        ({"model": STATE, "model_ema": MEAN}, ["read from model", "model_ema is left out"]),
        ({"state_dict": prefixed("module."), "ema": MEAN}, None),
        (prefixed("_orig_mod."), ["cut the prefix _orig_mod. off"]),
        (prefixed("module._orig_mod."), ["cut the prefix module._orig_mod. off"]),
        (prefixed("model.module."), ["cut the prefix model.module. off"]),
        ({"state_dict": prefixed("model.")}, ["read from state_dict", "cut the prefix model. off"]),
        ({**prefixed("model."), "loss.weight": torch.ones(1)}, ["loss.weight left out", "cut the prefix model. off"]),
        ({**prefixed("module."), "epoch": torch.tensor(3)}, ["epoch left out", "cut the prefix module. off"]),
        ({**prefixed("model."), **prefixed("ema_model.module.", MEAN)}, None),
        ({**STATE, **prefixed("model_ema.", MEAN)}, ["model_ema is left out"]),
    ],
)
def test_the_plain_weights_come_out_of_every_wrapping(content, said):
    state, notes = wrappings.unwrapped(content)
    assert same(state, STATE)
    assert said is None or notes == said


def test_what_has_other_names_beside_it_keeps_its_prefix():
    """A network with a part called `model` is no wrapped network."""
    own = {**prefixed("model."), "head.weight": torch.ones(1), "head.bias": torch.ones(1), "scale": torch.ones(1)}
    assert wrappings.unwrapped(own) == (own, [])
    other = {**STATE, "ema.decay": torch.ones(1)}
    assert wrappings.unwrapped(other) == (other, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": STATE, "state_dict": MEAN}, r"several networks \(model, state_dict\); save only the one"),
        ({"ema": STATE, "model_ema": MEAN}, r"several networks \(model_ema, ema\)"),
        ({"student": STATE, "teacher": MEAN}, r"no state dict by a usual name \(it has student, teacher\)"),
        ({"model": {"state_dict": {}}}, "holds no state dict; save model.state_dict"),
        ({}, "holds no state dict"),
        ([STATE], "holds no state dict"),
    ],
)
def test_nothing_is_guessed(content, message):
    with pytest.raises(ValueError, match=message):
        wrappings.unwrapped(content)


def test_a_dict_that_holds_itself_ends():
    content = {}
    content["model"] = content
    with pytest.raises(ValueError, match="holds no state dict"):
        wrappings.unwrapped(content)


def test_a_wrapped_backbone_is_loaded_and_the_cut_is_said(tmp_path, capsys):
    given = nets.build(nets.Config(backbone=MOBILENET), 2, seed=1).backbone.model.state_dict()
    contents = {
        "lightning": {"state_dict": prefixed("model.", given)},
        "compiled": prefixed("_orig_mod.", given),
        "segmentation": {**prefixed("backbone.", given), "decode_head.weight": torch.ones(2)},
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        made = nets.build(nets.Config(backbone=MOBILENET, weights=str(path)), 2, seed=2)
        assert same(made.backbone.model.state_dict(), given)
        assert f"{path}: " in (said := capsys.readouterr().out) and "cut the prefix" in said
        segmenting = segmentation.build(f"deeplabv2:{MOBILENET}", 2, weights=path, stride=16, seed=2)
        assert same(segmenting.backbone.model.state_dict(), given)


def test_own_files_are_taken_as_they_are(tmp_path, capsys):
    """Every name of a segmentation network of smp begins with `model.`."""
    network = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 3)})
    weights.save(tmp_path / "own.safetensors", network, {"format": 1})
    assert set(weights.read_checkpoint(tmp_path / "own.safetensors")) == {"model.weight", "model.bias"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "values", [[1.0, float("nan")], [float("inf"), 0.0], [-float("inf"), 0.0]], ids=["nan", "inf", "-inf"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_values_that_are_no_numbers_are_refused(tmp_path, values, dtype, suffix):
    path = tmp_path / f"bad{suffix}"
    state = {"good": torch.ones(2), "bad": torch.tensor(values, dtype=dtype), "count": torch.tensor(3)}
    torch.save(state, path) if suffix == ".pth" else safetensors.torch.save_file(state, path)
    with pytest.raises(CheckpointError) as caught:
        weights.read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: bad has values that are NaN or infinite; ")
    assert "\n" not in str(caught.value)


def test_numbers_beyond_32_bit_are_refused_and_counted(tmp_path):
    path = tmp_path / "double.pth"
    torch.save({"a": torch.tensor([1e300], dtype=torch.float64), "b": torch.tensor([float("nan")])}, path)
    with pytest.raises(CheckpointError, match=r"a has values that are NaN or infinite \(so have 1 more of 2 tensors\)"):
        weights.read_checkpoint(path)
    torch.save({"a": torch.tensor([1e30, -1e-300], dtype=torch.float64), "b": torch.tensor([True])}, path)
    assert set(weights.read_checkpoint(path)) == {"a", "b"}


def test_an_onnx_file_is_named_as_such(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07 damaged")
    with pytest.raises(CheckpointError, match="an ONNX file, which is for other tools; give the weights"):
        weights.read_checkpoint(tmp_path / "net.onnx")
