"""MaxBoxAccV2 of generated maps: one cut for each of the values of a map, beside one for each of the 1,000 thresholds.

    python benchmarks/localization.py [--json FILE]

The published way runs the protocol as it reads: cut, find contours, box, IoU, threshold by threshold. It runs on a few
of the maps, and its time is scaled to all of them. Both must give the same IoU at every threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from figures import compare, publish_results, with_about
from torch import Tensor

from baoseg.evaluate.localization import GRID, THRESHOLDS, box_sweep, max_box_accuracy
from baoseg.seeds.normalise import normalise

BOX = np.array([[40, 50, 180, 170]])  # the true one


@dataclass(frozen=True, kw_only=True)
class Options:
    maps: int = 1000
    subset: int = 5  # maps of the published way
    rounds: int = 2
    json: Path | None = None


def blobs(number: int) -> Tensor:
    """Smooth random maps in [0, 1], as from a network of stride 16, each with its largest blob near the middle."""
    noise = torch.randn(number, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    axis = torch.linspace(-1, 1, 14)
    smooth = F.avg_pool2d(noise, 3, stride=1, padding=1) + 1.5 * torch.exp(-2 * (axis[:, None] ** 2 + axis**2))
    return normalise(F.interpolate(smooth, (GRID, GRID), mode="bicubic").clamp(min=0))[:, 0]


def threshold_by_threshold(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of the largest contour, and of the best contour, at each threshold [2 t]."""
    image = (scores.astype(np.float64) * 255).astype(np.uint8)
    rows = []
    for threshold in THRESHOLDS:
        _, binary = cv2.threshold(image, int(threshold * image.max()), 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        largest = max(contours, key=cv2.contourArea)
        rows.append([iou(largest, truth), max(iou(contour, truth) for contour in contours)])
    return np.array(rows).T


def iou(contour: np.ndarray, truth: np.ndarray) -> float:
    left, top, width, height = cv2.boundingRect(contour)
    right, bottom = min(left + width, GRID - 1), min(top + height, GRID - 1)
    across = max(0, min(right, truth[2]) - max(left, truth[0]) + 1)
    down = max(0, min(bottom, truth[3]) - max(top, truth[1]) + 1)
    area = (right - left + 1) * (bottom - top + 1) + (truth[2] - truth[0] + 1) * (truth[3] - truth[1] + 1)
    return across * down / (area - across * down)


def prepare(way: str, options: Options) -> Callable[[], Any]:
    maps = blobs(options.maps)
    boxes = np.tile(BOX, (options.maps, 1, 1))
    subset = list(zip(maps[: options.subset].numpy(), boxes[: options.subset, 0], strict=True))
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: max_box_accuracy(maps, boxes, multi_contour=False),
        "published": lambda: [threshold_by_threshold(scores, box) for scores, box in subset],
    }
    return runs[way]


def main(options: Options) -> None:
    scale = {"published": options.maps / options.subset}
    result, outcomes = compare(prepare, options, rounds=options.rounds, scale=scale)
    maps = blobs(options.maps)
    for i, expected in enumerate(outcomes["published"]):
        if not np.array_equal(box_sweep(maps[i], BOX), expected):
            raise SystemExit(f"the two ways differ on map {i}")
    result = with_about(result, max_box_accuracy=outcomes["ours"], published_measured_on=options.subset)
    publish_results({f"MaxBoxAccV2 of {options.maps:,} maps of {GRID} x {GRID}": result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
