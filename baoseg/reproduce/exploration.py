"""What a classifier sees of an object through masks that are too small, right and too large (BAS sec. 3.5, figures 1,
6 and 7).

The ground truth mask of an object is eroded and dilated, and the feature map is multiplied by each outcome. It explains
why BAS suppresses activation instead of minimising cross-entropy: the curves use the ground truth, and choose nothing.

Shapes: m masks of one object, q = 3 quantities, n bins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import BACKGROUND, Sample
from baoseg.data import Dataset
from baoseg.nets.base import Features
from baoseg.predict.labeler import Labeler
from baoseg.report import COLOURS
from baoseg.training.losses import pool

QUANTITIES = ("foreground activation", "cross-entropy", "background activation")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper gives the kernels as 5n x 5n and leaves the range of n open, as it does the bins."""

    after: int = 3  # stage of the backbone behind which the feature map is masked, where BAS has its generator
    kernel: int = 5  # pixels of the image
    steps: int = 12  # n = 1..steps
    bin_width: float = 0.2  # of relative area; a bin is centred on 1, the ground truth
    widest: float = 3.0  # masks of more times the area of the object are left out

    def __post_init__(self) -> None:
        if min(self.after, self.kernel, self.steps) < 1 or not 0 < self.bin_width <= self.widest:
            raise RecipeError(f"exploration: {self}; all must be above 0, and bins narrower than the range")


