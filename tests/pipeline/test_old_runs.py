"""Run folders that version 0.1 made (tools/old_runs.py) open, and say today what was noted then."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import baoseg
from baoseg import cli, pipeline, seeds
from baoseg.core.errors import RunError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.training.train import Hardware

OLD = Path(__file__).parents[1] / "fixtures" / "old"
STAGES = {"masks": ["cam", "bao", "cam+bao", "bao+crf"], "boxes": ["cam", "bas"]}
DEVICE = ("--accelerator", "cpu", "--workers", "0")


@pytest.fixture(params=STAGES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    """A copy, in another place than it was made in, together with its data where it has files of them."""
    shutil.copytree(OLD / request.param, tmp_path / request.param)
    return RunFolder(tmp_path / request.param / "run")


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bao", *map(str, words)])
        cli.main()

    return run


def stages_of(run: RunFolder) -> list[str]:
    return STAGES[run.root.parent.name]


def alike(found: object, noted: object) -> bool:
    """Whether two values of JSON are equal, but for the rounding of another processor."""
    if isinstance(noted, dict) and isinstance(found, dict):
        return all(alike(found[key], value) for key, value in noted.items())
    if isinstance(noted, list) and isinstance(found, list):
        return len(found) == len(noted) and all(map(alike, found, noted))
    return found == (pytest.approx(noted, rel=0.02, abs=1.0) if isinstance(noted, float) else noted)


def test_they_are_evaluated_and_reported_as_then(
    old: RunFolder, bao: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    noted = {name: read_json(old.stage(name).metrics) for name in stages_of(old)}
    for name in noted:
        old.stage(name).metrics.unlink()
    bao("evaluate", old.root)
    out = capsys.readouterr().out
    scores = ("gt_known", "median_iou", "oracle") if "GT-known" in out else ("fixed", "threshold_free", "oracle")
    for name, metrics in noted.items():
        found = read_json(old.stage(name).metrics)
        assert found.keys() >= metrics.keys()
        assert all(alike(found[key], metrics[key]) for key in scores if metrics.get(key) is not None)
        assert name in out
    bao("report", old.root)
    page = old.report.read_text(encoding="utf-8")
    assert all(name in page for name in noted) and "http://" not in page.replace("http://www.w3.org", "")


def test_maps_are_made_again_as_then(old: RunFolder, bao: Callable[..., None]) -> None:
    files = sorted((old.stage("cam").root / "maps").rglob("*.npz"))
    noted = [seeds.load(path) for path in files]
    shutil.rmtree(old.stage("cam").root / "maps")
    bao("maps", old.root, *DEVICE)
    assert len(files) >= 2
    for path, before in zip(files, noted, strict=True):
        seed = seeds.load(path)
        assert (seed.classes.tolist(), seed.size) == (before.classes.tolist(), before.size)
        torch.testing.assert_close(seed.scores, before.scores, atol=0.01, rtol=0)


@pytest.mark.parametrize("old", ["masks"], indirect=True)
def test_masks_are_made_again_as_then(old: RunFolder, bao: Callable[..., None]) -> None:
    path = old.stage("bao").mask("val", "val_00000")
    noted = read_mask(path)
    shutil.rmtree(path.parent)
    bao("masks", old.root)
    assert torch.equal(read_mask(path), noted)
    bao("refine", old.root, "--with", "crf", "--of", "bao", *DEVICE)


def test_their_networks_load_as_labelers(old: RunFolder) -> None:
    name = stages_of(old)[1]
    image = np.full((40, 60, 3), 90, dtype=np.uint8)
    for source in (old.root, old.stage(name).network):
        found = baoseg.load(source)(image)
        assert found.mask.shape == (40, 60)
        assert (found.background is None) == (name == "bas")


def test_their_recipes_continue_them(old: RunFolder) -> None:
    """What is trained stays; that of boxes is written in the words of today, and paths are where the files are now."""
    recipe = pipeline.recipe_of(old)
    assert recipe.name == f"old-{recipe.task}" and old.root.parent.name == recipe.task
    before = {path: path.stat().st_mtime_ns for path in old.root.rglob("network.safetensors")}
    pipeline.run(recipe, old.root, hardware=Hardware(accelerator="cpu", workers=0))
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 2
    noted = read_json(old.manifest)
    assert "localization" not in noted and noted["recipe"].get("task", "masks") == recipe.task
    assert pipeline.recipe_of(old) == recipe
    with pytest.raises(RunError, match=r"holds a run with another recipe .seed was 0, now 1"):
        pipeline.begin(replace(recipe, seed=1), old.root)
