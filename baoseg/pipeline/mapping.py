"""Maps of the stages and fusions, and the masks that they say."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg import recipes, seeds
from baoseg.core import costs, progress, ranks
from baoseg.core.errors import DataError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.core.types import Sample
from baoseg.data import Dataset, boxed_of
from baoseg.data.images import read_mask, write_mask
from baoseg.nets import weights
from baoseg.pipeline import boxes
from baoseg.pipeline.common import evaluated_stages, missing_indices, note_cost, sharded, trained_stages
from baoseg.pipeline.manifest import recipe_of, require_same_data, split_data
from baoseg.predict import labeler
from baoseg.recipes import Recipe, Task
from baoseg.seeds import formats, masks
from baoseg.seeds.fusion import fuse as fusion_of
from baoseg.training import guards
from baoseg.training.train import Hardware


def make_maps(folder: RunFolder, *, hardware: Hardware, split: str | None = None) -> None:
    """Write the seed of each image of a split (the evaluation split by default), for each stage."""
    recipe = recipe_of(folder)
    dataset = split_data(folder, split)
    for stage, paths in zip(recipe.stages, trained_stages(folder, recipe), strict=True):
        by_box = boxes.seeds_by(recipe, stage, boxed_of(dataset)) if recipe.task is Task.BOXES else None
        _make_maps(paths, dataset, hardware=hardware, by_box=by_box)
    for fusion in recipe.fusions:
        _fuse_maps(folder, fusion, dataset)


def maps_of(folder: RunFolder, recipe: Recipe, name: str, dataset: Dataset, *, hardware: Hardware) -> None:
    """The seeds of one stage or fusion, and of what it is made of."""
    fusion = next((fusion for fusion in recipe.fusions if fusion.name == name), None)
    if fusion is None:
        _make_maps(folder.stage(name), dataset, hardware=hardware)
        return
    for source in {*fusion.sources} & {stage.name for stage in recipe.stages}:
        _make_maps(folder.stage(source), dataset, hardware=hardware)
    _fuse_maps(folder, fusion, dataset)


def _make_maps(paths: StageFolder, dataset: Dataset, *, hardware: Hardware, by_box: boxes.SeedOf | None = None) -> None:
    missing = _without_maps(paths, dataset)
    if not missing:
        return
    fabric = hardware.fabric()
    model = labeler.load(paths.network, device=fabric.device)
    if by_box is None and model.classes != dataset.classes:
        raise DataError(
            f"the classes of the images are {', '.join(dataset.classes.names)}, but {paths.network} was "
            f"trained for {', '.join(model.classes.names)}; restore the class list, or train in another folder"
        )
    with costs.measure(model.device) as cost:
        for index in sharded(missing, of=len(dataset), title=f"{paths.name} maps"):
            name = dataset.names[index]
            with fabric.autocast(), guards.of_image(f"{paths.network}, {name}"):
                seed = _seed(model, dataset[index]) if by_box is None else by_box(model, index)
            seeds.save(paths.maps(dataset.split, name), seed)
    note_cost(paths, "maps", cost, images=len(missing))


def _seed(model: labeler.Labeler, sample: Sample) -> seeds.SeedMaps:
    return model.seed(sample.image, sample.labels) if sample.labels.any() else _background_only(model, sample)


def _background_only(model: labeler.Labeler, sample: Sample) -> seeds.SeedMaps:
    """The seed of an image that shows none of the classes, as its labels say: there is nothing to look for."""
    height, width = (int(side) for side in sample.image.shape[-2:])
    grid = (math.ceil(height / model.maps.stride), math.ceil(width / model.maps.stride))
    return seeds.SeedMaps(
        classes=torch.empty(0, dtype=torch.int64),
        scores=torch.empty(0, *grid),
        background=torch.ones(grid) if model.method.learns_background else None,
        size=(height, width),
        threshold=1.0 if model.method.chooses_threshold else None,
    )


def check_sources(folder: RunFolder, recipe: Recipe, dataset: Dataset) -> None:
    """Look at the seeds of other tools and runs that the fusions of `recipe` will read, before anything is made.

    Raises a BaosegError for a source that is not there, lacks images, or is of other data or classes.
    """
    for fusion in recipe.fusions:
        if due := _due(folder, recipe, fusion, dataset):
            _look_at(folder, recipe, fusion, dataset, due)


def _due(folder: RunFolder, recipe: Recipe, fusion: recipes.Fusion, dataset: Dataset) -> list[int]:
    """The numbers of the images whose sums are missing, or older than the seeds: tools write theirs anew in one place.

    Sums stay where the seeds are gone.
    """
    paths, flat = folder.stage(fusion.name), _flat(dataset)
    files: list[Callable[[str], Path | None]] = []
    for source in fusion.sources:
        with contextlib.suppress(DataError):
            place = _place(folder, recipe, fusion, source)
            files.append(
                functools.partial(formats.find, place, flat=flat)
                if isinstance(place, Path)
                else functools.partial((place or folder.stage(source)).maps, dataset.split)
            )

    def is_due(name: str) -> bool:
        made = paths.maps(dataset.split, name)
        there = [path for path in (file(name) for file in files) if path is not None and path.exists()]
        return not made.exists() or any(made.stat().st_mtime_ns < path.stat().st_mtime_ns for path in there)

    return [number for number, name in enumerate(dataset.names) if is_due(name)]


def _look_at(
    folder: RunFolder, recipe: Recipe, fusion: recipes.Fusion, dataset: Dataset, due: Sequence[int]
) -> list[str]:
    """What is odd about the sources, in sentences."""
    names = [dataset.names[index] for index in due]
    odd = []
    for source in fusion.sources:
        match _place(folder, recipe, fusion, source):
            case None:
                continue
            case StageFolder() as stage:
                _check_stage(stage, dataset, names)
            case Path() as path:
                odd.append(
                    formats.survey(
                        path,
                        names,
                        lambda number: dataset.labels(due[number]),
                        allow_pickle=fusion.allow_pickle,
                        flat=_flat(dataset),
                    )
                )
    return [sentence for sentence in odd if sentence]


def _check_stage(stage: StageFolder, dataset: Dataset, names: Sequence[str]) -> None:
    """Of another run: it has maps of all images, and its classes are those of the data in their order."""
    other = RunFolder(stage.root.parent)
    if other.manifest.exists():
        require_same_data(other, dataset)
    about = weights.read_metadata(stage.network) if stage.network.exists() else None
    if about is not None and (classes := tuple(about["classes"])) != dataset.classes.names:
        raise DataError(
            f"{stage.root}: maps of the classes {', '.join(classes)}, the data has {', '.join(dataset.classes.names)}; "
            "fuse maps of the same classes in the same order"
        )
    files = [stage.maps(dataset.split, name) for name in names]
    if absent := [path for path in files if not path.exists()]:
        raise DataError(
            f"{stage.root}: {len(absent)} of {len(files)} images have no maps, the first would be {absent[0]}; "
            f"run `bao maps {stage.root.parent} --split {dataset.split}` first"
        )


def _fuse_maps(folder: RunFolder, fusion: recipes.Fusion, dataset: Dataset) -> None:
    """The seeds of a fusion, from stages of this run, other runs, and folders of other tools."""
    paths, recipe = folder.stage(fusion.name), recipe_of(folder)
    due = _due(folder, recipe, fusion, dataset)
    ranks.barrier()  # none writes before all have looked
    if not due:
        return
    for sentence in _look_at(folder, recipe, fusion, dataset, due):
        progress.say(sentence)
    sources = [_source(folder, recipe, fusion, source, dataset) for source in fusion.sources]
    for index in sharded(due, of=len(dataset), title=f"{fusion.name} maps"):
        sample = dataset[index]
        seeds.save(paths.maps(dataset.split, sample.name), fusion_of([read(sample) for read in sources]))


def _place(folder: RunFolder, recipe: Recipe, fusion: recipes.Fusion, source: str) -> StageFolder | Path | None:
    """Where the seeds of another tool (a folder) or of another run (a stage) are; None for a stage of this run.

    Raises DataError for a source that is none of them.
    """
    path = Path(source)
    if source != fusion.name and source in recipe.names:
        return None
    if (path / "run.json").exists():
        return RunFolder(path).stage(read_json(RunFolder(path).manifest)["stages"][-1])
    if (path / "maps").is_dir():
        return StageFolder(path)
    if path.is_dir():
        return path
    raise DataError(f"{source}: neither a stage of this run nor a folder; name a run, RUN/STAGE or a folder of maps")


def _source(
    folder: RunFolder, recipe: Recipe, fusion: recipes.Fusion, source: str, dataset: Dataset
) -> Callable[[Sample], seeds.SeedMaps]:
    """What reads an image's seed from a stage of this run, a run folder, RUN/STAGE, or a folder of maps."""
    place = _place(folder, recipe, fusion, source)
    flat = _flat(dataset)
    if isinstance(place, Path):
        return lambda sample: formats.read(
            place,
            sample.name,
            labels=sample.labels,
            size=_size(sample),
            allow_pickle=fusion.allow_pickle,
            flat=flat,
        )
    stage = folder.stage(source) if place is None else place

    def read(sample: Sample) -> seeds.SeedMaps:
        path = stage.maps(dataset.split, sample.name)
        seed = seeds.load(path)
        try:
            formats.agree(seed, labels=sample.labels, size=_size(sample))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
        return seed

    return read


