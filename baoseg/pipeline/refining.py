"""Masks drawn to the edges of the images."""

import contextlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg import nets, recipes, refine, seeds
from baoseg.core import costs, ranks
from baoseg.core.errors import DataError
from baoseg.core.files import write_tensors
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.core.types import Sample
from baoseg.data import Dataset, TrainSet
from baoseg.data.images import read_mask, write_grey, write_mask
from baoseg.nets import weights
from baoseg.pipeline import manifest
from baoseg.pipeline.checking import check_crop, check_new
from baoseg.pipeline.common import missing_indices, note_cost, outdated, sharded
from baoseg.pipeline.manifest import alone_in, made_or_withdrawn, recipe_of, split_data, training_data
from baoseg.pipeline.mapping import make_masks_of, maps_of
from baoseg.pipeline.training import fit, label_images
from baoseg.recipes import Recipe, Task
from baoseg.refine import crf, vote
from baoseg.seeds import masks
from baoseg.training.train import Hardware


def add_refinements(
    folder: RunFolder,
    kinds: Sequence[str],
    *,
    of: Sequence[str] = (),
    regions: str | None = None,
    values: Sequence[str] = (),
) -> None:
    """Note refinements (`recipes.REFINERS`) of stages, or of the last one, in a run folder for `refine_masks`.

    `regions` is the source of those of a region vote (`refine.vote.Config`); `values` change their settings
    (`recipes.with_values`). Raises RecipeError for those that the network or the run does not take, and nothing is
    noted then.
    """

    def added(recipe: Recipe) -> Recipe:
        made = recipes.refined(recipe, kinds, of=of, regions=regions)
        asked = {f"{source}+{kind}" for source in (of or recipe.names[-1:]) for kind in kinds}
        parts = [f"refinements.{one.name}" for one in made.refinements if one.name in asked]
        return recipes.within(made, values, parts)

    manifest.add(folder, added, to=["refinements"], check=check_new)


def refine_masks(folder: RunFolder, *, hardware: Hardware, split: str | None = None) -> None:
    """Write the refined mask of each image of a split, for each refinement of the recipe.

    The network of PSA or IRN is trained first, on the training images and the seeds of what is refined. Where that
    fails and leaves nothing, the refinement is noted no longer. Masks that are younger than what they are made from
    stay.
    """
    recipe = recipe_of(folder, task=Task.MASKS)
    with alone_in(folder) if recipe.refinements else contextlib.nullcontext():
        for refinement in recipe.refinements:
            with made_or_withdrawn(folder, refinement.name):
                train_affinity(folder, recipe, refinement, hardware=hardware)
            refine_split(folder, recipe, refinement, split_data(folder, split), hardware=hardware)


def masks_of(folder: RunFolder, recipe: Recipe, name: str, dataset: Dataset, *, hardware: Hardware) -> None:
    """The masks of one stage, fusion or refinement, and what they are made from."""
    refinement = next((refinement for refinement in recipe.refinements if refinement.name == name), None)
    if refinement is None:
        maps_of(folder, recipe, name, dataset, hardware=hardware)
        make_masks_of(folder.stage(name), dataset, fixed=recipe.masks_of(name).threshold)
        return
    masks_of(folder, recipe, refinement.of, dataset, hardware=hardware)
    train_affinity(folder, recipe, refinement, hardware=hardware)
    refine_split(folder, recipe, refinement, dataset, hardware=hardware)


def refine_split(
    folder: RunFolder, recipe: Recipe, refinement: recipes.Refinement, dataset: Dataset, *, hardware: Hardware
) -> None:
    source, paths = folder.stage(refinement.of), folder.stage(refinement.name)
    made_from = source.maps if refinement.needs_maps else source.mask
    network = [] if refinement.learned is None else [paths.network]
    names, split = dataset.names, dataset.split
    due = outdated([paths.mask(split, name) for name in names], [[made_from(split, name), *network] for name in names])
    if not due:
        return
    device = hardware.fabric().device
    refined = _refiner(recipe, refinement, source, paths, split=split, device=device)
    with costs.measure(device) as cost:
        for index in sharded(due, of=len(names), title=f"{paths.name} masks"):
            sample = dataset[index]
            try:
                write_mask(paths.mask(split, sample.name), refined(sample).cpu())
            except DataError as error:
                raise DataError(f"{split}/{sample.name}: {error}") from error
    note_cost(paths, "masks", cost, images=len(due))


def _refiner(
    recipe: Recipe,
    refinement: recipes.Refinement,
    source: StageFolder,
    paths: StageFolder,
    *,
    split: str,
    device: torch.device,
) -> Callable[[Sample], UInt8[Tensor, "h w"]]:
    config = refinement.by
    if isinstance(config, crf.Config):
        return lambda sample: refine.by_crf(
            sample.image.to(device), read_mask(source.mask(split, sample.name)).to(device), config
        )
    if isinstance(config, vote.Config):
        return _voted(source, paths, split, vote.finder(config, device=device), recipe.masks_of(source.name))
    model = _affinity_network(recipe, refinement, config, initialise=False)
    state = weights.read_checkpoint(paths.network)
    weights.compare(model.state_dict(), state).require_complete(paths.network, remedy="delete it and refine again")
    model.load_state_dict(state)
    model.to(device).eval()
    return lambda sample: model.refine(sample.image, seeds.load(source.maps(split, sample.name)))


def _voted(
    source: StageFolder, paths: StageFolder, split: str, find: vote.Finder, config: masks.Config
) -> Callable[[Sample], UInt8[Tensor, "h w"]]:
    """The region vote; it keeps the margin of the votes too, by which `bao segment --reweight` weights pixels."""

    def refined(sample: Sample) -> UInt8[Tensor, "h w"]:
        voted = vote.by_regions(seeds.load(source.maps(split, sample.name)), find(sample))
        write_grey(paths.confidence(split, sample.name), masks.margin(voted, threshold=config.threshold))
        return masks.to_mask(voted, threshold=None if voted.decided else config.threshold)

    return refined


def train_affinity(folder: RunFolder, recipe: Recipe, refinement: recipes.Refinement, *, hardware: Hardware) -> None:
    """The network that learns which pixels belong together, from the sure pixels of the seeds, where there is one."""
    paths, config = folder.stage(refinement.name), refinement.learned
    if config is None or refinement.schedule is None or not missing_indices([paths.network]):
        return
    dataset = training_data(folder)
    learner = _affinity_network(recipe, refinement, config)
    augment = refinement.augment or recipe.augment
    check_crop(augment, learner.backbone, name=refinement.name)

    def label(sample: Sample, seed: seeds.SeedMaps) -> UInt8[Tensor, "h w"]:
        return refine.labels(sample.image, seed, config)

    samples = TrainSet(
        dataset,
        augment,
        learner.backbone.normalisation,
        seed=recipe.seed,
        pixel_labels=label_images(
            folder, recipe, refinement.name, refinement.of, dataset, label=label, hardware=hardware
        ),
    )
    fit(paths, learner, samples, schedule=refinement.schedule, seed=recipe.seed, hardware=hardware)
    if ranks.first():
        write_tensors(paths.network, learner.state_dict(), {})
        paths.state.unlink(missing_ok=True)
    ranks.barrier()


def _affinity_network(
    recipe: Recipe, refinement: recipes.Refinement, config: refine.LearnedSettings, *, initialise: bool = True
) -> refine.AffinityNetwork:
    """PSA's or IRN's network on the refinement's backbone, or on the recipe's, as it is before training."""
    network = nets.build(refinement.net or recipe.net, 1, seed=recipe.seed, initialise=initialise)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        return refine.network(config, network.backbone)
