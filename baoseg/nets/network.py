"""The network of all methods: a backbone with the heads of the papers."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from baoseg.core.types import BACKGROUND
from baoseg.data.transforms import Normalisation
from baoseg.nets.base import ActivationStart, Backbone, Features, Heads, Split, freeze_batch_norm


class Network(nn.Module):
    """Backbone, class head and, for AMN and BAO, label encoder and activation head; for BAS, generator.

        class maps       M  = class_head(f)                           CAM, TransCAM
        activation maps  AM = activation_head(f * (W y + b))          AMN; before A* is applied (BAO)
        prediction maps  M  = sigmoid(generator(F))                   BAS; F: features after a stage of the backbone

    The heads have K + 1 outputs, the background first, as in the released code; the losses and M do not use the
    background output of the class head. The activation head may have several backgrounds (`Heads.backgrounds`).

    A class head of kernel 1 has no bias and gives M_s = w_s . f as CAM; the released Conformers have kernel 3 and a
    bias. `activation_start` chooses the initial values of label encoder and activation head. With a classifier of
    zeros, an untrained classifier sends no gradient into a trained backbone. (AMN uses the uniform default of PyTorch
    for both.)
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        heads: Heads | None = None,
        head_kernel: int | None = None,
        activation_start: ActivationStart = ActivationStart.ZERO,
        frozen_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        kernel = backbone.head_kernel if head_kernel is None else head_kernel
        self.heads = heads = heads or Heads()
        self.class_head = nn.Conv2d(backbone.channels, 1 + num_classes, kernel, padding=kernel // 2, bias=kernel > 1)
        backbone.initialise_head(self.class_head)
        self.activation_start = activation_start
        self.label_encoder: nn.Linear | None = None
        self.activation_head: nn.Conv2d | None = None
        if heads.backgrounds:
            self.label_encoder = nn.Linear(num_classes, backbone.channels)
            nn.init.trunc_normal_(self.label_encoder.weight, std=0.02)
            gated = self.activation_start in (ActivationStart.ZERO, ActivationStart.RELEASED)
            nn.init.constant_(self.label_encoder.bias, 0.0 if gated else 1.0)
            self.activation_head = nn.Conv2d(backbone.channels, heads.backgrounds + num_classes, 3, padding=1)
            backbone.initialise_head(self.activation_head)
            if self.activation_start in (ActivationStart.ZERO, ActivationStart.UNGATED):
                # several backgrounds with initial values 0 would all learn the same
                nn.init.zeros_(self.activation_head.weight[heads.backgrounds if heads.backgrounds > 1 else 0 :])
        self.generator: nn.Conv2d | None = None
        if heads.generator_after is not None:
            channels = backbone.split(heads.generator_after).channels
            maps = num_classes + heads.foreground
            self.generator = nn.Conv2d(channels, maps, 3, padding=1, bias=heads.generator_bias)
            nn.init.xavier_uniform_(self.generator.weight)  # as released
            if self.generator.bias is not None:
                nn.init.zeros_(self.generator.bias)
        self.frozen_batch_norm = frozen_batch_norm
        if frozen_batch_norm:
            freeze_batch_norm(self)

    def forward(self, images: Float[Tensor, "b 3 H W"], *, spreads: bool = False) -> Features:
        """Features of normalised images of any size.

        `spreads` says that scores will be spread through the attention, which is faster then; the result is the same.
        """
        features: Features = self.backbone(images, spreads=spreads) if self.backbone.attends else self.backbone(images)
        return features

    def class_maps(self, features: Features, *, classes: Int[Tensor, "k"] | None = None) -> Float[Tensor, "b k h w"]:
        """M of all K classes or, which is faster, of the class indices `classes` in 1..K (BAO eq. 1)."""
        wanted: Any = slice(BACKGROUND + 1, None) if classes is None else classes
        return _partial(self.class_head, features.map, wanted)

    def activation_maps(self, features: Features, labels: Float[Tensor, "b K"]) -> Float[Tensor, "b S h w"]:
        """AM before attention, backgrounds first: the classifier of f * (W y + b) (AMN sec. 4; BAO sec. 4.2)."""
        head, conditioned = self._condition(features, labels)
        return F.conv2d(conditioned, head.weight, head.bias, padding=head.padding)

    def background_map(
        self, features: Features, labels: Float[Tensor, "b K"], *, centred: bool
    ) -> Float[Tensor, "b 1 h w"]:
        """The background channel of AM before attention; `centred` subtracts the mean of all channels."""
        head, conditioned = self._condition(features, labels)
        weight, bias = head.weight[:1], None if head.bias is None else head.bias[:1]
        if centred:
            weight = weight - head.weight.mean(dim=0)
            bias = None if head.bias is None or bias is None else bias - head.bias.mean()
        return F.conv2d(conditioned, weight, bias, padding=head.padding)

    def split(self) -> Split:
        """The backbone before and after the generator: F1 and F2 of BAS (sec. 3.1)."""
        assert self.heads.generator_after is not None, "built without a generator"
        return self.backbone.split(self.heads.generator_after)

    def prediction_maps(self, lower: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        """M from F, in (0, 1), for K classes; with `Heads.foreground`, a class-agnostic map is last (BAS sec. 3.1)."""
        assert self.generator is not None, "built without a generator"
        maps: Tensor = self.generator(lower)
        return maps.sigmoid()

    def _condition(
        self, features: Features, labels: Float[Tensor, "b K"]
    ) -> tuple[nn.Conv2d, Float[Tensor, "b c h w"]]:
        assert self.label_encoder is not None and self.activation_head is not None, "built without these heads"
        return self.activation_head, features.map * self.label_encoder(labels)[:, :, None, None]

    @torch.no_grad()
    def start_activation_head(self) -> None:
        """Set the initial values of `activation_start`, after weights without an activation head were loaded."""
        head, source = self.activation_head, self.class_head
        if head is None or self.activation_start is not ActivationStart.CLASS_MAPS:
            return
        margin = (head.kernel_size[0] - source.kernel_size[0]) // 2
        backgrounds = self.heads.backgrounds
        head.weight[backgrounds:] = F.pad(source.weight[BACKGROUND + 1 :], (margin,) * 4)
        if backgrounds == 1:  # several backgrounds stay random, because equal backgrounds would learn the same
            nn.init.zeros_(head.weight[:backgrounds])
        if head.bias is not None and source.bias is not None:
            head.bias[backgrounds:] = source.bias[BACKGROUND + 1 :]
            nn.init.zeros_(head.bias[:backgrounds])

    @property
    def activation_heads(self) -> bool:
        """Whether the network has an activation head, so that `activation_maps` works."""
        return self.activation_head is not None

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation that images must have."""
        return self.backbone.normalisation

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters of all heads, which no pretraining provides; they may have a higher learning rate."""
        heads = (
            self.class_head,
            self.label_encoder,
            self.activation_head,
            self.generator,
            self.backbone.token_head,
        )
        for head in heads:
            if head is not None:
                yield from head.parameters()

    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        if self.frozen_batch_norm:
            freeze_batch_norm(self)
        return self


def _partial(head: nn.Conv2d, features: Float[Tensor, "b c h w"], wanted: Any) -> Float[Tensor, "b s h w"]:
    """Some output channels of a convolution, without the cost of the others."""
    bias = None if head.bias is None else head.bias[wanted]
    return F.conv2d(features, head.weight[wanted], bias, padding=head.padding)
