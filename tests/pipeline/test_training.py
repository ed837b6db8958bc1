"""Training on images without labels."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from baoseg import pipeline, recipes
from baoseg.data.images import read_mask
from baoseg.predict import labeler

METHODS = ("cam", "transcam", "bnr", "amn", "bao")


def one_class(root: Path) -> Path:
    """Six images, every other one without a label."""
    random = np.random.default_rng(0)
    lines = ["image,labels"]
    for number in range(6):
        pixels = random.integers(0, 80, (64, 64, 3)).astype(np.uint8)
        if number % 2 == 0:
            pixels[10:40, 10:40] = 250
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append(f"{number}.png,{'' if number % 2 else 'cat'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def test_all_methods_learn_one_class_from_images_with_and_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = tuple(
        replace(stage, schedule=replace(stage.schedule, epochs=1, batch_size=2)) for stage in tiny.RECIPE.stages
    )
    base = tiny.with_data(replace(tiny.RECIPE, stages=stages), one_class(tmp_path))
    run = pipeline.run(recipes.comparison(base, METHODS), tmp_path / "run", hardware=tiny.HARDWARE)
    line = "all: 6 images, 1 class: cat (3); 3 images without a label, background alone\n"
    assert capsys.readouterr().out.startswith(line)
    for method in METHODS:
        stage = run.stage(method)
        with stage.losses.open() as file:
            rows = list(csv.DictReader(file))
        assert rows and all(math.isfinite(float(value)) for row in rows for value in row.values())
        for number in (1, 3, 5):
            assert not read_mask(stage.mask("all", str(number))).any()
    for number in (1, 3, 5):  # what AMN learned from
        assert not read_mask(run.stage("amn").label("all", str(number))).any()
    assert labeler.load(run.root).classes.names == ("cat",)
