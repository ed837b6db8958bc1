"""What all segmentation networks share: the interface, the position of the logits in the image, loading weights."""

import logging
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baoseg.data.transforms import Normalisation
from baoseg.nets import weights
from baoseg.nets.base import freeze_batch_norm

log = logging.getLogger(__name__)


class Alignment(StrEnum):
    """The position of the cells of the logits in the image, in training and inference."""

    CELLS = "cells"  # cell i begins at pixel i * stride; the last cells may reach beyond the image
    CORNERS = "corners"  # the centres of the corner cells lie on the corner pixels: SEAM, TransCAM
    STRETCHED = "stretched"  # all cells together cover exactly the image: MCTformer, DeepLab v2 in PyTorch


class SegmentationNetwork(nn.Module):
    """Maps normalised images of any size to logits of the S = K + 1 classes, the background first.

    `num_classes` is K. `stride` is the width of a cell of the logits in pixels; their grid is ceil(image / stride).
    `alignment` is the position of the cells, which matters if a side is not a multiple of the stride. `normalisation`
    is the normalisation that images must have. `body` names the submodule that pretraining provides, `class_layers` the
    layers that depend on the classes.
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
        """Yields the parameters that no pretraining provides; they may have a higher learning rate."""
        for name, parameter in self.named_parameters():
            if not name.startswith(f"{self.body}."):
                yield parameter

    def load(self, state: weights.State, *, source: Path) -> None:
        """Fill the network or its body from a state dict in our or in official names; see `build`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "SegmentationNetwork":
        super().train(mode)
        if self.frozen_batch_norm:
            freeze_batch_norm(self.get_submodule(self.body))
        return self


def has_prefix(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def fill(network: SegmentationNetwork, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy the tensors that fit. The head may be missing, or may be for other classes.

    Raises CheckpointError if anything else does not fit; then the network is unchanged.
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
