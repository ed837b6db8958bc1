"""Pseudo-labels drawn to the edges of their images, while a network trains on them."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from baoseg.core.types import IGNORE
from baoseg.data.transforms import Normalisation
from baoseg.refine import crf
from baoseg.refine.affinity_labels import after_crf


@torch.no_grad()
def draw_to_edges(
    labels: Int[Tensor, "b h w"], images: Float[Tensor, "b 3 H W"], normalisation: Normalisation
) -> Int[Tensor, "b h w"]:
    """The labels after a dense CRF on the images, which are averaged over the cells of the labels' grid.

    The CRF is the one for label images (`crf.LABELS`), its widths in pixels divided by the stride of the grid. Cells
    labelled 255 stay 255 and take no part but for their colour; an image with a single label stays as it is.
    """
    stride = images.shape[-1] / labels.shape[-1]
    config = replace(
        crf.LABELS, gaussian_sxy=crf.LABELS.gaussian_sxy / stride, bilateral_sxy=crf.LABELS.bilateral_sxy / stride
    )
    mean, std = (images.new_tensor(values)[:, None, None] for values in (normalisation.mean, normalisation.std))
    colours = F.interpolate(images, size=labels.shape[-2:], mode="area") * std + mean
    pixels = (colours * 255).round().clamp(0, 255).to(torch.uint8)
    return torch.stack([_drawn(one, image, config) for one, image in zip(labels, pixels, strict=True)])


def _drawn(labels: Int[Tensor, "h w"], image: UInt8[Tensor, "3 h w"], config: crf.Config) -> Int[Tensor, "h w"]:
    padding = labels == IGNORE
    if padding.all():
        return labels
    return after_crf(image, labels.to(torch.uint8), config).long().masked_fill(padding, IGNORE)
