"""Published weights: what there is, where it comes from, and any of it as safetensors.

The data is `checkpoints.json`; what could not be verified is marked there, and shown. Files are downloaded only where
a checksum is public; for the others a person is told the step.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.core.files import atomic
from baoseg.data.prepare import archives
from baoseg.data.transforms import Normalisation
from baoseg.nets import official_names, weights
from baoseg.nets.base import Heads
from baoseg.nets.conformer import Conformer
from baoseg.nets.network import Network
from baoseg.nets.resnet38 import ResNet38
from baoseg.nets.segmentation import ASPP
from baoseg.nets.weights import Report, State

DOWNLOAD = archives.Config()
FOLDER = Path("weights")  # of recipes, and of `bao weights fetch`


class Kind(StrEnum):
    """The kind of a file of weights: a network and the names of its layers."""

    CONFORMER = "conformer"  # of ImageNet, TransCAM and BAO
    CONFORMER_OPENMMLAB = "conformer-openmmlab"
    RESNET38 = "resnet38"  # of PSA's code; MXNet's names are read as these
    RESNET = "resnet"  # of torchvision and timm, with three convolutions in a block
    DEEPLABV2_CAFFE = "deeplabv2-caffe"  # of kazuto1011/deeplab-pytorch


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An official file of weights, and where to get it."""

    name: str
    title: str
    file: str
    format: str
    kind: Kind
    network: str  # the network of the weights: a backbone of nets.Config, or a network of nets.segmentation
    purpose: str
    page: str  # the web page of the publisher
    url: str | None
    by_hand: str  # what the user must do if there is no url
    elsewhere: tuple[str, ...]
    licence: str
    sha256: str | None  # all digits or the first eight, as in the names of many files
    md5: str | None
    notes: tuple[str, ...]
    unverified: tuple[str, ...]


def checkpoints() -> dict[str, Checkpoint]:
    """All entries of checkpoints.json by name."""
    data = json.loads(files("baoseg.nets").joinpath("checkpoints.json").read_text(encoding="utf-8"))
    return {name: _checkpoint(name, **entry) for name, entry in data.items()}


def _checkpoint(name: str, *, kind: str, **fields: Any) -> Checkpoint:
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Checkpoint(name=name, kind=Kind(kind), **fields)


def checkpoint(name: str) -> Checkpoint:
    """The entry of this name. Raises RecipeError, with all names, for an unknown name."""
    known = checkpoints()
    if name not in known:
        raise RecipeError(f"no published weights {name!r}; there are {', '.join(known)}")
    return known[name]


def converted(name: str, folder: Path = FOLDER) -> Path:
    """The safetensors file in which recipes look for the weights `name`."""
    return folder / f"{name}.safetensors"


def fetch(name: str, to: Path, *, config: archives.Config = DOWNLOAD) -> Path:
    """The path of the file in the folder `to`; a missing file is downloaded, and a public checksum is verified.

    An interrupted download is continued. Raises DataError, with the step to take, if the file cannot be downloaded or
    has a wrong checksum; RecipeError for an unknown name; RunError if the file cannot be written.
    """
    entry = checkpoint(name)
    elsewhere = "".join(f", or take it from {place}" for place in entry.elsewhere)
    return archives.fetched(
        to / entry.file,
        entry.url,
        by_hand=f"this file must be downloaded by hand; {entry.by_hand}, and save it under this name",
        wrong=lambda path: _wrong_digest(path, entry),
        otherwise=f"try again later{elsewhere}",
        config=config,
    )


def convert(source: Path, to: Path, *, kind: Kind | None = None) -> Report:
    """Write the weights in `source` (.pth, .safetensors, or .params of MXNet) to `to` as safetensors.

    The layers keep their official names, which all loaders read; heads are kept. `kind` is the expected kind of the
    file; None: it is recognised by its keys. The report compares the file with the network, in the sizes of the file:
    `unexpected` are heads of classifiers and other tensors that the network lacks. Its keys are the written keys or,
    for DeepLab v2, our keys. Raises CheckpointError, and writes nothing, if the file cannot be read, has another kind,
    or lacks a part of the network.
    """
    if to.suffix != ".safetensors":
        raise CheckpointError(f"{to}: converted weights are safetensors; choose a name that ends with .safetensors")
    state = weights.read_checkpoint(source)
    found = recognise(state)
    if found is None:
        first = next(iter(state), "nothing")
        raise CheckpointError(f"{source}: holds {first}, which is of no known network; known are {', '.join(Kind)}")
    if kind not in (None, found):
        raise CheckpointError(f"{source}: weights of {found}, not of {kind}; use another file, or leave the kind out")
    if found is Kind.CONFORMER_OPENMMLAB:
        state = from_openmmlab(state)
    report = COMPARISONS[found](state, source)
    needed = Report(report.matched, report.missing, (), report.mismatched)
    needed.require_complete(source, remedy="use a complete checkpoint")
    # in safetensors, each tensor must own its memory
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    with atomic(to) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"converted_from": source.name, "kind": found})
    return report


