import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.errors import DataError
from baoseg.evaluate import DECISIONS, THRESHOLDS, Confusion, ThresholdSweep, evaluate_seeds, of_masks
from baoseg.seeds import SeedMaps, masks


def image(rows):
    return torch.tensor(rows, dtype=torch.uint8)


def seed_of(classes, scores, background=None, size=None, threshold=None):
    scores = torch.tensor(np.asarray(scores), dtype=torch.float32)
    return SeedMaps(
        classes=torch.tensor(classes, dtype=torch.int64),
        scores=scores,
        background=None if background is None else torch.tensor(np.asarray(background), dtype=torch.float32),
        size=tuple(scores.shape[-2:]) if size is None else size,
        threshold=threshold,
    )


def random_pair(random, num_classes, *, decision="fixed", step=0.05):
    """A seed of 0 to 3 classes on a grid of its own and a ground truth, which may be all 255."""
    height, width = random.integers(1, 7, size=2)
    channels = int(random.integers(0, min(3, num_classes) + 1))
    classes = sorted(random.permutation(num_classes)[:channels] + 1)
    grid = (height, width) if random.random() < 0.7 else (max(1, height // 2), max(1, width // 2))
    scores = np.round(random.random((channels, *grid)) / step) * step  # many values equal to a threshold
    background = random.random(grid) if decision == "threshold_free" else None
    threshold = float(random.random()) if decision == "image_specific" else None
    truth = random.integers(0, num_classes + 1, size=(height, width))
    truth[random.random((height, width)) < random.choice([0.0, 0.3, 1.0], p=[0.4, 0.5, 0.1])] = 255
    seed = seed_of(classes, scores, background, size=(int(height), int(width)), threshold=threshold)
    return seed, torch.tensor(truth, dtype=torch.uint8)


def confusion_by_loop(pairs, num_classes):
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for prediction, truth in pairs:
        for predicted, true in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
            if true != 255:
                counts[true, predicted] += 1
    return counts


def scores_by_loop(pairs, num_classes):
    """The definitions, class by class on boolean images, without a confusion matrix."""
    values = {"iou": [], "fp": [], "fn": [], "precision": [], "recall": []}
    prediction = np.concatenate([prediction.numpy().ravel() for prediction, _ in pairs])
    truth = np.concatenate([truth.numpy().ravel() for _, truth in pairs])
    prediction, truth = prediction[truth != 255], truth[truth != 255]
    for index in range(num_classes + 1):
        predicted, true = prediction == index, truth == index
        union = (predicted | true).sum()
        for name, part, whole in [
            ("iou", (predicted & true).sum(), union),
            ("fp", (predicted & ~true).sum(), union),
            ("fn", (true & ~predicted).sum(), union),
            ("precision", (predicted & true).sum(), predicted.sum()),
            ("recall", (predicted & true).sum(), true.sum()),
        ]:
            values[name].append(100 * part / whole if whole else math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mean of nothing is nan here too
        means = {name: np.nanmean(column) for name, column in values.items()}
    return {**means, "miou": means["iou"], "iou": values["iou"]}


def assert_scores(scores, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(scores, name), value, rtol=1e-12, err_msg=name)


def test_scores_of_a_case_computed_by_hand():
    confusion = Confusion(3)
    confusion.update(image([[0, 0, 1, 1, 1]]), image([[0, 1, 1, 0, 255]]))
    confusion.update(image([[2]]), image([[1]]))
    # class 0: TP 1, P 2, T 2. class 1: TP 1, P 2, T 3. class 2: TP 0, P 1, T 0. class 3: nowhere
    scores = confusion.scores()
    assert scores.iou[:3] == pytest.approx((100 / 3, 25, 0))
    assert math.isnan(scores.iou[3])
    assert scores.miou == pytest.approx((100 / 3 + 25 + 0) / 3)
    assert scores.fp == pytest.approx(100 * (1 / 3 + 1 / 4 + 1) / 3)
    assert scores.fn == pytest.approx(100 * (1 / 3 + 2 / 4 + 0) / 3)
    assert scores.precision == pytest.approx(100 * (1 / 2 + 1 / 2 + 0) / 3)  # class 3 is never predicted
    assert scores.recall == pytest.approx(100 * (1 / 2 + 1 / 3) / 2)  # classes 2 and 3 are never true
    assert confusion.counts.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_the_rows_are_the_ground_truth():
    confusion = Confusion(2)
    confusion.update(image([[2]]), image([[1]]))
    assert confusion.counts[1, 2] == 1


def test_a_perfect_prediction_scores_100():
    truth = image([[0, 1], [2, 255]])
    confusion = Confusion(2)
    confusion.update(truth.where(truth != 255, 0), truth)
    scores = confusion.scores()
    assert (scores.miou, scores.fp, scores.fn, scores.precision, scores.recall) == (100, 0, 0, 100, 100)


def test_json_has_null_for_what_is_undefined():
    confusion = Confusion(1)
    confusion.update(image([[0]]), image([[0]]))
    assert json.loads(json.dumps(confusion.scores().to_json(), allow_nan=False)) == {
        "miou": 100.0,
        "iou": [100.0, None],
        "fp": 0.0,
        "fn": 0.0,
        "precision": 100.0,
        "recall": 100.0,
    }
    nothing = Confusion(1).scores().to_json()
    assert nothing == {
        "miou": None,
        "iou": [None, None],
        "fp": None,
        "fn": None,
        "precision": None,
        "recall": None,
    }


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), num_classes=st.integers(1, 6), pictures=st.integers(1, 3))
def test_confusion_and_scores_equal_loops_over_pixels_and_classes(seed, num_classes, pictures):
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(pictures):
        _, truth = random_pair(random, num_classes)
        pairs.append((image(random.integers(0, num_classes + 1, size=truth.shape)), truth))
    confusion = Confusion(num_classes)
    parts = []
    for prediction, truth in pairs:
        confusion.update(prediction, truth)
        parts.append(Confusion(num_classes))
        parts[-1].update(prediction, truth)
    np.testing.assert_array_equal(confusion.counts.numpy(), confusion_by_loop(pairs, num_classes))
    assert_scores(confusion.scores(), scores_by_loop(pairs, num_classes))
    assert torch.equal(sum(parts, Confusion(num_classes)).counts, confusion.counts)
    scores = confusion.scores()
    if not math.isnan(scores.miou):
        assert scores.miou + scores.fp + scores.fn == pytest.approx(100)


def test_254_classes_and_255_fit_together():
    confusion = Confusion(254)
    confusion.update(image([[254, 0, 3]]), image([[254, 255, 254]]))
    assert confusion.counts.sum() == 2
    assert confusion.counts[254, 254] == confusion.counts[254, 3] == 1


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    num_classes=st.integers(1, 6),
    pictures=st.integers(1, 3),
    thresholds=st.none() | st.lists(st.floats(0, 1), min_size=1, max_size=5).map(sorted),
)
def test_the_sweep_equals_evaluating_each_threshold_by_itself(seed, num_classes, pictures, thresholds):
    random = np.random.default_rng(seed)
    pairs = [random_pair(random, num_classes) for _ in range(pictures)]
    thresholds = THRESHOLDS[::10] if thresholds is None else tuple(thresholds)
    sweep = ThresholdSweep(num_classes, thresholds)
    for one, truth in pairs:
        sweep.update(one, truth)
    best = (0, -1.0)
    for i, threshold in enumerate(thresholds):
        predicted = []
        for one, truth in pairs:
            scores = one.upsample().scores.numpy()
            prediction = np.zeros(one.size, dtype=np.uint8)
            for channel, index in reversed(list(enumerate(one.classes.tolist()))):
                largest = (scores[channel] == scores.max(axis=0)) & (scores[channel] >= np.float32(threshold))
                prediction[largest] = index
            predicted.append((image(prediction), truth))
            assert torch.equal(masks.to_mask(one, threshold=threshold), predicted[-1][0])
        counts = confusion_by_loop(predicted, num_classes)
        np.testing.assert_array_equal(sweep.confusion(i).counts.numpy(), counts)
        scores = sweep.confusion(i).scores()
        assert_scores(scores, scores_by_loop(predicted, num_classes))
        if scores.miou > best[1]:
            best = (i, scores.miou)
    assert sweep.oracle()[0] == thresholds[best[0]]


