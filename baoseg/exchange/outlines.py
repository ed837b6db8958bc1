"""Masks as polygons, and back: outlines through the centres of the outermost pixels, or around these pixels.

A hole hangs on its outline by a seam without width, since formats of polygons have no holes. Filling with OpenCV
(`fill`) gives the mask again, pixel for pixel; other tools fill by rules of their own, which differ on the border.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

Outline = Int[np.ndarray, "_ 2"]  # x, y of pixel centres
LEAST = 3  # points of a polygon


def outlines(mask: Bool[np.ndarray, "h w"]) -> list[Outline]:
    """An outline for each 8-connected part of a mask."""
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found = []
    for index, contour in enumerate(contours):
        if tree[0][index][3] >= 0:
            continue  # a hole
        holes, hole = [], tree[0][index][2]
        while hole >= 0:
            holes.append(contours[hole][:, 0])
            hole = tree[0][hole][0]
        outline = contour[:, 0]
        for around in sorted(holes, key=lambda points: int(points[:, 0].min())):
            outline = _joined(outline, around, mask)
        found.append(_corners(outline))
    return found


def corner_outlines(mask: Bool[np.ndarray, "h w"]) -> list[Outline]:
    """The same along the edges of the pixels, for formats whose unit is a pixel's side: a pixel is a square of 1.

    On the mask at twice the size, the outline runs through the first or the last half of the outermost pixels.
    """
    return [_corners((outline + 1) // 2) for outline in outlines(mask.repeat(2, axis=0).repeat(2, axis=1))]


def _joined(outline: Outline, hole: Int[np.ndarray, "_ 2"], mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "_ 2"]:
    """The outline with a seam to a hole, and around it.

    The seam runs through the mask to the left of the leftmost point of the hole, and ends where the mask does: on the
    outline, or on a hole further to the left, which is a part of the outline by then.
    """
    end = int(hole[:, 0].argmin())
    x, y = (int(value) for value in hole[end])
    outside = np.flatnonzero(~mask[y, :x])
    reached = int(outside[-1]) + 1 if len(outside) else 0
    start = int(np.flatnonzero((outline == (reached, y)).all(axis=1))[0])
    return np.concatenate([outline[: start + 1], hole[end:], hole[: end + 1], outline[start:]])


def _corners(outline: Outline) -> Int[np.ndarray, "_ 2"]:
    """The outline without points that lie on the straight way from the one before to the next.

    The points of one pixel or of a line are repeated: readers take less than three points for no polygon, or for a box.
    """
    outline = outline[(outline != np.roll(outline, 1, axis=0)).any(axis=1)] if len(outline) > 1 else outline
    to, onwards = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    turns = to[:, 0] * onwards[:, 1] != to[:, 1] * onwards[:, 0]
    back = (to * onwards).sum(axis=1) <= 0
    kept = outline[turns | back]
    return np.resize(kept, (max(LEAST, len(kept)), 2))


def fill(polygons: Sequence[Float[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels inside and on some polygons, whose corners are rounded to pixel centres.

    Raises ValueError for less than three points, and for points that are no numbers.
    """
    drawn = np.zeros(size, dtype=np.uint8)
    limits = np.array([size[1] - 1, size[0] - 1])
    for polygon in polygons:
        if len(polygon) < LEAST or not np.isfinite(polygon).all():
            raise ValueError(f"a polygon of {len(polygon)} points; three finite ones are the least")
        part = np.zeros_like(drawn)
        cv2.fillPoly(part, [np.rint(polygon).clip(0, limits).astype(np.int32)], 1)
        drawn |= part
    return drawn.astype(bool)
