"""What cannot work is refused before anything is written or trained.

Networks are built and their weights read, which is cheap beside training; those that timm and smp fetch are then there.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from baoseg import nets, recipes, refine
from baoseg.core import progress
from baoseg.core.errors import CheckpointError, DataError, RecipeError
from baoseg.core.files import check_target
from baoseg.core.run_folder import RunFolder
from baoseg.data import Dataset, boxed, boxed_of, transforms, truth
from baoseg.methods import heads_of, make, method_of
from baoseg.nets import catalogue, embedded
from baoseg.pipeline.common import KeptLabels
from baoseg.pipeline.evaluation import glance_at_masks
from baoseg.pipeline.mapping import check_sources
from baoseg.recipes import Recipe, Task
from baoseg.refine import vote
from baoseg.training.train import Hardware, divided


def check_recipe(
    recipe: Recipe, folder: RunFolder, train: Dataset, shown: Dataset, *, hardware: Hardware | None = None
) -> None:
    """Raises a BaosegError of what a run of this recipe would fail at. Stages that are trained are not looked at."""

    def due(entries: Iterable[Any]) -> list[Any]:
        return [one for one in entries if not folder.stage(one.name).network.exists()]

    trained = due((*recipe.stages, *recipe.refinements, *recipe.segmentations))
    if hardware is not None:
        _check_batches(trained, len(train), devices=hardware.devices * hardware.nodes)
    _require_weights(recipe, trained)
    if recipe.task is Task.BOXES and not all(folder.stage(stage.name).metrics.exists() for stage in recipe.stages):
        boxed.refuse(boxed.truth_problems(boxed_of(shown), strict=recipe.data.layout is boxed.Layout.FOLDER))
    _check_stages(recipe, due(recipe.stages), classes=len(train.classes))
    for addition in due((*recipe.refinements, *recipe.segmentations)):
        check_addition(recipe, addition, train)
    _check_names(folder, shown)
    check_sources(folder, recipe, shown)
    if recipe.task is Task.MASKS:
        glance_at_masks(recipe, shown)


def check_addition(recipe: Recipe, addition: recipes.Refinement | recipes.Segmentation, train: Dataset) -> None:
    """Raises a BaosegError of what would fail about a refinement or a segmentation network."""
    _require_weights(recipe, [addition])
    if isinstance(addition, recipes.Segmentation):
        _check_segmentation(recipe, addition, train)
    elif isinstance(addition.by, vote.Config):
        addition.by.check()
    elif addition.learned is not None:
        with torch.random.fork_rng(devices=[]):
            network = refine.network(addition.learned, nets.build(addition.net or recipe.net, 1).backbone)
        check_crop(addition.augment or recipe.augment, network.backbone, name=addition.name)


def check_new(recipe: Recipe, addition: recipes.Refinement | recipes.Segmentation, train: Dataset) -> None:
    """As `check_addition`, and a line where batches will be smaller than asked for."""
    check_addition(recipe, addition, train)
    say_smaller_batches([addition], len(train))


def say_smaller_batches(due: Iterable[Any], images: int) -> None:
    """A line where a data set is smaller than a batch."""
    for size in sorted({one.schedule.batch_size for one in due if one.schedule is not None}):
        if size > images:
            progress.say(f"Batches of {images} instead of {size}: there are no more images to train on.")


def check_crop(augment: transforms.Config, backbone: nets.Backbone, *, name: str) -> None:
    if augment.crop % backbone.stride:
        raise RecipeError(
            f"{name}: crops of {augment.crop} pixels are no multiple of the backbone's stride {backbone.stride}, "
            "so cells would mix image and padding; choose another crop"
        )


def masks_of_others(source: str, train: Dataset) -> KeptLabels:
    """The masks in a folder of all training images, found and read by the rules of `baoseg.data.truth`.

    Raises DataError where some are missing, or all of them show no class.
    """
    found = truth.find(Path(source), train.names)
    if not any(found.files):
        raise DataError(
            f"{source}: neither a stage of this run nor a folder with masks of its training images; "
            f"masks are called as their images, e.g. {train.names[0]}.png"
        )
    files = [path for path in found.files if path is not None]
    if missing := [name for name, path in zip(train.names, found.files, strict=True) if path is None]:
        odd = f" ({found.unmatched[0]} is that of none)" if found.unmatched else ""
        raise DataError(
            f"{source}: {len(missing)} of {len(train)} training images have no mask, e.g. {missing[0]}{odd}; add "
            "masks, or take the images out of the training split"
        )
    labelled = [bool(train.labels(index).any()) for index in range(len(train))]
    return KeptLabels(files, truth.reader(found.folder, zip(files, labelled, strict=True), len(train.classes)))


def _check_batches(due: Iterable[Any], images: int, *, devices: int) -> None:
    """Raise RecipeError for batches that the devices cannot share; say where a data set is smaller than a batch."""
    say_smaller_batches(due, images)
    for size in sorted({one.schedule.batch_size for one in due if one.schedule is not None}):
        divided(min(size, images), devices)


def _check_names(folder: RunFolder, shown: Dataset) -> None:
    """Raise TargetError where the maps of an image can have no name, before they are made."""
    longest = max((name.rpartition("/")[2] for name in shown.names), key=lambda name: len(os.fsencode(name)))
    root = folder.root.absolute()
    check_target(next(place for place in (root, *root.parents) if place.is_dir()) / f"{longest}.npz")


def _require_weights(recipe: Recipe, due: Iterable[Any]) -> None:
    """Raise CheckpointError for files of weights that are not there."""
    configs = [recipe.net if isinstance(one, recipes.Stage) else one.net for one in due]
    paths = {config.weights for config in configs if config is not None and config.weights is not None}
    missing = sorted(path for path in paths if not (embedded.is_embedded(path) or Path(path).exists()))
    if not missing:
        return
    remedy = "check the path"
    if published := [Path(path) for path in missing if Path(path).stem in catalogue.checkpoints()]:
        remedy += f", or get them with `bao weights fetch {published[0].stem} --to {published[0].parent}`"
    raise CheckpointError(f"{', '.join(missing)}: no such weights; {remedy}")


def _check_stages(recipe: Recipe, due: list[recipes.Stage], *, classes: int) -> None:
    networks: dict[nets.Heads, nets.Network] = {}
    for stage in due:
        if method_of(stage.method).needs_seeds and stage.labelled_by is None:
            raise RecipeError(f"stage {stage.name}: learns from seeds; name the stage that makes them (labelled_by)")
        heads = heads_of(stage.method)
        if heads not in networks:
            networks[heads] = nets.build(recipe.net, classes, heads=heads)
        with torch.random.fork_rng(devices=[]):
            make(stage.method, networks[heads])
        check_crop(recipe.augment, networks[heads].backbone, name=stage.name)


def _check_segmentation(recipe: Recipe, segmentation: recipes.Segmentation, train: Dataset) -> None:
    earlier = [one.name for one in recipe.segmentations]
    known = {*recipe.names, *(one.name for one in recipe.refinements)}
    if segmentation.name in earlier:
        known |= {*earlier[: earlier.index(segmentation.name)]}
    if segmentation.masks not in known:
        masks_of_others(segmentation.masks, train)
    if segmentation.reweight and recipe.sure_of(segmentation.masks) is None:
        raise RecipeError(f"{segmentation.name}: only masks of this run have maps to weight pixels by; do not reweight")
    segmentation.net.build(len(train.classes))
