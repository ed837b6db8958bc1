"""What reviewed masks are for: training, and a number with an interval."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from baoseg import pipeline, recipes, seeds
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask, write_mask
from baoseg.data.reviewed import Chosen, Decision, Reviewed
from baoseg.evaluate import class_iou
from baoseg.pipeline import reviewing, segmenting
from baoseg.recipes import Rest, Segmentation
from baoseg.seeds import masks


def review(folder: RunFolder, split: str, chosen: Chosen, decisions: dict[str, Decision]) -> Reviewed:
    """Decisions whose masks are the true ones."""
    reviewed = reviewing.reviewed_of(folder)
    scenes = pipeline.open_split(pipeline.recipe_of(folder), split)
    for name, decision in decisions.items():
        mask = scenes.mask(list(scenes.names).index(name))
        assert mask is not None
        reviewed.decide(name, decision, mask, chosen=chosen, pixels=0, version=reviewed.version(name))
    return reviewed


@pytest.fixture
def folder(tiny_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(tiny_run.root, tmp_path / "run"))


def prepared(folder: RunFolder, rest: Rest) -> segmenting.Learned:
    recipe = pipeline.recipe_of(folder)
    network = Segmentation(masks="bao", schedule=tiny.RECIPE.stages[0].schedule, reviewed=rest)
    return segmenting.learned_pixels(folder, recipe, network, hardware=tiny.HARDWARE)


@pytest.mark.parametrize("rest", Rest)
def test_reviewed_masks_stand_for_those_of_the_stage_and_rejected_images_are_gone(
    folder: RunFolder, rest: Rest, capsys: pytest.CaptureFixture[str]
) -> None:
    train = pipeline.open_split(pipeline.recipe_of(folder), "train")
    corrected, rejected = train.names[3], train.names[5]
    review(folder, "train", Chosen.DOUBT, {corrected: Decision.CORRECTED, rejected: Decision.REJECTED})
    made = prepared(folder, rest)
    others = [] if rest is Rest.LEAVE_OUT else [name for name in train.names if name not in (corrected, rejected)]
    assert sorted(made.dataset.names) == sorted([corrected, *others])
    for index, name in enumerate(made.dataset.names):
        expected = train.mask(3) if name == corrected else read_mask(folder.stage("bao").mask("train", name))
        assert torch.equal(made.labels(index), expected)
        assert torch.equal(made.dataset[index].image, train[list(train.names).index(name)].image)
    assert f"1 reviewed masks, {len(others)} others, 1 rejected images left out" in capsys.readouterr().out
    assert (made.weights is not None) == (rest is Rest.WEIGH)
    for index, name in enumerate(made.dataset.names if made.weights else ()):
        margin = masks.margin(seeds.load(folder.stage("bao").maps("train", name)))
        assert torch.equal(made.weights(index), torch.full_like(margin, 255) if name == corrected else margin)


def test_maps_of_images_that_are_left_out_are_not_made(folder: RunFolder) -> None:
    train = pipeline.open_split(pipeline.recipe_of(folder), "train")
    review(folder, "train", Chosen.DOUBT, {train.names[3]: Decision.CORRECTED})
    prepared(folder, Rest.LEAVE_OUT)
    made = [name for name in train.names if folder.stage("bao").maps("train", name).exists()]
    assert made == [train.names[3]]


def test_a_reviewed_mask_of_another_class_list_is_refused(folder: RunFolder) -> None:
    train = pipeline.open_split(pipeline.recipe_of(folder), "train")
    reviewed = review(folder, "train", Chosen.DOUBT, {train.names[3]: Decision.CORRECTED})
    write_mask(reviewed.mask(train.names[3]), torch.full((64, 64), 99, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"label 99 is outside 0\.\.5; use 255"):
        prepared(folder, Rest.KEEP)


def test_a_network_learns_from_them_and_the_recipe_says_so(folder: RunFolder) -> None:
    train = pipeline.open_split(pipeline.recipe_of(folder), "train")
    base = replace(pipeline.recipe_of(folder).stages[0].schedule, epochs=1)
    review(folder, "train", Chosen.DOUBT, dict.fromkeys(train.names[:4], Decision.ACCEPTED))
    pipeline.add_segmentation(
        folder,
        masks="reviewed",
        rest="leave-out",
        net="smp:unet/resnet18",
        epochs=base.epochs,
        batch_size=4,
        values=["segmentations.segment.net.pretrained=false"],
    )
    (network,) = pipeline.recipe_of(folder).segmentations
    assert (network.masks, network.reviewed) == ("bao", Rest.LEAVE_OUT)
    pipeline.segment_images(folder, hardware=tiny.HARDWARE)
    assert folder.stage("segment").network.exists()
    with pytest.raises(RecipeError, match="reviewed masks stand for those of a stage"):
        recipes.from_reviewed(
            recipes.segmented(pipeline.recipe_of(folder), masks="elsewhere", called="other"), "other", Rest.KEEP
        )


def test_without_a_reviewed_mask_there_is_nothing_to_learn(folder: RunFolder) -> None:
    with pytest.raises(DataError, match="no reviewed mask of the split train; accept or correct some with `bao review"):
        prepared(folder, Rest.KEEP)


def test_the_random_sample_alone_is_measured(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.make_maps(folder, hardware=tiny.HARDWARE, split="train")
    pipeline.make_masks(folder, split="train")
    names = pipeline.open_split(pipeline.recipe_of(folder), "train").names
    review(folder, "train", Chosen.DOUBT, {names[0]: Decision.CORRECTED})
    with pytest.raises(DataError, match=r"0 masks of a random sample of train, too few .* --sample random"):
        pipeline.evaluate_reviewed(folder, split="train")
    review(folder, "train", Chosen.RANDOM, dict.fromkeys(names[1:11], Decision.ACCEPTED))
    review(folder, "train", Chosen.RANDOM, {names[11]: Decision.REJECTED})
    found = pipeline.evaluate_reviewed(folder, split="train")
    said = capsys.readouterr().out
    assert found.keys() == {"transcam", "bao"}
    scenes = pipeline.open_split(pipeline.recipe_of(folder), "train")
    counts = np.zeros((6, 6), dtype=np.int64)
    for index in range(1, 11):
        drawn, true = read_mask(folder.stage("bao").mask("train", names[index])), scenes.mask(index)
        np.add.at(counts, (true.numpy(), drawn.numpy()), 1)
    assert found["bao"].miou == pytest.approx(class_iou(torch.from_numpy(counts)).nanmean().item())
    assert found["bao"].low < found["bao"].miou < found["bao"].high and found["bao"].images == 10
    assert "1 images that were reviewed in order of doubt do not count" in said
    assert "1 rejected images of the sample have no mask" in said


def test_the_interval_covers_the_true_value_in_at_least_90_of_100_samples() -> None:
    """Images of one or two of five classes, whose quality differs from image to image and from class to class."""
    draw = np.random.default_rng(7)
    population = np.zeros((2000, 6, 6), dtype=np.int64)
    for image in population:
        for label in (0, *draw.choice(5, draw.integers(1, 3), replace=False) + 1):
            size = int(draw.lognormal(8, 0.7)) * (3 if label == 0 else 1)
            right = draw.beta(12 - label, 3)
            image[label, label] += round(size * right)
            wrong = 0 if label else draw.integers(1, 6)
            image[label, wrong] += round(size * (1 - right) * 0.5)
    true = class_iou(torch.from_numpy(population.sum(axis=0))).nanmean().item()
    for images in (20, 50):
        covered = 0
        for _ in range(100):
            found = reviewing.estimate(torch.from_numpy(population[draw.choice(2000, images, replace=False)]))
            covered += found.low <= true <= found.high
        assert covered >= 90


def test_the_quantiles_of_student() -> None:
    for freedom, quantile in ((9, 2.262), (19, 2.093), (49, 2.010), (10**6, 1.960)):
        assert reviewing._student(freedom) == pytest.approx(quantile, abs=2e-3)
