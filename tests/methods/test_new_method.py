"""A new method is one file and one line in a table: every part of the package then takes it."""

import csv
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_boxes
from methods import toy

import baoseg
from baoseg import cli, recipes
from baoseg.core.errors import RecipeError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.methods import METHODS
from baoseg.recipes import Recipe, Stage
from baoseg.training import train

SCHEDULE = train.Config(epochs=1, batch_size=4, lr=1e-3)
DEVICE = ("--accelerator", "cpu", "--workers", "0")


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setitem(METHODS, "toy", toy.Toy)

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bao", *map(str, words)])
        cli.main()

    return run


def test_a_new_method_goes_through_a_run(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage(method=toy.Config(sharpness=3.0), schedule=SCHEDULE)
    recipe = dataclasses.replace(tiny.RECIPE, name="with-toy", stages=(stage,))
    monkeypatch.setitem(recipes.RECIPES, "with-toy", lambda: recipe)
    bao("run", "with-toy", "--out", tmp_path / "run", *DEVICE)
    run = RunFolder(tmp_path / "run")
    assert read_json(run.manifest)["recipe"]["stages"][0]["method"] == {"sharpness": 3.0, "method": "toy"}
    with run.stage("toy").losses.open(encoding="utf-8", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file) if float(row["toy"]) > 0] == ["1"]
    assert read_json(run.stage("toy").metrics)["fixed"] is not None
    assert "toy" in run.report.read_text(encoding="utf-8")
    bao("train", "with-toy", "--out", tmp_path / "run", *DEVICE)  # the same recipe, read back from the folder
    model = baoseg.load(run.root)
    assert isinstance(model.method, toy.Toy) and model.method.config == toy.Config(sharpness=3.0)
    assert model(np.zeros((40, 50, 3), np.uint8), labels=["bee"]).mask.shape == (40, 50)


def test_a_new_method_can_be_compared(bao: Callable[..., None]) -> None:
    base: Recipe = tiny.RECIPE
    compared = recipes.comparison(base, ["cam", "toy"])
    assert [stage.method for stage in compared.stages][1:] == [toy.Config()]
    assert compared.stages[1].schedule == base.stages[0].schedule


def test_a_new_method_goes_through_a_run_for_boxes(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its box is that of the largest contour of its map, and the page has it beside the true box."""
    (tmp_path / "data").mkdir()
    tiny_boxes.write_images(tmp_path / "data")
    stage = Stage(method=toy.Config(sharpness=3.0), schedule=SCHEDULE, box=recipes.BoxConfig(threshold=0.2))
    recipe = tiny_boxes.settings(tmp_path / "data", name="toy-boxes", stages=(stage,))
    monkeypatch.setitem(recipes.RECIPES, "toy-boxes", lambda: recipe)
    bao("run", "toy-boxes", "--eval-split", "all", "--out", tmp_path / "run", *DEVICE)
    run = RunFolder(tmp_path / "run")
    assert read_json(run.manifest)["recipe"]["stages"][0]["method"] == {"sharpness": 3.0, "method": "toy"}
    with run.stage("toy").losses.open(encoding="utf-8", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file) if float(row["toy"]) > 0] == ["1"]
    with (run.stage("toy").root / "boxes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"{colour}{i}" for colour in tiny_boxes.COLOURS for i in range(2)]
    ious = np.array([float(row["iou"]) for row in rows])
    metrics = read_json(run.stage("toy").metrics)
    assert metrics["gt_known"] == pytest.approx(100 * (ious >= 0.5).mean())
    assert metrics["image_specific"] is None and metrics["top_k_curve"] is None  # as the class says
    assert "toy" in run.report.read_text(encoding="utf-8")
    bao("evaluate", tmp_path / "run", *DEVICE)  # the same method, read back from the folder


def test_a_method_that_gives_no_boxes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(METHODS, "toy", toy.Toy)
    monkeypatch.setattr(toy.Toy, "localizes", False)
    stage = Stage(method=toy.Config(), schedule=SCHEDULE, box=recipes.BoxConfig(threshold=0.2))
    with pytest.raises(RecipeError, match="toy does not localize; use cam or bas"):
        tiny_boxes.settings(tmp_path, stages=(stage,))
