import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from baoseg import evaluate
from baoseg.core.errors import DataError
from baoseg.evaluate.localization import (
    GRID,
    THRESHOLDS,
    Prediction,
    Truth,
    box_at,
    box_iou,
    box_sweep,
    contour_boxes,
    density,
    evaluate_localization,
    max_box_accuracy,
    pixel_average_precision,
    resize_boxes,
)

NEIGHBOURS_4 = [(-1, 0), (1, 0), (0, -1), (0, 1)]
NEIGHBOURS_8 = [*NEIGHBOURS_4, (-1, -1), (-1, 1), (1, -1), (1, 1)]

binaries = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def regions(cells, neighbours):
    """The connected sets of a set of (row, column), by flood fill."""
    left, found = set(cells), []
    while left:
        region, front = set(), [left.pop()]
        while front:
            row, column = front.pop()
            region.add((row, column))
            near = {(row + down, column + right) for down, right in neighbours} & left
            left -= near
            front.extend(near)
        found.append(region)
    return found


def span(cells):
    rows, columns = zip(*cells, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


def polygon_area(cells):
    """Area inside the polygon through the outermost cells of a region without holes: squares between four cells of it
    and half squares between three."""
    corners = {(row - down, column - right) for row, column in cells for down in (0, 1) for right in (0, 1)}
    full = [
        sum((row + down, column + right) in cells for down in (0, 1) for right in (0, 1)) for row, column in corners
    ]
    return full.count(4) + full.count(3) / 2


def slow_boxes(binary):
    """Boxes of the regions of largest area, of which several may tie, and of all borders, with those of the holes."""
    height, width = binary.shape
    frame = {(row, column) for row in range(-1, height + 1) for column in range(-1, width + 1)}
    inside = {
        (row, column) for row, column in frame if 0 <= row < height and 0 <= column < width and binary[row, column]
    }
    holes = [hole for hole in regions(frame - inside, NEIGHBOURS_4) if (-1, -1) not in hole]

    def box(x0, y0, x1, y1):
        return x0, y0, min(x1 + 1, width - 1), min(y1 + 1, height - 1)

    areas, outer = [], []
    for region in regions(inside, NEIGHBOURS_8):
        enclosed = regions(frame - region, NEIGHBOURS_4)
        filled = region.union(*(part for part in enclosed if (-1, -1) not in part))
        areas.append(polygon_area(filled))
        outer.append(box(*span(region)))
    around = [(x0 - 1, y0 - 1, x1 + 1, y1 + 1) for x0, y0, x1, y1 in map(span, holes)]
    largest = {one for one, area in zip(outer, areas, strict=True) if area == max(areas)}
    return largest or {(0, 0, 0, 0)}, sorted([*outer, *(box(*hole) for hole in around)]) or [(0, 0, 0, 0)]


def slow_iou(a, b):
    cells_a = {(x, y) for x in range(a[0], a[2] + 1) for y in range(a[1], a[3] + 1)}
    cells_b = {(x, y) for x in range(b[0], b[2] + 1) for y in range(b[1], b[3] + 1)}
    return len(cells_a & cells_b) / len(cells_a | cells_b)


def slow_sweep(scores, truth):
    """At each threshold: the IoUs that the largest contour may have, and the best IoU of all contours."""
    image = [[int(float(value) * 255) for value in row] for row in scores]
    highest = max(map(max, image))
    known = {}
    for threshold in THRESHOLDS:
        level = math.floor(threshold * highest)
        if level not in known:
            largest, every = slow_boxes(np.array(image) > level)
            best = [max(slow_iou(box, true) for true in truth) for box in [*largest, *every]]
            known[level] = best[: len(largest)], max(best[len(largest) :])
        yield known[level]


def bump(height, width, x, y, radius):
    """A cone in [0, 1] with its tip at (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    return (1 - np.hypot(columns - x, rows - y) / radius).clip(min=0)


@given(binaries)
@settings(deadline=None, max_examples=200)
def test_boxes_are_those_of_flood_fill(binary):
    largest, every = slow_boxes(binary)
    boxes = [tuple(box) for box in contour_boxes(binary).tolist()]
    assert boxes[0] in largest
    assert sorted(boxes) == every


def test_largest_contour_is_largest_by_polygon_not_by_cells():
    binary = np.zeros((8, 12), dtype=bool)
    binary[0, :] = True  # 12 cells in a line: area 0
    binary[3:6, 2:5] = True  # 9 cells: area 4
    assert contour_boxes(binary).tolist() == [[2, 3, 5, 6], [0, 0, 11, 1]]


def test_among_equal_areas_the_lowest_counts():
    binary = np.zeros((6, 6), dtype=bool)
    binary[[0, 2, 4], [1, 4, 2]] = True
    assert contour_boxes(binary)[0].tolist() == [2, 4, 3, 5]


def test_holes_have_boxes_of_their_own():
    binary = np.ones((7, 7), dtype=bool)
    binary[3, 3] = False
    assert contour_boxes(binary).tolist() == [[0, 0, 6, 6], [2, 2, 5, 5]]


def test_box_by_hand():
    scores = torch.zeros(6, 8)
    scores[1:4, 2:6] = 0.5
    scores[2, 3:5] = 1.0
    assert box_at(scores, threshold=0.0).tolist() == [2, 1, 6, 4]
    assert box_at(scores, threshold=0.5).tolist() == [3, 2, 5, 3]  # strictly above floor(127.5)
    assert box_at(scores, threshold=0.49).tolist() == [2, 1, 6, 4]
    assert box_at(scores * 0.5, threshold=0.49).tolist() == [2, 1, 6, 4]  # of its own maximum


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=1, max_size=4), st.tuples(*[st.integers(0, 6)] * 4))
@settings(deadline=None)
def test_iou_counts_cells(first, second):
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in [*first, second]])
    expected = [[slow_iou(box, boxes[-1])] for box in boxes]
    np.testing.assert_allclose(box_iou(boxes, boxes[-1:]), expected, rtol=1e-12)
    np.testing.assert_allclose(box_iou(boxes.astype(np.uint8), torch.tensor(boxes[-1:])), expected, rtol=1e-12)


@given(arrays.arrays(np.float64, (7, 8), elements=st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.77, 1.0])))
@settings(deadline=None, max_examples=15)
def test_sweep_is_that_of_the_loop(scores):
    truth = [(1, 1, 4, 5), (2, 3, 7, 6)]
    largest, every = box_sweep(scores, np.array(truth))
    for i, (possible, best) in enumerate(slow_sweep(scores, truth)):
        assert min(abs(largest[i] - iou) for iou in possible) < 1e-12
        assert every[i] == pytest.approx(best, abs=1e-12)


def test_max_box_accuracy_is_that_of_the_loop():
    random = np.random.default_rng(0)
    maps, boxes = [], []
    for _ in range(6):
        x, y, other_x, other_y = random.uniform(2, 14, 4)
        scores = np.maximum(bump(16, 16, x, y, 6.0), 0.8 * bump(16, 16, other_x, other_y, 4.0))
        maps.append(scores / scores.max())
        left, top = random.integers(0, 9, size=2)
        boxes.append(
            np.array([[left, top, left + 6, top + 6], [int(x) - 2, int(y) - 2, int(x) + 2, int(y) + 3]]).clip(0)
        )
    right = np.zeros((2, 3, len(THRESHOLDS)))
    for scores, truth in zip(maps, boxes, strict=True):
        for i, (possible, best) in enumerate(slow_sweep(scores, truth.tolist())):
            assert len(possible) == 1  # no ties between contours
            right[:, :, i] += [[iou >= level for level in (0.3, 0.5, 0.7)] for iou in (possible[0], best)]
    expected = 100 * right.max(axis=2) / 6
    assert max_box_accuracy(np.stack(maps), boxes, multi_contour=False) == pytest.approx(tuple(expected[0]))
    assert max_box_accuracy(np.stack(maps), boxes, multi_contour=True) == pytest.approx(tuple(expected[1]))
    assert 0 < expected[0, 2] < expected[0, 0]  # the case tells levels apart


def test_one_threshold_for_all_images():
    scores = torch.zeros(2, GRID, GRID)
    scores[:, 50:150, 50:150] = 0.4
    scores[:, 90:110, 90:110] = 1.0
    wide, narrow = torch.tensor([[50, 50, 150, 150]]), torch.tensor([[90, 90, 110, 110]])
    assert max_box_accuracy(scores, [wide, wide], multi_contour=False) == (100.0, 100.0, 100.0)
    assert max_box_accuracy(scores, [wide, narrow], multi_contour=False) == (50.0, 50.0, 50.0)  # no cut serves both
    assert max_box_accuracy(scores, [wide, torch.cat([narrow, wide])], multi_contour=False) == (100.0, 100.0, 100.0)


def test_multi_contour_finds_the_smaller_of_two():
    scores = torch.zeros(1, GRID, GRID)
    scores[:, 10:100, 10:100] = 1.0
    scores[:, 150:200, 150:200] = 1.0
    boxes = [torch.tensor([[150, 150, 199, 199]])]
    assert max_box_accuracy(scores, boxes, multi_contour=False) == (0.0, 0.0, 0.0)
    assert max_box_accuracy(scores, boxes, multi_contour=True) == (100.0, 100.0, 100.0)


def test_map_of_zeros_has_the_box_of_the_corner():
    scores = np.zeros((1, 10, 10))
    assert box_at(scores[0], threshold=0.3).tolist() == [0, 0, 0, 0]
    assert max_box_accuracy(scores, [np.array([[0, 0, 0, 0]])], multi_contour=False) == (100.0, 100.0, 100.0)
    assert max_box_accuracy(scores, [np.array([[0, 0, 9, 9]])], multi_contour=True) == (0.0, 0.0, 0.0)


def test_half_and_single_precision_are_read_as_double():
    scores = torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(0)).half()
    boxes = [np.array([[3, 3, 20, 20]])] * 2
    expected = max_box_accuracy(scores.double(), boxes, multi_contour=True)
    assert max_box_accuracy(scores, boxes, multi_contour=True) == expected
    assert max_box_accuracy(scores.float().numpy(), boxes, multi_contour=True) == expected


def test_a_box_may_end_beyond_the_grid():
    scores = torch.ones(1, 10, 10)
    assert max_box_accuracy(scores, [np.array([[0, 0, 10, 10]])], multi_contour=False) == (100.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[10, 0, 12, 4]], "starts outside the grid"),
        ([[-1, 0, 3, 4]], "starts outside the grid"),
        ([[3, 0, 2, 4]], "ends before"),
        (np.zeros((0, 4), dtype=int), "at least one box"),
    ],
)
def test_impossible_boxes_are_refused(boxes, message):
    with pytest.raises(DataError, match=f"map 1: .*{message}"):
        max_box_accuracy(np.ones((2, 10, 10)), [np.array([[0, 0, 3, 3]]), np.array(boxes)], multi_contour=False)


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan])
def test_scores_outside_the_range_are_refused(value):
    maps, boxes = np.full((1, 4, 4), value), [np.array([[0, 0, 3, 3]])]
    with pytest.raises(DataError, match=r"map 0: scores are .*0\.\.1"):
        max_box_accuracy(maps, boxes, multi_contour=False)
    with pytest.raises(DataError, match="map 0: scores are"):
        pixel_average_precision(maps, np.ones((1, 4, 4), dtype=np.uint8))


def test_each_map_needs_boxes_and_a_mask():
    with pytest.raises(DataError, match="2 maps and the boxes of 1"):
        max_box_accuracy(np.ones((2, 4, 4)), [np.array([[0, 0, 3, 3]])], multi_contour=False)
    with pytest.raises(DataError, match="0 maps"):
        max_box_accuracy(np.ones((0, 4, 4)), [], multi_contour=False)
    with pytest.raises(DataError, match="map 0: the map is empty"):
        max_box_accuracy(np.ones((1, 0, 4)), [np.array([[0, 0, 3, 3]])], multi_contour=False)
    with pytest.raises(DataError, match="do not fit"):
        pixel_average_precision(np.ones((1, 4, 4)), np.ones((2, 4, 4), dtype=np.uint8))


def test_resized_boxes_are_rounded_down():
    boxes = resize_boxes(np.array([[10, 20, 499, 374]]), (375, 500))
    assert boxes.tolist() == [[4, 11, 223, 223]]  # 4.48, 11.9, 223.6, 223.4


def slow_counts(scores, masks):
    """TP, FP and pixels of objects at each of 1,001 thresholds, from the highest: bins [t, t + 0.001), ..., [1, 2)."""
    values, truth = scores[masks != 255], masks[masks != 255]
    for threshold in [1.0, *reversed(THRESHOLDS.tolist())]:
        yield sum(truth[values >= threshold] == 1), sum(truth[values >= threshold] == 0), sum(truth == 1)


@given(
    arrays.arrays(np.float64, (2, 3, 4), elements=st.one_of(st.floats(0, 1), st.sampled_from(THRESHOLDS.tolist()))),
    arrays.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 255])),
)
@settings(deadline=None, max_examples=20)
def test_pixel_average_precision_is_that_of_the_loop(scores, masks):
    masks[0, 0, 0] = 1
    expected = recall = 0.0
    ious = []
    for right, wrong, objects in slow_counts(scores, masks):
        if right + wrong:
            expected += right / (right + wrong) * (right / objects - recall)
        recall = right / objects
        ious.append(right / (objects + wrong))
    assert pixel_average_precision(scores, masks) == pytest.approx(100 * expected)
    pairs = [
        (Prediction(name="a", scores=s), Truth(boxes=np.array([[0, 0, 1, 1]]), mask=m))
        for s, m in zip(scores, masks, strict=True)
    ]
    pixels = evaluate_localization(pairs, threshold=0.5).pixels
    np.testing.assert_allclose(pixels.iou, 100 * np.array(ious[::-1]))
    assert pixels.peak_iou()[0] == pytest.approx(100 * max(ious))


def test_pixel_average_precision_of_perfect_and_constant_maps():
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, 2:6, 2:6] = 1
    mask[:, 0] = 255
    perfect = (mask == 1).float()
    assert pixel_average_precision(perfect, mask) == 100.0
    assert pixel_average_precision(torch.where(mask == 255, 1.0, perfect), mask) == 100.0  # 255 does not count
    for value in (0.0, 0.5, 1.0):  # one threshold parts all or nothing: precision is the share of the object
        assert pixel_average_precision(torch.full((1, 8, 8), value), mask) == pytest.approx(100 * 16 / 56)


def test_masks_without_an_object_and_other_values_are_refused():
    with pytest.raises(DataError, match="no mask has a pixel of an object"):
        pixel_average_precision(np.ones((1, 2, 2)), np.array([[[0, 255], [0, 0]]], dtype=np.uint8))
    with pytest.raises(DataError, match="map 0: the mask has the value 7"):
        pixel_average_precision(np.ones((1, 2, 2)), np.array([[[0, 7], [0, 1]]], dtype=np.uint8))


def square(left, side=50, size=100):
    """A map that is 1 on a square; its box is [left, left, left + side, left + side]."""
    scores = torch.zeros(size, size)
    scores[left : left + side, left : left + side] = 1.0
    return scores


def test_all_metrics_by_hand():
    box = torch.tensor([[10, 10, 60, 60]])  # that of square(10), 51 x 51 of 10,000 cells
    pairs = [
        (Prediction(name="right", scores=square(10), rank=0), Truth(boxes=box)),
        (Prediction(name="third", scores=square(10), rank=2), Truth(boxes=box)),
        (Prediction(name="unknown class", scores=square(10)), Truth(boxes=box)),
        (Prediction(name="off", scores=square(45), rank=0), Truth(boxes=box)),
    ]
    scores = evaluate_localization(pairs, threshold=0.5)
    assert (scores.images, scores.gt_known, scores.top1, scores.top5) == (4, 75.0, 25.0, 50.0)
    assert scores.median_iou == 100.0
    assert scores.largest_contour.best() == (75.0, 75.0, 75.0)
    assert scores.pixels is None
    overlap = 16**2 / (2 * 51**2 - 16**2)  # 0.05..0.10: the second of 20 bins; the object is 0.26 of the grid
    assert 0.05 < overlap < 0.1
    assert scores.density[5].tolist() == [0, 1, *[0] * 17, 3]
    assert scores.density.sum() == 4


def test_a_box_that_comes_with_the_image_counts_instead():
    truth = Truth(boxes=np.array([[10, 10, 60, 60]]))
    pair = (Prediction(name="a", scores=square(45), box=np.array([10, 10, 60, 60])), truth)
    scores = evaluate_localization([pair], threshold=0.5)
    assert scores.gt_known == 100.0
    assert scores.top1 is None and scores.top5 is None
    assert scores.largest_contour.best() == (0.0, 0.0, 0.0)  # of the map, whatever the box


def test_gt_known_is_the_sweep_at_one_threshold():
    random = np.random.default_rng(1)
    pairs = []
    for i in range(5):
        x, y = random.uniform(5, 25, 2)
        pairs.append(
            (Prediction(name=str(i), scores=bump(30, 30, x, y, 12.0)), Truth(boxes=np.array([[5, 5, 24, 24]])))
        )
    scores = evaluate_localization(pairs, threshold=THRESHOLDS[400])
    assert scores.gt_known == scores.largest_contour.accuracy[1, 400]
    assert scores.gt_known <= scores.largest_contour.best()[1] <= scores.multi_contour.best()[1]


def test_results_are_json_with_the_oracle_marked():
    box, mask = np.array([[10, 10, 60, 60]]), (square(10) > 0).byte()
    with_mask = (Prediction(name="a", scores=square(10), rank=0), Truth(boxes=box, mask=mask))
    values = json.loads(json.dumps(evaluate_localization([with_mask], threshold=0.2).to_json(), allow_nan=False))
    assert values["gt_known"] == values["top1"] == values["pixel_average_precision"] == 100.0
    assert values["oracle"]["peak_iou"] == {"iou": 100.0, "threshold": 0.001}
    assert values["oracle"]["max_box_accuracy"] == [100.0, 100.0, 100.0]
    assert len(values["iou_curve"]) == 101 and len(values["box_curve"][0]) == 100
    assert sum(values["iou_histogram"]) == 1

    far = (Prediction(name="a", scores=square(0, side=3)), Truth(boxes=np.array([[80, 80, 90, 90]])))
    values = json.loads(json.dumps(evaluate_localization([far], threshold=0.2).to_json(), allow_nan=False))
    assert values["median_iou"] is None and values["top1"] is None
    assert values["pixel_average_precision"] is None and values["oracle"]["peak_iou"] is None


def test_errors_name_the_image():
    with pytest.raises(DataError, match="no image"):
        evaluate_localization([], threshold=0.5)
    truth = Truth(boxes=np.array([[0, 0, 3, 3]]), mask=np.ones((4, 5), dtype=np.uint8))
    with pytest.raises(DataError, match=r"bird\.jpg: the mask is \[4, 5\], the map \[4, 4\]"):
        evaluate_localization([(Prediction(name="bird.jpg", scores=np.ones((4, 4))), truth)], threshold=0.5)


def test_density_counts_each_image_once():
    counts = density(np.array([0.0, 0.49, 0.5, 1.2]), np.array([0.0, 1.0, 0.5, 0.2]), bins=2)
    assert counts.tolist() == [[1, 1], [1, 1]]


def test_public_names():
    assert evaluate.max_box_accuracy is max_box_accuracy
    assert evaluate.pixel_average_precision is pixel_average_precision
