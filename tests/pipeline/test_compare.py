"""Several methods, seeds of others and sums side by side."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pipeline.tiny_runs import (
    SHORT,
    STAGES,
    VAL,
    results,
    run,
)

import baoseg
from baoseg import nets, pipeline, refine, seeds
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import open_dataset
from baoseg.data.images import read_mask
from baoseg.methods import amn
from baoseg.nets import weights
from baoseg.pipeline import training
from baoseg.recipes import Recipe
from baoseg.seeds import masks
from baoseg.seeds.fusion import fuse

# ------------------------------------------------------------------------------- several methods side by side


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """BNR, AMN on TransCAM's seeds, the seeds of another tool, and a sum."""
    folder = tmp_path_factory.mktemp("comparison")
    scenes = open_dataset(tiny.RECIPE.data, "eval")
    (folder / "other").mkdir()
    for index, name in enumerate(VAL):  # as the IRN family saves them: classes from 0, without the background
        keys = scenes.labels(index).nonzero()[:, 0].numpy()
        truth = scenes[index].mask
        assert truth is not None
        maps = np.stack([(truth == key + 1).float().numpy() for key in keys])
        np.save(folder / "other" / f"{name}.npy", {"keys": keys, "high_res": maps}, allow_pickle=True)
    return pipeline.compare(
        SHORT,
        folder / "run",
        methods=["bnr", "transcam+amn"],
        seeds={"other": str(folder / "other")},
        fuse=["bnr+other"],
        allow_pickle=True,
        hardware=tiny.HARDWARE,
    )


def test_a_comparison_evaluates_methods_foreign_seeds_and_sums(comparison: RunFolder) -> None:
    names = ["transcam", "bnr", "transcam+amn", "other", "bnr+other"]
    assert read_json(comparison.manifest)["stages"] == names
    metrics = {name: read_json(comparison.stage(name).metrics) for name in names}
    assert all(result["fixed"] is not None for result in metrics.values())
    # the other tool's maps are the ground truth at a quarter of its sides: as good as that resolution allows
    assert metrics["other"]["oracle"]["miou"] > 80
    assert metrics["bnr+other"]["oracle"]["miou"] > metrics["bnr"]["oracle"]["miou"]


def test_a_sum_is_that_of_the_maps_on_disk(comparison: RunFolder) -> None:
    paths = [comparison.stage(name).maps("val", VAL[0]) for name in ("bnr", "other", "bnr+other")]
    first, second, total = (seeds.load(path) for path in paths)
    expected = fuse([first, second])
    torch.testing.assert_close(total.scores, expected.scores, atol=1e-3, rtol=0.0)
    assert total.classes.equal(expected.classes)


def test_amn_learns_from_confident_seeds_of_the_training_images(comparison: RunFolder) -> None:
    scenes = open_dataset(SHORT.data, "train")
    method = pipeline.recipe_of(comparison).stages[-1].method
    assert isinstance(method, amn.Config)
    name, thresholds = scenes.names[3], (method.background_below, method.foreground_above)
    seed = seeds.load(comparison.stage("transcam").maps("train", name))
    low, high = (refine.by_crf(scenes[3].image, masks.to_mask(seed, threshold=cut)) for cut in thresholds)
    labels = read_mask(comparison.stage("transcam+amn").label("train", name))
    assert torch.equal(labels == 0, (low == 0) & (high == 0))
    assert torch.equal(labels[high > 0], high[high > 0])
    assert (labels[(low > 0) & (high == 0)] == 255).all()


def test_amn_learns_without_a_crf_where_its_settings_say_so(comparison: RunFolder, tmp_path: Path) -> None:
    scenes, recipe = open_dataset(SHORT.data, "train"), pipeline.recipe_of(comparison)
    stage = replace(recipe.stages[-1], method=amn.Config(crf=False))
    shutil.copytree(comparison.stage("transcam").root, tmp_path / "transcam")
    label = training._pixel_labels(RunFolder(tmp_path), recipe, stage, scenes, hardware=tiny.HARDWARE)
    assert label is not None
    seed = seeds.load(comparison.stage("transcam").maps("train", scenes.names[3]))
    assert torch.equal(label(3), masks.confident_labels(seed, background=0.05, foreground=0.30))


def test_costs_are_noted(comparison: RunFolder) -> None:
    costs = read_json(comparison.stage("bnr").costs)
    assert costs["train"]["seconds"] > 0
    assert costs["train"]["epochs"] == 1
    assert costs["maps"]["images"] == len(VAL)
    assert not comparison.stage("other").costs.exists()


