"""Networks: `build` makes a Network from a Config; `nets.weights` reads and writes its weights."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baoseg.core import progress
from baoseg.core.errors import RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets import conformer, embedded, resnet38, weights
from baoseg.nets.base import ActivationStart as ActivationStart
from baoseg.nets.base import Backbone as Backbone
from baoseg.nets.base import Features as Features
from baoseg.nets.base import Heads as Heads
from baoseg.nets.conformer import Conformer
from baoseg.nets.network import Network as Network
from baoseg.nets.resnet38 import ResNet38 as ResNet38

TIMM = "timm:"
RESNET38 = "resnet38"
BODY = "backbone."  # prefix of the names of the layers of a backbone
NO_HEADS = Heads()
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the network, without the number of classes (from the data) and the heads (from the method)."""

    backbone: str = "conformer_small"  # conformer_nano|tiny|small|base, resnet38, or timm:NAME for a CNN or ViT of timm
    # embedded:NAME or a local file: of baoseg, of timm, or an official checkpoint of a Conformer or ResNet-38
    weights: str | None = None
    pretrained: bool = False  # let timm load weights, for timm backbones
    stride: int = (
        16  # pixels a cell of a timm CNN: 32, 16 or 8. A ViT has its patch, a Conformer 16 (nano: 8), resnet38 8
    )
    options: tuple[tuple[str, Any], ...] = ()  # further settings of conformer.Config, ResNet38 or timm.create_model
    mean: tuple[float, float, float] | None = None  # of the normalisation of images; None: as the weights were trained
    std: tuple[float, float, float] | None = None
    freeze_batch_norm: bool = False  # keep the statistics and affine parameters of batch norm; for small batches
    head_kernel: int | None = None  # of the class head; None: 3 for Conformers as released, 1 for others
    activation_start: ActivationStart = ActivationStart.ZERO

    def __post_init__(self) -> None:
        if self.stride < 1 or (self.head_kernel is not None and (self.head_kernel < 1 or self.head_kernel % 2 == 0)):
            raise RecipeError(
                f"network: stride {self.stride}, head_kernel {self.head_kernel}; the stride is at least 1 pixel, and "
                "the class head has an odd number of cells a side, or null: that of the backbone"
            )
        Normalisation.of(self.mean, self.std)  # raises RecipeError for wrong settings


def build(
    config: Config, num_classes: int, *, heads: Heads = NO_HEADS, seed: int = 0, initialise: bool = True
) -> Network:
    """Build the network for K classes: initial values from `seed` alone, then the weights of `config`.

    Heads that the weights lack, or have for other classes, keep their initial values; the log names them. Without
    `initialise`, no weights are read, because the caller will replace all values. Raises RecipeError for settings that
    do not fit, and CheckpointError for weights that do not fit.
    """
    if not initialise:
        config = dataclasses.replace(config, weights=None, pretrained=False)
    if config.pretrained and config.weights is not None:
        raise RecipeError(f"{config.backbone}: both pretrained and weights {config.weights}; choose one")
    if config.pretrained and (own := embedded.name_for(config.backbone.removeprefix(TIMM))):
        config = dataclasses.replace(config, pretrained=False, weights=own)
    with torch.random.fork_rng(devices=[]):  # PyTorch and timm initialise from the global state
        torch.default_generator.manual_seed(seed)
        network = Network(
            make_backbone(config, num_classes),
            num_classes,
            heads=heads,
            head_kernel=config.head_kernel,
            activation_start=config.activation_start,
            frozen_batch_norm=config.freeze_batch_norm,
        )
    if config.weights is not None:
        _load_weights(network, Path(config.weights))
    return network


def make_backbone(config: Config, num_classes: int) -> Backbone:
    """The backbone of `config` with initial values; only timm reads weights here. Raises errors as `build`."""
    normalisation = Normalisation.of(config.mean, config.std)
    options = dict(config.options)
    if config.backbone.startswith(TIMM):
        from baoseg.nets import timm_backbones  # noqa: PLC0415  (a second of import that Conformers do without)

        return timm_backbones.make(
            config.backbone.removeprefix(TIMM),
            num_classes,
            stride=config.stride,
            pretrained=config.pretrained,
            normalisation=normalisation,
            options=options,
        )
    if config.backbone != RESNET38 and config.backbone not in conformer.VARIANTS:
        known = ", ".join((*conformer.VARIANTS, RESNET38))
        raise RecipeError(f"unknown backbone {config.backbone!r}; use {known} or timm:NAME")
    if config.pretrained:
        raise RecipeError(f"{config.backbone}: timm has no weights for it; give an official checkpoint as weights")
    if config.backbone == RESNET38:
        _check_options(config, ["width"])
        return ResNet38(**options, normalisation=normalisation)
    _check_options(config, [field.name for field in dataclasses.fields(conformer.Config)])
    sizes = dataclasses.replace(conformer.VARIANTS[config.backbone], **options)
    return Conformer(sizes, num_classes, normalisation=normalisation or Normalisation())


def _check_options(config: Config, known: list[str]) -> None:
    if unknown := sorted(set(dict(config.options)) - set(known)):
        raise RecipeError(f"{config.backbone}: unknown options {', '.join(unknown)}; there are {', '.join(known)}")


def load_backbone(backbone: Backbone, state: weights.State, *, source: Path) -> None:
    """Fill a ResNet-38 or a timm backbone from a state dict in official names. Raises CheckpointError.

    If some names begin with `backbone.`, as in files of other tools that also hold heads, only these are used.
    """
    if prefixed := {key: value for key, value in state.items() if key.startswith(BODY)}:
        others = len(state) - len(prefixed)
        progress.say(f"{source}: removed the prefix {BODY}; {others} other tensors are ignored")
        state = {key.removeprefix(BODY): value for key, value in prefixed.items()}
    if isinstance(backbone, ResNet38):
        resnet38.load(backbone, state, source=source)
        return
    from baoseg.nets import timm_backbones  # noqa: PLC0415

    timm_backbones.load(backbone, state, source=source)


def holds_network(backbone: Backbone, state: weights.State) -> bool:
    """Whether a state dict is a whole network of baoseg with such a backbone (`backbone.model.` for timm)."""
    timms = not isinstance(backbone, Conformer | ResNet38)
    return any(key.startswith(f"{BODY}model." if timms else BODY) for key in state)


def _load_weights(network: Network, path: Path) -> None:
    state = weights.read_checkpoint(path)
    if holds_network(network.backbone, state) or isinstance(network.backbone, Conformer):
        report = weights.load_into(network, state, allow_missing_heads=True, source=path)
        log.info("%s: %s", path, report)
    else:
        load_backbone(network.backbone, state, source=path)
        log.info("%s: backbone loaded, heads as initialised", path)
