"""How well maps localize an object: boxes, and masks where they exist.

The protocol is that of the field's released code (Choe et al., "Evaluating Weakly Supervised Object Localization
Methods Right", CVPR 2020; MaxBoxAccV2 is of its longer version, arXiv:2007.04178): maps and boxes on a grid of 224 x
224, maps in 8 bit, boxes around contours, all in double precision. BAS sec. 4.1 and 4.3 name the metrics.

A box is (x0, y0, x1, y1) in cells of the grid, both ends inside. Choosing the threshold on the ground truth is part of
MaxBoxAccV2 and of the peak IoU; `to_json` has them under *oracle*.

Shapes: n images, h x w cells, m true boxes, p and q boxes, t thresholds, v = 3 IoU levels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer, UInt8
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.types import IGNORE

GRID = 224
IOU_LEVELS = (0.3, 0.5, 0.7)
CORRECT = 0.5  # IoU from which on a box is right, for GT-known, Top-1 and Top-5 Loc
THRESHOLDS = np.arange(0, 1, 0.001)  # of box sweeps
PIXEL_THRESHOLDS = np.append(THRESHOLDS, 1.0)  # of pixel curves
BINS = 20  # of the density of IoU against object size

Array = Tensor | np.ndarray
ScoreMap = Float[Array, "h w"]
ObjectMask = Integer[Array, "h w"] | Bool[Array, "h w"]  # 1 object, 0 none, 255 ignored


def resize_boxes(boxes: Integer[Array, "m 4"], size: tuple[int, int]) -> Int64[np.ndarray, "m 4"]:
    """Boxes of an image of `size` (height, width) on the grid, rounded down as in the released code."""
    height, width = size
    return (_array(boxes) * GRID / np.array([width, height, width, height])).astype(np.int64)


def box_iou(first: Integer[Array, "p 4"], second: Integer[Array, "q 4"]) -> Float64[np.ndarray, "p q"]:
    """IoU of each box with each. A box from x0 to x1 is x1 - x0 + 1 wide: both ends are inside."""
    a, b = (_array(boxes).astype(np.int64) for boxes in (first, second))  # unsigned ones would wrap around
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    intersection = sides.clip(min=0).prod(axis=-1)
    return intersection / (_area(a) + _area(b) - intersection)


def contour_boxes(binary: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, "p 4"]:
    """The boxes around all contours, that of the largest contour first; (0, 0, 0, 0) where there is none.

    As released: contours are the outer borders of 8-connected regions, and the borders of their holes; the area is that
    of the polygon through the cells of the border, so a region one cell wide has none; among equal areas the first
    found counts; a box reaches one cell beyond the contour to the right and below, but not beyond the grid.
    """
    contours, _ = cv2.findContours(binary.view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.zeros((1, 4), dtype=np.int64)
    contours = sorted(contours, key=cv2.contourArea, reverse=True)  # stable: the first found stays first
    boxes = np.array([cv2.boundingRect(contour) for contour in contours], dtype=np.int64)
    height, width = binary.shape
    boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], [width - 1, height - 1])
    return boxes


def box_at(scores: ScoreMap, *, threshold: float) -> Int64[np.ndarray, "4"]:
    """The box of the largest contour of the cells above `threshold`, a share (0..1) of the map's maximum."""
    image = _quantise(scores)
    return contour_boxes(image > int(threshold * image.max()))[0]


def box_sweep(scores: ScoreMap, boxes: Integer[Array, "m 4"]) -> Float64[np.ndarray, "2 t"]:
    """IoU with the best of the true boxes at each of THRESHOLDS: of the largest contour, and the best of all contours.

    The map has at most 256 values, so most thresholds cut it alike and contours are found once for each cut.
    """
    image = _quantise(scores)
    levels, level_of = np.unique((THRESHOLDS * image.max()).astype(np.int64), return_inverse=True)
    found = [contour_boxes(image > level) for level in levels]
    first = np.cumsum([0, *map(len, found[:-1])])
    iou = box_iou(np.concatenate(found), boxes).max(axis=1)
    return np.stack([iou[first], np.maximum.reduceat(iou, first)])[:, level_of]


