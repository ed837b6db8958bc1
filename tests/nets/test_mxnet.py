"""Files of MXNet, written here byte by byte from the description of the format."""

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg import nets
from baoseg.core.errors import CheckpointError
from baoseg.nets import mxnet, weights

NUMBERS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}


def array_bytes(values, version):
    """One array; version 0 is from before versions."""
    shape = values.shape
    if version == 0:
        head = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    else:
        storage = b"" if version == 1 else struct.pack("<i", 0)
        head = struct.pack("<I", MAGIC[version]) + storage + struct.pack(f"<i{len(shape)}q", len(shape), *shape)
    return head + struct.pack("<iii", 1, 0, NUMBERS[values.dtype.name]) + values.tobytes()


def file_bytes(arrays, version=2):
    content = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(array_bytes(v, version) for v in arrays.values())
    names = [name.encode() for name in arrays]
    return content + struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(n)) + n for n in names)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(NUMBERS)), st.lists(st.integers(0, 3), min_size=1, max_size=4)), max_size=4
    ),
    st.integers(0, 3),
)
def test_arrays_of_any_kind_and_version_come_back(tmp_path_factory, kinds, version):
    path = tmp_path_factory.mktemp("mxnet") / "weights.params"
    arrays = {
        f"arg:w{index}_é": np.arange(math.prod(shape)).reshape(shape).astype(kind)
        for index, (kind, shape) in enumerate(kinds)
    }
    path.write_bytes(file_bytes(arrays, version))
    read = mxnet.read(path)
    assert list(read) == [name.removeprefix("arg:") for name in arrays]
    for tensor, values in zip(read.values(), arrays.values(), strict=True):
        assert tensor.numpy().dtype == values.dtype
        assert np.array_equal(tensor.numpy(), values)


def test_a_file_written_out_by_hand(tmp_path):
    path = tmp_path / "hand.params"
    path.write_bytes(
        bytes.fromhex("1201000000000000 0000000000000000 0100000000000000")  # the mark, reserved, one array
        + bytes.fromhex("c9fa93f9 00000000")  # version 2, dense
        + bytes.fromhex("02000000 0100000000000000 0200000000000000")  # two dimensions, 1 x 2
        + bytes.fromhex("01000000 00000000 00000000")  # CPU, its number, float32
        + bytes.fromhex("0000803f 000000c0")  # 1 and -2
        + bytes.fromhex("0100000000000000 0600000000000000")  # one name of six letters
        + b"aux:ab"
    )
    assert torch.equal(mxnet.read(path)["ab"], torch.tensor([[1.0, -2.0]]))


def damages():
    arrays = {"arg:a": np.ones((2, 3), "float32"), "aux:b": np.ones(2, "float64")}
    whole = file_bytes(arrays)
    for size in (0, 7, 16, 20, 24, 30, 60, len(whole) - 20, len(whole) - 1):
        yield whole[:size], "ends too early"
    yield b"PK" + whole[2:], "does not begin with the number of the format"
    yield whole[:24] + struct.pack("<Ii", MAGIC[2], 1) + whole[32:], "storage type 1"
    yield whole[:32] + struct.pack("<i", 0) + whole[36:], "0 dimensions"
    yield whole[:24] + struct.pack("<I", 77) + whole[28:], "77 dimensions"
    yield whole[:36] + struct.pack("<q", -2) + whole[44:], "shape"
    yield whole[:36] + struct.pack("<q", 2**40) + whole[44:], "ends too early"
    yield whole[:60] + struct.pack("<i", 12) + whole[64:], "type 12"
    yield whole[:-5] + b"\xff" * 5, "decode"
    yield whole[:-5] + b"arg:a", "2 arrays and 1 names"
    yield whole[: -(8 + 13 + 13)] + struct.pack("<Q", 0), "2 arrays and 0 names"


@pytest.mark.parametrize(("content", "message"), list(damages()))
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "damaged.params"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        weights.read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such weights"):
        mxnet.read(tmp_path / "absent.params")
    with pytest.raises(CheckpointError, match="not an MXNet file"):
        mxnet.read(tmp_path)


def test_names():
    pairs = {
        "conv1a_weight": "conv1a.weight",
        "res2a_branch1_weight": "b2.conv_branch1.weight",
        "bn2a_branch2a_gamma": "b2.bn_branch2a.weight",
        "bn4b5_branch2b1_beta": "b4_5.bn_branch2b1.bias",
        "bn6a_branch2b2_moving_mean": "b6.bn_branch2b2.running_mean",
        "bn7_moving_var": "bn7.running_var",
        "linear1000_bias": "linear1000.bias",
        "data": "data",
    }
    assert list(mxnet.to_pytorch(dict.fromkeys(pairs, torch.zeros(1)))) == list(pairs.values())


def imagenet_model():
    """All names of model A1 as its authors build it, and shapes for a width of 1."""
    shapes = {"conv1a": (1, 3, 3, 3)}
    channels = 1
    for level, (count, outputs) in {
        2: (3, (2, 2)),
        3: (3, (4, 4)),
        4: (6, (8, 8)),
        5: (3, (8, 16)),
        6: (1, (8, 16, 32)),
        7: (1, (16, 32, 64)),
    }.items():
        kernels = (3, 3) if len(outputs) == 2 else (1, 3, 1)
        for index in range(count):
            block = f"{level}a" if index == 0 else f"{level}b{index}"
            inputs = channels
            for branch, output, kernel in zip(("2a", "2b1", "2b2"), outputs, kernels, strict=False):
                shapes[f"bn{block}_branch{branch}"] = (inputs,)
                shapes[f"res{block}_branch{branch}"] = (output, inputs, kernel, kernel)
                inputs = output
            if index == 0:
                shapes[f"res{block}_branch1"] = (outputs[-1], channels, 1, 1)
            channels = outputs[-1]
    shapes["bn7"] = (64,)
    generator = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        marks = ("arg:{}_gamma", "arg:{}_beta", "aux:{}_moving_mean", "aux:{}_moving_var")
        for mark in marks if name.startswith("bn") else ("arg:{}_weight",):
            arrays[mark.format(name)] = generator.uniform(0.5, 1, shape).astype("float32")
    return arrays | {"arg:linear1000_weight": np.zeros((5, 64), "f4"), "arg:linear1000_bias": np.zeros(5, "f4")}


def test_the_imagenet_model_fills_a_resnet38(tmp_path):
    path = tmp_path / "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
    arrays = imagenet_model()
    path.write_bytes(file_bytes(arrays, version=0))
    config = nets.Config(backbone="resnet38", options=(("width", 1),), weights=str(path))
    state = nets.build(config, 2).backbone.state_dict()
    filled = [key for key in state if not key.endswith("num_batches_tracked")]
    assert len(filled) == len(arrays) - 2
    np.testing.assert_array_equal(state["b4_5.conv_branch2b1.weight"], arrays["arg:res4b5_branch2b1_weight"])
    np.testing.assert_array_equal(state["bn7.running_var"], arrays["aux:bn7_moving_var"])


def test_values_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "nan.params"
    arrays = imagenet_model()
    arrays["arg:res2a_branch1_weight"][0, 0] = np.nan
    path.write_bytes(file_bytes(arrays, version=0))
    with pytest.raises(CheckpointError, match=r"nan.params: b2.conv_branch1.weight has values that are NaN"):
        weights.read_checkpoint(path)
