"""What a run leaves, again and interrupted, and folders that differ."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from pipeline.tiny_runs import (
    SEGMENTATION,
    STAGES,
    VAL,
    check_metrics,
    files,
    results,
    run,
    scene,
    write_images,
)

from baoseg import nets, pipeline, recipes, report, seeds
from baoseg.core.errors import CheckpointError, DataError, RecipeError, RunError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import Config as DataConfig
from baoseg.data.images import read_mask
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.data.synthetic import Synthetic
from baoseg.evaluate import THRESHOLDS
from baoseg.methods import bao, bas, transcam
from baoseg.pipeline import mapping
from baoseg.recipes import Recipe
from baoseg.seeds import masks
from baoseg.training import train

# ------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_the_files_of_the_layout_and_no_other(tiny_run: RunFolder) -> None:
    expected = {"run.json", "report.html"}
    for stage in STAGES:
        expected |= {f"{stage}/{name}" for name in ("network.safetensors", "losses.csv", "costs.json", "metrics.json")}
        expected |= {f"{stage}/maps/val/{name}.npz" for name in VAL} | {f"{stage}/masks/val/{name}.png" for name in VAL}
    assert set(files(tiny_run.root)) == expected


def test_the_manifest_says_what_was_run_on_what(tiny_run: RunFolder) -> None:
    manifest = read_json(tiny_run.manifest)
    assert pipeline.recipe_of(tiny_run) == tiny.RECIPE
    assert manifest["stages"] == list(STAGES)
    for role, split, count in (("train", "train", 12), ("eval", "val", 5)):
        fingerprint = Synthetic(tiny.RECIPE.data.synthetic, split).fingerprint()
        noted = manifest["data"][role]
        assert (noted["split"], noted["images"], noted["of"]) == (split, count, count)
        assert noted["fingerprint"] == noted["inputs"] == fingerprint
        assert noted["classes"] == list(Synthetic.classes.names)
    assert set(manifest["environment"]) == {"commit", "python", "torch", "system"}


def test_maps_are_of_the_present_classes_in_half_precision_at_a_quarter_of_the_sides(tiny_run: RunFolder) -> None:
    scenes = Synthetic(tiny.RECIPE.data.synthetic, "val")
    for stage in STAGES:
        for index, name in enumerate(VAL):
            path = tiny_run.stage(stage).maps("val", name)
            present = scenes.labels(index).nonzero()[:, 0] + 1
            with np.load(path, allow_pickle=False) as arrays:
                assert set(arrays) == {"classes", "scores", "size"} | ({"background"} if stage == "bao" else set())
                assert arrays["classes"].tolist() == present.tolist()
                assert arrays["scores"].dtype == np.float16
                assert arrays["scores"].shape == (len(present), 16, 16)
            with zipfile.ZipFile(path) as archive:  # uncompressed: reading them is what evaluation waits for
                assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_data_set_of_ten_thousand_stays_small(tmp_path: Path) -> None:
    height, width = 375, 500
    grid = (94, 125)
    seed = seeds.SeedMaps(torch.tensor([1, 2, 3]), torch.rand(3, *grid), torch.rand(grid), (height, width))
    seeds.save(tmp_path / "maps.npz", seed)
    assert 10_000 * (tmp_path / "maps.npz").stat().st_size < 3e9


def test_masks_are_the_label_images_of_the_stored_maps(tiny_run: RunFolder) -> None:
    for stage, threshold in (("transcam", tiny.RECIPE.masks.threshold), ("bao", None)):
        paths = tiny_run.stage(stage)
        for name in VAL:
            seed = seeds.load(paths.maps("val", name))
            assert torch.equal(read_mask(paths.mask("val", name)), masks.to_mask(seed, threshold=threshold))


# ------------------------------------------------------------------------------------- evaluation


def test_metrics_are_those_of_the_masks_on_disk(tiny_run: RunFolder) -> None:
    check_metrics(tiny_run, tiny.RECIPE)


def test_a_threshold_of_the_command_holds_for_every_stage(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(tiny_run.root, folder.root)
    pipeline.make_masks(folder, threshold=0.7)
    for stage in STAGES:
        for name in VAL:
            seed = seeds.load(folder.stage(stage).maps("val", name))
            mask = read_mask(folder.stage(stage).mask("val", name))
            assert torch.equal(mask, masks.to_mask(seed, threshold=0.7))


# --------------------------------------------------------------------------- again, and interrupted


def test_running_again_trains_nothing_and_prints_the_same_table(
    tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.root, folder)
    kept = [path for name, path in files(folder).items() if path.suffix in (".npz", ".safetensors", ".csv")]
    kept.append(folder / "run.json")
    before = results(folder), [path.stat().st_mtime_ns for path in kept]
    printed = []
    for _ in range(2):
        run(tiny.RECIPE, folder)
        printed.append(capsys.readouterr().out)
    assert (results(folder), [path.stat().st_mtime_ns for path in kept]) == before
    assert printed[0] == printed[1]
    for stage in STAGES:
        metrics = read_json(folder / stage / "metrics.json")
        assert f" {(metrics['threshold_free'] or metrics['fixed'])['miou']:.1f} " in printed[0]
    assert str(folder / "report.html") in printed[0]


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Press Ctrl-C in the middle of the call of that number, counted from 1."""
    original: Callable[..., object] = getattr(owner, name)
    calls = 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


