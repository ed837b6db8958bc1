"""What is added to a run: refused, replaced and withdrawn."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pipeline.project import NET, RECIPE, SEGMENTATION, SHORT, backbone, recipe_on, state_of
from safetensors.torch import save_file

from baoseg import cli, pipeline, recipes
from baoseg.core import settings
from baoseg.core.errors import (
    BaosegError,
    CheckpointError,
    DivergenceError,
    NotFiniteError,
    RecipeError,
    RunError,
)
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import RunFolder
from baoseg.pipeline import manifest
from baoseg.predict import segment

# ---------------------------------------------------------------------------------------- additions


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
    folder = RunFolder(copy / "run")
    before = state_of(folder)
    weights = Path(words.pop("weights")) if "weights" in words else None
    with pytest.raises(BaosegError) as caught:
        pipeline.add_segmentation(folder, weights=weights, **{"called": "segment", **words})
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state_of(folder) == before


def test_weights_that_do_not_fit_are_refused_before_they_are_noted(copy: Path) -> None:
    folder = RunFolder(copy / "run")
    save_file({"backbone.weight": torch.zeros(3)}, copy / "w.safetensors")
    before = state_of(folder)
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        pipeline.add_segmentation(folder, called="segment", net=NET, weights=Path("w.safetensors"))
    assert state_of(folder) == before


def test_refinements_that_cannot_be_made_leave_the_run_as_it_is(copy: Path) -> None:
    folder = RunFolder(copy / "run")
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
        lambda: pipeline.add_refinements(RunFolder(tmp_path / "none"), ["crf"]),
        lambda: pipeline.add_segmentation(RunFolder(tmp_path / "none"), called="segment"),
    ):
        with pytest.raises(RunError, match=r"run\.json: no such file; is .*none a run folder"):
            step()
    assert not any(tmp_path.iterdir())


def test_an_addition_that_made_nothing_can_be_replaced(copy: Path) -> None:
    folder = RunFolder(copy / "run")
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
    before = state_of(RunFolder(copy / "run"))
    device = ["--accelerator", "cpu", "--workers", "0"]
    for words, problem in (
        (["refine", "run", "--with"], "--with: names no refinement; name one or more of crf, regions, psa, irn"),
        (["refine", "run", "--with", "crf", "--regions", "r"], "--regions: is for `--with regions` only"),
        (["refine", "run", "--with", "crf", "--split", "vla"], "splits/vla.txt: no such split; the splits of"),
        (["segment", "run", "--net", NET, "--weights", str(backbone(copy)), "--split", "vla"], "no such split"),
    ):
        with pytest.raises(SystemExit) as caught, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["bao", *words, *device])
            cli.main()
        assert caught.value.code == 2
        assert problem in capsys.readouterr().err
    assert state_of(RunFolder(copy / "run")) == before


def test_an_addition_that_fails_does_not_stop_later_ones(copy: Path) -> None:
    folder, weights = RunFolder(copy / "run"), backbone(copy)
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
    folder = RunFolder(copy / "run")
    pipeline.add_segmentation(folder, called="one", net=NET, weights=backbone(copy))
    stage = folder.stage("one")
    stage.root.mkdir()
    if file is not None:
        getattr(stage, file).touch()
    with pytest.raises(type(error)), manifest.made_or_withdrawn(folder, "one"):
        raise error
    assert stage.root.exists() == ("one" in read_json(folder.manifest)["segmentations"]) == stays


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


def test_what_an_earlier_version_noted_and_cannot_be_made_is_withdrawn(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(copy / "run")
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
