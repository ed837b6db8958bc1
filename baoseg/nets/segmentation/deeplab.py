"""DeepLab v1 and v2: a backbone with one of the heads, and the ResNet-101 of DeepLab's authors."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from baoseg import nets
from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets import official_names, timm_backbones, weights
from baoseg.nets.base import Backbone
from baoseg.nets.segmentation.heads import DILATED_STRIDE, HEADS, Head
from baoseg.nets.segmentation.network import SegmentationNetwork, fill, has_prefix
from baoseg.nets.timm_cnn import TimmConvolutional

CAFFE = "resnet101-caffe"
BACKBONES = {"resnet38": nets.RESNET38, "resnet101": "timm:resnet101"}  # short names -> names in nets.Config
CAFFE_NORMALISATION = Normalisation(mean=(122.675 / 255, 116.669 / 255, 104.008 / 255), std=(1 / 255, 1 / 255, 1 / 255))
log = logging.getLogger(__name__)


class DeepLab(SegmentationNetwork):
    """A backbone and a head on its feature map; the logits have the grid of the backbone.

    Deviations: the papers enlarge the logits to the image, here the caller does. DeepLab v2 takes the maximum over
    three scales of the image, here there is one scale.
    """

    body = "backbone"

    def __init__(self, backbone: Backbone, head: Head, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.backbone.token_head = None  # logits of a class token are not used
        self.head = head
        self.stride = backbone.stride
        self.normalisation = backbone.normalisation
        self.class_layers = f"head.{head.class_layers}"

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b S h w"]:
        logits: Tensor = self.head(self.backbone(images).map)
        return logits

    def load(self, state: weights.State, *, source: Path) -> None:
        """Load official checkpoints (SEAM's deeplabv1, MCTformer, DeepLab v2 of the Caffe models), or a backbone alone.

        The network of a labeler also provides a backbone. In the checkpoint of MCTformer, the layers of the backbone
        have no prefix.
        """
        if self.head.state_dict().keys() <= state.keys() and not has_prefix(state, "backbone."):
            own = {name for name, _ in self.head.named_children()}
            state = {key if key.partition(".")[0] in own else f"backbone.{key}": value for key, value in state.items()}
        if nets.holds_network(self.backbone, state):
            fill(self, self._renamed(state), source=source)
            return
        caffe = isinstance(self.backbone, CaffeResNet)
        if official_names.is_caffe_deeplab(state) != caffe:
            remedy = "deeplabv2:resnet101" if caffe else f"deeplabv2:{CAFFE}"
            raise CheckpointError(f"{source}: in these weights, other layers have the strides; use {remedy}")
        if isinstance(self.backbone, CaffeResNet):
            fill(self, official_names.from_caffe_deeplab(state, blocks=self.backbone.blocks), source=source)
        else:
            nets.load_backbone(self.backbone, state, source=source)
            log.info("%s: backbone loaded, head as initialised", source)

    def _renamed(self, state: Mapping[str, Tensor]) -> weights.State:
        """Add the prefix to the layers of SEAM's head, and leave out heads of a labeler."""
        own = {name for name, _ in self.head.named_children()}
        named = {f"head.{key}" if key.partition(".")[0] in own else key: value for key, value in state.items()}
        return {
            key: value
            for key, value in named.items()
            if not key.startswith(tuple(f"{h}." for h in official_names.HEADS))
        }


class CaffeResNet(TimmConvolutional):
    """ResNet-101 at stride 8 as DeepLab's authors have it in Caffe.

    It differs from `resnet101` of torchvision and timm in three ways. A block with stride 2 has the stride in its first
    1 x 1 convolution. Dilated stages have their dilation from the first block on. Images are in 0..255 less their
    mean, without a deviation. (They are BGR in Caffe; `official_names.from_caffe_deeplab` turns the first layer round.)
    Caffe also rounds sizes up in the first pooling, which would add cells beyond an image that is padded to whole
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
        """The number of blocks of each stage."""
        model = self.model
        return len(model.layer1), len(model.layer2), len(model.layer3), len(model.layer4)


def build_deeplab(
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
            raise RecipeError(f"{name}: its weights cannot be downloaded; give a local file as weights")
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
