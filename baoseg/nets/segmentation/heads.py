"""Heads of segmentation networks: DeepLab-LargeFOV, MCTformer's and the ASPP of DeepLab v2."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

DILATED_STRIDE = 8  # pixels per cell; the dilations of the papers are for this stride


class LargeFOV(nn.Module):
    """DeepLab-LargeFOV (Chen et al. 2015, sec. 4, field of view) as in the released code of SEAM for ResNet-38.

    It is a 3 x 3 convolution of dilation 12, a 1 x 1 convolution and the classifier. The paper has 1024 channels on
    VGG-16 and no batch norm. Modules have the names of the released code (YudeWang/semantic-segmentation-codebase,
    deeplabv1). Deviation: batch norms have momentum 0.1, in the released code 0.0003, with which statistics need
    thousands of steps.
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
    """The head of the segmentation network of MCTformer (Xu et al. 2022), which BAO trains on its masks.

    Two 3 x 3 convolutions of dilation 12 with a ReLU between them, no batch norm and no dropout. Modules have the names
    of the released code (xulianuwa/MCTformer, seg/network/resnet38_seg.py), and weights its initialisation (Xavier).
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

    The logits are the sum of four 3 x 3 classifiers with different dilations. Initial weights are normal with standard
    deviation 0.01, biases 0. On VGG-16, each branch of the paper has two more layers; on ResNet-101 it has not.
    """

    class_layers = ""  # all layers are classifiers

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
    """LargeFOV for this stride, with the same field of view in pixels as at stride 8."""
    return LargeFOV(channels, outputs, dilation=_dilation(12, stride))


def dilated_pair(channels: int, outputs: int, *, stride: int) -> DilatedPair:
    """DilatedPair for this stride, with the same field of view in pixels as at stride 8."""
    return DilatedPair(channels, outputs, dilation=_dilation(12, stride))


def aspp(channels: int, outputs: int, *, stride: int) -> ASPP:
    """ASPP for this stride, with the same fields of view in pixels as at stride 8."""
    first, second, third, fourth = (_dilation(dilation, stride) for dilation in (6, 12, 18, 24))
    return ASPP(channels, outputs, dilations=(first, second, third, fourth))


def _dilation(published: int, stride: int) -> int:
    return max(1, round(published * DILATED_STRIDE / stride))


Head = LargeFOV | DilatedPair | ASPP
HEADS: dict[str, Callable[..., Head]] = {"deeplab-largefov": large_fov, "mctformer": dilated_pair, "deeplabv2": aspp}
