"""Weights on disk: our own safetensors files, and official checkpoints (key names: `nets.official_names`)."""

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from baoseg.core import progress
from baoseg.core.errors import CheckpointError, first_line
from baoseg.core.files import atomic
from baoseg.data.transforms import Normalisation
from baoseg.nets import conformer, embedded, mxnet, wrappings
from baoseg.nets.base import Heads
from baoseg.nets.network import Network
from baoseg.nets.official_names import HEADS, is_official_conformer, official_names, rename
from baoseg.nets.wrappings import State


@dataclass(frozen=True)
class Report:
    """How a checkpoint fits a network, in the key names of the checkpoint."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]  # in the network only
    unexpected: tuple[str, ...]  # in the checkpoint only
    mismatched: tuple[str, ...]  # in both, of different shapes or kinds: "key [its shape] for [the network's]"

    def __str__(self) -> str:
        text = f"{len(self.matched)} tensors matched"
        for kind in ("missing", "unexpected", "mismatched"):
            if keys := getattr(self, kind):
                text += f"; {kind}: {', '.join(keys)}"
        return text

    def require_complete(self, source: Path | str, *, remedy: str) -> None:
        """Raise CheckpointError, with some keys of each kind, unless everything matched."""
        problems = []
        for kind in ("missing", "unexpected", "mismatched"):
            if keys := getattr(self, kind):
                shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
                problems.append(f"{len(keys)} {kind} ({shown})")
        if problems:
            raise CheckpointError(f"{source}: weights do not fit the network: {'; '.join(problems)}; {remedy}")


def compare(network: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Report:
    """Compare two state dicts. Counters of batch norm, which old checkpoints lack, do not count as missing."""
    common = [key for key in network if key in state]
    unlike = {key: text for key in common if (text := _unlike(network[key], state[key]))}
    return Report(
        matched=tuple(key for key in common if key not in unlike),
        missing=tuple(key for key in network if key not in state and not key.endswith("num_batches_tracked")),
        unexpected=tuple(key for key in state if key not in network),
        mismatched=tuple(f"{key} {text}" for key, text in unlike.items()),
    )


def _unlike(own: Tensor, read: Tensor) -> str:
    """How the tensor of a file differs from the tensor of the network; empty if it can replace it.

    Floating-point numbers of any precision can be loaded. Integers cannot: quantised weights lack their scale.
    """
    if own.shape != read.shape:
        return f"{list(read.shape)} for {list(own.shape)}"
    if own.is_floating_point() and not read.is_floating_point():
        return f"{read.dtype} for {own.dtype}".replace("torch.", "")
    return ""


def load_into(
    network: Network,
    state: Mapping[str, Tensor],
    *,
    allow_missing_heads: bool = False,
    source: Path | str = "weights",
) -> Report:
    """Fill a network from a state dict in our names or, for Conformers, in official names.

    With `allow_missing_heads`, a head that the checkpoint lacks, or has for other classes, keeps its values (so that a
    BAO network can start from an ImageNet classifier or from TransCAM), and heads that the network lacks are ignored;
    the report names them. If anything else does not fit, CheckpointError is raised, with `source`, and the network is
    unchanged.
    """
    names: Mapping[str, str] = {}
    if is_official_conformer(state):
        if not isinstance(network.backbone, conformer.Conformer):
            raise CheckpointError(f"{source}: weights of a Conformer do not fit another backbone; choose a Conformer")
        names = official_names(network.backbone.config.depth)
    own = network.state_dict()
    named = rename(own, names)
    report = compare(named, state)
    required = report
    if allow_missing_heads:
        heads = tuple(f"{names.get(head, head)}." for head in HEADS)
        required = Report(
            report.matched,
            *(
                tuple(key for key in keys if not key.startswith(heads))
                for keys in (report.missing, report.unexpected, report.mismatched)
            ),
        )
    required.require_complete(source, remedy="check backbone, its options and the number of classes")
    with torch.no_grad():
        for key in report.matched:
            named[key].copy_(state[key])
    class_head, activation_head = (f"{names.get(head, head)}.weight" for head in ("class_head", "activation_head"))
    if class_head in report.matched and activation_head in report.missing:
        network.start_activation_head()
    return report


@dataclass(frozen=True)
class Inferred:
    """The sizes of an official Conformer checkpoint; `num_classes` is None for ImageNet classifiers."""

    config: conformer.Config
    num_classes: int | None  # K
    activation_heads: bool


def infer_conformer(
    state: Mapping[str, Tensor], *, heads: int | None = None, source: Path | str = "weights"
) -> Inferred:
    """Read the sizes of a Conformer from a checkpoint in official names.

    The sizes of the tensors do not show the number of attention heads. All official models have 64 channels per head,
    so this is assumed (at least 1 head, and a divisor of the width) unless `heads` is given. They do not show drop path
    and the pooled stem either; drop path has its default, and the stem is pooled as in the official models. Raises
    CheckpointError for keys or sizes that no Conformer has.
    """
    blocks = {int(match[1]) for key in state if (match := re.match(r"conv_trans_(\d+)\.", key))}
    depth = max(blocks, default=0)
    if depth % 3 or blocks != set(range(2, depth + 1)) or not blocks:
        raise CheckpointError(
            f"{source}: a Conformer has blocks conv_trans_2 .. conv_trans_N with N a multiple of 3, "
            f"this has {len(blocks)} ending at {depth}; use a complete checkpoint"
        )

    def size(key: str, dimension: int) -> int:
        if key not in state or state[key].ndim <= dimension:
            raise CheckpointError(f"{source}: {key} is missing or has no size to read; use a complete checkpoint")
        return int(state[key].shape[dimension])

    if (kernel := size("trans_patch_conv.weight", 2)) != conformer.PATCH:
        raise CheckpointError(
            f"{source}: patches of {4 * kernel} pixels do not fit the feature map; use a model with patch 16"
        )
    embed_dim = size("cls_token", 2)
    if heads is None:
        heads = next(count for count in range(max(1, embed_dim // 64), 0, -1) if embed_dim % count == 0)
    elif heads < 1 or embed_dim % heads:
        raise CheckpointError(f"{source}: {heads} heads do not divide the width {embed_dim}; give another number")
    config = conformer.Config(
        channel_ratio=size(f"conv_trans_{depth}.fusion_block.conv3.weight", 0) / (4 * conformer.STEM_WIDTH),
        embed_dim=embed_dim,
        depth=depth,
        heads=heads,
        mlp_ratio=size("trans_1.mlp.fc1.weight", 0) / embed_dim,
        qkv_bias="trans_1.attn.qkv.bias" in state,
    )
    outputs = size("conv_cls_head.weight", 0)
    classifier = state["conv_cls_head.weight"].ndim == 2  # an ImageNet classifier is linear and has no background
    if not classifier and outputs < 2:
        raise CheckpointError(f"{source}: conv_cls_head has only the background output; use trained weights")
    return Inferred(config, None if classifier else outputs - 1, "classifier_x.weight" in state)


def official_conformer(
    state: Mapping[str, Tensor], *, heads: int | None = None, source: Path | str = "weights"
) -> Network:
    """The network of a TransCAM or BAO checkpoint in official names, with its sizes and weights.

    `heads` is as for `infer_conformer`. Raises CheckpointError if a tensor does not fit, and for an ImageNet
    classifier, which has no class maps and can only start a training.
    """
    if not is_official_conformer(state):
        raise CheckpointError(
            f"{source}: neither written by baoseg nor an official checkpoint of a Conformer; "
            "weights of a backbone alone can only start a training (Config.weights)"
        )
    inferred = infer_conformer(state, heads=heads, source=source)
    if inferred.num_classes is None:
        raise CheckpointError(
            f"{source}: an ImageNet classifier, which has no class maps; it can only start a training"
        )
    backbone = conformer.Conformer(inferred.config, inferred.num_classes, normalisation=Normalisation())
    network = Network(backbone, inferred.num_classes, heads=Heads(backgrounds=int(inferred.activation_heads)))
    load_into(network, state, source=source)
    return network


def read_checkpoint(path: Path) -> State:
    """Read tensors by name from a .safetensors file, a file of torch.save, or a .params file of MXNet.

    No code of the file is run. `embedded:NAME` means weights that are installed with baoseg (`nets.embedded`). MXNet's
    names of ResNet-38 become the names of PyTorch. Dicts around the state dict and prefixes of its names are removed
    (`wrappings.unwrapped`), and a line is printed about it.

    Raises CheckpointError if the file is missing or damaged, holds objects other than tensors, or has values that are
    NaN or infinite in 32 bit.
    """
    if embedded.is_embedded(path):
        return embedded.read(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights; check the path")
    if path.suffix == ".params":
        state = mxnet.to_pytorch(mxnet.read(path))
    elif read_metadata(path) is not None:
        state = safetensors.torch.load_file(path)
    else:
        state = _unwrapped(path)
    _require_finite(path, state)
    return state


def _unwrapped(path: Path) -> State:
    try:
        state, notes = wrappings.unwrapped(_content(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if notes:
        progress.say(f"{path}: {'; '.join(notes)}")
    return state


def _content(path: Path) -> Any:
    """The content of a file of any supported format."""
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path}: an ONNX file, which is for other tools; give the weights from which it was made"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # many checkpoints contain their training settings in this class; it is plain data
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: damaged, or holds Python objects, which are not loaded for safety; "
            "save its state dict alone (torch.save(model.state_dict(), path)) or as safetensors"
        ) from None
    except Exception as error:  # for damaged files, the readers raise errors of many kinds
        raise _damaged(path, error) from None


def _require_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for NaN or infinite values, which would otherwise give wrong masks without an error."""
    if odd := [name for name, value in state.items() if value.is_meta or value.layout != torch.strided]:
        raise CheckpointError(
            f"{path}: {odd[0]} is a tensor without values, or sparse; save the weights as dense tensors"
        )
    bad = [name for name, value in state.items() if not _finite(value)]
    if bad:
        others = f" (so have {len(bad) - 1} more of {len(state)} tensors)" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{path}: {bad[0]} has values that are NaN or infinite{others}; fetch the file again, or train again with "
            "a smaller learning rate (--lr) or --precision 32-true"
        )


def _finite(value: Tensor) -> bool:
    """Whether all values are finite in 32 bit, the precision of the networks."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    return bool((value.abs() if value.is_complex() else value).float().isfinite().all())


def save(path: Path, network: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file in our names, with `metadata` as JSON in its header, atomically. Raises RunError."""
    tensors = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"baoseg": json.dumps(metadata)})


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata that `save` wrote into a file; None for other files. Raises CheckpointError as `read_checkpoint`."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights; check the path")
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata() or {}
        return json.loads(noted["baoseg"]) if "baoseg" in noted else None
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> CheckpointError:
    try:
        path.open("rb").close()
    except OSError as refused:  # safetensors reports it as a missing file
        return CheckpointError(f"{path}: cannot be read ({refused.strerror}); change its permissions")
    reason = first_line(error).partition(". ")[0]
    return CheckpointError(f"{path}: damaged or not weights ({reason}); fetch or write the file again")