def test_transcam_on_a_cnn_is_cam_and_left_out(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr(pipeline, "run", lambda recipe, out, *, hardware: asked.append(recipe) or RunFolder(out))
    base = replace(SHORT, net=nets.Config(backbone="timm:test_resnet"))
    pipeline.compare(base, Path("nowhere"), methods=["transcam", "cam", "bnr"], hardware=tiny.HARDWARE)
    assert asked[0].names == ["cam", "bnr"]
    assert "transcam: the same as cam" in capsys.readouterr().out


def test_what_a_network_cannot_be_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no stages for a generator"):
        pipeline.compare(SHORT, tmp_path / "run", methods=["transcam", "bas"], hardware=tiny.HARDWARE)
    assert not (tmp_path / "run").exists()


def test_seeds_of_a_run_can_be_fused_in_a_run_of_their_own(tiny_run: RunFolder, tmp_path: Path) -> None:
    alone = pipeline.fuse_seeds(tiny.RECIPE, [str(tiny_run.root)], tmp_path / "alone")
    own, again = (read_json(folder.metrics) for folder in (tiny_run.stage("bao"), alone.stage("fused")))
    assert again["threshold_free"]["miou"] == pytest.approx(own["threshold_free"]["miou"], abs=0.2)  # halves, twice
    both = pipeline.fuse_seeds(tiny.RECIPE, [str(tiny_run.root / stage) for stage in STAGES], tmp_path / "both")
    assert read_json(both.stage("fused").metrics)["fixed"] is not None
    assert (both.root / "report.html").exists()


def test_seeds_that_are_nowhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: neither a stage of this run nor a folder"):
        pipeline.fuse_seeds(tiny.RECIPE, [str(tmp_path / "nowhere")], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sources_are_looked_at_before_anything_is_made(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Seeds of other classes, of too few images, and maps of a run with another class list."""
    folder, scenes = tmp_path / "other", open_dataset(tiny.RECIPE.data, "eval")
    folder.mkdir()
    for index, name in enumerate(VAL[:-1]):
        keys = {key: np.ones((64, 64), np.float32) for key in scenes.labels(index).nonzero()[:, 0].tolist()}
        np.save(folder / f"{name}.npy", keys, allow_pickle=True)

    def refused(source: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            pipeline.fuse_seeds(tiny.RECIPE, [str(source)], tmp_path / "run", allow_pickle=True)
        assert not (tmp_path / "run").exists()

    refused(folder, rf"other: 1 of {len(VAL)} images have no seed, {VAL[-1]} for one")
    np.save(folder / f"{VAL[-1]}.npy", {len(scenes.classes): np.ones((64, 64))}, allow_pickle=True)
    refused(folder, rf"{VAL[-1]}.npy: class index {len(scenes.classes)} is outside")

    copied = RunFolder(shutil.copytree(tiny_run.root, tmp_path / "copied"))
    path = copied.stage("bao").network
    about = weights.read_metadata(path)
    assert about is not None
    names = about["classes"][::-1]
    weights.save(path, baoseg.load(path).method.network, {**about, "classes": names})
    refused(copied.root, f"bao: maps of the classes {', '.join(names)}, the data has ")
    shutil.copy(tiny_run.stage("bao").network, copied.stage("bao").network)
    copied.stage("bao").maps("val", VAL[0]).unlink()
    refused(copied.root, rf"bao: 1 of {len(VAL)} images have no maps, .*{VAL[0]}.npz; run `bao maps \S+ --split val`")


def test_seeds_that_were_made_anew_are_read_anew(tmp_path: Path) -> None:
    """The same command measures what lies in the folder now; where the seeds are gone, what it measured stays."""
    folder, scenes = tmp_path / "other", open_dataset(tiny.RECIPE.data, "eval")
    folder.mkdir()

    def score(turned: bool) -> float:
        for index, name in enumerate(VAL):
            mask = scenes.mask(index)
            assert mask is not None
            maps = {k: (mask == k + 1).float().numpy() for k in scenes.labels(index).nonzero()[:, 0].tolist()}
            np.save(folder / f"{name}.npy", {k: 1 - v if turned else v for k, v in maps.items()}, allow_pickle=True)
        return measured()

    def measured() -> float:
        run = pipeline.fuse_seeds(tiny.RECIPE, [str(folder)], tmp_path / "run", allow_pickle=True)
        return float(read_json(run.stage("fused").metrics)["fixed"]["miou"])

    wrong, right = score(turned=True), score(turned=False)
    assert wrong < 20 and right > 80
    files = [RunFolder(tmp_path / "run").stage("fused").maps("val", name) for name in VAL]
    before = [path.stat().st_mtime_ns for path in files]
    shutil.rmtree(folder)
    assert measured() == right
    assert [path.stat().st_mtime_ns for path in files] == before


def test_the_network_in_training_is_evaluated_after_each_epoch(tmp_path: Path) -> None:
    """The last row is the network that is kept, since figure 4 keeps the online one."""
    recipe = replace(SHORT, stages=(replace(SHORT.stages[0], schedule=tiny.RECIPE.stages[0].schedule),))
    folder = run(replace(recipe, epoch_curves=True), tmp_path / "run")
    stage = folder.stage("transcam")
    rows = [line.split(",") for line in stage.epochs.read_text().splitlines()]
    assert rows[0] == ["epoch", "miou", "oracle_miou", "oracle_threshold"]
    assert [row[0] for row in rows[1:]] == ["1", "2"]
    metrics = read_json(stage.metrics)
    assert float(rows[-1][1]) == pytest.approx(metrics["fixed"]["miou"], abs=0.3)  # maps on disk are halves
    without = run(recipe, tmp_path / "without")
    assert results(without.root)["transcam/network.safetensors"] == results(folder.root)["transcam/network.safetensors"]