def test_every_threshold_finds_values_equal_to_it():
    # a value equal to threshold number n reaches n + 1 thresholds: one-off errors and rounding both show
    values = torch.tensor(THRESHOLDS, dtype=torch.float32)[None, None]
    sweep = ThresholdSweep(1)
    sweep.update(SeedMaps(torch.tensor([1]), values, None, (1, 101)), torch.ones(1, 101, dtype=torch.uint8))
    for i in range(101):
        assert sweep.confusion(i).counts.tolist() == [[0, 0], [i, 101 - i]]


def test_the_oracle_is_the_first_of_the_best_thresholds():
    sweep = ThresholdSweep(1)
    sweep.update(seed_of([1], [[[0.2, 0.5]]]), image([[0, 1]]))
    threshold, scores = sweep.oracle()  # every threshold above 0.2 and up to 0.5 is perfect
    assert threshold == 0.21
    assert scores.miou == 100
    assert sweep.miou[[0, 20, 21, 50, 51]].tolist() == pytest.approx([25, 25, 100, 100, 25])
    assert sweep.fp[[0, 30, 60]].tolist() == pytest.approx([25, 0, 25])
    assert sweep.fn[[0, 30, 60]].tolist() == pytest.approx([50, 0, 50])


def test_the_sweep_ignores_the_learned_background():
    alone, beside = ThresholdSweep(1), ThresholdSweep(1)
    truth = image([[0, 1]])
    alone.update(seed_of([1], [[[0.2, 0.5]]]), truth)
    beside.update(seed_of([1], [[[0.2, 0.5]]], background=[[1.0, 1.0]]), truth)
    assert alone.to_json() == beside.to_json()