@dataclass(frozen=True)
class BoxCurve:
    """Percentage of images whose box reaches each of IOU_LEVELS, at each of THRESHOLDS."""

    accuracy: Float64[np.ndarray, "v t"]

    def best(self) -> tuple[float, float, float]:
        """MaxBoxAccV2 of each IoU level, at the threshold that is best for it: chosen on the ground truth."""
        low, middle, high = self.accuracy.max(axis=1).tolist()
        return low, middle, high


@dataclass(frozen=True)
class PixelCurve:
    """Pixels of all images together, at each of PIXEL_THRESHOLDS; a pixel with the threshold's value is above it.

    Deviation: BAS figure 15 has 256 thresholds; these 1,001 are those of PxAP.
    """

    true_positives: Int64[np.ndarray, "t"]
    false_positives: Int64[np.ndarray, "t"]

    @staticmethod
    def of_counts(counts: Int64[np.ndarray, "2 t"]) -> "PixelCurve":
        """From `pixel_counts`, summed over images. Raises DataError if there is no pixel of an object."""
        above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
        if above[1, 0] == 0:
            raise DataError("no mask has a pixel of an object (1); there is nothing to measure maps against")
        return PixelCurve(true_positives=above[1], false_positives=above[0])

    @property
    def iou(self) -> Float64[np.ndarray, "t"]:
        """In percent: the IoU-threshold curve (BAS figure 15)."""
        return 100 * self.true_positives / (self.true_positives[0] + self.false_positives)

    def peak_iou(self) -> tuple[float, float]:
        """PIoU (BAS sec. 4.1), and its threshold, the lowest on ties: chosen on the ground truth.

        The paper follows DA-WSOL, whose released code has one curve for the pixels of all images together.
        """
        best = int(self.iou.argmax())
        return float(self.iou[best]), float(PIXEL_THRESHOLDS[best])

    def average_precision(self) -> float:
        """PxAP: sum over thresholds of precision times the gain in recall (Choe et al.)."""
        found = self.true_positives + self.false_positives
        precision = self.true_positives / np.maximum(found, 1)
        gain = -np.diff(self.true_positives, append=0) / self.true_positives[0]
        return float(100 * (precision * gain).sum())


def pixel_counts(scores: ScoreMap, mask: ObjectMask) -> Int64[np.ndarray, "2 t"]:
    """Cells outside and inside the object whose score is from one of PIXEL_THRESHOLDS up to the next."""
    values, truth = _array(scores).astype(np.float64), _array(mask)
    counted = truth != IGNORE
    bins = np.searchsorted(PIXEL_THRESHOLDS, values[counted], side="right") - 1
    size = len(PIXEL_THRESHOLDS)
    return np.bincount(bins + size * truth[counted].astype(np.int64), minlength=2 * size).reshape(2, size)


def max_box_accuracy(
    maps: Float[Array, "n h w"], boxes: Iterable[Integer[Array, "_ 4"]], *, multi_contour: bool
) -> tuple[float, float, float]:
    """MaxBoxAccV2 at IoU 0.3, 0.5 and 0.7, in percent (Choe et al.). The mean of the three is what BAS prints.

    `boxes` has the true boxes of each image on the grid of the maps (`resize_boxes`); each image needs one. At a
    threshold, an image counts as right if the box around its largest contour reaches the IoU with one of its true
    boxes; with `multi_contour`, if the box around any contour does. The result is the share of right images at the
    threshold that is best for all images together.

    Maps are expected in [0, 1], each with minimum 0 and maximum 1 (`maps.normalise`). Thresholds are shares of a map's
    own maximum, so one with a lower maximum is only rounded more coarsely; a minimum above 0 lets low thresholds cut
    nothing. A map of zeros has the box (0, 0, 0, 0) everywhere.

    Raises DataError for scores outside 0..1, and for boxes that are missing, turned over, or off the grid.
    """
    truth = list(boxes)
    if len(maps) == 0 or len(maps) != len(truth):
        raise DataError(f"{len(maps)} maps and the boxes of {len(truth)} images; give boxes for each map")
    right = np.zeros((len(IOU_LEVELS), len(THRESHOLDS)), dtype=np.int64)
    for i, (scores, of_image) in enumerate(zip(maps, truth, strict=True)):
        _check_scores(scores, f"map {i}")
        _check_boxes(of_image, scores.shape, f"map {i}")
        right += _reaches(box_sweep(scores, of_image)[int(multi_contour)])
    return BoxCurve(100 * right / len(maps)).best()


