"""Key names of official checkpoints (the weights that authors released), and their map to our names.

- Conformer: ImageNet classifiers, TransCAM (`conv_cls_head` is a convolution) and BAO (with `label_enc` and
  `classifier_x`) share one set of names; `official_names` maps our names to theirs.
- DeepLab v2 on the ResNet-101 of its authors, as kazuto1011/deeplab-pytorch converted it: `from_caffe_deeplab`.

ResNet-38 has the names of its official checkpoint already.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from baoseg.nets.wrappings import State

CONV_BLOCK = {
    "conv1": "conv1",
    "norm1": "bn1",
    "conv2": "conv2",
    "norm2": "bn2",
    "conv3": "conv3",
    "norm3": "bn3",
    "shortcut_conv": "residual_conv",
    "shortcut_norm": "residual_bn",
}
TRANSFORMER_BLOCK = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "projection": "attn.proj",
    "norm2": "norm2",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}
DUAL_BLOCK = {
    **{f"conv_block.{ours}": f"cnn_block.{theirs}" for ours, theirs in CONV_BLOCK.items()},
    **{f"fusion_block.{ours}": f"fusion_block.{theirs}" for ours, theirs in CONV_BLOCK.items()},
    **{f"transformer_block.{ours}": f"trans_block.{theirs}" for ours, theirs in TRANSFORMER_BLOCK.items()},
    "down.project": "squeeze_block.conv_project",
    "down.norm": "squeeze_block.ln",
    "up.project": "expand_block.conv_project",
    "up.norm": "expand_block.bn",
}
BODY = {
    "backbone.stem_conv": "conv1",
    "backbone.stem_norm": "bn1",
    "backbone.class_token": "cls_token",
    "backbone.patch_embed": "trans_patch_conv",
    **{f"backbone.conv_block.{ours}": f"conv_1.{theirs}" for ours, theirs in CONV_BLOCK.items()},
    **{f"backbone.transformer_block.{ours}": f"trans_1.{theirs}" for ours, theirs in TRANSFORMER_BLOCK.items()},
    "backbone.token_norm": "trans_norm",
}
HEADS = {
    "backbone.token_head": "trans_cls_head",
    "class_head": "conv_cls_head",
    "activation_head": "classifier_x",
    "label_encoder": "label_enc",
    "generator": "generator",  # of BAS; no published Conformer has one
}
CAFFE_BLOCK = {
    "conv1": "reduce.conv",
    "bn1": "reduce.bn",
    "conv2": "conv3x3.conv",
    "bn2": "conv3x3.bn",
    "conv3": "increase.conv",
    "bn3": "increase.bn",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.bn",
}


def official_names(depth: int) -> dict[str, str]:
    """Maps our names of the layers of a Conformer of this depth to the official names."""
    blocks = {
        f"backbone.blocks.{index - 2}.{ours}": f"conv_trans_{index}.{theirs}"
        for index in range(2, depth + 1)
        for ours, theirs in DUAL_BLOCK.items()
    }
    return {**BODY, **blocks, **HEADS}


def to_official(state: Mapping[str, Tensor], *, depth: int) -> State:
    """A state dict with our names changed to official names; unknown keys are kept."""
    return rename(state, official_names(depth))


def from_official(state: Mapping[str, Tensor], *, depth: int) -> State:
    """A state dict with official names changed to our names; unknown keys are kept."""
    return rename(state, {theirs: ours for ours, theirs in official_names(depth).items()})


def rename(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    renamed = {}
    for key, value in state.items():
        layer, dot, leaf = key.rpartition(".")
        renamed[names.get(key) or f"{names.get(layer, layer)}{dot}{leaf}"] = value
    return renamed


def caffe_deeplab_names(blocks: Sequence[int]) -> dict[str, str]:
    """Maps our names of the layers of a DeepLab v2 to those of kazuto1011/deeplab-pytorch; `blocks` are per stage.

    That code converts the Caffe models of the authors of DeepLab, for COCO and VOC, to PyTorch.
    """
    return {
        "backbone.model.conv1": "layer1.conv1.conv",
        "backbone.model.bn1": "layer1.conv1.bn",
        **{
            f"backbone.model.layer{stage}.{index}.{ours}": f"layer{stage + 1}.block{index + 1}.{theirs}"
            for stage, count in enumerate(blocks, start=1)
            for index in range(count)
            for ours, theirs in CAFFE_BLOCK.items()
        },
        **{f"head.c{index}": f"aspp.c{index}" for index in range(4)},
    }


def is_caffe_deeplab(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of kazuto1011/deeplab-pytorch."""
    return any(key.endswith("layer1.conv1.conv.weight") for key in state)


def from_caffe_deeplab(state: Mapping[str, Tensor], *, blocks: Sequence[int]) -> State:
    """A state dict of kazuto1011/deeplab-pytorch in our names, for RGB instead of BGR.

    Models of several scales have the prefix `base.`, or `scale.` in the first versions of that code; these also have
    `proj` for `shortcut` and `aspp.stages.` for `aspp.`. The classifier `fc` of the COCO model is left out.
    """
    plain = {}
    for key, value in state.items():
        name = key.removeprefix("base.").removeprefix("scale.")
        if not name.startswith("fc."):
            plain[name.replace(".proj.", ".shortcut.").replace("aspp.stages.", "aspp.")] = value
    renamed = rename(plain, {theirs: ours for ours, theirs in caffe_deeplab_names(blocks).items()})
    stem = "backbone.model.conv1.weight"
    renamed[stem] = renamed[stem].flip(1)
    return renamed


def is_official_conformer(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of an official Conformer."""
    return "trans_patch_conv.weight" in state


def without_heads(state: Mapping[str, Tensor]) -> State:
    """The tensors of a state dict, in our names, that belong to no head."""
    heads = tuple(f"{head}." for head in HEADS)
    return {key: value for key, value in state.items() if not key.startswith(heads)}
