"""Which recipe on which data a run folder holds: places, data that change, additions, and two processes at a time."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from baoseg import cli, nets, pipeline, recipes
from baoseg.core import run_folder, settings
from baoseg.core.errors import (
    BaosegError,
    CheckpointError,
    DataError,
    DivergenceError,
    NotFiniteError,
    RecipeError,
    RunError,
    TargetError,
)
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import Run
from baoseg.data import Folder
from baoseg.methods import amn, bas, cam
from baoseg.pipeline import manifest
from baoseg.predict import segment
from baoseg.recipes import Recipe
from baoseg.training import train

ROOT = Path(__file__).parents[2]
NAMES = tuple(f"p{index}" for index in range(6))
SHORT = train.Config(epochs=1, batch_size=4, lr=1e-3)
RECIPE = replace(tiny.RECIPE, stages=(recipes.Stage(method=cam.Config(), schedule=SHORT),))


def write_data(root: Path, *, masks: bool = True) -> Path:
    """Six images of two classes: four to train on, two to evaluate."""
    generator = np.random.default_rng(0)
    (root / "splits").mkdir(parents=True)
    lines = ["image,labels"]
    for index, name in enumerate(NAMES):
        Image.fromarray(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(root / f"{name}.png")
        lines.append(f"{name}.png,{('cat', 'dog')[index % 2]}")
        if masks:
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.full((48, 64), index % 2 + 1, dtype=np.uint8)).save(root / "masks" / f"{name}.png")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "splits" / "train.txt").write_text("\n".join(NAMES[:4]) + "\n")
    (root / "splits" / "val.txt").write_text("\n".join(NAMES[4:]) + "\n")
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a finished run on them, which tests copy."""
    root = tmp_path_factory.mktemp("project")
    pipeline.run(tiny.with_data(RECIPE, write_data(root / "data")), root / "run", hardware=tiny.HARDWARE)
    return root


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The run in a copy of the project, from which the original cannot be reached; the current folder."""
    copied = Path(shutil.copytree(project, tmp_path / "copy"))
    hidden = project.with_name("hidden")
    project.rename(hidden)
    monkeypatch.chdir(copied)
    yield copied
    hidden.rename(project)


def recipe_on(path: object) -> Recipe:
    return tiny.with_data(RECIPE, path)


def begin(recipe: Recipe, out: Path) -> Run:
    return pipeline.begin(recipe, out, hardware=tiny.HARDWARE)


# ------------------------------------------------------------------------------------------- places


def test_all_ways_to_write_a_path_are_one_recipe(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(copy))
    (copy / "link").symlink_to("data")
    for path in ("data", "data/", "./data", "run/../data", copy / "data", "~/data", "link"):
        begin(recipe_on(path), Path("run"))
        assert Path(read_json(copy / "run" / "run.json")["recipe"]["data"]["path"]).is_absolute()
        assert manifest.split_data(Run(Path("run"))).names == NAMES[4:]
    monkeypatch.chdir(copy.parent)
    begin(recipe_on(copy / "data"), copy / "run")


def test_a_run_that_began_with_a_relative_path_goes_on_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    folder = pipeline.run(recipe_on("data"), Path("run"), hardware=tiny.HARDWARE)
    assert folder.root == Path("run")
    monkeypatch.chdir("/")
    pipeline.make_masks(Run(tmp_path / "run"))
    pipeline.make_report(Run(tmp_path / "run"))
    assert pipeline.recipe_of(Run(tmp_path / "run")).data.path == str(tmp_path / "data")


def test_a_run_and_its_data_may_be_moved_together(copy: Path, tmp_path: Path) -> None:
    """`copy` was moved from where its manifest says that it is."""
    assert pipeline.recipe_of(Run(copy / "run")).data.path == str(copy / "data")
    assert pipeline.evaluate_stages(Run(copy / "run"))
    moved = copy.rename(tmp_path / "elsewhere")
    assert manifest.training_data(Run(moved / "run")).names == NAMES[:4]
    begin(recipe_on(moved / "data"), moved / "run")
    assert read_json(moved / "run" / "run.json")["folder"] == str(moved / "run")


def test_data_that_were_moved_alone_are_found_once_they_are_named(copy: Path, tmp_path: Path) -> None:
    folder, moved = Run(copy / "run"), tmp_path / "moved"
    (copy / "data").rename(moved)
    with pytest.raises(RunError, match=r"run\.json: its data are not in .*; run the command .* again with --data and"):
        pipeline.make_masks(folder)
    begin(recipe_on(moved), folder.root)
    pipeline.make_masks(folder)
    assert pipeline.recipe_of(folder).data.path == str(moved)


def test_a_relative_path_of_an_earlier_version_is_one_from_the_current_folder(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Run(copy / "run")
    as_before(folder, path="data")
    pipeline.make_masks(Run(Path("run")))
    begin(recipe_on("data/"), Path("run"))
    as_before(folder, path="data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"its data are not in data, as seen from where the run was made: go there, or"):
        pipeline.evaluate_stages(folder)
    begin(recipe_on(copy / "data"), folder.root)
    assert pipeline.evaluate_stages(folder)


def as_before(folder: Run, *, path: str) -> None:
    """The manifest as version 0.1 wrote it."""
    noted = read_json(folder.manifest)
    noted.pop("folder", None)
    noted["recipe"]["data"]["path"] = path
    for role, split in (("train", "train"), ("eval", "val")):
        fingerprint = Folder(path, split, training=role == "train").fingerprint()
        noted["data"][role] = {"split": split, "images": noted["data"][role]["images"], "fingerprint": fingerprint}
    write_json(folder.manifest, noted)


def test_the_manifest_of_an_earlier_version_opens_and_is_completed(copy: Path) -> None:
    folder = Run(copy / "run")
    as_before(folder, path=str(copy / "data"))
    for step in (pipeline.make_masks, pipeline.evaluate_stages, pipeline.make_report):
        step(folder)
    before = read_json(folder.manifest)
    begin(recipe_on(copy / "data"), folder.root)
    after = read_json(folder.manifest)
    assert after["recipe"] == before["recipe"]
    assert after["data"]["eval"]["classes"] == ["cat", "dog"]
    as_before(folder, path=str(copy / "data"))
    (copy / "data" / "p4.png").write_bytes(b"other")
    with pytest.raises(RunError, match="names, labels or files changed"):
        pipeline.make_masks(folder)


def test_paths_of_weights_masks_and_seeds_are_places_too(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nets.build(tiny.NET, 2)
    save_file(network.state_dict(), copy / "w.safetensors")
    shutil.copytree(copy / "data" / "masks", copy / "others")
    segmentation = replace(SEGMENTATION, masks="others")
    fusion = recipes.Fusion(called="seeds", sources=("run/cam",))
    base = replace(recipe_on("data"), net=replace(tiny.NET, weights="w.safetensors"), fusions=(fusion,))
    recipe = replace(base, segmentations=(segmentation,))
    folder = begin(recipe, Path("new"))
    (copy / "new" / "cam").mkdir()  # begun
    noted = read_json(folder.manifest)
    assert noted["recipe"]["net"]["weights"] == str(copy / "w.safetensors")
    assert noted["recipe"]["fusions"][0]["sources"] == [str(copy / "run" / "cam")]
    assert noted["segmentations"]["segment"]["masks"] == str(copy / "others")
    absolute = recipes.with_paths(recipe, lambda path: str(copy / path))
    assert recipes.paths_of(absolute) == [str(copy / path) for path in ("data", "w.safetensors", "run/cam", "others")]
    begin(absolute, copy / "new")
    with pytest.raises(RunError, match=r"another recipe \(net\.weights was .*w\.safetensors, now .*v\.safetensors\)"):
        begin(replace(recipe, net=replace(tiny.NET, weights="v.safetensors")), copy / "new")
    monkeypatch.chdir(copy.rename(copy.with_name("again")))
    assert recipes.paths_of(pipeline.recipe_of(Run(Path("new")))) == [
        str(copy.with_name("again") / path) for path in ("data", "w.safetensors", "run/cam", "others")
    ]
    begin(recipe, Path("new"))


# --------------------------------------------------------------------------------------- other data


def add_image(data: Path) -> None:
    shutil.copy(data / "p4.png", data / "p6.png")
    (data / "labels.csv").write_text((data / "labels.csv").read_text() + "p6.png,cat\n")
    (data / "splits" / "val.txt").write_text("p4\np5\np6\n")


def change_label(data: Path) -> None:
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace("p4.png,cat", "p4.png,dog"))


def rename_class(data: Path) -> None:
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace("dog", "cow"))


def change_names(data: Path) -> None:
    (data / "splits" / "val.txt").write_text("p3\np5\n")


def change_files(data: Path) -> None:
    for path in data.glob("*.png"):
        Image.new("RGB", (64, 48)).save(path)


OTHER = {
    add_image: "images 2, now 3",
    change_label: "labels changed",
    rename_class: "classes cat, dog, now cat, cow",
    change_names: "names and labels changed",
    change_files: "2 of 2 image files changed, as that of p4",
}


@pytest.mark.parametrize("change", OTHER)
def test_every_step_names_what_is_different_about_other_data(copy: Path, change: Any) -> None:
    folder = Run(copy / "run")
    kept = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    change(copy / "data")
    steps = [
        lambda: pipeline.make_maps(folder, hardware=tiny.HARDWARE),
        lambda: pipeline.make_masks(folder),
        lambda: pipeline.evaluate_stages(folder),
        lambda: pipeline.make_report(folder),
    ]
    for step in steps:
        with pytest.raises(RunError) as caught:
            step()
        assert f"{copy / 'data'} holds other data than this run was made on ({OTHER[change]}); restore" in str(
            caught.value
        )
    with pytest.raises(RunError, match="holds a run on other data"):
        begin(recipe_on("data"), folder.root)
    assert kept == {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def test_the_training_images_are_compared_where_something_learns_from_them(copy: Path) -> None:
    folder = Run(copy / "run")
    Image.new("RGB", (64, 48)).save(copy / "data" / "p0.png")
    pipeline.make_masks(folder)  # of the others
    for step in (
        lambda: pipeline.train_stages(folder, hardware=tiny.HARDWARE),
        lambda: pipeline.add_refinements(folder, ["crf"]),
        lambda: pipeline.add_segmentation(folder, called="segment", net=SEGMENTATION.net.name),
        lambda: pipeline.make_masks(folder, split="train"),
    ):
        with pytest.raises(RunError, match="1 of 4 image files changed, as that of p0"):
            step()


def test_a_split_that_is_named_is_noted_and_compared(copy: Path) -> None:
    folder = Run(copy / "run")
    (copy / "data" / "splits" / "test.txt").write_text("p0\np4\n")
    pipeline.make_maps(folder, hardware=tiny.HARDWARE, split="test")
    assert read_json(folder.manifest)["data"]["others"]["test"]["images"] == 2
    pipeline.make_masks(folder, split="test")
    (copy / "data" / "splits" / "test.txt").write_text("p0\np4\np5\n")
    with pytest.raises(RunError, match=r"\(images 2, now 3\)"):
        pipeline.make_masks(folder, split="test")


def test_an_excerpt_says_how_many_images_there_were(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    recipe = recipe_on(tmp_path / "data")
    folder = begin(replace(recipe, data=replace(recipe.data, limit=1)), tmp_path / "run")
    add_image(tmp_path / "data")
    with pytest.raises(RunError, match=r"\(images 2, now 3\)"):
        manifest.split_data(folder)


def test_what_does_not_change_images_is_no_other_data(copy: Path, tmp_path: Path) -> None:
    folder, before = Run(copy / "run"), read_json(copy / "run" / "run.json")["data"]
    for path in (copy / "data").rglob("*"):
        os.utime(path, (0, 0))
    text = (copy / "data" / "labels.csv").read_text()
    (copy / "data" / "labels.csv").write_text(text.replace("\n", "\r\n"))
    (copy / "data" / "notes.txt").write_text("mine")
    begin(recipe_on("data"), folder.root)
    assert pipeline.evaluate_stages(folder)
    assert read_json(folder.manifest)["data"] == before


def test_ground_truth_may_be_added_and_corrected_and_that_is_said(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Run(copy / "run")
    said = "The ground truth of val has changed since this run was made"
    assert pipeline.evaluate_stages(folder)
    assert said not in capsys.readouterr().out
    mask = np.ones((48, 64), dtype=np.uint8)
    mask[:20, ::3] = 0
    Image.fromarray(mask).save(copy / "data" / "masks" / "p4.png")
    pipeline.make_report(folder)
    assert "changed since the evaluation: run `bao evaluate` and `bao report` again" in capsys.readouterr().out
    assert pipeline.evaluate_stages(folder)
    assert said in capsys.readouterr().out
    assert pipeline.evaluate_stages(folder)
    pipeline.make_report(folder)
    assert "changed since" not in capsys.readouterr().out


def test_a_broken_image_may_be_restored_where_nothing_was_made_from_it(copy: Path) -> None:
    folder, image = Run(copy / "run"), copy / "data" / "p4.png"
    whole = image.read_bytes()
    shutil.rmtree(folder.root)
    image.write_bytes(whole[:300])
    begin(recipe_on("data"), folder.root)
    pipeline.train_stages(folder, hardware=tiny.HARDWARE)
    with pytest.raises(DataError, match=r"p4\.png"):
        pipeline.make_maps(folder, hardware=tiny.HARDWARE)
    image.write_bytes(whole)
    pipeline.make_maps(folder, hardware=tiny.HARDWARE)
    begin(recipe_on("data"), folder.root)
    image.write_bytes(whole[:300])
    with pytest.raises(RunError, match="1 of 2 image files changed, as that of p4"):
        pipeline.make_maps(folder, hardware=tiny.HARDWARE)


def test_seeds_of_a_run_on_other_data_are_not_fused(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy / "data", tmp_path / "data")
    change_files(tmp_path / "data")
    for source in (copy / "run", copy / "run" / "cam"):
        with pytest.raises(RunError, match=r"was made on other data \(2 of 2 image files changed, as that of p4\)"):
            pipeline.fuse_seeds(recipe_on(tmp_path / "data"), [str(source)], tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    pipeline.fuse_seeds(recipe_on(copy / "data"), ["run/cam"], tmp_path / "fused")


def test_the_fingerprint_of_a_folder_is_that_of_earlier_versions(tmp_path: Path) -> None:
    """Another formula would make every run folder one of other data."""
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat\nb.png,dog cat\n")
    for name, size in (("a", 100), ("b", 200)):
        (tmp_path / f"{name}.png").write_bytes(b"0" * size)
    assert Folder(tmp_path).fingerprint() == "b0a016983819dde38c359ec986b17cb186c0f98b6cf7aad37e99603f51f08f36"


# ---------------------------------------------------------------------------------------- additions

CNN = nets.Config(backbone="timm:test_resnet")
SEGMENTATION = recipes.Segmentation(
    masks="cam",
    schedule=SHORT,
    net=segment.NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16),
    inference=segment.Inference(scales=(1.0,)),
)
NET = "deeplab-largefov:timm:test_resnet"


def state_of(folder: Run) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"net": "smp:unet/resnet188"}, "smp:unet/resnet188: no such encoder"),
        ({"net": "deeplabv3:resnet101"}, "unknown network"),
        ({"net": NET, "weights": "nope.pth"}, "nope.pth: no such weights; check the path"),
        ({"net": NET, "weights": "labels.csv"}, "labels.csv"),
        ({"net": NET, "masks": "bao+crf"}, "neither a stage of this run nor a folder with masks"),
        ({"net": NET, "called": "a/b"}, "'a/b' cannot name a folder"),
        ({"net": NET, "called": "run.json"}, "'run.json' cannot name a folder of the run"),
        ({"net": NET, "called": "x" * 300}, "cannot name a folder of the run"),
        ({"net": NET, "called": "cam"}, "name each once"),
        ({"net": NET, "epochs": 0}, "0 epochs"),
        ({"net": NET, "rounds": 0}, "0 rounds"),
        ({"net": NET, "reweight": True, "masks": "data/masks"}, "do not reweight"),
    ],
)
def test_a_segmentation_that_cannot_be_made_leaves_the_run_as_it_is(
    copy: Path, words: dict[str, Any], problem: str
) -> None:
    shutil.copy(copy / "data" / "labels.csv", copy)
    folder = Run(copy / "run")
    before = state_of(folder)
    weights = Path(words.pop("weights")) if "weights" in words else None
    with pytest.raises(BaosegError) as caught:
        pipeline.add_segmentation(folder, weights=weights, **{"called": "segment", **words})
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state_of(folder) == before


def test_weights_that_do_not_fit_are_refused_before_they_are_noted(copy: Path) -> None:
    folder = Run(copy / "run")
    save_file({"backbone.weight": torch.zeros(3)}, copy / "w.safetensors")
    before = state_of(folder)
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        pipeline.add_segmentation(folder, called="segment", net=NET, weights=Path("w.safetensors"))
    assert state_of(folder) == before


def test_refinements_that_cannot_be_made_leave_the_run_as_it_is(copy: Path) -> None:
    folder = Run(copy / "run")
    before = state_of(folder)
    for kinds, of, problem in (
        (["irn"], [], "no stages; use a convolutional network"),
        (["psa"], [], "no stages; use a convolutional network"),
        (["crf"], ["nosuchstage"], "cannot refine nosuchstage"),
        (["rcf"], [], "unknown refinement 'rcf'"),
        (["crf", "irn"], [], "no stages"),
    ):
        with pytest.raises(RecipeError, match=problem):
            pipeline.add_refinements(folder, kinds, of=of)
    assert state_of(folder) == before
    pipeline.add_refinements(folder, ["crf"])
    assert list(read_json(folder.manifest)["refinements"]) == ["cam+crf"]


def test_an_addition_to_what_is_no_run_folder_makes_none(tmp_path: Path) -> None:
    for step in (
        lambda: pipeline.add_refinements(Run(tmp_path / "none"), ["crf"]),
        lambda: pipeline.add_segmentation(Run(tmp_path / "none"), called="segment"),
    ):
        with pytest.raises(RunError, match=r"run\.json: no such file; is .*none a run folder"):
            step()
    assert not any(tmp_path.iterdir())


def test_an_addition_that_made_nothing_can_be_replaced(copy: Path) -> None:
    folder = Run(copy / "run")
    pipeline.add_segmentation(folder, called="segment", net=NET, epochs=3, weights=backbone(copy))
    labels = folder.stage("segment").label("train", "p0")
    labels.parent.mkdir(parents=True)
    labels.write_text("for what it was to be")
    pipeline.add_segmentation(folder, called="segment", net=NET, epochs=1, weights=backbone(copy))
    assert read_json(folder.manifest)["segmentations"]["segment"]["schedule"]["epochs"] == 1
    assert not labels.exists()
    pipeline.add_segmentation(folder, called="segment", net=NET, epochs=1, weights=backbone(copy))
    folder.stage("segment").state.parent.mkdir()
    folder.stage("segment").state.touch()
    with pytest.raises(RunError, match=r"another segment \(schedule\.epochs was 1, now 2\); delete .*segment to make"):
        pipeline.add_segmentation(folder, called="segment", net=NET, epochs=2, weights=backbone(copy))
    pipeline.add_segmentation(folder, called="other", net=NET, epochs=2, weights=backbone(copy))
    shutil.rmtree(folder.stage("segment").root)  # as the line says
    pipeline.add_segmentation(folder, called="segment", net=NET, epochs=2, weights=backbone(copy))
    assert [*read_json(folder.manifest)["segmentations"]] == ["segment", "other"]


def test_the_commands_look_at_ways_and_splits_first(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state_of(Run(copy / "run"))
    device = ["--accelerator", "cpu", "--workers", "0"]
    for words, problem in (
        (["refine", "run", "--with"], "--with: name one way or more, of crf, psa and irn"),
        (["refine", "run", "--with", "crf", "--split", "vla"], "splits/vla.txt: no such split; the splits of"),
        (["segment", "run", "--net", NET, "--weights", str(backbone(copy)), "--split", "vla"], "no such split"),
    ):
        with pytest.raises(SystemExit) as caught, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["bao", *words, *device])
            cli.main()
        assert caught.value.code == 2
        assert problem in capsys.readouterr().err
    assert state_of(Run(copy / "run")) == before


def test_an_addition_that_fails_does_not_stop_later_ones(copy: Path) -> None:
    folder, weights = Run(copy / "run"), backbone(copy)
    pipeline.add_segmentation(folder, called="fast", net=NET, epochs=3, lr=1e30, rounds=2, weights=weights)
    with pytest.raises(NotFiniteError, match=r"fast, p4: the network gives probabilities"):
        pipeline.segment_images(folder, hardware=tiny.HARDWARE)
    assert read_json(folder.manifest)["segmentations"] == {}
    assert not folder.stage("fast").root.exists()
    pipeline.add_segmentation(folder, called="slow", net=NET, epochs=1, weights=weights)
    pipeline.segment_images(folder, hardware=tiny.HARDWARE)
    assert folder.stage("slow").mask("val", "p4").exists()
    assert [*read_json(folder.manifest)["segmentations"]] == ["slow"]


@pytest.mark.parametrize(
    ("error", "file", "stays"),
    [
        (RunError("no space left"), None, False),
        (RunError("no space left"), "state", True),
        (DivergenceError("NaN"), "state", False),
        (DivergenceError("NaN"), "network", True),
        (KeyboardInterrupt(), None, True),
    ],
)
def test_an_addition_that_is_begun_goes_on_unless_it_diverged(
    copy: Path, error: BaseException, file: str | None, stays: bool
) -> None:
    folder = Run(copy / "run")
    pipeline.add_segmentation(folder, called="one", net=NET, weights=backbone(copy))
    stage = folder.stage("one")
    stage.root.mkdir()
    if file is not None:
        getattr(stage, file).touch()
    with pytest.raises(type(error)), manifest.made_or_withdrawn(folder, "one"):
        raise error
    assert stage.root.exists() == ("one" in read_json(folder.manifest)["segmentations"]) == stays


def backbone(folder: Path) -> Path:
    """Weights of the segmentation network's backbone."""
    path = folder / "backbone.safetensors"
    if not path.exists():
        model = nets.make_backbone(CNN, 1).model
        assert isinstance(model, torch.nn.Module)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def test_what_an_earlier_version_noted_and_cannot_be_made_is_withdrawn(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Run(copy / "run")
    noted = read_json(folder.manifest)
    bad = replace(SEGMENTATION, net=segment.NetConfig(name="smp:unet/resnet188"))
    noted["segmentations"]["segment"] = settings.to_json(bad)
    irn = replace(recipes.refined(recipe_on("data"), ["irn"]).refinements[0], schedule=SHORT)
    noted["refinements"]["cam+irn"] = settings.to_json(irn)
    write_json(folder.manifest, noted)
    pipeline.add_refinements(folder, ["crf"])
    assert "cam+irn: withdrawn, as it cannot be made: Conformer: no stages" in capsys.readouterr().out
    pipeline.run(recipe_on("data"), folder.root, hardware=tiny.HARDWARE)
    assert "segment: withdrawn, as it cannot be made: smp:unet/resnet188" in capsys.readouterr().out
    assert [*read_json(folder.manifest)["refinements"]] == ["cam+crf"]
    assert not read_json(folder.manifest)["segmentations"]
    assert folder.stage("cam+crf").mask("val", "p4").exists()


# ------------------------------------------------------------------------- refused before it begins


def refusals() -> dict[str, tuple[Recipe, str]]:
    base = replace(RECIPE, data=tiny.RECIPE.data)
    (stage,) = base.stages
    return {
        "irn": (recipes.refined(base, ["irn"]), "no stages"),
        "bas": (replace(base, stages=(replace(stage, method=bas.Config()),)), "no stages to put a generator"),
        "amn": (replace(base, stages=(replace(stage, method=amn.Config()),)), "learns from seeds; name the stage"),
        "backbone": (replace(base, net=nets.Config(backbone="conformer_giant")), "unknown backbone"),
        "pretrained": (replace(base, net=replace(tiny.NET, pretrained=True)), "timm has no weights of it"),
        "crop": (replace(base, augment=replace(base.augment, crop=60)), "crops of 60 pixels are no multiple"),
        "weights": (replace(base, net=replace(tiny.NET, weights="none.pth")), "none.pth: no such weights"),
        "masks": (replace(base, segmentations=(replace(SEGMENTATION, masks="none"),)), "none: neither a stage"),
        "network": (
            replace(base, segmentations=(replace(SEGMENTATION, net=segment.NetConfig(name="smp:unet/x")),)),
            "no such encoder",
        ),
        "seeds": (
            replace(base, fusions=(recipes.Fusion(called="sum", sources=("cam", "none")),)),
            "none: neither a stage of this run nor a folder",
        ),
        "devices": (replace(base, stages=(replace(stage, schedule=replace(SHORT, batch_size=3)),)), "divided by 2"),
    }


@pytest.mark.parametrize("case", refusals())
def test_what_cannot_work_is_refused_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, problem = refusals()[case]
    hardware = replace(tiny.HARDWARE, devices=2 if case == "devices" else 1)
    with pytest.raises(BaosegError) as caught:
        pipeline.begin(recipe, tmp_path / "deep" / "run", hardware=hardware)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_settings_that_contradict_themselves_are_no_recipe() -> None:
    with pytest.raises(RecipeError, match="the seed is -1; choose one of 0 to"):
        recipes.override(RECIPE, seed=-1)
    both = recipes.refined(RECIPE, ["crf"])
    with pytest.raises(RecipeError, match=r"cam\+crf is there already; choose another name \(--called\)"):
        replace(both, segmentations=(replace(SEGMENTATION, called="cam+crf"),))


def test_a_batch_larger_than_the_data_set_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data")
    stage = replace(RECIPE.stages[0], schedule=replace(SHORT, batch_size=64))
    begin(replace(recipe_on(tmp_path / "data"), stages=(stage,)), tmp_path / "run")
    assert "Batches of 4 instead of 64: there are no more images" in capsys.readouterr().out


def test_a_batch_larger_than_the_data_set_is_said_of_an_addition(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size, words in ((4, ""), (9, "Batches of 4 instead of 9: there are no more images to train on.\n")):
        pipeline.add_segmentation(Run(copy / "run"), called="s", net=NET, batch_size=size, weights=backbone(copy))
        assert capsys.readouterr().out == words


def test_a_name_that_no_mask_can_have_is_refused_before_training(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    long = "y" * 252
    shutil.copy(data / "p5.png", data / long)
    for file in ("labels.csv", "splits/val.txt"):
        (data / file).write_text((data / file).read_text().replace("p5.png", long).replace("p5", long))
    with pytest.raises(
        TargetError, match=r"y\.npz: cannot be written: the name is too long for the file system; shorten"
    ):
        begin(recipe_on(data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_files_of_the_system_alone_is_free(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".DS_Store").touch()
    begin(tiny.RECIPE, tmp_path / "run")
    begin(replace(tiny.RECIPE, seed=3), tmp_path / "run")
    assert read_json(tmp_path / "run" / "run.json")["recipe"]["seed"] == 3


# ----------------------------------------------------------------------------- two processes at once

HOLD = """
import sys
from pathlib import Path
from baoseg import runs
with runs.alone(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_second_process_is_refused_in_one_line_and_let_in_after_the_first(copy: Path) -> None:
    folder = Run(copy / "run")
    steps = {
        "begin": lambda: begin(recipe_on("data"), folder.root),
        "train": lambda: pipeline.train_stages(folder, hardware=tiny.HARDWARE),
        "refine": lambda: pipeline.add_refinements(folder, ["crf"]),
        "segment": lambda: pipeline.add_segmentation(folder, called="segment", net=NET, weights=backbone(copy)),
    }
    before = state_of(folder)
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", HOLD, folder.root], text=True, **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        for step in steps.values():
            with pytest.raises(RunError, match=r"run: another process works in this run folder; wait until it has"):
                step()
        assert state_of(folder) == before
        pipeline.make_masks(folder)  # looks at what is there, and harms nobody
        other.kill()
    for step in steps.values():
        step()


def test_within_a_process_the_folder_is_its_own(tmp_path: Path) -> None:
    with run_folder.alone(tmp_path), run_folder.alone(tmp_path / "." / ""):
        pass
    assert not run_folder._held
    assert not any(tmp_path.iterdir())
    with run_folder.alone(tmp_path / "none"):
        assert not (tmp_path / "none").exists()


def test_the_cost_of_looking_is_small(tmp_path: Path) -> None:
    """A manifest of many images is a file of a few hundred kilobytes at most."""
    (tmp_path / "data").mkdir()
    names = [f"{index:05d}.png" for index in range(2000)]
    for name in names:
        (tmp_path / "data" / name).touch()
    (tmp_path / "data" / "labels.csv").write_text("image,labels\n" + "".join(f"{name},cat\n" for name in names))
    described = manifest._described(Folder(tmp_path / "data"))
    assert len(json.dumps(described)) < 10 * len(names)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_the_commit_of_the_code_is_noted(tmp_path: Path) -> None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    folder = pipeline.begin(tiny.RECIPE, tmp_path / "run")
    assert read_json(folder.manifest)["environment"]["commit"] == commit


def test_segment_without_choices_means_the_networks_of_the_recipe(tmp_path: Path) -> None:
    own = recipes.Segmentation(masks="cam", schedule=SHORT, net=segment.NetConfig(name=NET), called="network")
    folder = pipeline.begin(replace(RECIPE, segmentations=(own,)), tmp_path / "run")
    pipeline.add_segmentation(folder)
    assert [one.name for one in pipeline.recipe_of(folder).segmentations] == ["network"]
    pipeline.add_segmentation(folder, epochs=2)
    first, second = pipeline.recipe_of(folder).segmentations
    assert (first, second.name, second.schedule.epochs, second.net) == (own, "segment", 2, own.net)
    with pytest.raises(RecipeError, match="0 rounds"):
        pipeline.add_segmentation(folder, rounds=0)


def test_settings_of_what_is_added_are_set_by_their_paths(tmp_path: Path) -> None:
    folder = pipeline.begin(replace(RECIPE, segmentations=()), tmp_path / "run")
    pipeline.add_refinements(folder, ["crf"], values=["refinements.cam+crf.by.steps=3"])
    values = ["segmentations.segment.schedule.epochs=2", "segmentations.segment-2.inference.flip=false"]
    pipeline.add_segmentation(folder, net=NET, weights=backbone(tmp_path), rounds=2, values=values)
    recipe = pipeline.recipe_of(folder)
    assert [one.by.steps for one in recipe.refinements] == [3]
    epochs = recipes.SEGMENTATION_SCHEDULE.epochs
    assert [(one.name, one.schedule.epochs, one.inference.flip) for one in recipe.segmentations] == [
        ("segment", 2, True),
        ("segment-2", epochs, False),
    ]
    for path in ("stages.cam.schedule.epochs", "refinements.cam+crf.by.steps", "segmentations.segment.reweight"):
        with pytest.raises(RecipeError, match=rf"{re.escape(path)}: is fixed in this run; .* segmentations\.other\."):
            pipeline.add_segmentation(folder, called="other", net=NET, values=[f"{path}=1"])
    with pytest.raises(RecipeError, match=r"did you mean segmentations\.other\.schedule\.epochs"):
        pipeline.add_segmentation(folder, called="other", net=NET, values=["segmentations.other.schedul.epochs=1"])
    assert pipeline.recipe_of(folder) == recipe
