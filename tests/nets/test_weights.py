import argparse
import dataclasses
import importlib.util
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from baoseg import nets
from baoseg.core.errors import CheckpointError
from baoseg.data.transforms import Normalisation
from baoseg.nets import Heads, conformer, official_names, weights
from baoseg.nets.conformer import Conformer
from baoseg.nets.network import Network

spec = importlib.util.spec_from_file_location("published", Path(__file__).with_name("published.py"))
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)

TINY = {"ratio": 0.25, "width": 24, "depth": 3, "classes": 3}
SIZES = conformer.Config(channel_ratio=0.25, embed_dim=24, depth=3, heads=1)


@pytest.fixture
def state():
    return published.random_state(**TINY)


def network(*, classes=3, activation_heads=True, sizes=SIZES):
    heads = Heads(backgrounds=int(activation_heads))
    return Network(Conformer(sizes, classes, normalisation=Normalisation()), classes, heads=heads)


def same(first, second):
    assert set(first) == set(second)
    return all(torch.equal(first[key], second[key]) for key in first)


def test_key_map_is_one_to_one_and_knows_every_tensor(state):
    names = official_names.official_names(12)
    assert len(set(names.values())) == len(names)
    assert names["backbone.blocks.2.transformer_block.qkv"] == "conv_trans_4.trans_block.attn.qkv"
    ours = official_names.from_official(state, depth=3)
    assert set(ours) == set(network().state_dict())
    assert same(official_names.to_official(ours, depth=3), state)


def test_published_weights_go_in_and_come_out_unchanged(state):
    loaded = weights.official_conformer(state)
    assert loaded.activation_heads
    assert same(official_names.to_official(loaded.state_dict(), depth=3), state)


@hypothesis_settings(deadline=None, max_examples=20)
@given(
    st.fixed_dictionaries(
        {
            "ratio": st.integers(16, 100).map(lambda channels: channels / 256),
            "width": st.integers(4, 18),
            "depth": st.sampled_from([3, 6]),
            "classes": st.integers(1, 4),
            "hidden": st.integers(1, 70),
            "heads": st.sampled_from(["transcam", "bao"]),
        }
    )
)
def test_sizes_are_read_from_the_tensors(sizes):
    """Whatever the widths were rounded from, the network built from them takes all tensors."""
    state = published.random_state(**sizes)
    inferred = weights.infer_conformer(state)
    assert (inferred.num_classes, inferred.activation_heads) == (sizes["classes"], sizes["heads"] == "bao")
    assert (inferred.config.embed_dim, inferred.config.depth) == (sizes["width"], sizes["depth"])
    loaded = weights.official_conformer(state)
    assert same(official_names.to_official(loaded.state_dict(), depth=sizes["depth"]), state)


@pytest.mark.parametrize("name", ["conformer_tiny", "conformer_small", "conformer_base"])
def test_everything_of_the_published_sizes_is_read(name):
    config = conformer.VARIANTS[name]
    with torch.device("meta"):
        made = network(classes=20, sizes=config)
    inferred = weights.infer_conformer(official_names.to_official(made.state_dict(), depth=config.depth))
    assert inferred == weights.Inferred(config, 20, True)


def test_heads_can_be_given(state):
    assert weights.infer_conformer(state).config.heads == 1
    assert weights.infer_conformer(state, heads=3).config.heads == 3
    with pytest.raises(CheckpointError, match="5 heads do not divide the width 24"):
        weights.infer_conformer(state, heads=5)


def test_old_checkpoints_lack_the_counters_of_batch_norm(state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    report = weights.load_into(network(), old)
    assert report.missing == report.unexpected == report.mismatched == ()
    assert set(report.matched) == set(old)


def test_an_imagenet_classifier_starts_a_network():
    state = published.random_state(**{**TINY, "classes": 10}, heads="imagenet")
    made = network()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    report = weights.load_into(made, state, allow_missing_heads=True)
    assert set(report.missing) == {
        f"{head}.{leaf}" for head in ("classifier_x", "label_enc") for leaf in ("weight", "bias")
    }
    assert {text.split()[0] for text in report.mismatched} == {
        f"{head}.{leaf}" for head in ("conv_cls_head", "trans_cls_head") for leaf in ("weight", "bias")
    }
    assert "conv_cls_head.weight [10, 64] for [4, 64, 3, 3]" in str(report)
    after = made.state_dict()
    heads = tuple(official_names.HEADS)
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith(heads))
    body = official_names.from_official(state, depth=3)
    assert all(torch.equal(after[key], body[key]) for key in after if not key.startswith(heads))
    with pytest.raises(CheckpointError, match="ImageNet classifier"):
        weights.official_conformer(state)


