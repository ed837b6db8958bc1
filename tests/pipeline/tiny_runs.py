"""Runs of tiny recipes, what they leave, and what their metrics have to be."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from baoseg import pipeline, recipes, seeds
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import open_dataset
from baoseg.data.images import read_mask
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.data.synthetic import Synthetic
from baoseg.evaluate import THRESHOLDS
from baoseg.predict import segment
from baoseg.recipes import Recipe
from baoseg.seeds import masks
from baoseg.training import train

STAGES = ("transcam", "bao")
VAL = tuple(f"val_{index:05d}" for index in range(5))
# One epoch a stage, for what does not depend on what is learned.
SHORT = replace(
    tiny.RECIPE,
    stages=tuple(replace(stage, schedule=replace(stage.schedule, epochs=1)) for stage in tiny.RECIPE.stages),
)


def run(recipe: Recipe, out: Path) -> RunFolder:
    return pipeline.run(recipe, out, hardware=tiny.HARDWARE)


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def results(folder: Path) -> dict[str, bytes]:
    """All that a run computes: its files but for the report and times, which differ from run to run."""
    found = {}
    for name, path in files(folder).items():
        if name.endswith("losses.csv"):
            rows = [line.split(",") for line in path.read_text().splitlines()]
            found[name] = repr([row[:2] + row[3:] for row in rows]).encode()  # the third column is seconds
        elif name == "run.json":
            manifest = json.loads(path.read_text())
            del manifest["environment"]  # the commit may change while the tests run
            found[name] = json.dumps(manifest).encode()
        elif not name.endswith(("report.html", "costs.json")):
            found[name] = path.read_bytes()
    return found


def slow_scores(pairs: Iterator[tuple[np.ndarray, np.ndarray]], size: int) -> dict[str, object]:
    """SCORES of metrics.json from pairs of truth and prediction, class by class and one image at a time."""
    right, true, predicted = np.zeros(size), np.zeros(size), np.zeros(size)
    for truth, prediction in pairs:
        known = truth != 255
        for index in range(size):
            right[index] += ((truth == index) & (prediction == index)).sum()
            true[index] += (truth == index).sum()
            predicted[index] += ((prediction == index) & known).sum()
    occur = [index for index in range(size) if true[index] + predicted[index] > 0]
    union = {index: true[index] + predicted[index] - right[index] for index in occur}
    iou = [100 * right[index] / union[index] if index in union else None for index in range(size)]
    return {
        "iou": iou,
        "miou": np.mean([iou[index] for index in occur]),
        "fp": 100 * np.mean([(predicted[index] - right[index]) / union[index] for index in occur]),
        "fn": 100 * np.mean([(true[index] - right[index]) / union[index] for index in occur]),
        "precision": 100 * np.mean([right[index] / predicted[index] for index in occur if predicted[index]]),
        "recall": 100 * np.mean([right[index] / true[index] for index in occur if true[index]]),
    }


def check_metrics(folder: RunFolder, recipe: Recipe) -> None:
    """Metrics equal the slow ones of the masks on disk; the sweep those of masks cut at each threshold."""
    dataset = open_dataset(recipe.data, "eval")
    truths = {name: dataset.mask(index) for index, name in enumerate(dataset.names)}
    known = {name: truth.numpy() for name, truth in truths.items() if truth is not None}
    size = len(dataset.classes) + 1
    for stage in recipe.stages:
        paths = folder.stage(stage.name)
        metrics = read_json(paths.metrics)
        assert metrics["classes"] == ["background", *dataset.classes.names]
        assert (metrics["split"], metrics["images"]) == (dataset.split, len(known))
        learned = stage.name == "bao"
        scores, other = metrics["threshold_free"], metrics["fixed"]
        if not learned:
            scores, other = other, scores
            assert scores.pop("threshold") == recipe.masks.threshold
        assert other is None
        written = ((truth, read_mask(paths.mask(dataset.split, name)).numpy()) for name, truth in known.items())
        expected = slow_scores(written, size)
        assert scores.pop("iou") == [None if v is None else pytest.approx(v) for v in expected.pop("iou")]
        assert scores == pytest.approx(expected)

        loaded = {name: seeds.load(paths.maps(dataset.split, name)) for name in known}
        for position in (0, 30, 77, 100):
            cut = THRESHOLDS[position]
            pairs = ((known[name], masks.to_mask(seed, threshold=cut).numpy()) for name, seed in loaded.items())
            expected = slow_scores(pairs, size)
            for name in ("miou", "fp", "fn"):
                assert metrics["sweep"][name][position] == pytest.approx(expected[name])
        best = metrics["sweep"]["miou"].index(max(metrics["sweep"]["miou"]))
        assert metrics["oracle"]["threshold"] == metrics["sweep"]["thresholds"][best]
        assert metrics["oracle"]["miou"] == metrics["sweep"]["miou"][best]


def scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """ImageLike [64 64 3] and mask [64 64]."""
    sample = Synthetic(SyntheticConfig(size=64))[index]
    assert sample.mask is not None
    return sample.image.permute(1, 2, 0).numpy(), sample.mask.numpy()


def write_images(root: Path, pictures: dict[str, tuple[tuple[np.ndarray, np.ndarray], str]]) -> None:
    """PNGs and labels.csv, without masks."""
    root.mkdir()
    lines = ["image,labels"]
    for name, ((image, _), labels) in pictures.items():
        Image.fromarray(image).save(root / f"{name}.png")
        lines.append(f"{name}.png,{labels}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


SEGMENTATION = recipes.Segmentation(
    masks="bao+crf",
    schedule=train.Config(epochs=2, batch_size=4, lr=1e-3),
    net=segment.NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16),
    inference=segment.Inference(scales=(1.0,)),
)
