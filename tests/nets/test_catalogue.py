"""The list of published weights, and their way onto the disk: from a server here, on files made here."""

import hashlib
import http.server
import re
import struct
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from nets.published import random_state
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import baoseg
from baoseg import nets, recipes
from baoseg.core.errors import CheckpointError, DataError, RecipeError
from baoseg.data.prepare.archives import Config
from baoseg.nets import catalogue, conformer, embedded, mxnet, segmentation
from baoseg.nets.catalogue import Kind
from baoseg.nets.resnet38 import ResNet38
from baoseg.recipes import boxes
from baoseg.recipes import weights as recipe_weights

ALL = catalogue.checkpoints()
QUICK = Config(attempts=1, pause=0.0, timeout=5.0)
TINY = {"ratio": 0.5, "width": 8, "depth": 3, "classes": 4}  # of random_state


@pytest.mark.parametrize("entry", ALL.values(), ids=ALL)
def test_every_entry_is_whole(entry):
    assert entry.title and entry.purpose and entry.licence and entry.page.startswith("https://")
    assert bool(entry.url) != bool(entry.by_hand)  # there is one way to have it
    if entry.url:
        assert entry.sha256 or entry.md5  # nothing is downloaded that cannot be checked
        assert entry.url.partition("?")[0].endswith(f"/{entry.file}")
    assert entry.sha256 is None or (len(entry.sha256) in (8, 64) and entry.sha256[:8] in entry.file)
    assert entry.md5 is None or len(bytes.fromhex(entry.md5)) == 16
    assert entry.format == {"params": "MXNet", "pth": "PyTorch"}[entry.file.rpartition(".")[2]]
    backbones = {*conformer.VARIANTS, nets.RESNET38, f"deeplabv2:{segmentation.CAFFE}"}
    assert entry.network in backbones or timm.is_model(entry.network.removeprefix("timm:"))


@pytest.mark.parametrize("entry", ALL.values(), ids=ALL)
def test_all_that_is_known_is_shown(entry):
    text = recipe_weights.show(entry.name)
    told = [entry.title, entry.file, entry.format, entry.kind, entry.network, entry.purpose, entry.page]
    told += [entry.licence, entry.url or entry.by_hand, entry.sha256 or entry.md5 or "none is public"]
    told += [*entry.elsewhere, *entry.notes]
    assert all(words in text for words in told)
    assert all(f"unverified  {doubt}" in text for doubt in entry.unverified)


@pytest.mark.parametrize("make", recipes.known().values(), ids=recipes.known())
def test_what_a_recipe_reads_can_be_had(make):
    recipe = make()
    files = set(re.findall(r"weights='([^']*)'", repr(recipe))) - {embedded.DEFAULT, boxes.MOBILENETV2_WEIGHTS}
    assert files == {catalogue.converted(name).as_posix() for name in recipe_weights.needed(recipe)}
    networks = [ALL[name].network for name in recipe_weights.needed(recipe)]
    if recipe.net.weights not in (None, embedded.DEFAULT, boxes.MOBILENETV2_WEIGHTS):  # those of cub20 are timm's
        assert recipe.net.backbone in networks


def test_the_table_has_a_row_for_each():
    table = recipe_weights.table()
    names, ways, licences, readers, titles = (list(column.cells)[1:] for column in table.columns)  # behind the embedded
    assert names == list(ALL)
    assert [way == "download" for way in ways] == [entry.url is not None for entry in ALL.values()]
    assert licences == [entry.licence for entry in ALL.values()]
    assert dict(zip(names, map(str.split, readers), strict=True)) == {
        name: [recipe for recipe, make in recipes.known().items() if name in recipe_weights.needed(make())]
        for name in ALL
    }
    assert titles == [entry.title for entry in ALL.values()]
    assert "verified" in str(table.caption)


