"""Runs whose masks are refined, and segmentation networks that learn from the refined masks."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from pipeline.tiny_runs import SEGMENTATION, VAL, files, results, run, slow_scores
from safetensors.torch import load_file

import baoseg
from baoseg import data, nets, pipeline, recipes, refine, seeds
from baoseg.core.errors import DataError, RecipeError, RunError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import open_dataset
from baoseg.data.images import read_mask, write_mask
from baoseg.pipeline import checking, segmenting
from baoseg.refine import vote
from baoseg.seeds import masks

# ------------------------------------------------------------------------------------- refinement

CNN = nets.Config(backbone="timm:test_resnet")  # stages at 4, 8, 16, 16 pixels a cell


@pytest.fixture(scope="module")
def refined(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The tiny run with its last stage refined in all ways, and one of these refined again."""
    root = tmp_path_factory.mktemp("refined") / "run"
    shutil.copytree(tiny_run.root, root)
    once = recipes.refined(replace(tiny.RECIPE, net=CNN), ["crf", "regions", "psa", "irn"])
    twice = recipes.refined(once, ["crf"], of=["bao+irn", "transcam"])
    short = {"epochs": 1, "batch_size": 4, "lr": 0.01, "head_lr": 0.1}
    wanted = tuple(
        replace(one, net=CNN, schedule=replace(one.schedule, **short)) if one.schedule else one
        for one in twice.refinements
    )
    return run(replace(tiny.RECIPE, refinements=wanted), root)


REFINED = ("bao+crf", "bao+regions", "bao+psa", "bao+irn", "bao+irn+crf", "transcam+crf")


def test_refinements_leave_masks_metrics_and_rows_of_their_own(refined: RunFolder) -> None:
    assert [one.name for one in pipeline.recipe_of(refined).refinements] == list(REFINED)
    truth = open_dataset(tiny.RECIPE.data, "eval")
    for name in REFINED:
        stage = refined.stage(name)
        metrics = read_json(stage.metrics)
        pairs = ((truth.mask(i).numpy(), read_mask(stage.mask("val", VAL[i])).numpy()) for i in range(len(VAL)))
        scores = slow_scores(pairs, 1 + len(truth.classes))
        assert metrics["refined"]["miou"] == pytest.approx(scores["miou"])
        assert metrics["fixed"] is metrics["sweep"] is metrics["oracle"] is None
        assert read_json(stage.costs)["masks"]["images"] == len(VAL)
        assert name in refined.report.read_text()
        assert stage.network.exists() == stage.losses.exists() == (not name.endswith(("crf", "regions")))


def test_a_crf_refines_the_mask_of_its_stage(refined: RunFolder) -> None:
    scenes = open_dataset(tiny.RECIPE.data, "eval")
    for of, name in (("bao", "bao+crf"), ("bao+irn", "bao+irn+crf"), ("transcam", "transcam+crf")):
        mask = read_mask(refined.stage(of).mask("val", VAL[2]))
        assert torch.equal(read_mask(refined.stage(name).mask("val", VAL[2])), refine.by_crf(scenes[2].image, mask))


def test_regions_vote_on_the_maps_of_their_stage_and_say_how_sure_they_are(refined: RunFolder, tmp_path: Path) -> None:
    scenes = open_dataset(tiny.RECIPE.data, "eval")
    stage, image = refined.stage("bao+regions"), scenes[2].image
    seed = seeds.load(refined.stage("bao").maps("val", VAL[2]))
    voted = vote.by_regions(seed, vote.superpixels(image))
    assert torch.equal(read_mask(stage.mask("val", VAL[2])), masks.to_mask(voted))
    with Image.open(stage.confidence("val", VAL[2])) as confidence:
        assert np.array_equal(confidence, masks.margin(voted))

    halves = np.repeat([[1] * 32 + [2] * 32], 64, axis=0).astype(np.uint8)
    for name in VAL:
        Image.fromarray(halves).save(tmp_path / f"{name}.png")
    folder = RunFolder(shutil.copytree(refined.root, tmp_path / "run"))
    with pytest.raises(DataError, match="no such folder of regions"):
        pipeline.add_refinements(folder, ["regions"], of=["transcam"], regions=str(tmp_path / "none"))
    pipeline.add_refinements(folder, ["regions"], of=["transcam"], regions=os.path.relpath(tmp_path))
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    drawn = read_mask(folder.stage("transcam+regions").mask("val", VAL[2]))
    assert not pipeline.recipe_of(folder).refinements[-1].by.source.startswith(".")
    assert all(len(half.unique()) == 1 for half in (drawn[:, :32], drawn[:, 32:]))


