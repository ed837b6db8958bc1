"""The steps, top to bottom: train -> maps -> masks -> evaluate -> report.

Each is a function of a run folder, reads what the step before it left there, and can be run again at any time. What
takes long, training and maps, is skipped where it is done already. `run` does all of them from one recipe.
"""

import dataclasses
import math
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

import baoseg
from baoseg import data, evaluate, labeler, masks, nets, progress, report, seeds, settings, train
from baoseg.data import Dataset, TrainSet
from baoseg.data.images import write_mask
from baoseg.errors import DataError, RecipeError, RunError
from baoseg.methods import METHODS, make
from baoseg.recipes import Recipe
from baoseg.runs import Run, Stage, read_json, write_json
from baoseg.train import Hardware
from baoseg.types import Sample


def run(recipe: Recipe, out: Path, *, hardware: Hardware) -> Run:
    """All steps of `recipe` in the folder `out`. On a folder that an earlier call left unfinished, it continues."""
    folder = begin(recipe, out)
    train_stages(folder, hardware=hardware)
    make_maps(folder, hardware=hardware)
    make_masks(folder)
    evaluate_stages(folder)
    make_report(folder)
    return folder


def begin(recipe: Recipe, out: Path) -> Run:
    """Open the run folder `out` for `recipe`, or make it. Raises RunError if it holds something else.

    A manifest alone, as a first try leaves it that a mistake ended, holds nothing yet and is written anew.
    """
    folder = Run(out)
    described = {
        role: {"split": dataset.split, "images": len(dataset), "fingerprint": dataset.fingerprint()}
        for role in ("train", "eval")
        for dataset in [data.open_dataset(recipe.data, role)]
    }
    wanted = {"recipe": settings.to_json(recipe), "data": described}
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file, no run folder; choose another folder with --out")
    begun = out.exists() and any(path != folder.manifest for path in out.iterdir())
    if begun and not folder.manifest.exists():
        raise RunError(f"{out}: exists and is no run folder; choose another folder with --out")
    if begun:
        manifest = read_json(folder.manifest)
        for key, value in wanted.items():
            if manifest.get(key) != value:
                raise RunError(
                    f"{out}: holds a run with {'another recipe' if key == 'recipe' else 'other data'} "
                    f"({_difference(manifest.get(key), value)}); choose another folder with --out, or delete this one"
                )
        return folder
    environment = {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    stages = [stage.name for stage in recipe.stages]
    manifest = {**wanted, "stages": stages, "version": baoseg.__version__, "environment": environment}
    write_json(folder.manifest, manifest)
    return folder


def recipe_of(folder: Run) -> Recipe:
    """The recipe that a run folder was made with. Raises RunError when it is no run folder."""
    return settings.from_json(read_json(folder.manifest)["recipe"], Recipe, source=str(folder.manifest))


def train_stages(folder: Run, *, hardware: Hardware) -> None:
    """Train each stage of the recipe that is not trained yet, each from the weights of the one before it."""
    recipe = recipe_of(folder)
    pictures = data.open_dataset(recipe.data, "train")
    previous: Stage | None = None
    for number, stage in enumerate(recipe.stages):
        paths = folder.stage(stage.name)
        if not paths.network.exists():
            network = nets.build(
                recipe.net,
                len(pictures.classes),
                activation_heads=METHODS[stage.name].needs_activation_heads,
                seed=recipe.seed,
            )
            if previous is not None:
                labeler.warm_start(network, previous.network)
            if recipe.augment.crop % network.backbone.stride:
                raise RecipeError(
                    f"recipe {recipe.name}: crops of {recipe.augment.crop} pixels are no multiple of the backbone's "
                    f"stride {network.backbone.stride}, so cells would mix picture and padding; choose another crop"
                )
            method = make(stage.method, network)
            samples = TrainSet(pictures, recipe.augment, network.normalisation, seed=recipe.seed)
            train.fit(
                method,
                samples,
                config=stage.schedule,
                stage=paths,
                seed=recipe.seed + number,
                hardware=hardware,
            )
            labeler.save(paths.network, method, recipe=recipe, stage=stage, classes=pictures.classes)
            paths.state.unlink(missing_ok=True)
        previous = paths


def make_maps(folder: Run, *, hardware: Hardware, split: str | None = None) -> None:
    """Write the seed of each picture of a split (the evaluation split by default), for each stage."""
    recipe = recipe_of(folder)
    dataset = open_split(recipe, split)
    for paths in trained_stages(folder, recipe):
        missing = [i for i, name in enumerate(dataset.names) if not paths.maps(dataset.split, name).exists()]
        if not missing:
            continue
        model = labeler.load(paths.network, device=hardware.fabric().device)
        if model.classes != dataset.classes:
            raise DataError(
                f"{recipe.data.path}: its classes are {', '.join(dataset.classes.names)}, but {paths.network} was "
                f"trained for {', '.join(model.classes.names)}; restore the class list, or train in another folder"
            )
        done = len(dataset) - len(missing)
        for index in progress.track(missing, title=f"{paths.name} maps", total=len(dataset), done=done):
            sample = dataset[index]
            seed = model.seed(sample.image, sample.labels) if sample.labels.any() else _background_only(model, sample)
            seeds.save(paths.maps(dataset.split, sample.name), seed)


def make_masks(folder: Run, *, split: str | None = None, threshold: float | None = None) -> None:
    """Write the mask of each picture of a split as a palette PNG, for each stage.

    A `threshold` is used by every stage; without one, stages that learned a background use that, others the recipe's.
    """
    recipe = recipe_of(folder)
    dataset = open_split(recipe, split)
    given = None if threshold is None else masks.Config(threshold=threshold).threshold
    for paths in trained_stages(folder, recipe):
        for name in progress.track(dataset.names, title=f"{paths.name} masks", total=len(dataset)):
            seed = seeds.load(paths.maps(dataset.split, name))
            cut = recipe.masks.threshold if given is None and seed.background is None else given
            mask = masks.label_image(seed, threshold=cut)
            write_mask(paths.mask(dataset.split, name), mask)


def evaluate_stages(folder: Run) -> bool:
    """Write metrics.json of each stage and print the table. False, and a line, where there is no ground truth."""
    recipe = recipe_of(folder)
    dataset = open_split(recipe, None)
    if not dataset.has_masks:
        progress.say(f"No ground truth for the {len(dataset)} pictures of {dataset.split}: nothing to evaluate.")
        return False
    stages = trained_stages(folder, recipe)
    for paths in stages:
        pairs = _Pairs(paths, dataset)
        try:
            metrics = evaluate.evaluate_seeds(pairs, len(dataset.classes), threshold=recipe.masks.threshold)
        except DataError as error:
            raise DataError(f"{dataset.split}/{pairs.current}: {error}") from error
        about = {"split": dataset.split, "images": pairs.count}
        write_json(paths.metrics, {**about, "classes": ["background", *dataset.classes.names], **metrics})
    progress.say(report.table(folder, [paths.name for paths in stages]))
    return True


def make_report(folder: Run) -> Path:
    """Write the HTML page and say where it is."""
    recipe = recipe_of(folder)
    names = [paths.name for paths in trained_stages(folder, recipe)]
    page = report.build(folder, stages=names, dataset=open_split(recipe, None), config=recipe.report, title=recipe.name)
    progress.say(f"Report: {page.resolve()}")
    return page


def trained_stages(folder: Run, recipe: Recipe) -> list[Stage]:
    stages = [folder.stage(stage.name) for stage in recipe.stages]
    for paths in stages:
        if not paths.network.exists():
            raise RunError(f"{paths.network}: not trained yet; run `bao train` on {folder.root} first")
    return stages


def open_split(recipe: Recipe, split: str | None) -> Dataset:
    """The evaluation split, or the one named."""
    config = recipe.data if split is None else dataclasses.replace(recipe.data, eval_split=split)
    return data.open_dataset(config, "eval")


def _background_only(model: labeler.Labeler, sample: Sample) -> seeds.Seed:
    """The seed of a picture that shows none of the classes, as its labels say: there is nothing to look for."""
    height, width = (int(side) for side in sample.image.shape[-2:])
    grid = (math.ceil(height / model.maps.stride), math.ceil(width / model.maps.stride))
    return seeds.Seed(
        classes=torch.empty(0, dtype=torch.int64),
        scores=torch.empty(0, *grid),
        background=torch.ones(grid) if model.method.learns_background else None,
        size=(height, width),
    )


class _Pairs:
    """Seed and ground truth of each picture that has some; remembers where it is, for errors."""

    def __init__(self, paths: Stage, dataset: Dataset) -> None:
        self.paths = paths
        self.dataset = dataset
        self.current = ""
        self.count = 0

    def __iter__(self) -> Iterator[tuple[seeds.Seed, torch.Tensor]]:
        names = self.dataset.names
        for index, name in progress.track(enumerate(names), title=f"{self.paths.name} evaluate", total=len(names)):
            mask = self.dataset.mask(index)
            if mask is not None:
                self.current = name
                self.count += 1
                yield seeds.load(self.paths.maps(self.dataset.split, name)), mask


def _commit() -> str | None:
    """Git commit of the code, where it runs from a checkout of its own."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():  # installed: a repository above would be somebody else's
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _difference(old: object, new: object, at: str = "") -> str:
    """The first place where two JSON values differ, as `path: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    if isinstance(old, list) and isinstance(new, list):
        for number, (left, right) in enumerate(zip(old, new, strict=False)):
            if left != right:
                return _difference(left, right, f"{at}[{number}]")
        return f"{at} had {len(old)} entries, now {len(new)}"
    return f"{at} was {old}, now {new}"
