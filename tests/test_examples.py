"""The scripts of examples/ run, on generated data and in seconds."""

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import baoseg
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.methods import METHODS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LABELS = ("dog", "sofa", "dog sofa", "")
Example = Callable[..., dict[str, Any]]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Example]:
    """Runs a script with these words and gives its names. Afterwards the table of methods is as before."""
    methods = METHODS.copy()

    def run(name: str, *words: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    yield run
    METHODS.clear()
    METHODS.update(methods)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images of noise with the labels above; the truth is a disc in the middle, for the images of one class."""
    folder = tmp_path / "my_photos"
    (folder / "masks").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number, _ in enumerate(LABELS):
        Image.fromarray(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    rows = [f"{number}.png,{label}\n" for number, label in enumerate(LABELS)]
    (folder / "labels.csv").write_text("image,labels\n" + "".join(rows), encoding="utf-8")
    for number, value in enumerate((1, 2)):
        Image.fromarray(value * disc().astype(np.uint8)).save(folder / "masks" / f"{number}.png")
    return folder


def disc() -> np.ndarray:
    """Where the blob of other_seeds.py, brought to [0, 1], is above 0.3, the threshold of the recipe."""
    rows, columns = np.linspace(-1, 1, 48)[:, None], np.linspace(-1, 1, 64)[None]
    blob = np.exp(-3 * (rows**2 + columns**2))
    return (blob - blob.min()) / (blob.max() - blob.min()) > 0.3


def test_there_are_no_others() -> None:
    assert {path.name for path in EXAMPLES.glob("*.*")} == {"own_photos.py", "new_method.py", "other_seeds.py"}


def test_own_photos(example: Example, photos: Path, tmp_path: Path) -> None:
    example("own_photos.py", photos, tmp_path / "run", "--smoke")
    run = RunFolder(tmp_path / "run")
    assert {path.name for path in run.stage("bao-plus+crf").masks("all").iterdir()} == {f"{n}.png" for n in range(4)}
    segmenter = baoseg.load(run.root / "network")
    with Image.open(run.root / "first-mask.png") as saved:
        assert np.array_equal(np.asarray(saved), segmenter(photos / "0.png")[0].numpy())


def test_other_seeds(example: Example, photos: Path, tmp_path: Path) -> None:
    example("other_seeds.py", photos, tmp_path / "seeds", tmp_path / "run", "--example")
    stage = RunFolder(tmp_path / "run").stage("fused")
    for number, value in enumerate((1, 2)):
        with Image.open(stage.mask("all", str(number))) as saved:
            mask = np.asarray(saved)
        assert {*np.unique(mask)} == {0, value}
        assert ((mask == value) == disc()).mean() > 0.97  # the grid of a quarter of the sides moves the edge a little
    assert read_json(stage.metrics)["fixed"]["miou"] > 90
    with Image.open(stage.mask("all", "3")) as saved:
        assert not np.asarray(saved).any()


class Passing:
    """A network whose features and class maps are its images."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def class_maps(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_new_method(example: Example, tmp_path: Path) -> None:
    names = example("new_method.py", tmp_path / "run", "--smoke")
    run = RunFolder(tmp_path / "run")
    stages = read_json(run.manifest)["recipe"]["stages"]
    assert [stage["method"]["method"] for stage in stages] == ["cam", "topcells"]
    assert read_json(run.stage("topcells").metrics)["fixed"] is not None
    assert isinstance(baoseg.load(run.stage("topcells").root).method, names["TopCells"])
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 8.0], [0.0, 0.0]]]])
    method = SimpleNamespace(network=Passing(), config=names["Config"](share=0.5))
    assert names["TopCells"].classify(method, maps).tolist() == [[3.5, 4.0]]