def pixel_average_precision(
    maps: Float[Array, "n h w"], masks: Integer[Array, "N H W"] | Bool[Array, "N H W"]
) -> float:
    """PxAP in percent: area under the precision-recall curve of the pixels of all images (Choe et al.).

    Masks hold 1 for the object, 0 for the rest, and 255 for pixels that do not count. Maps are in [0, 1].

    Raises DataError for other values, for sizes that do not fit, and if no mask has an object.
    """
    if len(maps) == 0 or tuple(maps.shape) != tuple(masks.shape):
        raise DataError(f"maps {list(maps.shape)} and masks {list(masks.shape)} do not fit; give a mask for each map")
    counts = np.zeros((2, len(PIXEL_THRESHOLDS)), dtype=np.int64)
    for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        _check_scores(scores, f"map {i}")
        _check_mask(mask, scores.shape, f"map {i}")
        counts += pixel_counts(scores, mask)
    return PixelCurve.of_counts(counts).average_precision()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a method says of an image."""

    name: str
    scores: ScoreMap  # in [0, 1], on the grid
    box: Integer[Array, "4"] | None = None  # where the method chose it; else that at the fixed threshold
    rank: int | None = None  # classes that are more probable than the true one; None if the network does not know it


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of an image, on the grid of the map."""

    boxes: Integer[Array, "m 4"]
    mask: ObjectMask | None = None


@dataclass(frozen=True, kw_only=True)
class LocalizationScores:
    """Percentages. Top-1 and Top-5 Loc are None where no image has a rank, `median_iou` where no box is right."""

    images: int
    threshold: float  # of the boxes, but for those that came with their image
    gt_known: float
    top1: float | None
    top5: float | None
    median_iou: float | None  # of the boxes that are right (BAS figure 13)
    density: Int64[np.ndarray, "size iou"]  # images by relative size of the object and by IoU (BAS figure 21)
    largest_contour: BoxCurve
    multi_contour: BoxCurve
    pixels: PixelCurve | None  # where there are masks

    def to_json(self) -> dict[str, Any]:
        """For metrics.json. Curves are at each tenth threshold; bins are even from 0 to 1."""
        peak = None if self.pixels is None else dict(zip(("iou", "threshold"), self.pixels.peak_iou(), strict=True))
        return {
            "images": self.images,
            "threshold": self.threshold,
            "gt_known": self.gt_known,
            "top1": self.top1,
            "top5": self.top5,
            "median_iou": self.median_iou,
            "iou_histogram": self.density.sum(axis=0).tolist(),
            "density": self.density.tolist(),
            "box_curve": self.largest_contour.accuracy[:, ::10].tolist(),
            "pixel_average_precision": None if self.pixels is None else self.pixels.average_precision(),
            "iou_curve": None if self.pixels is None else self.pixels.iou[::10].tolist(),
            "oracle": {
                "max_box_accuracy": list(self.largest_contour.best()),
                "max_box_accuracy_multi_contour": list(self.multi_contour.best()),
                "peak_iou": peak,
            },
        }


