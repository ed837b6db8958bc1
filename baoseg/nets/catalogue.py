"""Published weights: what there is, where it comes from, and any of it as safetensors.

The data is `checkpoints.json`; what could not be verified is marked there, and shown. Files are downloaded only where
a checksum is public; for the others a person is told the step.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from baoseg.core.errors import CheckpointError, DataError, RecipeError
from baoseg.core.files import atomic
from baoseg.core.progress import say
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
    """Networks, by the names that a file has for their layers."""

    CONFORMER = "conformer"  # of ImageNet, TransCAM and BAO
    CONFORMER_OPENMMLAB = "conformer-openmmlab"
    RESNET38 = "resnet38"  # of PSA's code; MXNet's names are read as these
    RESNET = "resnet"  # of torchvision and timm, with three convolutions in a block
    DEEPLABV2_CAFFE = "deeplabv2-caffe"  # of kazuto1011/deeplab-pytorch


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A published file of weights."""

    name: str
    title: str
    file: str
    format: str
    kind: Kind
    network: str  # which takes it: a backbone of nets.Config, or a network of nets.segmentation
    purpose: str
    page: str  # of those who publish it
    url: str | None
    by_hand: str  # the step of a person, where there is no url
    elsewhere: tuple[str, ...]
    licence: str
    sha256: str | None  # all its digits or, as in the names of many files, the first eight
    md5: str | None
    notes: tuple[str, ...]
    unverified: tuple[str, ...]


def checkpoints() -> dict[str, Checkpoint]:
    """All that are known, by name."""
    data = json.loads(files("baoseg.nets").joinpath("checkpoints.json").read_text(encoding="utf-8"))
    return {name: _checkpoint(name, **entry) for name, entry in data.items()}


def _checkpoint(name: str, *, kind: str, **fields: Any) -> Checkpoint:
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Checkpoint(name=name, kind=Kind(kind), **fields)


def checkpoint(name: str) -> Checkpoint:
    """Raises RecipeError, listing the names, for one that is not there."""
    known = checkpoints()
    if name not in known:
        raise RecipeError(f"no published weights {name!r}; there are {', '.join(known)}")
    return known[name]


def converted(name: str, folder: Path = FOLDER) -> Path:
    """Where recipes look for it as safetensors."""
    return folder / f"{name}.safetensors"


def fetch(name: str, to: Path, *, config: archives.Config = DOWNLOAD) -> Path:
    """The file in the folder `to`: downloaded if it is not there, and checked either way where a checksum is public.

    A download that was broken off is continued. Raises DataError, with the step to take, for a file that cannot be
    downloaded or is not the published one; RecipeError for an unknown name; RunError if it cannot be written.
    """
    entry = checkpoint(name)
    path = to / entry.file
    if path.is_file():
        if found := _wrong_digest(path, entry):
            raise DataError(f"{path}: half-downloaded or damaged: {found}; delete it and run the same command again")
        return path
    if entry.url is None:
        raise DataError(f"{path}: nobody serves this file to programs; {entry.by_hand}, and save it under this name")
    part = path.with_name(f"{path.name}.part")
    say(f"downloading {entry.url} to {path}")
    archives.download(entry.url, part, config=config)
    if found := _wrong_digest(part, entry):
        part.unlink()
        others = "".join(f", or take it from {place}" for place in entry.elsewhere)
        raise DataError(f"{entry.url}: the server sent something else: {found}; try again later{others}")
    part.replace(path)
    return path


