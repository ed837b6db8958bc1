"""Wide-ResNet-38 at stride 8, the backbone of PSA, SEAM, and most segmentation networks trained on their masks."""

from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from baoseg.data.transforms import Normalisation
from baoseg.nets import weights
from baoseg.nets.base import Backbone, Features, pad_to_multiple

WIDTH = 64


class ResNet38(Backbone):
    """Model A1 of Wu, Shen and van den Hengel (Wider or Deeper, 2016), dilated to stride 8 as in PSA.

    Pre-activation blocks: batch norm and ReLU come before each convolution, and a shortcut that changes the size begins
    after the first batch norm and ReLU. Blocks b2, b3 and b4 have strides; b5 and later blocks have dilation 2, b6 and
    b7 dilation 4. Modules have the names of PSA's PyTorch code, so its checkpoints can be loaded. The default
    `normalisation` is that of ImageNet on RGB in [0, 1], with which the official weights were trained.

    Deviation: PSA freezes all batch norms and the first layers in training. `nets.Config.freeze_batch_norm` freezes the
    batch norms; the first layers are always trained.
    """

    attends = False
    stride = 8

    def __init__(self, *, width: int = WIDTH, normalisation: Normalisation | None = None) -> None:
        """`width`: channels of the first layer; all others are multiples. It is 64 in the official weights."""
        super().__init__()
        self.normalisation = normalisation or Normalisation()
        self.token_head = None
        self.channels = 64 * width
        self.conv1a = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.b2 = Block(width, 2 * width, 2 * width, stride=2)
        self.b2_1 = Block(2 * width, 2 * width, 2 * width)
        self.b2_2 = Block(2 * width, 2 * width, 2 * width)
        self.b3 = Block(2 * width, 4 * width, 4 * width, stride=2)
        self.b3_1 = Block(4 * width, 4 * width, 4 * width)
        self.b3_2 = Block(4 * width, 4 * width, 4 * width)
        self.b4 = Block(4 * width, 8 * width, 8 * width, stride=2)
        self.b4_1 = Block(8 * width, 8 * width, 8 * width)
        self.b4_2 = Block(8 * width, 8 * width, 8 * width)
        self.b4_3 = Block(8 * width, 8 * width, 8 * width)
        self.b4_4 = Block(8 * width, 8 * width, 8 * width)
        self.b4_5 = Block(8 * width, 8 * width, 8 * width)
        self.b5 = Block(8 * width, 8 * width, 16 * width, dilations=(1, 2))
        self.b5_1 = Block(16 * width, 8 * width, 16 * width, dilations=(2, 2))
        self.b5_2 = Block(16 * width, 8 * width, 16 * width, dilations=(2, 2))
        self.b6 = Bottleneck(16 * width, 32 * width, dilation=4, dropout=0.3)
        self.b7 = Bottleneck(32 * width, 64 * width, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(64 * width)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Features:
        x = self.conv1a(pad_to_multiple(images, self.stride))
        for block in self._blocks():
            x = block(x)
        return Features(F.relu_(self.bn7(x)), None, None)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        return self.b3.channels, self.b4.channels, self.b5.channels, self.b6.channels, self.channels

    def stages(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The inputs of b3, b4, b5 and b6 after batch norm and ReLU, and the feature map.

        PSA calls the last three conv4, conv5 and conv6.
        """
        x = self.conv1a(pad_to_multiple(images, self.stride))
        features = []
        for block in self._blocks():
            active = block.activate(x)
            if block in (self.b3, self.b4, self.b5, self.b6):
                features.append(active)
            x = block.residual(x, active)
        return [*features, F.relu_(self.bn7(x))]

    def _blocks(self) -> list["Block | Bottleneck"]:
        return [block for block in self.children() if isinstance(block, Block | Bottleneck)]


class Block(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))), two 3 x 3 convolutions with `dilations`.

    If the size changes, the shortcut is a 1 x 1 convolution of relu(bn(x)) instead of x.
    """

    def __init__(
        self, channels: int, middle: int, outputs: int, *, stride: int = 1, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        first, second = dilations
        self.channels = channels
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = nn.Conv2d(channels, middle, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, outputs, 3, padding=second, dilation=second, bias=False)
        self.conv_branch1: nn.Conv2d | None = None
        if channels != outputs or stride > 1:
            self.conv_branch1 = nn.Conv2d(channels, outputs, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.residual(x, self.activate(x))

    def activate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """relu(bn(x)), the first step of the block."""
        return F.relu_(self.bn_branch2a(x))

    def residual(self, x: Float[Tensor, "b c h w"], active: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The output of the block, from its input and the result of `activate`."""
        y: Tensor = self.conv_branch2b1(F.relu_(self.bn_branch2b1(self.conv_branch2a(active))))
        return y.add_(x if self.conv_branch1 is None else self.conv_branch1(active))


class Bottleneck(nn.Module):
    """Convolutions of kernel 1, 3 and 1 with a quarter, a half and all of the outputs; the shortcut is always a 1 x 1.

    Dropout of whole channels comes before the second and the third convolution, as in PSA; the authors of the network
    have dropout before the third only.
    """

    def __init__(self, channels: int, outputs: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = nn.Conv2d(channels, outputs // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(outputs // 4, outputs // 2, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(channels, outputs, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return self.residual(x, self.activate(x))

    def activate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """relu(bn(x)), the first step of the block."""
        return F.relu_(self.bn_branch2a(x))

    def residual(self, x: Float[Tensor, "b c h w"], active: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The output of the block, from the result of `activate`; the input itself is not used."""
        y = self.dropout_2b1(F.relu_(self.bn_branch2b1(self.conv_branch2a(active))))
        y = self.dropout_2b2(F.relu_(self.bn_branch2b2(self.conv_branch2b1(y))))
        y = self.conv_branch2b2(y)
        return y.add_(self.conv_branch1(active))


def load(backbone: ResNet38, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Fill a ResNet-38 from a state dict in official names; heads in it are ignored.

    Such heads are linear1000 (ImageNet), fc8 (PSA, SEAM), f8_3 and similar (affinities of PSA). Raises CheckpointError
    for any other key that is missing, superfluous or of another shape.
    """
    body = {name for name, _ in backbone.named_children()}
    state = {key: value for key, value in state.items() if key.partition(".")[0] in body}
    report = weights.compare(backbone.state_dict(), state)
    report.require_complete(source, remedy="use weights of Wide-ResNet-38, model A1")
    backbone.load_state_dict({key: state[key] for key in report.matched}, strict=False)