@pytest.mark.parametrize("name", ["bao+psa", "bao+irn"])
def test_affinities_are_learned_from_where_mask_and_crf_agree(refined: RunFolder, name: str) -> None:
    """BAO's background is learned, so there is neither a threshold nor an alpha."""
    scenes = open_dataset(tiny.RECIPE.data, "train")
    seed = seeds.load(refined.stage("bao").maps("train", scenes.names[1]))
    mask = masks.to_mask(seed)
    labels = read_mask(refined.stage(name).label("train", scenes.names[1]))
    assert torch.equal(labels, mask.masked_fill(refine.by_crf(scenes[1].image, mask) != mask, 255))


def test_refining_again_does_what_is_due_alone(refined: RunFolder, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(refined.root, root)  # with the times of the files
    folder = RunFolder(root)
    before = results(root)
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    times = {name: path.stat().st_mtime_ns for name, path in files(root).items()}
    assert times == {name: path.stat().st_mtime_ns for name, path in files(refined.root).items()}
    pipeline.make_masks(folder)  # the same masks: nothing is younger
    (root / "bao" / "masks" / "val" / f"{VAL[0]}.png").touch()
    (root / "bao+irn" / "masks" / "val" / f"{VAL[1]}.png").unlink()
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    assert results(root) == before
    again = {name for name, path in files(root).items() if path.stat().st_mtime_ns != times[name]}
    masks_again = {f"bao+crf/masks/val/{VAL[0]}.png", f"bao+irn/masks/val/{VAL[1]}.png"}
    masks_again |= {f"bao+irn+crf/masks/val/{VAL[1]}.png", f"bao/masks/val/{VAL[0]}.png"}
    assert again == masks_again | {f"{stage}/costs.json" for stage in ("bao+crf", "bao+irn", "bao+irn+crf")}


def test_a_refinement_can_be_added_to_a_run_and_the_recipe_run_again(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(tiny_run.root, tmp_path / "run"))
    pipeline.add_refinements(folder, ["crf"])
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    assert folder.stage("bao+crf").mask("val", VAL[0]).exists()
    run(tiny.RECIPE, folder.root)  # not another recipe
    assert "refined" in read_json(folder.stage("bao+crf").metrics)
    other = replace(recipes.refined(tiny.RECIPE, ["crf"]).refinements[0], by=refine.crf.PROBABILITIES)
    with pytest.raises(RunError, match=r"holds another bao\+crf \(by.bilateral_sxy was 50.0, now 80.0\)"):
        run(replace(tiny.RECIPE, refinements=(other,)), folder.root)
    with pytest.raises(RecipeError, match=r"cannot refine amn to amn\+crf; there are masks of bao, bao\+crf, transcam"):
        pipeline.add_refinements(folder, ["crf"], of=["amn"])
    with pytest.raises(RecipeError, match="unknown refinement 'rcf'; there are crf, regions, psa, irn"):
        pipeline.add_refinements(folder, ["rcf"])
    with pytest.raises(RecipeError, match=r"irn works on maps, and bao\+crf has none"):
        pipeline.add_refinements(folder, ["irn"], of=["bao+crf"])


def test_refining_before_there_are_masks_names_what_is_missing(tmp_path: Path) -> None:
    folder = pipeline.begin(recipes.refined(tiny.RECIPE, ["crf"]), tmp_path / "run")
    with pytest.raises(RunError, match=r"val_00000.png: no such file; run `bao maps` and `bao masks`"):
        pipeline.refine_masks(folder, hardware=tiny.HARDWARE)


# ----------------------------------------------------------------------------------- segmentation


@pytest.fixture(scope="module")
def segmented(refined: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The refined run with segmentation networks: on its masks, on their own predictions, on a folder of masks."""
    root = tmp_path_factory.mktemp("segmented") / "run"
    shutil.copytree(refined.root, root)
    scenes = open_dataset(tiny.RECIPE.data, "train")
    for name, sample in ((name, scenes[index]) for index, name in enumerate(scenes.names)):
        mask = torch.full(sample.image.shape[1:], 255, dtype=torch.uint8)
        mask[20:40] = 1 + int(sample.labels.argmax())
        write_mask(root.parent / "masks" / f"{name}.png", mask)
    own = recipes.segmented(
        replace(pipeline.recipe_of(refined), segmentations=(replace(SEGMENTATION, reweight=True),)),
        masks="bao+crf",
        reweight=True,
    )
    own = recipes.in_rounds(own, "segment", 2)
    others = replace(SEGMENTATION, masks=str(root.parent / "masks"), called="others")
    voted = replace(SEGMENTATION, masks="bao+regions", called="voted", reweight=True)
    return run(replace(own, segmentations=(*own.segmentations, others, voted)), root)


def test_pixels_count_by_the_margin_of_the_vote_or_of_the_maps(segmented: RunFolder) -> None:
    recipe, scenes = pipeline.recipe_of(segmented), open_dataset(tiny.RECIPE.data, "train")
    weights = {
        one.name: segmenting.learned_pixels(segmented, recipe, one, hardware=tiny.HARDWARE).weights(3)
        for one in recipe.segmentations[::3]
    }
    seed = seeds.load(segmented.stage("bao").maps("train", scenes.names[3]))
    assert torch.equal(weights["segment"], masks.margin(seed))
    voted = vote.by_regions(seed, vote.superpixels(scenes[3].image))
    assert torch.equal(weights["voted"], masks.margin(voted))


def test_segmentation_networks_leave_masks_metrics_and_rows_of_their_own(segmented: RunFolder) -> None:
    truth = open_dataset(tiny.RECIPE.data, "eval")
    for name in ("segment", "segment-2", "others", "voted"):
        stage = segmented.stage(name)
        metrics = read_json(stage.metrics)
        pairs = ((truth.mask(i).numpy(), read_mask(stage.mask("val", VAL[i])).numpy()) for i in range(len(VAL)))
        assert metrics["predicted"]["miou"] == pytest.approx(slow_scores(pairs, 1 + len(truth.classes))["miou"])
        assert stage.epochs.read_text().splitlines()[0] == "epoch,miou"
        assert len(stage.epochs.read_text().splitlines()) == 3
        assert name in segmented.report.read_text()
        assert not stage.state.exists()


def test_a_network_predicts_without_labels_and_further_rounds_learn_within_them(segmented: RunFolder) -> None:
    scenes = open_dataset(tiny.RECIPE.data, "train")
    model = baoseg.load(segmented.stage("segment").root)
    assert isinstance(model, baoseg.Segmenter)
    picture = open_dataset(tiny.RECIPE.data, "eval")[1].image
    assert torch.equal(model.mask(picture), read_mask(segmented.stage("segment").mask("val", VAL[1])))
    for index in (0, 5):
        names = scenes.classes.decode(scenes.labels(index))
        labels = read_mask(segmented.stage("segment-2").label("train", scenes.names[index]))
        assert torch.equal(labels, model.mask(scenes[index].image, names))
        assert set(labels.unique().tolist()) <= {0, *(scenes.labels(index).nonzero()[:, 0] + 1).tolist()}
    assert baoseg.load(segmented.root).classes == scenes.classes


def test_a_run_that_was_killed_trains_the_same_network(segmented: RunFolder, tmp_path: Path) -> None:
    """From the state after its first epoch on."""
    root = tmp_path / "run"
    shutil.copytree(segmented.root, root)
    whole = segmented.stage("others").network.read_bytes()
    shutil.rmtree(root / "others")
    half = replace(pipeline.recipe_of(segmented).segmentations[-2])
    folder = RunFolder(root)
    calls = 0

    class Killed(Exception):
        pass

    def kill(curve: Any, epoch: int) -> None:
        nonlocal calls
        calls += 1
        if epoch == 2:
            raise Killed

    recipe = pipeline.recipe_of(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenting._SegmentationCurve, "__call__", kill)
        with pytest.raises(Killed):
            segmenting._train_segmentation(folder, recipe, half, hardware=tiny.HARDWARE)
    assert folder.stage("others").state.exists()
    segmenting._train_segmentation(folder, recipe, half, hardware=tiny.HARDWARE)
    assert calls == 2
    assert folder.stage("others").network.read_bytes() == whole


def test_masks_that_cannot_be_learned_from_are_named(
    segmented: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = open_dataset(tiny.RECIPE.data, "train")
    recipe = tiny.RECIPE

    def masks_of(source: object) -> Any:
        wanted = replace(SEGMENTATION, masks=str(source))
        return segmenting._training_masks(segmented, recipe, wanted, pictures, hardware=tiny.HARDWARE)

    (tmp_path / "empty").mkdir()
    for source in ("nowhere", tmp_path / "empty"):
        with pytest.raises(DataError, match="neither a stage of this run nor a folder with masks"):
            masks_of(source)
    shutil.copytree(segmented.root.parent / "masks", tmp_path / "masks")
    last = len(pictures.classes)
    for path in sorted((tmp_path / "masks").iterdir()):
        mask = read_mask(path)
        write_mask(path, mask.where(mask != last, torch.tensor(0, dtype=torch.uint8)))
    segmenting._check_masks(masks_of(tmp_path / "masks"), pictures)
    assert f"No mask shows {pictures.classes.names[-1]}: the network will not learn it." in capsys.readouterr().out
    write_mask(tmp_path / "masks" / f"{pictures.names[3]}.png", torch.full((64, 64), 99, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"label 99 is outside 0\.\.\d+; use 255"):
        segmenting._check_masks(masks_of(tmp_path / "masks"), pictures)
    with pytest.raises(RecipeError, match="only masks of this run have maps"):
        unmapped = replace(SEGMENTATION, masks=str(tmp_path / "masks"), reweight=True)
        checking.check_addition(recipe, unmapped, pictures)


def test_a_mask_of_another_size_than_its_image_is_named() -> None:
    pictures = open_dataset(tiny.RECIPE.data, "train")
    samples = data.TrainSet(
        pictures,
        tiny.RECIPE.augment,
        data.transforms.Normalisation(),
        seed=0,
        pixel_labels=lambda index: torch.zeros(64, 63, dtype=torch.uint8),
    )
    with pytest.raises(DataError, match="train_00002: the image has 64 x 64 pixels and its mask 64 x 63"):
        samples[0, 2]


def test_processes_that_load_images_change_nothing(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Also not which paths are dropped, which the state of the main process decides."""
    stages = tiny.RECIPE.stages[:1]
    assert stages[0].schedule.epochs > 1 and ("drop_path", 0.2) in tiny.NET.options
    folder = pipeline.begin(replace(tiny.RECIPE, stages=stages), tmp_path / "run")
    pipeline.train_stages(folder, hardware=replace(tiny.HARDWARE, workers=1))
    weights = [load_file(run.stage("transcam").network) for run in (folder, tiny_run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
