"""Evaluation of masks: confusion matrices, the scores of the papers, and all thresholds of maps in one pass.

A threshold that was chosen on the ground truth is called *oracle*: it is an upper bound for the maps, which a user
without pixel labels cannot reach.

Shapes: S = K + 1 classes with the background, t thresholds, h x w pixels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from baoseg.core import ranks
from baoseg.core.errors import DataError
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.evaluate.localization import max_box_accuracy, pixel_average_precision  # noqa: F401 - public here as well
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import best_class, to_mask

THRESHOLDS = tuple(i / 100 for i in range(101))
DECISIONS = ("threshold_free", "image_specific", "fixed")  # how the background of maps was decided
MaskDecision = Literal["refined", "predicted"]  # sources of masks that were not made from maps
WITHOUT_MAPS = get_args(MaskDecision)
MIXED = "some maps have a background map or a threshold and others do not; make all maps with one method"


@dataclass(frozen=True)
class Scores:
    """The scores of masks in percent, as in AMN, TransCAM and BAO.

    `iou` [S] has a value for each class, nan for a class in neither prediction nor ground truth. The other scores are
    means over the classes for which they are defined (nan if there is none). With TP correct, P predicted and T true
    pixels of a class: `iou` = TP / (T + P - TP), `fp` = (P - TP) / (T + P - TP), `fn` = (T - TP) / (T + P - TP), so
    that the means of these three sum to 100; `precision` = TP / P, `recall` = TP / T.

    Deviation: the scripts of the papers count a class that never occurs as 0, which lowers all means; here such a class
    is left out.
    """

    iou: tuple[float, ...]
    miou: float
    fp: float
    fn: float
    precision: float
    recall: float

    def to_json(self) -> dict[str, Any]:
        """The scores for JSON, with null for nan."""
        return {
            "miou": _or_none(self.miou),
            "iou": [_or_none(value) for value in self.iou],
            "fp": _or_none(self.fp),
            "fn": _or_none(self.fn),
            "precision": _or_none(self.precision),
            "recall": _or_none(self.recall),
        }


def class_iou(counts: Int64[Tensor, "... S S"]) -> Float[Tensor, "... S"]:
    """IoU of each class in percent, from pixel counts by ground truth (rows) and prediction (columns).

    It is nan for a class in neither. mIoU is the mean of the others (`nanmean`).
    """
    exact = counts.double()
    right = exact.diagonal(dim1=-2, dim2=-1)
    return 100 * right / (exact.sum(dim=-1) + exact.sum(dim=-2) - right)  # 0 / 0 is nan, as wanted


class Confusion:
    """Pixel counts [S S] over all images by ground truth (rows) and prediction (columns), in 64 bit."""

    def __init__(self, num_classes: int, counts: Int64[Tensor, "S S"] | None = None) -> None:
        """`num_classes` is K, the number of classes without the background."""
        size = num_classes + 1
        self.num_classes = num_classes
        self.counts = torch.zeros(size, size, dtype=torch.int64) if counts is None else counts

    def update(self, prediction: UInt8[Tensor, "h w"], truth: UInt8[Tensor, "H W"]) -> None:
        """Add the pixels of an image; pixels with the ground truth 255 do not count.

        Raises DataError if the sizes differ, or if a value is above K.
        """
        _check_size(truth, prediction.shape, "prediction")
        if prediction.numel() and prediction.max() > self.num_classes:
            raise DataError(
                f"the prediction has the value {prediction.max()}, but the classes are "
                f"0..{self.num_classes}; predict with the class list of the evaluation"
            )
        self.counts += _count(truth, prediction.long(), columns=self.num_classes + 1, num_classes=self.num_classes)

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.num_classes, self.counts + other.counts)

    def over_processes(self) -> "Confusion":
        """The sum over all processes, each of which has evaluated some of the images."""
        return Confusion(self.num_classes, ranks.total(self.counts))

    def scores(self) -> Scores:
        counts = self.counts.double()
        right, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        union = true + predicted - right
        iou = class_iou(self.counts)

        def mean(values: Float[Tensor, "S"]) -> float:
            return 100 * values.nanmean().item()

        return Scores(
            iou=tuple(iou.tolist()),
            miou=iou.nanmean().item(),
            fp=mean((predicted - right) / union),
            fn=mean((true - right) / union),
            precision=mean(right / predicted),
            recall=mean(right / true),
        )


class ThresholdSweep:
    """The confusion matrices at all thresholds, from one pass over the maps.

    A pixel whose largest class map has the value v has this class at thresholds <= v, and is background at higher
    thresholds. So pixels are counted by (ground truth, best class, number of thresholds <= v), and sums over the last
    index give the matrices. They equal the matrices of `masks.label_image` at each threshold, to the pixel: both
    compare in single precision, and a value equal to a threshold reaches it. Background maps are not used.
    """

    def __init__(self, num_classes: int, thresholds: Sequence[float] = THRESHOLDS) -> None:
        """`num_classes` is K, without the background; `thresholds` must ascend."""
        self.num_classes = num_classes
        self.thresholds = tuple(thresholds)
        self._limits = torch.tensor(self.thresholds, dtype=torch.float32)
        if not self.thresholds or (self._limits.diff() < 0).any():
            raise ValueError("give at least one threshold, in ascending order")
        size = num_classes + 1
        self._counts = torch.zeros(size, size, len(self.thresholds) + 1, dtype=torch.int64)

    def update(self, seed: SeedMaps, truth: UInt8[Tensor, "h w"]) -> None:
        """Add the pixels of an image; pixels with the ground truth 255 do not count.

        Raises DataError if the sizes differ, or if a class is above K.
        """
        _check_size(truth, seed.size, "image of the maps")
        if seed.classes.numel() and seed.classes.max() > self.num_classes:
            raise DataError(
                f"there is a map of class {seed.classes.max()}, but the classes are 0..{self.num_classes}; "
                "make the maps again with the class list of the evaluation"
            )
        classes, values = best_class(seed.upsample())
        reached = torch.bucketize(values, self._limits, right=True)  # number of thresholds <= value
        # only classes with a map are counted, so that the table and the time of an image are linear in S
        present = seed.classes if seed.classes.numel() else torch.tensor([BACKGROUND])
        channel = torch.zeros(self.num_classes + 1, dtype=torch.int64)
        channel[present] = torch.arange(len(present))
        bins = len(self.thresholds) + 1
        counts = _count(
            truth, channel[classes] * bins + reached, columns=len(present) * bins, num_classes=self.num_classes
        )
        self._counts.index_add_(1, present, counts.unflatten(1, (len(present), bins)))

    def over_processes(self) -> "ThresholdSweep":
        """The sum over all processes, each of which has evaluated some of the images."""
        whole = ThresholdSweep(self.num_classes, self.thresholds)
        whole._counts = ranks.total(self._counts)
        return whole

    def confusion(self, i: int) -> Confusion:
        """The confusion matrix at `thresholds[i]`."""
        counts = self._counts[..., i + 1 :].sum(dim=-1)
        counts[:, 0] += self._counts[..., : i + 1].sum(dim=(1, 2))
        return Confusion(self.num_classes, counts)

    def scores(self) -> list[Scores]:
        """The scores at each of the thresholds."""
        return [self.confusion(i).scores() for i in range(len(self.thresholds))]

    @property
    def miou(self) -> Float[Tensor, "t"]:
        return torch.tensor([scores.miou for scores in self.scores()], dtype=torch.float64)

    @property
    def fp(self) -> Float[Tensor, "t"]:
        return torch.tensor([scores.fp for scores in self.scores()], dtype=torch.float64)

    @property
    def fn(self) -> Float[Tensor, "t"]:
        return torch.tensor([scores.fn for scores in self.scores()], dtype=torch.float64)

    def oracle(self) -> tuple[float, Scores]:
        """The threshold with the best mIoU (the first on ties) and its scores, chosen on the ground truth."""
        return self._best(self.scores())

    def to_json(self) -> dict[str, Any]:
        """The entries `sweep` and `oracle` of metrics.json."""
        scores = self.scores()
        threshold, best = self._best(scores)
        sweep: dict[str, Any] = {"thresholds": list(self.thresholds)}
        for name in ("miou", "fp", "fn"):
            sweep[name] = [_or_none(getattr(one, name)) for one in scores]
        return {"sweep": sweep, "oracle": {"threshold": threshold, **best.to_json()}}

    def _best(self, scores: list[Scores]) -> tuple[float, Scores]:
        miou = [-math.inf if math.isnan(one.miou) else one.miou for one in scores]
        best = miou.index(max(miou))
        return self.thresholds[best], scores[best]


def evaluate_seeds(
    pairs: Iterable[tuple[SeedMaps, UInt8[Tensor, "h w"]]], num_classes: int, *, threshold: float
) -> dict[str, Any]:
    """The scores of (seed, ground-truth mask) pairs in one pass, in the form of metrics.json.

    `num_classes` is K, without the background. One entry of DECISIONS has the scores of the masks, the others are None:
    "threshold_free" for seeds with a background map, "image_specific" for seeds with their own threshold, and "fixed"
    for other seeds, at `threshold`. "sweep" and "oracle" are the scores of the class maps alone at `THRESHOLDS`.

    Raises DataError if there are no pairs, if seeds are of different kinds, or if seed and mask do not fit.
    """
    confusion, sweep = Confusion(num_classes), ThresholdSweep(num_classes)
    decision: str | None = None
    for seed, truth in pairs:
        if decision is None:
            decision = _decision(seed)
        if decision != _decision(seed):
            raise DataError(MIXED)
        full = seed.upsample()
        sweep.update(full, truth)
        confusion.update(to_mask(full, threshold=threshold if decision == "fixed" else None), truth)
    decisions = {one for one in ranks.gathered(decision) if one is not None}
    decision = decisions.pop() if decisions else None
    if decisions:
        raise DataError(MIXED)
    if decision is None:
        raise DataError("no image has both maps and a ground truth mask; there is nothing to evaluate")
    scores = confusion.over_processes().scores().to_json()
    if decision == "fixed":
        scores = {"threshold": threshold, **scores}
    return {**dict.fromkeys(DECISIONS), decision: scores, **sweep.over_processes().to_json()}


def evaluate_masks(
    pairs: Iterable[tuple[UInt8[Tensor, "h w"], UInt8[Tensor, "h w"]]],
    num_classes: int,
    *,
    decision: MaskDecision,
) -> dict[str, Any]:
    """The scores of (mask, ground-truth mask) pairs in the form of metrics.json, without sweep and oracle.

    Raises DataError if there are no pairs, or if a mask and its ground truth do not fit.
    """
    confusion, empty = Confusion(num_classes), True
    for mask, truth in pairs:
        confusion.update(mask, truth)
        empty = False
    if all(ranks.gathered(empty)):
        raise DataError("no image has both a mask and a ground truth; there is nothing to evaluate")
    return {
        **dict.fromkeys(DECISIONS),
        decision: confusion.over_processes().scores().to_json(),
        "sweep": None,
        "oracle": None,
    }


def of_masks(metrics: dict[str, Any]) -> dict[str, Any]:
    """The scores of the masks in metrics.json, for any decision of the background."""
    return metrics[decision_of(metrics)]


def decision_of(metrics: dict[str, Any]) -> str:
    """How the background was decided: the entry of DECISIONS or WITHOUT_MAPS that has scores."""
    return next(name for name in (*DECISIONS, *WITHOUT_MAPS) if metrics.get(name) is not None)


def _decision(seed: SeedMaps) -> str:
    if seed.background is not None:
        return "threshold_free"
    return "fixed" if seed.threshold is None else "image_specific"


def _count(
    truth: UInt8[Tensor, "h w"], column: Int64[Tensor, "h w"], *, columns: int, num_classes: int
) -> Int64[Tensor, "S columns"]:
    """The number of pixels for each (ground truth, column)."""
    beyond = (truth > num_classes) & (truth != IGNORE)
    if beyond.any():
        raise DataError(
            f"the ground truth has the value {truth[beyond].max()}, but the classes are 0..{num_classes}; "
            "use 255 for pixels to ignore"
        )
    row = truth.clamp(max=num_classes + 1).long()  # 255 becomes an additional row, which is removed
    size = num_classes + 1
    counts = torch.bincount((row * columns + column).flatten(), minlength=(size + 1) * columns)
    return counts.view(size + 1, columns)[:size]


def _check_size(truth: UInt8[Tensor, "h w"], size: Sequence[int], what: str) -> None:
    if tuple(truth.shape) != tuple(size):
        (height, width), (other_height, other_width) = truth.shape, size
        raise DataError(
            f"the ground truth is {width} x {height} pixels and the {what} {other_width} x {other_height}; "
            "use masks of the size of their images"
        )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