def test_bao_starts_from_transcam_and_transcam_reads_bao(state):
    transcam = published.random_state(**TINY, heads="transcam")
    report = weights.load_into(network(), transcam, allow_missing_heads=True)
    assert len(report.missing) == 4
    assert set(report.matched) == set(transcam)
    report = weights.load_into(network(activation_heads=False), state, allow_missing_heads=True)
    assert len(report.unexpected) == 4


def without(state, *prefixes):
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: without(s, "label_enc"), r"2 missing \(label_enc.weight, label_enc.bias\)"),
        (lambda s: without(s, "trans_norm"), r"2 missing \(trans_norm"),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, r"1 unexpected \(extra.weight\)"),
        (lambda s: {**s, "bn1.weight": torch.zeros(3)}, r"1 mismatched \(bn1.weight \[3\] for \[64\]\)"),
        (lambda s: without(s, "conv_trans_3"), "missing"),
    ],
)
def test_what_does_not_fit_changes_nothing(state, damage, message):
    made = network()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        weights.load_into(made, damage(state), source="here.pth")
    assert str(caught.value).startswith("here.pth: ")
    assert "\n" not in str(caught.value)
    assert same(made.state_dict(), before)


def test_missing_heads_may_be_allowed_but_not_a_missing_body(state):
    with pytest.raises(CheckpointError, match="trans_norm"):
        weights.load_into(network(), without(state, "trans_norm"), allow_missing_heads=True)
    with pytest.raises(CheckpointError, match="mismatched"):
        weights.load_into(network(classes=5), state)
    report = weights.load_into(network(classes=5), state, allow_missing_heads=True)
    assert len(report.mismatched) == 7  # the label encoder's bias has the same size for any classes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: without(s, "conv_trans_3"), "multiple of 3"),
        (lambda s: without(s, "conv_trans_2"), "multiple of 3"),
        (lambda s: without(s, "conv_trans_2", "conv_trans_3"), "multiple of 3"),
        (lambda s: without(s, "cls_token"), "cls_token is missing"),
        (lambda s: {**s, "cls_token": torch.zeros(2)}, "has no size to read"),
        (lambda s: {**s, "trans_patch_conv.weight": torch.zeros(24, 64, 8, 8)}, "patches of 32 pixels"),
        (lambda s: {**s, "conv_cls_head.weight": torch.zeros(1, 64, 3, 3)}, "only the background output"),
        (lambda s: without(s, "label_enc"), "2 missing"),
        (lambda s: without(s, "trans_patch_conv"), "neither written by baoseg nor an official checkpoint"),
        (lambda s: {**s, "conv_trans_2.med_block.0.conv1.weight": torch.zeros(1)}, "1 unexpected"),
    ],
)
def test_checkpoints_of_no_network(state, damage, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        weights.official_conformer(damage(state), source="here.pth")
    assert str(caught.value).startswith("here.pth: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_reads_what_torch_and_safetensors_write(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    assert same(weights.read_checkpoint(path), state)
    assert weights.read_metadata(path) is None


def test_opens_what_trainings_wrap_around_a_state_dict(tmp_path, state):
    parallel = {f"module.{key}": value for key, value in state.items()}
    for name, content in {
        "model": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        "state_dict": {"state_dict": parallel, "optimizer": {"step": 1}},
        "parallel": parallel,
    }.items():
        torch.save(content, tmp_path / f"{name}.pth")
        assert same(weights.read_checkpoint(tmp_path / f"{name}.pth"), state)


class Harmful:
    def __reduce__(self):
        return (print, ("run while unpickling",))


def test_unreadable_files(tmp_path, state, capsys):
    def error(name):
        with pytest.raises(CheckpointError) as caught:
            weights.read_checkpoint(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ")
        assert "\n" not in message
        return message

    assert "no such weights" in error("absent.pth")
    with pytest.raises(CheckpointError, match="no such weights"):
        weights.read_metadata(tmp_path / "absent.safetensors")

    torch.save({"model": Harmful()}, tmp_path / "objects.pth")
    assert "Python objects" in error("objects.pth")
    assert capsys.readouterr().out == ""

    torch.save({"epoch": 3}, tmp_path / "other.pth")
    assert "no state dict" in error("other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "no state dict" in error("list.pth")

    torch.save(state, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in error("cut.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    assert "damaged" in error("text.pth")
    (tmp_path / "empty.pth").touch()
    assert "damaged" in error("empty.pth")

    safetensors.torch.save_file(state, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in error("cut.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        weights.read_metadata(tmp_path / "cut.safetensors")


def test_a_file_that_may_not_be_read_is_said_to_be_there(tmp_path, state, monkeypatch):
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    opened = Path.open

    def refuse(path, *words):
        if path.name == "a.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *words)

    def missing(*_, **__):  # as safetensors says it
        raise FileNotFoundError("No such file or directory: a.safetensors")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(weights, "safe_open", missing)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read \(Permission denied\); change its perm"):
        weights.read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_integers_are_no_weights(tmp_path, dtype):
    state = timm.create_model("test_resnet").state_dict()
    config = nets.Config(backbone="timm:test_resnet", weights=str(tmp_path / "a.pth"))

    def written_as(kind):
        cast = {key: value.to(kind) if value.is_floating_point() else value for key, value in state.items()}
        torch.save(cast, tmp_path / "a.pth")

    written_as(torch.float16)
    nets.build(config, 2, heads=nets.NO_HEADS)
    written_as(dtype)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"a\.pth: weights do not fit .* mismatched \([\w.]+ {kind} for float32"):
        nets.build(config, 2, heads=nets.NO_HEADS)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_tensors_without_values_are_refused(tmp_path):
    for value in (torch.zeros(3, device="meta"), torch.eye(3).to_sparse()):
        torch.save({"weight": value}, tmp_path / "odd.pth")
        with pytest.raises(CheckpointError, match=r"odd\.pth: weight is a tensor without values, or sparse; save"):
            weights.read_checkpoint(tmp_path / "odd.pth")


def test_own_files_describe_themselves_and_are_the_same_every_time(tmp_path):
    made = network()
    about = {"classes": ["cat", "dög"], "net": {"backbone": "conformer_nano"}, "format": 1}
    first, second = tmp_path / "a.safetensors", tmp_path / "sub" / "b.safetensors"
    weights.save(first, made, about)
    weights.save(second, made, about)
    assert first.read_bytes() == second.read_bytes()
    assert weights.read_metadata(first) == about
    again = network()
    report = weights.load_into(again, weights.read_checkpoint(first))
    assert len(report.matched) == len(made.state_dict())
    assert same(again.state_dict(), made.state_dict())


@pytest.mark.parametrize("names", ["ours", "published"])
def test_a_network_is_built_from_a_file(tmp_path, names, caplog):
    small = nets.Config(backbone="conformer_nano", options=(("depth", 3), ("embed_dim", 24)))
    trained = nets.build(small, 2, seed=1)
    path = tmp_path / "trained.safetensors"
    if names == "ours":
        weights.save(path, trained, {})
    else:
        safetensors.torch.save_file(official_names.to_official(trained.state_dict(), depth=3), path)
    config = dataclasses.replace(small, weights=str(path))
    with caplog.at_level("INFO"):
        made = nets.build(config, 2, heads=Heads(backgrounds=1), seed=2)
    assert "missing: " in caplog.text
    state = made.state_dict()
    assert all(torch.equal(state[key], value) for key, value in trained.state_dict().items())
    path.unlink()  # not needed any more where other values are about to be loaded
    assert nets.build(config, 2, heads=Heads(backgrounds=1), initialise=False).num_classes == 2
    with pytest.raises(CheckpointError, match="no such weights"):
        nets.build(config, 2, heads=Heads(backgrounds=1))


def test_conformer_weights_do_not_go_into_another_backbone(state):
    other = nets.build(nets.Config(backbone="timm:mobilenetv2_035"), 3, heads=Heads(backgrounds=1))
    with pytest.raises(CheckpointError, match="choose a Conformer"):
        weights.load_into(other, state, allow_missing_heads=True)
