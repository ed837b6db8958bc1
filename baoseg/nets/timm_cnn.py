"""Convolutional networks of timm as backbones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from baoseg.core.errors import RecipeError, first_line
from baoseg.data.transforms import Normalisation
from baoseg.nets.base import Backbone, Features, Split, evaluation, pad_to_multiple

INCEPTION_STRIDES = {16: (1, 2), 8: (1, 1)}  # of Mixed_6a and Mixed_7a; (2, 2) in the paper


def pad_inception(model: Any, stride: int) -> None:
    """Pad timm's InceptionV3 where it loses cells at the border, so that they lie on a grid over the image.

    Deviation: the published network, as in timm, has no padding in the stem and in layers with stride 2, so that 224 x
    224 pixels give 5 x 5 cells; with padding, they give 7 x 7. The weights and their names do not change. At stride 16
    Mixed_6a keeps the grid, as in the released code of BAS (28 x 28 cells after stage 3, and 14 x 14 at the end); at 8
    Mixed_7a does too. In that code, two convolutions of the stem have no padding, which shifts its cells by a few
    pixels.
    """
    for convolution in (model.Conv2d_1a_3x3, model.Conv2d_2a_3x3, model.Conv2d_4a_3x3):
        convolution.conv.padding = (1, 1)
    for pool in (model.Pool1, model.Pool2):
        pool.padding = 1
    first, second = INCEPTION_STRIDES.get(stride, (2, 2))
    model.Mixed_6a = _Reduction(model.Mixed_6a, first)
    model.Mixed_7a = _Reduction(model.Mixed_7a, second)


class _Reduction(nn.Module):
    """A padded reduction block of InceptionV3: n cells become ceil(n / stride).

    It has the layers of the block with their names. Each branch is a chain of layers, the last of which has the stride;
    a further branch is a pooling.
    """

    def __init__(self, block: nn.Module, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # branch -> names of its layers: branch3x3 has branch3x3_1 and branch3x3_2
        self.branches: dict[str, list[str]] = {}
        for name, layer in block.named_children():
            self.add_module(name, layer)
            self.branches.setdefault(name.partition("_")[0], []).append(name)
        for names in self.branches.values():
            last: Any = self.get_submodule(names[-1])
            last.conv.stride, last.conv.padding = (stride, stride), (1, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        outputs = []
        for names in self.branches.values():
            output = features
            for name in names:
                output = self.get_submodule(name)(output)
            outputs.append(output)
        outputs.append(F.max_pool2d(features, kernel_size=3, stride=self.stride, padding=1))
        return torch.cat(outputs, dim=1)


class TimmConvolutional(Backbone):
    """A convolutional timm model, whose `forward_features` returns a feature map (channels first or last).

    Raises RecipeError if the features do not have the given stride.
    """

    attends = False

    def __init__(self, model: nn.Module, stride: int, *, normalisation: Normalisation | None = None) -> None:
        super().__init__()
        self.model: Any = model
        self.token_head = None
        self.stride = stride
        self.normalisation = normalisation or normalisation_of(model)
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
        self.channels = self._probe()
        self._cuts: dict[int, _Cut] = {}  # by stage

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Features:
        return Features(self._map(pad_to_multiple(images, self.stride)), None, None)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        return tuple(stage["num_chs"] for stage in self._noted())

    def stages(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The features of the stages in timm's `feature_info`, with the stem if it is listed there."""
        self._noted()
        return list(self.model.forward_intermediates(pad_to_multiple(images, self.stride), intermediates_only=True))

    def _noted(self) -> list[dict[str, Any]]:
        if not hasattr(self.model, "forward_intermediates"):
            raise RecipeError(f"{self._name}: timm cannot return the features of its stages; use e.g. timm:resnet50")
        return list(self.model.feature_info)

    def split(self, after: int) -> Split:
        """Stages are those that timm notes of the model (`feature_info`), but for the stem's: the n-th entry of at
        least stride 4 ends stage n.

        ResNet-50 has layer1 .. layer4. The stages of MobileNetV2 and EfficientNet end with blocks.1, .2, .4 and .6; as
        in ResNet-50, stage 3 is the last of stride 16 before the last stage. Those of VGG end with its blocks 3, 4 and
        5 and the pooling behind them, so that stage 2 is the one before the last convolutions.
        """
        if after not in self._cuts:
            self._cuts[after] = self._cut(after)
        cut = self._cuts[after]
        layer = self.model.get_submodule
        return Split(
            nn.Sequential(_Padding(self.stride), *map(layer, cut.lower)),
            nn.Sequential(*map(layer, cut.upper)),
            cut.channels,
        )

    @torch.no_grad()
    def _cut(self, after: int) -> "_Cut":
        noted = getattr(self.model, "feature_info", ())
        stages = [str(stage["module"]) for stage in noted if stage["reduction"] >= 4]
        if not 1 <= after <= len(stages):
            raise RecipeError(f"{self._name}: has {len(stages)} stages; a generator cannot sit after stage {after}")
        noise = torch.randn(1, 3, 4 * self.stride, 6 * self.stride, generator=torch.Generator().manual_seed(0))
        with evaluation(self.model):
            cut = _cut(self.model, stages[after - 1], noise.to(next(self.model.parameters())))
        if cut is None or self.channels_last:
            raise RecipeError(
                f"{self._name}: its layers do not run one after the other, so it cannot be cut after stage {after}; "
                "use a ResNet, RegNet, VGG, EfficientNet, MobileNet or ConvNeXt"
            )
        return cut

    def _map(self, images: Tensor) -> Tensor:
        features = self.model.forward_features(images)
        return rearrange(features, "b h w c -> b c h w") if self.channels_last else features

    @torch.no_grad()
    def _probe(self) -> int:
        """The channels of the feature map, from a small oblong image.

        Raises RecipeError if the model cannot be used.
        """
        name = self._name
        rows, columns = 4, 6
        try:
            with evaluation(self.model):
                features = self._map(torch.zeros(1, 3, rows * self.stride, columns * self.stride))
        except Exception as error:  # errors of models with a fixed input size
            raise RecipeError(
                f"{name}: accepts only some image sizes ({first_line(error)}); use another model or other options"
            ) from None
        if features.ndim != 4:
            raise RecipeError(
                f"{name}: returns tokens instead of a feature map, and its attention has an unknown form; "
                "use a convolutional network or a plain vision transformer"
            )
        if features.shape[-2:] != (rows, columns):
            actual = rows * self.stride // features.shape[-2]
            raise RecipeError(f"{name}: has stride {actual} and not {self.stride}; set stride to {actual}")
        return features.shape[1]

    @property
    def _name(self) -> str:
        return f"timm:{self.model.pretrained_cfg['architecture']}"