@pytest.mark.parametrize("thresholds", [(), (0.5, 0.2)])
def test_thresholds_must_ascend(thresholds):
    with pytest.raises(ValueError, match="ascend"):
        ThresholdSweep(1, thresholds)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**16), num_classes=st.integers(1, 6), decision=st.sampled_from(DECISIONS))
def test_evaluate_seeds_equals_the_parts_by_themselves(seed, num_classes, decision):
    random = np.random.default_rng(seed)
    pairs = [random_pair(random, num_classes, decision=decision) for _ in range(3)]
    threshold = 0.35
    metrics = evaluate_seeds(iter(pairs), num_classes, threshold=threshold)
    assert list(metrics) == ["threshold_free", "image_specific", "fixed", "sweep", "oracle"]
    json.dumps(metrics, allow_nan=False)
    cuts = {"threshold_free": [None] * 3, "image_specific": [one.threshold for one, _ in pairs], "fixed": [0.35] * 3}
    decided = [
        (masks.to_mask(one, threshold=cut), truth) for (one, truth), cut in zip(pairs, cuts[decision], strict=True)
    ]
    assert [name for name in DECISIONS if metrics[name] is not None] == [decision]
    assert of_masks(metrics) is metrics[decision]
    scores = dict(metrics[decision])
    if decision == "fixed":
        assert scores.pop("threshold") == threshold
        at_threshold = metrics["sweep"]["miou"][35]
        assert at_threshold == scores["miou"]
    expected = scores_by_loop(decided, num_classes)
    for name, value in scores.items():
        np.testing.assert_allclose(np.array(value, dtype=float), expected[name], rtol=1e-12, err_msg=name)
    assert metrics["sweep"]["thresholds"] == [round(0.01 * i, 2) for i in range(101)]
    curve = np.array(metrics["sweep"]["miou"], dtype=float)
    if not np.isnan(curve).any():
        best = int(curve.argmax())
        assert metrics["oracle"]["threshold"] == THRESHOLDS[best]
        assert metrics["oracle"]["miou"] == curve[best]