@pytest.mark.parametrize("call", [recipe_weights.show, lambda name: catalogue.fetch(name, Path())])
def test_an_unknown_name(call):
    with pytest.raises(RecipeError, match=r"no published weights 'vgg16'; there are conformer-tiny, "):
        call("vgg16")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the entry of a file that is to be served from it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        entry = replace(
            ALL["conformer-small"],
            file="weights.pth",
            url=f"http://127.0.0.1:{server.server_port}/weights.pth",
            sha256=hashlib.sha256(b"right").hexdigest(),
            elsewhere=("the attic",),
        )
        monkeypatch.setattr(catalogue, "checkpoints", lambda: {"tiny": entry})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, entry
        server.shutdown()
        thread.join()


def known(monkeypatch, entry, **changes):
    monkeypatch.setattr(catalogue, "checkpoints", lambda: {"tiny": replace(entry, **changes)})


@pytest.mark.parametrize(
    "checksum",
    [
        {},
        {"sha256": hashlib.sha256(b"right").hexdigest()[:8]},
        {"sha256": None, "md5": hashlib.md5(b"right").hexdigest()},
    ],
    ids=["sha256", "first digits", "md5"],
)
def test_a_file_is_fetched_once_and_checked_each_time(served, tmp_path, monkeypatch, checksum):
    folder, entry = served
    known(monkeypatch, entry, **checksum)
    (folder / "weights.pth").write_bytes(b"right")
    path = catalogue.fetch("tiny", tmp_path / "new", config=QUICK)
    assert path == tmp_path / "new" / "weights.pth"
    assert path.read_bytes() == b"right"
    assert [file.name for file in path.parent.iterdir()] == ["weights.pth"]
    (folder / "weights.pth").unlink()  # what is there is not asked for again
    assert catalogue.fetch("tiny", tmp_path / "new", config=QUICK) == path
    path.write_bytes(b"wrong")
    with pytest.raises(DataError, match=r"weights.pth: half-downloaded or damaged: its 5 bytes have the .*; delete it"):
        catalogue.fetch("tiny", tmp_path / "new", config=QUICK)


def test_a_part_that_a_broken_download_left_is_no_harm(served, tmp_path):
    (served[0] / "weights.pth").write_bytes(b"right")
    (tmp_path / "weights.pth.part").write_bytes(b"wrong and long")  # this server has no ranges and sends all of it
    assert catalogue.fetch("tiny", tmp_path, config=QUICK).read_bytes() == b"right"
    assert not (tmp_path / "weights.pth.part").exists()


def test_wrong_bytes_and_no_bytes_leave_nothing(served, tmp_path):
    folder, entry = served
    with pytest.raises(DataError, match=f"{entry.url}: the server answers 404"):
        catalogue.fetch("tiny", tmp_path / "new", config=QUICK)
    (folder / "weights.pth").write_bytes(b"<html>log in</html>")
    with pytest.raises(DataError, match=r"sent another file: its 19 bytes .*; try again later, or .* the attic"):
        catalogue.fetch("tiny", tmp_path / "new", config=QUICK)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("name", [name for name, entry in ALL.items() if entry.url is None])
def test_a_person_is_told_the_step(tmp_path, name):
    path = tmp_path / ALL[name].file
    with pytest.raises(DataError) as caught:
        catalogue.fetch(name, tmp_path, config=QUICK)
    assert str(caught.value).startswith(f"{path}: ")
    assert ALL[name].by_hand in str(caught.value)
    path.write_bytes(b"whatever: there is nothing to check it against")
    assert catalogue.fetch(name, tmp_path) == path


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def converted(tmp_path, state, *, name="source.pth", kind=None):
    """The tensors that a conversion writes, and its report."""
    source, to = tmp_path / name, tmp_path / "new" / "to.safetensors"
    torch.save(state, source)
    report = catalogue.convert(source, to, kind=kind)
    with safe_open(to, framework="pt") as file:
        assert file.metadata()["converted_from"] == name
    return load_file(to), report


@pytest.mark.parametrize("heads", ["transcam", "bao"])
def test_trained_conformers_keep_all_they_have(tmp_path, heads):
    state = random_state(**TINY, heads=heads)
    written, report = converted(tmp_path, {"model": state}, kind=Kind.CONFORMER)
    assert same(written, state)
    assert set(report.matched) == set(state)
    assert report.missing == report.unexpected == report.mismatched == ()
    labeler = baoseg.load(tmp_path / "new" / "to.safetensors")
    assert len(labeler.classes) == 4
    assert torch.equal(labeler.method.network.class_head.weight, state["conv_cls_head.weight"])