@dataclass(frozen=True)
class Curve:
    """Of one object. Activations are relative to that of the whole image, areas to that of the object."""

    area: Float[Tensor, "m"]
    values: Float[Tensor, "q m"]  # in the order of QUANTITIES


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over the objects that have a mask in a bin; nan where none has."""

    area: Float[Tensor, "n"]  # centres of the bins
    mean: Float[Tensor, "q n"]
    spread: Float[Tensor, "q n"]
    objects: Int[Tensor, "n"]


def dilate(mask: Bool[Tensor, "h w"], size: int) -> Bool[Tensor, "h w"]:
    """Pixels with a pixel of the mask in the window from `size // 2` before them to `(size - 1) // 2` behind them.

    The window is size x size; one of even size reaches a pixel further up and left. Beyond the image is nothing.
    """
    before, behind = size // 2, (size - 1) // 2
    padded = F.pad(mask[None].float(), (before, behind, before, behind))
    rows = F.max_pool2d(padded, (size, 1), stride=1)
    return F.max_pool2d(rows, (1, size), stride=1)[0] > 0


def erode(mask: Bool[Tensor, "h w"], size: int) -> Bool[Tensor, "h w"]:
    """Pixels whose window (see `dilate`) is all mask. The border of the image eats nothing."""
    return ~dilate(~mask, size)


def eroded_and_dilated(mask: Bool[Tensor, "h w"], config: Config) -> Bool[Tensor, "m h w"]:
    """Masks from the smallest to the largest, the given one in the middle: m = 2 steps + 1."""
    sizes = [config.kernel * n for n in range(1, config.steps + 1)]
    return torch.stack([*(erode(mask, k) for k in reversed(sizes)), mask, *(dilate(mask, k) for k in sizes)])


def curve(
    features: Float[Tensor, "1 c h w"],
    masks: Bool[Tensor, "m H W"],
    classify: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b K"]],
    *,
    channel: int,
    area: int,
) -> Curve | None:
    """The curve of one object of the class `channel` (0..K-1) and `area` pixels. `classify` is GAP(F2(F)) (BAS eq. 1).

    A cell of the feature map keeps the share of it that the mask covers. Activations are S and S^b of eq. 3, after
    ReLU, divided by S of the whole image. Cross-entropy is that of the softmax over all K classes (eq. 7), other
    classes of the image among them: the paper turns several labels into one. None where S is 0, as nothing can be
    divided by it.
    """
    whole = classify(features)[0, channel].clamp(min=0)
    if whole == 0:
        return None
    share = F.interpolate(masks[:, None].to(features.dtype), size=features.shape[-2:], mode="area")
    foreground, background = classify(features * share), classify(features * (1 - share))
    values = torch.stack(
        [
            foreground[:, channel].clamp(min=0) / whole,
            -foreground.log_softmax(dim=1)[:, channel],
            background[:, channel].clamp(min=0) / whole,
        ]
    )
    return Curve(area=masks.sum(dim=(1, 2)) / area, values=values)


def summarise(curves: Sequence[Curve], config: Config) -> Summary:
    """Means by bins of relative area. An object counts once in a bin, with the mean of its masks there."""
    centres = torch.arange(round(config.widest / config.bin_width) + 1) * config.bin_width
    table = torch.full((len(curves), len(QUANTITIES), len(centres)), torch.nan)
    for row, one in zip(table, curves, strict=True):
        bins = (one.area / config.bin_width).round().long()
        for i in bins.unique().tolist():
            if i < len(centres):
                row[:, i] = one.values[:, bins == i].mean(dim=1)
    mean = table.nanmean(dim=0)
    spread = (table - mean).square().nanmean(dim=0).sqrt()
    return Summary(area=centres, mean=mean, spread=spread, objects=(~table[:, 0].isnan()).sum(dim=0))


@torch.inference_mode()
def explore(labeler: Labeler, dataset: Dataset, config: Config) -> list[Curve]:
    """The curves of all objects: each class that an image's labels and its ground truth agree on is one, by itself.

    The image is seen at the middle scale of inference. Deviation: the paper trains its classifier with cross-entropy
    (eq. 7); this one is whatever the labeler was trained with.

    Raises RecipeError for a backbone that has no such stage, DataError where no object gives a curve.
    """
    network = labeler.method.network
    split = network.backbone.split(config.after)

    def classify(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b K"]:
        return pool(network.class_maps(Features(split.upper(features), None, None)))

    curves = []
    for index in progress.track(range(len(dataset)), title="activations", total=len(dataset)):
        sample = dataset[index]
        features = split.lower(labeler.views(sample.image)[:1])
        for channel, truth in _objects(sample):
            masks = eroded_and_dilated(truth, config).to(labeler.device)
            found = curve(features, masks, classify, channel=channel, area=int(truth.sum()))
            if found is not None:
                curves.append(Curve(area=found.area.cpu(), values=found.values.cpu()))
    if not curves:
        raise DataError(
            f"{dataset.split}: no object whose class has both ground truth and a positive activation; "
            "name a split with masks, or train longer"
        )
    return curves


def _objects(sample: Sample) -> Iterator[tuple[int, Bool[Tensor, "h w"]]]:
    """Channel (0..K-1) and mask of each class that labels and ground truth agree on."""
    if sample.mask is None:
        return
    for channel in sample.labels.nonzero()[:, 0].tolist():
        truth = sample.mask == BACKGROUND + 1 + channel
        if truth.any():
            yield channel, truth


def draw(summary: Summary, example: Curve) -> Figure:
    """Mean and spread of each quantity over relative area, the curve of one object dashed, the ground truth in red."""
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    for i, (axes, quantity) in enumerate(zip(figure.subplots(1, len(QUANTITIES)), QUANTITIES, strict=True)):
        filled = summary.objects > 0
        x, mean, spread = (values[filled].numpy() for values in (summary.area, summary.mean[i], summary.spread[i]))
        axes.fill_between(x, mean - spread, mean + spread, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(x, mean, "o-", color=COLOURS[0], markersize=4, label="mean and spread")
        axes.plot(example.area.numpy(), example.values[i].numpy(), "--", color=COLOURS[1], label="one object")
        axes.axvline(1, color=COLOURS[3], label="ground truth")
        axes.set_xlim(0, summary.area[-1].item())
        axes.set_xlabel("mask area / ground truth area")
        axes.set_title(quantity)
    axes.legend()
    return figure