class _Padding(nn.Module):
    """Pads images as `forward` does."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
        return pad_to_multiple(images, self.stride)


@dataclass(frozen=True)
class _Cut:
    """The names of the layers before and after a cut, in the order in which they run."""

    lower: tuple[str, ...]
    upper: tuple[str, ...]
    channels: int  # between the two


def _cut(model: Any, end: str, image: Float[Tensor, "1 3 h w"]) -> _Cut | None:
    """Cut the model in two after the layers of module `end`.

    The order of the layers is the order in which `forward_features` calls them. Returns None unless the layers in a row
    give the same features as the model, and unless the second part leaves its input, which the generator reads,
    unchanged.
    """
    order: list[str] = []
    hooks = [layer.register_forward_hook(lambda *call, name=name: order.append(name)) for name, layer in _layers(model)]
    try:
        expected = model.forward_features(image)
    finally:
        for hook in hooks:
            hook.remove()
    position = max((i + 1 for i, name in enumerate(order) if f"{name}.".startswith(f"{end}.")), default=0)
    lower, upper = tuple(order[:position]), tuple(order[position:])
    try:
        features = nn.Sequential(*map(model.get_submodule, lower))(image)
        untouched = features.clone()
        actual = nn.Sequential(*map(model.get_submodule, upper))(features)
    except Exception:  # errors of a layer for an input of another shape
        return None
    same = actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-4, atol=1e-5)
    return _Cut(lower, upper, features.shape[1]) if position and same and torch.equal(features, untouched) else None


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields the children of a module, with the children of sequences instead of the sequences."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _layers(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def normalisation_of(model: nn.Module) -> Normalisation:
    """The normalisation of images that timm notes for a model's weights."""
    noted = getattr(model, "pretrained_cfg", {})
    return Normalisation(mean=tuple(noted["mean"]), std=tuple(noted["std"]))