def evaluate_localization(pairs: Iterable[tuple[Prediction, Truth]], *, threshold: float) -> LocalizationScores:
    """All metrics in one pass. `threshold` is that of `box_at`, for images that bring no box.

    GT-known Loc: the box has an IoU of at least 0.5 with one of the true boxes (BAS sec. 4.1 says "greater"; the
    released code of Choe et al. has "at least"). Top-k Loc: and the true class is among the k most probable. In the
    density the object is the true box with the best IoU. Pixel metrics are those of the images with a mask.

    Raises DataError if there are no images, or as `max_box_accuracy` and `pixel_average_precision` do.
    """
    ious, sizes, ranks = [], [], []
    right = np.zeros((2, len(IOU_LEVELS), len(THRESHOLDS)), dtype=np.int64)
    counts: Int64[np.ndarray, "2 t"] | None = None
    for prediction, truth in pairs:
        shape = prediction.scores.shape
        _check_scores(prediction.scores, prediction.name)
        _check_boxes(truth.boxes, shape, prediction.name)
        right += np.stack([_reaches(iou) for iou in box_sweep(prediction.scores, truth.boxes)])
        box = box_at(prediction.scores, threshold=threshold) if prediction.box is None else _array(prediction.box)
        iou = box_iou(box[None], truth.boxes)[0]
        ious.append(iou.max())
        sizes.append(_area(_array(truth.boxes).astype(np.int64))[iou.argmax()] / (shape[0] * shape[1]))
        ranks.append(np.nan if prediction.rank is None else prediction.rank)
        if truth.mask is not None:
            _check_mask(truth.mask, shape, prediction.name)
            in_image = pixel_counts(prediction.scores, truth.mask)
            counts = in_image if counts is None else counts + in_image
    if not ious:
        raise DataError("no image has both a map and boxes; there is nothing to evaluate")

    iou, rank = np.array(ious), np.array(ranks)
    correct = iou >= CORRECT
    ranked = not np.isnan(rank).all()
    accuracy = 100 * right / len(iou)
    return LocalizationScores(
        images=len(iou),
        threshold=threshold,
        gt_known=_percentage(correct),
        top1=_percentage(correct & (rank < 1)) if ranked else None,
        top5=_percentage(correct & (rank < 5)) if ranked else None,
        median_iou=float(100 * np.median(iou[correct])) if correct.any() else None,
        density=density(np.array(sizes), iou),
        largest_contour=BoxCurve(accuracy[0]),
        multi_contour=BoxCurve(accuracy[1]),
        pixels=None if counts is None else PixelCurve.of_counts(counts),
    )


def density(
    sizes: Float64[np.ndarray, "n"], ious: Float64[np.ndarray, "n"], *, bins: int = BINS
) -> Int64[np.ndarray, "size iou"]:
    """Number of images in even bins of relative object size and of IoU, both 0..1 (BAS figure 21).

    A value on the border of two bins is in the upper one, and 1 in the last. A box that reaches beyond the image can
    be larger than it, and counts as 1.
    """
    counts, _, _ = np.histogram2d(sizes.clip(max=1), ious, bins=bins, range=((0, 1), (0, 1)))
    return counts.astype(np.int64)


def _quantise(scores: ScoreMap) -> UInt8[np.ndarray, "h w"]:
    return (_array(scores).astype(np.float64) * 255).astype(np.uint8)


def _reaches(iou: Float64[np.ndarray, "t"]) -> Bool[np.ndarray, "v t"]:
    return iou >= np.array(IOU_LEVELS)[:, None]


def _percentage(right: Bool[np.ndarray, "n"]) -> float:
    return float(100 * right.mean())


def _area(boxes: Integer[np.ndarray, "*shape 4"]) -> Integer[np.ndarray, "*shape"]:
    return (boxes[..., 2:] - boxes[..., :2] + 1).prod(axis=-1)


def _array(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check_scores(scores: ScoreMap, name: str) -> None:
    values = _array(scores)
    if values.size == 0:
        raise DataError(f"{name}: the map is empty; make the maps again")
    if not (values.min() >= 0 and values.max() <= 1):  # not: nan is caught as well
        raise DataError(f"{name}: scores are {values.min()}..{values.max()}; bring each map to 0..1 before")


def _check_boxes(boxes: Array, shape: Sequence[int], name: str) -> None:
    values, (height, width) = _array(boxes), shape
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] != 4:
        raise DataError(f"{name}: its boxes are {list(values.shape)}; give [m, 4] with at least one box")
    outside = (values[:, :2] < 0).any(1) | (values[:, :2] >= [width, height]).any(1)
    wrong = outside | (values[:, 2:] < values[:, :2]).any(1)
    if wrong.any():
        raise DataError(
            f"{name}: the box {values[wrong][0].tolist()} starts outside the grid of {width} x {height} or ends before "
            "it starts; give x0, y0, x1, y1 on the grid of the map"
        )


def _check_mask(mask: Array, shape: Sequence[int], name: str) -> None:
    values = _array(mask)
    if values.shape != tuple(shape):
        raise DataError(f"{name}: the mask is {list(values.shape)}, the map {list(shape)}; resize one to the other")
    beyond = (values != 0) & (values != 1) & (values != IGNORE)
    if beyond.any():
        raise DataError(f"{name}: the mask has the value {values[beyond][0]}; use 1 for the object, 0, and 255")