def test_weights_of_a_later_step_are_missed_at_once(tiny_run: RunFolder, tmp_path: Path) -> None:
    late = replace(SEGMENTATION, net=replace(SEGMENTATION.net, weights=str(tmp_path / "none.safetensors")))
    recipe = replace(tiny.RECIPE, segmentations=(late,))
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such weights; check the path$"):
        run(recipe, tmp_path / "run")
    published = replace(tiny.RECIPE, net=replace(tiny.NET, weights=str(tmp_path / "conformer-small.safetensors")))
    with pytest.raises(CheckpointError, match=rf"`bao weights fetch conformer-small --to {tmp_path}`$"):
        run(published, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_not_made_yet_is_left_out_of_the_evaluation_and_of_the_page(
    tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    pipeline.add_refinements(folder, ["crf"])
    assert pipeline.evaluate_stages(folder)
    pipeline.make_report(folder)
    assert "bao+crf" not in capsys.readouterr().out
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    assert pipeline.evaluate_stages(folder)
    assert "bao+crf" in capsys.readouterr().out


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = (
        (transcam.TransCAM, "loss", 5),  # second epoch of the first stage, three steps each
        (bao.BAO, "after_step", 8),  # third epoch of the second stage
        (seeds, "save", 3),  # maps of the first stage
        (seeds, "save", 5),  # maps of the second stage: three of the first were left
        (mapping, "write_mask", 7),  # masks of the second stage
        (report, "build", 1),
    )
    left = []
    for owner, name, call in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, owner, name, call)
            with pytest.raises(KeyboardInterrupt):
                run(tiny.RECIPE, tmp_path)
        left.append(set(files(tmp_path)))
    assert "transcam/state.safetensors" in left[0]
    assert "transcam/state.safetensors" not in left[1] and "bao/state.safetensors" in left[1]
    assert sum(name.endswith(".npz") for name in left[2]) == 2
    assert sum(name.endswith(".npz") for name in left[3]) == 6
    assert sum(name.endswith(".png") for name in left[4]) == 6
    assert not any(Path(name).name.startswith(".") for names in left for name in names)  # nothing half-written
    run(tiny.RECIPE, tmp_path)
    assert results(tmp_path) == results(tiny_run.root)


# ------------------------------------------------------------------------------- folders that differ


@pytest.mark.parametrize(
    ("recipe", "difference"),
    [
        (replace(tiny.RECIPE, seed=1), r"another recipe \(seed was 0, now 1\)"),
        (replace(tiny.RECIPE, stages=tiny.RECIPE.stages[:1]), r"another recipe \(stages had 2 entries, now 1\)"),
        (
            replace(tiny.RECIPE, net=replace(tiny.NET, options=(("channel_ratio", 0.5), *tiny.NET.options[1:]))),
            r"another recipe \(net\.options\[0\]\[1\] was 0\.25, now 0\.5\)",
        ),
        (
            replace(tiny.RECIPE, data=DataConfig(path="synthetic", synthetic=SyntheticConfig(size=96))),
            r"another recipe \(data\.synthetic\.size was 64, now 96\)",
        ),
    ],
)
def test_the_folder_of_another_recipe_is_refused(tiny_run: RunFolder, recipe: Recipe, difference: str) -> None:
    with pytest.raises(RunError, match=difference):
        run(recipe, tiny_run.root)


def test_the_folder_of_an_earlier_version_without_settings_that_came_later_continues(tmp_path: Path) -> None:
    """What it does not name had the value that is the default now, so it is the same recipe."""
    recipe = replace(
        tiny.RECIPE,
        net=nets.Config(backbone="timm:test_resnet"),
        stages=(recipes.Stage(method=bas.Config(), schedule=train.Config(epochs=1, batch_size=4)),),
    )
    recipe = recipes.refined(recipe, ["irn"])
    folder = pipeline.begin(recipe, tmp_path / "run")
    folder.stage("bas").root.mkdir()
    manifest = json.loads(folder.manifest.read_text())
    del manifest["recipe"]["stages"][0]["method"]["activation"]
    del manifest["recipe"]["stages"][0]["threshold"]
    del manifest["refinements"]["bas+irn"]["by"]["power"]
    folder.manifest.write_text(json.dumps(manifest))
    assert pipeline.begin(recipe, tmp_path / "run").root == folder.root
    assert pipeline.recipe_of(folder) == recipe
    changed = replace(recipe.stages[0], method=bas.Config(activation=bas.Activation.MARGIN))
    with pytest.raises(RunError, match=r"stages\.bas\.method\.activation was raw, now margin"):
        pipeline.begin(replace(recipe, stages=(changed,)), tmp_path / "run")
    (walk,) = recipe.refinements
    powered = replace(walk, by=replace(walk.by, power=1.5))  # type: ignore[call-arg]
    (folder.stage("bas+irn").root / "masks").mkdir(parents=True)  # it made something
    with pytest.raises(RunError, match=r"another bas\+irn \(by\.power was 1\.0, now 1\.5\)"):
        pipeline.begin(replace(recipe, refinements=(powered,)), tmp_path / "run")


def test_a_stage_may_have_a_threshold_of_its_own(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Of the masks and of the evaluation; where it has none, the recipe's."""
    own = tuple(replace(stage, threshold=0.0) for stage in tiny.RECIPE.stages)
    assert tiny.RECIPE.masks_of("transcam") == masks.Config(threshold=0.3)
    folder = pipeline.begin(replace(tiny.RECIPE, stages=own), tmp_path / "run")
    for stage in STAGES:
        shutil.copytree(tiny_run.stage(stage).root, folder.stage(stage).root)
    pipeline.make_masks(folder)
    pipeline.evaluate_stages(folder)
    metrics = read_json(folder.stage("transcam").metrics)
    assert metrics["fixed"]["threshold"] == 0.0
    assert metrics["fixed"]["miou"] == metrics["sweep"]["miou"][THRESHOLDS.index(0.0)]
    for name in VAL:
        seed = seeds.load(folder.stage("transcam").maps("val", name))
        found = read_mask(folder.stage("transcam").mask("val", name))
        assert torch.equal(found, masks.to_mask(seed, threshold=0.0))
    assert metrics["fixed"]["miou"] != read_json(tiny_run.stage("transcam").metrics)["fixed"]["miou"]
    assert read_json(folder.stage("bao").metrics) == read_json(tiny_run.stage("bao").metrics)  # learned


def test_the_folder_of_other_data_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data", {"one": (scene(0), "bee"), "two": (scene(1), "jay")})
    recipe = tiny.with_data(tiny.RECIPE, tmp_path / "data")
    folder = pipeline.begin(recipe, tmp_path / "run")
    folder.stage("transcam").losses.parent.mkdir()
    assert pipeline.begin(recipe, tmp_path / "run").root == folder.root
    (tmp_path / "data/labels.csv").write_text("image,labels\none.png,bee jay\ntwo.png,jay\n")
    with pytest.raises(RunError, match=r"other data \(labels changed\); choose another folder with --out"):
        pipeline.begin(recipe, tmp_path / "run")


def test_a_first_try_that_did_nothing_leaves_the_folder_free(tmp_path: Path) -> None:
    wrong = replace(tiny.RECIPE, net=replace(tiny.NET, weights=str(tmp_path / "nowhere.pth")))
    with pytest.raises(CheckpointError, match="no such weights"):
        run(wrong, tmp_path / "run")
    folder = pipeline.begin(tiny.RECIPE, tmp_path / "run")
    assert pipeline.recipe_of(folder) == tiny.RECIPE


def test_what_is_no_run_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for out in (tmp_path, file):
        with pytest.raises(RunError, match="no run folder; choose another folder with --out"):
            run(tiny.RECIPE, out)
    for step in (pipeline.make_masks, pipeline.evaluate_stages, pipeline.make_report):
        with pytest.raises(RunError, match=r"run\.json: no such file"):
            step(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "mine"


def test_a_step_before_its_turn_names_the_one_to_run_first(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = pipeline.begin(tiny.RECIPE, tmp_path / "run")
    with pytest.raises(RunError, match="not trained yet; run `bao train`"):
        pipeline.make_maps(folder, hardware=tiny.HARDWARE)
    for stage in STAGES:
        folder.stage(stage).root.mkdir()
        shutil.copy(tiny_run.stage(stage).network, folder.stage(stage).network)
    for step in (pipeline.make_masks, pipeline.evaluate_stages):
        with pytest.raises(DataError, match="no such maps; run `bao maps`"):
            step(folder)


def test_crops_that_mix_image_and_padding_in_a_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="crops of 60 pixels"):
        run(replace(tiny.RECIPE, augment=replace(tiny.RECIPE.augment, crop=60)), tmp_path)