def test_ground_truth_without_a_valid_pixel_is_evaluated_to_null():
    metrics = evaluate_seeds([(seed_of([1], [[[0.5]]]), image([[255]]))], 1, threshold=0.3)
    assert metrics["fixed"]["miou"] is None
    assert metrics["sweep"]["miou"] == [None] * 101
    assert metrics["oracle"]["miou"] is None


def test_ground_truth_of_another_size_is_an_error_that_names_both():
    with pytest.raises(DataError, match=r"ground truth is 3 x 2 pixels and the image of the maps 4 x 2"):
        evaluate_seeds([(seed_of([1], np.ones((1, 2, 4))), image(np.zeros((2, 3))))], 1, threshold=0.3)
    with pytest.raises(DataError, match=r"ground truth is 3 x 2 pixels and the prediction 2 x 3"):
        Confusion(1).update(image(np.zeros((3, 2))), image(np.zeros((2, 3))))


def test_values_beyond_the_classes_are_errors():
    with pytest.raises(DataError, match=r"ground truth has the value 3, but the classes are 0\.\.2; use 255"):
        ThresholdSweep(2).update(seed_of([1], [[[0.5, 0.5]]]), image([[3, 255]]))
    with pytest.raises(DataError, match=r"ground truth has the value 254, but"):
        Confusion(2).update(image([[0]]), image([[254]]))
    with pytest.raises(DataError, match=r"prediction has the value 255, but the classes are 0\.\.2"):
        Confusion(2).update(image([[255]]), image([[0]]))
    with pytest.raises(DataError, match=r"a map of class 3, but the classes are 0\.\.2"):
        ThresholdSweep(2).update(seed_of([3], [[[0.5]]]), image([[0]]))


def test_a_refused_image_leaves_the_counts_as_they_were():
    confusion = Confusion(1)
    with pytest.raises(DataError):
        confusion.update(image([[0, 0]]), image([[0, 7]]))
    assert confusion.counts.sum() == 0


SEEDS = {
    "threshold_free": seed_of([1], [[[0.2, 0.5]]], background=[[0.3, 0.4]]),
    "image_specific": seed_of([1], [[[0.2, 0.5]]], threshold=0.4),
    "fixed": seed_of([1], [[[0.2, 0.5]]]),
}


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_scores_are_under_the_name_of_what_decided(decision):
    """The seed's own background or threshold gets the image right, the threshold of the call gets it wrong."""
    metrics = evaluate_seeds([(SEEDS[decision], image([[0, 1]]))], 1, threshold=0.1)
    assert of_masks(metrics)["miou"] == (25 if decision == "fixed" else 100)
    assert [name for name in DECISIONS if metrics[name] is not None] == [decision]
    assert ("threshold" in of_masks(metrics)) == (decision == "fixed")
    assert metrics["oracle"]["miou"] == 100


def test_each_image_is_cut_at_its_own_threshold():
    truth = image([[0, 1]])
    pairs = [(seed_of([1], [[[low, high]]], threshold=high), truth) for low, high in [(0.1, 0.2), (0.5, 0.9)]]
    metrics = evaluate_seeds(pairs, 1, threshold=0.3)
    assert metrics["image_specific"]["miou"] == 100
    assert metrics["oracle"]["miou"] < 100  # no one threshold is right for both


@pytest.mark.parametrize("first", DECISIONS)
@pytest.mark.parametrize("second", DECISIONS)
def test_seeds_of_different_kinds_do_not_mix(first, second):
    pairs = [(SEEDS[name], image([[0, 1]])) for name in (first, second)]
    if first == second:
        assert of_masks(evaluate_seeds(pairs, 1, threshold=0.3))["miou"] == 100
        return
    with pytest.raises(DataError, match="some maps have a background map or a threshold and others do not"):
        evaluate_seeds(pairs, 1, threshold=0.3)


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate_seeds([], 1, threshold=0.3)
