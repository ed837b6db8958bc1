"""Heads of segmentation networks: DeepLab-LargeFOV, MCTformer's and the ASPP of DeepLab v2."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

DILATED_STRIDE = 8  # pixels a cell, for which the papers give their dilations


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
