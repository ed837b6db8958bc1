"""Which recipe on which data a run folder holds: places, data that change, and two processes at a time."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image
from pipeline.project import (
    NAMES,
    NET,
    SEGMENTATION,
    backbone,
    begin,
    recipe_on,
    state_of,
    write_data,
)
from safetensors.torch import save_file

from baoseg import nets, pipeline, recipes
from baoseg.core import run_folder
from baoseg.core.errors import (
    DataError,
    RunError,
)
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import Folder
from baoseg.pipeline import known_data, manifest

ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------------------------- places


def test_all_ways_to_write_a_path_are_one_recipe(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(copy))
    (copy / "link").symlink_to("data")
    for path in ("data", "data/", "./data", "run/../data", copy / "data", "~/data", "link"):
        begin(recipe_on(path), Path("run"))
        assert Path(read_json(copy / "run" / "run.json")["recipe"]["data"]["path"]).is_absolute()
        assert manifest.split_data(RunFolder(Path("run"))).names == NAMES[4:]
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
    pipeline.make_masks(RunFolder(tmp_path / "run"))
    pipeline.make_report(RunFolder(tmp_path / "run"))
    assert pipeline.recipe_of(RunFolder(tmp_path / "run")).data.path == str(tmp_path / "data")


def test_a_run_and_its_data_may_be_moved_together(copy: Path, tmp_path: Path) -> None:
    """`copy` was moved from where its manifest says that it is."""
    assert pipeline.recipe_of(RunFolder(copy / "run")).data.path == str(copy / "data")
    assert pipeline.evaluate_stages(RunFolder(copy / "run"))
    moved = copy.rename(tmp_path / "elsewhere")
    assert manifest.training_data(RunFolder(moved / "run")).names == NAMES[:4]
    begin(recipe_on(moved / "data"), moved / "run")
    assert read_json(moved / "run" / "run.json")["folder"] == str(moved / "run")


def test_data_that_were_moved_alone_are_found_once_they_are_named(copy: Path, tmp_path: Path) -> None:
    folder, moved = RunFolder(copy / "run"), tmp_path / "moved"
    (copy / "data").rename(moved)
    with pytest.raises(RunError, match=r"run\.json: its data are not in .*; run the command .* again with --data and"):
        pipeline.make_masks(folder)
    begin(recipe_on(moved), folder.root)
    pipeline.make_masks(folder)
    assert pipeline.recipe_of(folder).data.path == str(moved)


def test_a_relative_path_of_an_earlier_version_is_one_from_the_current_folder(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(copy / "run")
    as_before(folder, path="data")
    pipeline.make_masks(RunFolder(Path("run")))
    begin(recipe_on("data/"), Path("run"))
    as_before(folder, path="data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"its data are not in data, as seen from where the run was made: go there, or"):
        pipeline.evaluate_stages(folder)
    begin(recipe_on(copy / "data"), folder.root)
    assert pipeline.evaluate_stages(folder)


def as_before(folder: RunFolder, *, path: str) -> None:
    """The manifest as version 0.1 wrote it."""
    noted = read_json(folder.manifest)
    noted.pop("folder", None)
    noted["recipe"]["data"]["path"] = path
    for role, split in (("train", "train"), ("eval", "val")):
        fingerprint = Folder(path, split, training=role == "train").fingerprint()
        noted["data"][role] = {"split": split, "images": noted["data"][role]["images"], "fingerprint": fingerprint}
    write_json(folder.manifest, noted)


def test_the_manifest_of_an_earlier_version_opens_and_is_completed(copy: Path) -> None:
    folder = RunFolder(copy / "run")
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
    assert recipes.paths_of(pipeline.recipe_of(RunFolder(Path("new")))) == [
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
    folder = RunFolder(copy / "run")
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
    folder = RunFolder(copy / "run")
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
    folder = RunFolder(copy / "run")
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
    folder, before = RunFolder(copy / "run"), read_json(copy / "run" / "run.json")["data"]
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
    folder = RunFolder(copy / "run")
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
    folder, image = RunFolder(copy / "run"), copy / "data" / "p4.png"
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
    folder = RunFolder(copy / "run")
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
    described = known_data.described(Folder(tmp_path / "data"))
    assert len(json.dumps(described)) < 10 * len(names)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_the_commit_of_the_code_is_noted(tmp_path: Path) -> None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    folder = pipeline.begin(tiny.RECIPE, tmp_path / "run")
    assert read_json(folder.manifest)["environment"]["commit"] == commit