MARKS = {  # names of a convolution that only weights of this kind have
    Kind.CONFORMER: ("trans_patch_conv.weight",),
    Kind.CONFORMER_OPENMMLAB: ("backbone.trans_patch_conv.weight",),
    Kind.RESNET38: ("b2_1.conv_branch2a.weight",),
    Kind.RESNET: ("layer1.0.conv3.weight",),
    Kind.DEEPLABV2_CAFFE: tuple(f"{prefix}layer1.conv1.conv.weight" for prefix in ("", "base.", "scale.")),
}


def recognise(state: Mapping[str, Tensor]) -> Kind | None:
    """The kind of the weights, from their keys; None for an unknown network."""
    for kind, names in MARKS.items():
        if any(name in state and state[name].ndim == 4 for name in names):
            return kind
    return None


OPENMMLAB_NAMES = {
    ".ln1.": ".norm1.",
    ".ln2.": ".norm2.",
    ".ffn.layers.0.0.": ".mlp.fc1.",
    ".ffn.layers.1.": ".mlp.fc2.",
}


def from_openmmlab(state: Mapping[str, Tensor]) -> State:
    """Rename the layers of a Conformer of OpenMMLab to the official names; the transformer blocks differ."""
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.").removeprefix("head.")
        for theirs, published in OPENMMLAB_NAMES.items():
            name = name.replace(theirs, published)
        renamed[name] = value
    return renamed


def _compare_conformer(state: State, source: Path) -> Report:
    """Compare with the whole network or, for an ImageNet classifier, with the network without heads."""
    inferred = weights.infer_conformer(state, source=source)
    heads = Heads(backgrounds=int(inferred.activation_heads))
    classes = inferred.num_classes or 1
    with torch.device("meta"):
        backbone = Conformer(inferred.config, classes, normalisation=Normalisation())
        own = Network(backbone, classes, heads=heads).state_dict()
    if inferred.num_classes is None:
        own = official_names.without_heads(own)
    return weights.compare(official_names.to_official(own, depth=inferred.config.depth), state)


def _compare_resnet38(state: State, source: Path) -> Report:
    with torch.device("meta"):
        network = ResNet38(width=max(1, len(state["b2_1.conv_branch2a.weight"]) // 2))
    return weights.compare(network.state_dict(), state)


def _compare_resnet(state: State, source: Path) -> Report:
    return weights.compare(_resnet(_blocks(state, r"layer{}\.(\d+)\.", stages=(1, 2, 3, 4))), state)


def _compare_deeplabv2(state: State, source: Path) -> Report:
    """Compare with the backbone and, if the file has a head, with the head."""
    blocks = _blocks(state, r"(?:base\.|scale\.)?layer{}\.block(\d+)\.", stages=(2, 3, 4, 5))
    named = official_names.from_caffe_deeplab(state, blocks=blocks)
    own = {f"backbone.model.{key}": value for key, value in _resnet(blocks).items()}
    if "head.c0.bias" in named:
        with torch.device("meta"):
            head = ASPP(len(own["backbone.model.layer4.0.bn3.weight"]), named["head.c0.bias"].numel())
        own |= {f"head.{key}": value for key, value in head.state_dict().items()}
    return weights.compare(own, named)


COMPARISONS: dict[Kind, Callable[[State, Path], Report]] = {
    Kind.CONFORMER: _compare_conformer,
    Kind.CONFORMER_OPENMMLAB: _compare_conformer,
    Kind.RESNET38: _compare_resnet38,
    Kind.RESNET: _compare_resnet,
    Kind.DEEPLABV2_CAFFE: _compare_deeplabv2,
}


def _blocks(state: Mapping[str, Tensor], pattern: str, *, stages: Sequence[int]) -> tuple[int, ...]:
    """The number of blocks of each stage; `pattern` matches a key, and its group is the index of the block."""
    return tuple(
        max(1, len({match[1] for key in state if (match := re.match(pattern.format(stage), key))})) for stage in stages
    )


def _resnet(blocks: tuple[int, ...]) -> State:
    """Names and shapes of a ResNet with bottlenecks and this number of blocks per stage, without classifier."""
    with torch.device("meta"):
        state: State = timm.create_model("resnet50", num_classes=0, layers=blocks).state_dict()
    return state


def _wrong_digest(path: Path, entry: Checkpoint) -> str:
    """The difference of the checksum, as text; empty if it is right, or if no checksum is public."""
    checks = (("sha256", entry.sha256), ("md5", entry.md5))
    found = (archives.wrong_digest(path, algorithm, expected) for algorithm, expected in checks if expected is not None)
    return next(filter(None, found), "")