def _flat(dataset: Dataset) -> bool:
    """Whether the last parts of the names tell the images apart, as tools write that do not keep folders."""
    return len({name.rpartition("/")[2] for name in dataset.names}) == len(dataset)


def _size(sample: Sample) -> tuple[int, int]:
    return int(sample.image.shape[1]), int(sample.image.shape[2])


def _without_maps(paths: StageFolder, dataset: Dataset) -> list[int]:
    return missing_indices([paths.maps(dataset.split, name) for name in dataset.names])


def make_masks(folder: RunFolder, *, split: str | None = None, threshold: float | None = None) -> None:
    """Write the mask of each image of a split as a palette PNG, for each stage.

    A `threshold` is used by every stage; without one, stages that learned a background use that, others the recipe's.
    """
    recipe = recipe_of(folder, task=Task.MASKS)
    dataset = split_data(folder, split)
    given = None if threshold is None else masks.Config(threshold=threshold).threshold
    for paths in evaluated_stages(folder, recipe):
        make_masks_of(paths, dataset, fixed=recipe.masks_of(paths.name).threshold, given=given)


def make_masks_of(paths: StageFolder, dataset: Dataset, *, fixed: float, given: float | None = None) -> None:
    for index in sharded(range(len(dataset)), of=len(dataset), title=f"{paths.name} masks"):
        name = dataset.names[index]
        seed = seeds.load(paths.maps(dataset.split, name))
        cut = fixed if given is None and not seed.decided else given
        _write_if_new(paths.mask(dataset.split, name), masks.to_mask(seed, threshold=cut))


def _write_if_new(path: Path, mask: UInt8[Tensor, "h w"]) -> None:
    """Leave a mask that says the same alone: what was made from it is then known to be up to date."""
    if not (path.exists() and torch.equal(read_mask(path), mask)):
        write_mask(path, mask)