def test_the_heads_of_an_imagenet_classifier_are_reported(tmp_path):
    state = random_state(**TINY, heads="imagenet")
    written, report = converted(tmp_path, state)
    assert same(written, state)
    heads = {f"{branch}_cls_head.{leaf}" for branch in ("conv", "trans") for leaf in ("weight", "bias")}
    assert set(report.unexpected) == heads
    assert set(report.matched) == set(state) - heads


def openmmlab(state):
    """As OpenMMLab's classes name what Conformer's authors name: two parts, and their own transformer block."""
    theirs = {"norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
    named = {}
    for key, value in state.items():
        part = "head" if "cls_head" in key else "backbone"
        if block := re.fullmatch(r"(trans_1|conv_trans_\d+\.trans_block)\.(.+)\.(\w+)", key):
            name, layer, leaf = block.groups()
            named[f"{part}.{name}.{theirs.get(layer, layer)}.{leaf}"] = value
        else:
            named[f"{part}.{key}"] = value
    return named


def test_openmmlabs_conformer_is_the_authors(tmp_path):
    state = random_state(**TINY, heads="imagenet")
    theirs = openmmlab(state)
    assert {"backbone.trans_1.ln1.weight", "backbone.conv_trans_2.trans_block.ffn.layers.0.0.bias"} <= theirs.keys()
    written, _ = converted(tmp_path, {"state_dict": theirs, "meta": {"mmcls_version": "0.19.0"}})
    assert same(written, state)


def params(state):
    """A file of MXNet with these tensors in float32, under the names of ResNet-38 there."""
    arrays, names = [], []
    leaves = {"running_mean": "moving_mean", "running_var": "moving_var"}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        parts = layer.split(".")
        if len(parts) == 2:
            level, _, index = parts[0].removeprefix("b").partition("_")
            kind, _, branch = parts[1].partition("_")
            layer = f"{'res' if kind == 'conv' else 'bn'}{level}{f'b{index}' if index else 'a'}_{branch}"
        if "bn" in layer:
            leaf = leaves.get(leaf, {"weight": "gamma", "bias": "beta"}.get(leaf))
        name = f"arg:{layer}_{leaf}".encode()
        names.append(struct.pack("<Q", len(name)) + name)
        shape = struct.pack(f"<I{value.ndim}I", value.ndim, *value.shape)
        arrays.append(shape + struct.pack("<iii", 1, 0, 0) + value.numpy().tobytes())
    count = struct.pack("<Q", len(names))
    return struct.pack("<QQ", 0x112, 0) + count + b"".join(arrays) + count + b"".join(names)


def resnet38():
    state = ResNet38(width=1).state_dict()
    return {key: torch.rand_like(value) for key, value in state.items() if not key.endswith("tracked")}


def test_resnet38_comes_from_pytorch_and_from_mxnet(tmp_path):
    state = resnet38()
    written, report = converted(tmp_path, {f"module.{key}": value for key, value in state.items()})
    assert same(written, state)
    assert set(report.matched) == set(state)
    source = tmp_path / "a1.params"
    source.write_bytes(params(state | {"linear1000.weight": torch.zeros(5, 64)}))
    report = catalogue.convert(source, tmp_path / "a1.safetensors", kind=Kind.RESNET38)
    written = load_file(tmp_path / "a1.safetensors")
    assert report.unexpected == ("linear1000.weight",)
    assert same({key: value for key, value in written.items() if key in state}, state)
    assert same(written, mxnet.to_pytorch(mxnet.read(source)))


def half(state):
    return {key: torch.zeros(value.shape, dtype=torch.float16) for key, value in state.items()}


def test_a_resnet_of_torchvision(tmp_path):
    state = half(timm.create_model("resnet50", layers=(1, 1, 1, 1), num_classes=7).state_dict())
    written, report = converted(tmp_path, state)
    assert same(written, state)
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert set(report.matched) == state.keys() - {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(("prefix", "pyramid"), [("", False), ("base.", True)], ids=["coco", "voc"])
def test_deeplab_keeps_the_names_that_tell_it_apart(tmp_path, prefix, pyramid):
    """Its first layer sees BGR, and its strides lie elsewhere: in our names nobody would know."""
    model = timm.create_model("resnet50", layers=(1, 1, 1, 1), num_classes=0).state_dict()
    units = {"conv1": "reduce", "conv2": "conv3x3", "conv3": "increase", "downsample": "shortcut"}
    state = {}
    for key, value in half(model).items():
        parts = key.split(".")
        if parts[0].startswith("layer"):
            layer = parts[2].replace("bn", "conv")
            norm = parts[2].startswith("bn") or parts[2:4] == ["downsample", "1"]
            name = f"layer{int(parts[0][5:]) + 1}.block1.{units[layer]}.{'bn' if norm else 'conv'}.{parts[-1]}"
        else:
            name = f"layer1.conv1.{parts[0].removesuffix('1')}.{parts[-1]}"
        state[f"{prefix}{name}"] = value
    for index in range(4 if pyramid else 0):
        state[f"{prefix}aspp.c{index}.weight"] = torch.zeros(3, 2048, 3, 3, dtype=torch.float16)
        state[f"{prefix}aspp.c{index}.bias"] = torch.zeros(3, dtype=torch.float16)
    state[f"{prefix}layer1.conv1.conv.weight"][:, 0] = 1  # blue
    written, report = converted(tmp_path, state, kind=Kind.DEEPLABV2_CAFFE)
    assert same(written, state)
    assert len(report.matched) == len(state)
    network = segmentation.build(
        "deeplabv2:resnet101-caffe",
        2,
        options={"layers": (1, 1, 1, 1)},
        weights=tmp_path / "new" / "to.safetensors",
    )
    assert network.backbone.model.conv1.weight[:, 2].eq(1).all()  # the last of RGB


def damages():
    whole = random_state(**TINY)
    short = {key: value for key, value in whole.items() if key != "bn1.weight"}
    wide = whole | {"bn1.weight": torch.zeros(7)}
    yield short, None, r"1 missing \(bn1.weight\); use a complete checkpoint"
    yield wide, None, r"1 mismatched \(bn1.weight \[7\] for \[64\]\); use a complete"
    yield openmmlab(short), None, r"1 missing \(bn1.weight\)"
    yield whole, Kind.RESNET38, "weights of conformer, not of resnet38; use another file"
    yield (
        {"classifier.weight": torch.zeros(2)},
        None,
        "holds classifier.weight, which is of no known network; .* conformer-openmmlab,",
    )
    yield {"b2_1.conv_branch2a.weight": torch.zeros(())}, None, "of no known network"
    yield {"b2_1.conv_branch2a.weight": torch.zeros(0, 1, 1, 1)}, None, "missing"
    yield {"layer1.0.conv3.weight": torch.zeros(1, 1, 1, 1)}, None, "missing"
    yield {"layer1.conv1.conv.weight": torch.zeros(1, 3, 7, 7)}, None, "missing"


@pytest.mark.parametrize(("state", "kind", "message"), list(damages()))
def test_what_does_not_fit_is_not_written(tmp_path, state, kind, message):
    source = tmp_path / "source.safetensors"
    save_file(state, source)
    with pytest.raises(CheckpointError, match=message) as caught:
        catalogue.convert(source, tmp_path / "to.safetensors", kind=kind)
    assert str(caught.value).startswith(f"{source}: ")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_the_result_is_called_what_it_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"to.pth: converted weights are safetensors; choose a name"):
        catalogue.convert(tmp_path / "source.pth", tmp_path / "to.pth")


def test_tensors_that_share_memory_come_out_on_their_own(tmp_path):
    state = random_state(**TINY)
    state["bn1.weight"] = state["bn1.bias"] = torch.rand(1).expand(64)
    written, _ = converted(tmp_path, state)
    assert same(written, state)


def test_embedded_weights_are_listed_with_their_recipes():
    shown = recipe_weights.show(embedded.DEFAULT)
    assert "recipes     photos, voc-mini" in shown and "licence     Apache-2.0" in shown
    assert next(iter(recipe_weights.table().columns[0].cells)) == embedded.DEFAULT
