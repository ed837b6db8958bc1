"""The losses of the papers: pure functions of tensors."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from baoseg.core.types import BACKGROUND, IGNORE, full_precision


def pool(maps: Float[Tensor, "b k h w"], valid: Bool[Tensor, "b 1 h w"] | None = None) -> Float[Tensor, "b k"]:
    """The mean of each map over the valid cells, i.e. cells inside the image (without `valid`: over all cells).

    Deviation: the papers average over the padding of a crop too; see `data.transforms.Config.mark_padding`.
    """
    maps = full_precision(maps)
    if valid is None:
        return maps.mean(dim=(2, 3))
    weight = valid.to(maps.dtype)
    return (maps * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1)


def multilabel_soft_margin(logits: Float[Tensor, "b K"], labels: Float[Tensor, "b K"]) -> Float[Tensor, ""]:
    """Mean over images and classes of the binary cross-entropy (BAO eq. 7, noise reduction eq. 8)."""
    return F.multilabel_soft_margin_loss(logits, labels)


def pixel_classification(
    activations: Float[Tensor, "b S h w"], pseudo_labels: Int[Tensor, "b h w"], *, smoothing: float
) -> Float[Tensor, ""]:
    """PCL, the balanced per-pixel classification loss of AMN and BAO.

    It is the cross-entropy of the S = K + 1 activation maps against smoothed pseudo-labels: 1 - eps for the label, and
    eps / (S - 1) for each other class, with eps = `smoothing`. The loss is the mean of two means: over background cells
    and over foreground cells. Cells with the label 255 are ignored. If the batch has only background or only foreground
    cells, the loss is their mean; if it has neither, the loss is 0.
    """
    foreground = (pseudo_labels != BACKGROUND) & (pseudo_labels != IGNORE)
    background = pseudo_labels == BACKGROUND
    log_probabilities = full_precision(activations).log_softmax(dim=1)
    others = smoothing / (activations.shape[1] - 1)
    index = pseudo_labels.masked_fill(pseudo_labels == IGNORE, BACKGROUND)[:, None]
    of_label = log_probabilities.gather(1, index)[:, 0]
    loss = -((1 - smoothing - others) * of_label + others * log_probabilities.sum(dim=1))

    # Weights instead of indexing: their shapes are known, so that a step does not wait for the device.
    total = loss.new_zeros(())
    sets = loss.new_zeros(())
    for cells in (background, foreground):
        count = cells.sum()
        total = total + (loss * cells).sum() / count.clamp(min=1)
        sets = sets + (count > 0)
    return total / sets.clamp(min=1)
