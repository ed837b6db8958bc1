"""Networks that segment without labels: DeepLab v1 and v2 of the papers, and all of segmentation-models-pytorch.

deeplab-largefov:resnet38       DeepLab v1 on Wide-ResNet-38, as TransCAM and SEAM report it
mctformer:resnet38              two dilated convolutions on Wide-ResNet-38, as MCTformer and BAO report it
deeplabv2:resnet101             DeepLab v2 on ResNet-101 in the form of torchvision and timm
deeplabv2:resnet101-caffe       the same on the ResNet-101 of DeepLab's authors, for their weights (COCO, VOC)
deeplab-largefov:timm:NAME      any of the heads on any convolutional network or plain vision transformer of timm
deeplabv2:timm:NAME
smp:ARCHITECTURE/ENCODER        e.g. smp:segformer/mit_b2, smp:deeplabv3plus/tu-mobilenetv2_100
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from baoseg import nets
from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets import embedded, hub, timm_backbones, weights
from baoseg.nets.base import Backbone, freeze_batch_norm, pad_to_multiple
from baoseg.nets.timm_backbones import TimmConvolutional

SMP = "smp:"
CAFFE = "resnet101-caffe"
BACKBONES = {"resnet38": nets.RESNET38, "resnet101": "timm:resnet101"}  # short names, and those of nets.Config
DILATED_STRIDE = 8  # pixels a cell, for which the papers give their dilations
CAFFE_NORMALISATION = Normalisation(mean=(122.675 / 255, 116.669 / 255, 104.008 / 255), std=(1 / 255, 1 / 255, 1 / 255))
log = logging.getLogger(__name__)


class Alignment(StrEnum):
    """Where the cells of the logits lie in the picture, in training and at inference."""

    CELLS = "cells"  # cell i covers the pixels from i times the stride on; the last ones reach beyond the picture
    CORNERS = "corners"  # the centres of the corner cells lie on the corner pixels: SEAM, TransCAM
    STRETCHED = "stretched"  # all cells together cover the picture alone: MCTformer, DeepLab v2 in PyTorch


class SegmentationNetwork(nn.Module):
    """Normalised pictures of any size to logits of the S = K + 1 classes, the background first.

    `num_classes` is K, `stride` the pixels a cell of the logits is wide: their grid is ceil(picture / stride), and it
    lies in the picture as `alignment` says, which makes a difference where a side is no multiple of the stride.
    `normalisation` is what the pictures must have undergone. `body` names the submodule that pretraining provides,
    `class_layers` the layers that depend on the classes.
    """

    num_classes: int
    stride: int
    normalisation: Normalisation
    body: str
    class_layers: str
    frozen_batch_norm = False  # of the body
    alignment = Alignment.CELLS

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b S h w"]:
        raise NotImplementedError

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that no pretraining provides: they may learn faster."""
        for name, parameter in self.named_parameters():
            if not name.startswith(f"{self.body}."):
                yield parameter

    def load(self, state: weights.State, *, source: Path) -> None:
        """Fill the network, or its body alone, from a state dict of it or in published names; see `build`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "SegmentationNetwork":
        super().train(mode)
        if self.frozen_batch_norm:
            freeze_batch_norm(self.get_submodule(self.body))
        return self


class LargeFOV(nn.Module):
    """DeepLab-LargeFOV (Chen et al. 2015, sec. 4, field of view) as SEAM's authors released it for ResNet-38.

    A 3 x 3 convolution of dilation 12, a 1 x 1 one and the classifier. The paper has 1024 channels on VGG-16 and no
    batch norm. Modules have the names of the released code (YudeWang/semantic-segmentation-codebase, deeplabv1). Its
    batch norms have momentum 0.0003, here 0.1: statistics that start at 0 and 1 need many thousand steps otherwise.
    """

    class_layers = "cls_conv"

    def __init__(
        self, channels: int, outputs: int, *, width: int = 512, dilation: int = 12, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.conv_fov = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_fov = nn.BatchNorm2d(width)
        self.conv_fov2 = nn.Conv2d(width, width, 1, bias=False)
        self.bn_fov2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.cls_conv = nn.Conv2d(width, outputs, 1)
        for layer in (self.conv_fov, self.conv_fov2, self.cls_conv):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # as released

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b S h w"]:
        x = F.relu_(self.bn_fov(self.conv_fov(features)))
        x = F.relu_(self.bn_fov2(self.conv_fov2(x)))
        logits: Tensor = self.cls_conv(self.dropout(x))
        return logits


class DilatedPair(nn.Module):
    """The head of MCTformer's segmentation network (Xu et al. 2022), which BAO's authors train on their masks.

    Two 3 x 3 convolutions of dilation 12 with a ReLU between them, no batch norm and no dropout. Modules have the names
    of the released code (xulianuwa/MCTformer, seg/network/resnet38_seg.py), weights its start (Xavier).
    """

    class_layers = "fc8_seg_conv2"

    def __init__(self, channels: int, outputs: int, *, width: int = 512, dilation: int = 12) -> None:
        super().__init__()
        self.fc8_seg_conv1 = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
        self.fc8_seg_conv2 = nn.Conv2d(width, outputs, 3, padding=dilation, dilation=dilation)
        for layer in (self.fc8_seg_conv1, self.fc8_seg_conv2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b S h w"]:
        logits: Tensor = self.fc8_seg_conv2(F.relu_(self.fc8_seg_conv1(features)))
        return logits


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v2 (Chen et al. 2018, sec. 3.2; rates: sec. 4.1.2, ASPP-L) on a ResNet.

    The sum of four 3 x 3 classifiers of the same features, which differ in their dilation; values start normal with
    deviation 0.01, biases at 0. On VGG-16 the paper has two more layers in each branch; on ResNet-101 not.
    """

    class_layers = ""  # all are classifiers

    def __init__(self, channels: int, outputs: int, *, dilations: tuple[int, int, int, int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.c0, self.c1, self.c2, self.c3 = (
            nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        for layer in (self.c0, self.c1, self.c2, self.c3):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b S h w"]:
        logits: Tensor = self.c0(features)
        for layer in (self.c1, self.c2, self.c3):
            logits = logits + layer(features)
        return logits


def large_fov(channels: int, outputs: int, *, stride: int) -> LargeFOV:
    """The head for cells of so many pixels, with the field of view in pixels that it has at stride 8."""
    return LargeFOV(channels, outputs, dilation=_dilation(12, stride))


def dilated_pair(channels: int, outputs: int, *, stride: int) -> DilatedPair:
    """The head for cells of so many pixels, with the field of view in pixels that it has at stride 8."""
    return DilatedPair(channels, outputs, dilation=_dilation(12, stride))


def aspp(channels: int, outputs: int, *, stride: int) -> ASPP:
    """The head for cells of so many pixels, with the fields of view in pixels that it has at stride 8."""
    first, second, third, fourth = (_dilation(dilation, stride) for dilation in (6, 12, 18, 24))
    return ASPP(channels, outputs, dilations=(first, second, third, fourth))


def _dilation(published: int, stride: int) -> int:
    return max(1, round(published * DILATED_STRIDE / stride))


Head = LargeFOV | DilatedPair | ASPP
HEADS: dict[str, Callable[..., Head]] = {"deeplab-largefov": large_fov, "mctformer": dilated_pair, "deeplabv2": aspp}


class DeepLab(SegmentationNetwork):
    """A backbone and a head on its feature map; the logits have the backbone's grid.

    The papers enlarge the logits to the picture, which is left to the caller here. DeepLab v2 takes the maximum over
    three scales of the picture; here there is one.
    """

    body = "backbone"

    def __init__(self, backbone: Backbone, head: Head, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.backbone.token_head = None  # logits of a class token are not asked for
        self.head = head
        self.stride = backbone.stride
        self.normalisation = backbone.normalisation
        self.class_layers = f"head.{head.class_layers}"

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b S h w"]:
        logits: Tensor = self.head(self.backbone(images).map)
        return logits

    def load(self, state: weights.State, *, source: Path) -> None:
        """Published are SEAM's deeplabv1, MCTformer's network, DeepLab v2 of the Caffe models, and the weights of
        backbones alone. The network of a labeler provides its backbone, too.

        In MCTformer's network the layers of the backbone have no prefix.
        """
        if self.head.state_dict().keys() <= state.keys() and not _has(state, "backbone."):
            own = {name for name, _ in self.head.named_children()}
            state = {key if key.partition(".")[0] in own else f"backbone.{key}": value for key, value in state.items()}
        if nets.holds_network(self.backbone, state):
            _fill(self, self._renamed(state), source=source)
            return
        caffe = isinstance(self.backbone, CaffeResNet)
        if weights.is_caffe_deeplab(state) != caffe:
            remedy = "deeplabv2:resnet101" if caffe else f"deeplabv2:{CAFFE}"
            raise CheckpointError(f"{source}: the layers of these weights have their strides elsewhere; use {remedy}")
        if isinstance(self.backbone, CaffeResNet):
            _fill(self, weights.from_caffe_deeplab(state, blocks=self.backbone.blocks), source=source)
        else:
            nets.load_backbone(self.backbone, state, source=source)
            log.info("%s: backbone loaded, head as initialised", source)

    def _renamed(self, state: Mapping[str, Tensor]) -> weights.State:
        """SEAM's head lies beside the backbone; heads of a labeler are left out."""
        own = {name for name, _ in self.head.named_children()}
        named = {f"head.{key}" if key.partition(".")[0] in own else key: value for key, value in state.items()}
        return {key: value for key, value in named.items() if not key.startswith(tuple(f"{h}." for h in weights.HEADS))}


class CaffeResNet(TimmConvolutional):
    """ResNet-101 at stride 8 as DeepLab's authors have it in Caffe.

    Three things differ from `resnet101` of torchvision and timm. The block that halves its map does so in its first
    1 x 1 convolution. Dilated stages have their dilation from the first block on. Pictures are in 0..255 less their
    mean, without a deviation. (They are BGR in Caffe; `weights.from_caffe_deeplab` turns the first layer round.)
    Caffe also rounds sizes up in the first pooling, which would add cells beyond a picture that is padded to whole
    cells; here they are rounded down, and logits near the right and lower edge differ.
    """

    def __init__(self, *, normalisation: Normalisation | None = None, options: Mapping[str, Any] | None = None) -> None:
        given = timm_backbones.make("resnet101", 0, stride=DILATED_STRIDE, options=options)
        assert isinstance(given, TimmConvolutional)
        super().__init__(given.model, DILATED_STRIDE, normalisation=normalisation or CAFFE_NORMALISATION)
        halving = self.model.layer2[0]
        halving.conv1.stride, halving.conv2.stride = (2, 2), (1, 1)
        for stage, dilation in ((self.model.layer3, 2), (self.model.layer4, 4)):
            stage[0].conv2.dilation = stage[0].conv2.padding = (dilation, dilation)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        model = self.model
        return len(model.layer1), len(model.layer2), len(model.layer3), len(model.layer4)


class SmpNetwork(SegmentationNetwork):
    """A model of segmentation-models-pytorch; its logits have the size of the picture."""

    body = "model.encoder"
    class_layers = "model.segmentation_head"
    stride = 1

    def __init__(self, model: Any, num_classes: int, *, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        self.num_classes = num_classes
        self.normalisation = normalisation

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b S H W"]:
        height, width = images.shape[-2:]
        logits: Tensor = self.model(pad_to_multiple(images, self.model.encoder.output_stride))
        return logits[..., :height, :width]

    def load(self, state: weights.State, *, source: Path) -> None:
        """Published are smp's whole models, and encoders in the names of smp, torchvision or timm.

        What a classifier has behind the layers that the encoder uses is passed over. timm's feature extractors, which
        smp uses, join names that timm's models have in parts: stages_0 for stages.0.
        """
        if _has(state, "encoder."):
            state = {f"model.{key}": value for key, value in state.items()}
        elif not _has(state, f"{self.body}."):
            names = {_joined(key): key for key in self.model.encoder.state_dict()}
            state = {f"{self.body}.{names[_joined(k)]}": value for k, value in state.items() if _joined(k) in names}
        _fill(self, state, source=source)


def _joined(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")


def build(
    name: str,
    num_classes: int,
    *,
    weights: Path | str | None = None,
    pretrained: bool = False,
    stride: int = DILATED_STRIDE,
    options: Mapping[str, Any] | None = None,
    normalisation: Normalisation | None = None,
    freeze_batch_norm: bool = False,
    alignment: Alignment = Alignment.CELLS,
    seed: int = 0,
) -> SegmentationNetwork:
    """The network `name` for K classes and the background: first values from `seed` alone, then weights if asked for.

    `weights` is a local file of such a network, or of its backbone alone; layers for other classes, and heads that it
    lacks, keep their first values, and the log says which. `pretrained` has timm or smp fetch weights of the backbone.
    `stride` is asked of timm's convolutional networks; the heads keep their field of view in pixels. `options` go to
    ResNet38, to timm.create_model or to smp.create_model. `freeze_batch_norm` is about the backbone. `normalisation` is
    by default what is noted for the backbone's weights; for smp's own encoders that of ImageNet, which those of
    Inception, Xception and DPN need to be told otherwise.

    Raises RecipeError for networks that cannot be built, CheckpointError for weights that do not fit.
    """
    if pretrained and weights is not None:
        raise RecipeError(f"{name}: both pretrained and weights {weights}; choose one")
    if pretrained and (own := _embedded(name)):
        pretrained, weights = False, own
    given = dict(options or {})
    network: SegmentationNetwork
    with torch.random.fork_rng(devices=[]):  # initialisers know the global state only
        torch.default_generator.manual_seed(seed)
        if name.startswith(SMP):
            network = _smp(name, num_classes, pretrained=pretrained, options=given, normalisation=normalisation)
        else:
            network = _deeplab(
                name,
                num_classes,
                pretrained=pretrained,
                stride=stride,
                options=given,
                normalisation=normalisation,
            )
    network.frozen_batch_norm = freeze_batch_norm
    network.alignment = alignment
    network.train()
    if weights is not None:
        load(network, Path(weights))
    return network


def _embedded(name: str) -> str | None:
    """`embedded:NAME` of the weights of the network's encoder or backbone, where there are some."""
    body = name.rpartition("/tu-")[2] if name.startswith(SMP) else name.rpartition(nets.TIMM)[2]
    return embedded.name_for(body)


def load(network: SegmentationNetwork, path: Path) -> None:
    """Fill the network from a file, as `build` does. Raises CheckpointError, and then the network is as before."""
    network.load(weights.read_checkpoint(path), source=path)


def _deeplab(
    name: str,
    num_classes: int,
    *,
    pretrained: bool,
    stride: int,
    options: dict[str, Any],
    normalisation: Normalisation | None,
) -> DeepLab:
    kind, _, body = name.partition(":")
    if kind not in HEADS or not (body in (*BACKBONES, CAFFE) or body.startswith(nets.TIMM)):
        raise RecipeError(
            f"unknown network {name!r}; use {' or '.join(HEADS)} with {', '.join((*BACKBONES, CAFFE))} or timm:NAME, "
            "as in deeplabv2:resnet101, or smp:ARCHITECTURE/ENCODER"
        )
    backbone: Backbone
    if body == CAFFE:
        if pretrained:
            raise RecipeError(f"{name}: nobody has weights of it to fetch; name a local file as weights")
        backbone = CaffeResNet(normalisation=normalisation, options=options)
    else:
        config = nets.Config(
            backbone=BACKBONES.get(body, body), pretrained=pretrained, stride=stride, options=tuple(options.items())
        )
        if normalisation is not None:
            config = dataclasses.replace(config, mean=normalisation.mean, std=normalisation.std)
        backbone = nets.make_backbone(config, num_classes)
    head = HEADS[kind](backbone.channels, 1 + num_classes, stride=backbone.stride)
    return DeepLab(backbone, head, num_classes)


def _smp(
    name: str, num_classes: int, *, pretrained: bool, options: dict[str, Any], normalisation: Normalisation | None
) -> SmpNetwork:
    import segmentation_models_pytorch as smp  # noqa: PLC0415  (a second of import that other networks do without)

    architecture, _, encoder = name.removeprefix(SMP).partition("/")
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise RecipeError(f"{name}: smp has no such architecture; use {', '.join(smp.MODEL_ARCHITECTURES_MAPPING)}")
    of_timm = encoder.startswith("tu-")
    if not (encoder in smp.encoders.get_encoder_names() or (of_timm and timm.is_model(encoder.removeprefix("tu-")))):
        raise RecipeError(f"{name}: no such encoder; use one of smp, as mit_b2 or resnet50, or tu- and a name of timm")
    wanted = {"encoder_weights": (True if of_timm else "imagenet") if pretrained else None, "classes": 1 + num_classes}
    try:
        with hub.quick() if pretrained else nullcontext("") as reason:
            model = smp.create_model(architecture, encoder, **wanted, **options)
        _probe(model)
    except OSError as error:  # of the network
        raise CheckpointError(hub.problem(name, reason, error)) from None
    except Exception as error:  # whatever smp and timm say to encoders, options and sizes that do not go together
        raise RecipeError(f"{name}: cannot be built ({_line(error)}); use another encoder or other options") from None
    noted: Any = timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if of_timm else None
    if normalisation is None and noted is not None:
        normalisation = Normalisation(mean=tuple(noted.mean), std=tuple(noted.std))
    return SmpNetwork(model, num_classes, normalisation=normalisation or Normalisation())


@torch.no_grad()
def _probe(model: Any) -> None:
    """An oblong picture goes through, or an error comes out: some models take only one size."""
    stride = model.encoder.output_stride
    model.eval()(torch.zeros(1, 3, 8 * stride, 12 * stride))


def _has(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def _fill(network: SegmentationNetwork, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy what fits. The head may be absent, and layers for other classes may have other numbers of outputs.

    Raises CheckpointError for all else that does not fit, and the network is as before.
    """
    own = network.state_dict()
    report = weights.compare(own, state)
    body = f"{network.body}."
    headless = all(key.startswith(body) for key in state)

    def other_classes(key: str) -> bool:
        return key.startswith(network.class_layers) and own[key].shape[1:] == state[key].shape[1:]

    required = weights.Report(
        matched=report.matched,
        missing=tuple(key for key in report.missing if not headless or key.startswith(body)),
        unexpected=report.unexpected,
        mismatched=tuple(text for text in report.mismatched if not other_classes(text.partition(" ")[0])),
    )
    required.require_complete(source, remedy="use weights of the same network or of its backbone alone")
    with torch.no_grad():
        for key in report.matched:
            own[key].copy_(state[key])
    log.info("%s: %s", source, report)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