def convert(source: Path, to: Path, *, kind: Kind | None = None) -> Report:
    """Write the weights in `source` (.pth, .safetensors, or .params of MXNet) to `to` as safetensors.

    Names are those published for the network, which every loader here reads; heads are kept. `kind` is what the file
    must be; None recognises it by its keys. The report compares with the network that the file is for, of the sizes
    that the file has: `unexpected` are heads of classifiers and whatever else the network lacks. Keys are those written
    or, for DeepLab v2, ours. Raises CheckpointError, and writes nothing, for a file that cannot be read, is of another
    kind, or lacks a part of the network.
    """
    if to.suffix != ".safetensors":
        raise CheckpointError(f"{to}: converted weights are safetensors; choose a name that ends with .safetensors")
    state = weights.read_checkpoint(source)
    found = recognise(state)
    if found is None:
        first = next(iter(state), "nothing")
        raise CheckpointError(f"{source}: holds {first}, of no network that is known; there are {', '.join(Kind)}")
    if kind not in (None, found):
        raise CheckpointError(f"{source}: weights of {found}, not of {kind}; use another file, or leave the kind out")
    if found is Kind.CONFORMER_OPENMMLAB:
        state = from_openmmlab(state)
    report = COMPARISONS[found](state, source)
    needed = Report(report.matched, report.missing, (), report.mismatched)
    needed.require_complete(source, remedy="use a complete checkpoint")
    # safetensors wants each tensor to own its memory
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    with atomic(to) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"converted_from": source.name, "kind": found})
    return report


MARKS = {  # a convolution that only weights of this kind have, by its names
    Kind.CONFORMER: ("trans_patch_conv.weight",),
    Kind.CONFORMER_OPENMMLAB: ("backbone.trans_patch_conv.weight",),
    Kind.RESNET38: ("b2_1.conv_branch2a.weight",),
    Kind.RESNET: ("layer1.0.conv3.weight",),
    Kind.DEEPLABV2_CAFFE: tuple(f"{prefix}layer1.conv1.conv.weight" for prefix in ("", "base.", "scale.")),
}


def recognise(state: Mapping[str, Tensor]) -> Kind | None:
    """Which network the weights are of, by their keys; None for one that is not known."""
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
    """A Conformer of OpenMMLab in the names of its authors, which differ in the transformer blocks."""
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.").removeprefix("head.")
        for theirs, published in OPENMMLAB_NAMES.items():
            name = name.replace(theirs, published)
        renamed[name] = value
    return renamed


def _compare_conformer(state: State, source: Path) -> Report:
    """With the whole network or, for an ImageNet classifier, with what is below its heads."""
    inferred = weights.infer_conformer(state, source=source)
    heads = Heads(backgrounds=int(inferred.activation_heads))
    classes = inferred.num_classes or 1
    with torch.device("meta"):
        backbone = Conformer(inferred.config, classes, normalisation=Normalisation())
        own = Network(backbone, classes, heads=heads).state_dict()
    if inferred.num_classes is None:
        own = {
            key: value for key, value in own.items() if not key.startswith(tuple(f"{h}." for h in official_names.HEADS))
        }
    return weights.compare(official_names.to_official(own, depth=inferred.config.depth), state)


def _compare_resnet38(state: State, source: Path) -> Report:
    with torch.device("meta"):
        network = ResNet38(width=max(1, len(state["b2_1.conv_branch2a.weight"]) // 2))
    return weights.compare(network.state_dict(), state)


def _compare_resnet(state: State, source: Path) -> Report:
    return weights.compare(_resnet(_blocks(state, r"layer{}\.(\d+)\.", stages=(1, 2, 3, 4))), state)


def _compare_deeplabv2(state: State, source: Path) -> Report:
    """The head is asked for where the file has one."""
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
    """How many blocks each stage has; `pattern` finds the number of a block in a key."""
    return tuple(
        max(1, len({match[1] for key in state if (match := re.match(pattern.format(stage), key))})) for stage in stages
    )


def _resnet(blocks: tuple[int, ...]) -> State:
    """Names and shapes of ResNet-50 with so many blocks, without its classifier."""
    with torch.device("meta"):
        state: State = timm.create_model("resnet50", num_classes=0, layers=blocks).state_dict()
    return state


def _wrong_digest(path: Path, entry: Checkpoint) -> str:
    """What is wrong with the file; empty if nothing is, or if no checksum is public."""
    for algorithm, expected in (("sha256", entry.sha256), ("md5", entry.md5)):
        if expected is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False))
            if not (found := digest.hexdigest()).startswith(expected):
                return f"its {path.stat().st_size} bytes have the {algorithm.upper()} {found}, not {expected}"
    return ""
