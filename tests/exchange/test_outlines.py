"""Masks to polygons and back, holes and all."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from baoseg.exchange.outlines import corner_outlines, fill, outlines


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_filled_outlines_are_the_mask_pixel_for_pixel(random: int, share: float) -> None:
    draw = np.random.default_rng(random)
    height, width = (int(side) for side in draw.integers(1, 24, 2))
    mask = draw.random((height, width)) < share
    assert np.array_equal(fill([outline.astype(float) for outline in outlines(mask)], (height, width)), mask)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_outlines_around_pixels_are_the_mask_for_pycocotools(random: int, share: float) -> None:
    draw = np.random.default_rng(random)
    height, width = (int(side) for side in draw.integers(1, 24, 2))
    mask = draw.random((height, width)) < share
    polygons = [outline.astype(float).ravel().tolist() for outline in corner_outlines(mask)]
    drawn = np.zeros_like(mask)
    with warnings.catch_warnings(action="ignore"):  # it does not know the copy keyword of NumPy 2
        for polygon in polygons:
            drawn |= coco.decode(coco.merge(coco.frPyObjects([polygon], height, width))).astype(bool)
    assert np.array_equal(drawn, mask)


def test_a_ring_is_one_outline_with_a_seam() -> None:
    mask = np.ones((5, 6), dtype=bool)
    mask[2, 2:4] = False
    (outline,) = outlines(mask)
    corners = {(0, 0), (0, 4), (5, 4), (5, 0), (0, 2), (1, 2), (2, 1), (3, 1), (4, 2), (3, 3), (2, 3)}
    assert {(int(x), int(y)) for x, y in outline} == corners
    assert np.array_equal(fill([outline.astype(float)], (5, 6)), mask)


def test_a_straight_outline_keeps_its_corners_alone() -> None:
    mask = np.zeros((9, 12), dtype=bool)
    mask[2:7, 3:11] = True
    (outline,) = outlines(mask)
    assert sorted(map(tuple, outline.tolist())) == [(3, 2), (3, 6), (10, 2), (10, 6)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1)])
def test_a_pixel_and_a_line_are_polygons_of_three_points(shape: tuple[int, int]) -> None:
    (outline,) = outlines(np.ones(shape, dtype=bool))
    assert len(outline) == 3
    assert fill([outline.astype(float)], shape).all()


@pytest.mark.parametrize("points", [[(1.0, 1.0), (2.0, 2.0)], [(0.0, 0.0), (1.0, float("nan")), (2.0, 0.0)]])
def test_what_is_no_polygon_is_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="three finite ones"):
        fill([np.array(points)], (4, 4))
