"""What is refused before a run begins."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from pipeline.project import NET, RECIPE, SEGMENTATION, SHORT, backbone, begin, recipe_on, write_data

from baoseg import nets, pipeline, recipes
from baoseg.core.errors import (
    BaosegError,
    RecipeError,
    TargetError,
)
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.methods import amn, bas
from baoseg.predict import segment
from baoseg.recipes import Recipe

# ------------------------------------------------------------------------- refused before it begins


def refusals() -> dict[str, tuple[Recipe, str]]:
    base = replace(RECIPE, data=tiny.RECIPE.data)
    (stage,) = base.stages
    return {
        "irn": (recipes.refined(base, ["irn"]), "no stages"),
        "bas": (replace(base, stages=(replace(stage, method=bas.Config()),)), "no stages for a generator"),
        "amn": (replace(base, stages=(replace(stage, method=amn.Config()),)), "learns from seeds; name the stage"),
        "backbone": (replace(base, net=nets.Config(backbone="conformer_giant")), "unknown backbone"),
        "pretrained": (replace(base, net=replace(tiny.NET, pretrained=True)), "timm has no weights for it"),
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
        pipeline.add_segmentation(RunFolder(copy / "run"), called="s", net=NET, batch_size=size, weights=backbone(copy))
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
