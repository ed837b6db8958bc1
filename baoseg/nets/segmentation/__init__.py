"""Segmentation networks: DeepLab v1 and v2 of the papers, and all networks of segmentation-models-pytorch (smp).

deeplab-largefov:resnet38       DeepLab v1 on Wide-ResNet-38, as TransCAM and SEAM report it
mctformer:resnet38              two dilated convolutions on Wide-ResNet-38, as MCTformer and BAO report it
deeplabv2:resnet101             DeepLab v2 on ResNet-101 as in torchvision and timm
deeplabv2:resnet101-caffe       the same on the ResNet-101 of DeepLab's authors, for their weights (COCO, VOC)
deeplab-largefov:timm:NAME      any of the heads on any convolutional network or plain vision transformer of timm
deeplabv2:timm:NAME
smp:ARCHITECTURE/ENCODER        e.g. smp:segformer/mit_b2, smp:deeplabv3plus/tu-mobilenetv2_100
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets import embedded, weights
from baoseg.nets.segmentation.deeplab import CAFFE as CAFFE
from baoseg.nets.segmentation.deeplab import DeepLab as DeepLab
from baoseg.nets.segmentation.deeplab import build_deeplab
from baoseg.nets.segmentation.heads import ASPP as ASPP
from baoseg.nets.segmentation.heads import DILATED_STRIDE
from baoseg.nets.segmentation.heads import DilatedPair as DilatedPair
from baoseg.nets.segmentation.heads import LargeFOV as LargeFOV
from baoseg.nets.segmentation.network import Alignment as Alignment
from baoseg.nets.segmentation.network import SegmentationNetwork as SegmentationNetwork
from baoseg.nets.segmentation.smp import SMP, build_smp
from baoseg.nets.segmentation.smp import SmpNetwork as SmpNetwork


def build(
    name: str,
    num_classes: int,
    *,
    weights: Path | str | None = None,
    pretrained: bool = False,
    stride: int = DILATED_STRIDE,
    options: Mapping[str, Any] | None = None,
    normalisation: Normalisation | None = None,
    seed: int = 0,
) -> SegmentationNetwork:
    """Build the network `name` for K classes and the background: initial values from `seed` alone, then weights.

    `weights` is a local file of this network or of its backbone alone; heads that the file lacks, or has for other
    classes, keep their initial values, and the log names them. With `pretrained`, timm or smp loads weights of the
    backbone. `stride` is the stride of convolutional networks of timm in pixels; the heads keep their field of view in
    pixels. `options` are passed to ResNet38, timm.create_model or smp.create_model. `normalisation` defaults to the
    normalisation that timm notes for the weights, and to that of ImageNet for the encoders of smp (wrong for Inception,
    Xception, DPN).

    Raises RecipeError for networks that cannot be built, and CheckpointError for weights that do not fit.
    """
    if pretrained and weights is not None:
        raise RecipeError(f"{name}: both pretrained and weights {weights}; choose one")
    if pretrained and (own := _embedded(name)):
        pretrained, weights = False, own
    given = dict(options or {})
    network: SegmentationNetwork
    with torch.random.fork_rng(devices=[]):  # networks are initialised from the global state
        torch.default_generator.manual_seed(seed)
        if name.startswith(SMP):
            network = build_smp(name, num_classes, pretrained=pretrained, options=given, normalisation=normalisation)
        else:
            network = build_deeplab(
                name,
                num_classes,
                pretrained=pretrained,
                stride=stride,
                options=given,
                normalisation=normalisation,
            )
    network.train()
    if weights is not None:
        load(network, Path(weights))
    return network


def _embedded(name: str) -> str | None:
    """`embedded:NAME` of the weights for the encoder or backbone of the network, or None."""
    body = name.rpartition("/tu-")[2] if name.startswith(SMP) else name.rpartition(nets.TIMM)[2]
    return embedded.name_for(body)


def load(network: SegmentationNetwork, path: Path) -> None:
    """Fill the network from a file, as in `build`. Raises CheckpointError, and then the network is unchanged."""
    network.load(weights.read_checkpoint(path), source=path)
