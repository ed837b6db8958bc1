"""The verb for boxes from image-level labels, and what other verbs do with recipes and run folders for it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from baoseg.cli.options import Count, Device, Out, Overrides, RecipeName, Split, Values, Words, optional
from baoseg.core.errors import RecipeError

if TYPE_CHECKING:
    from baoseg.core.run_folder import Run
    from baoseg.recipes.box_schema import Config


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What to change in the recipe; all else stays as it is. run.json in the run folder holds the outcome."""

    layout: Annotated[Literal["folder", "cub", "ilsvrc", "openimages"] | None, optional("LAYOUT")] = None
    """How the data set lies on disk: cub, ilsvrc, openimages, or folder for your own (docs/localization.md)."""
    train_split: Split = None
    """Pictures to train on. Without it: train."""
    eval_split: Split = None
    """Pictures to draw boxes in. Without it: the recipe's, test or val."""
    weights: Annotated[Path | None, optional("FILE")] = None
    """Weights to start from: .safetensors or .pth in the names of timm, or of a run."""
    epochs: Count = None
    """Epochs of each stage, as everywhere."""
    batch_size: Count = None
    """Pictures a step, in each stage."""
    lr: Annotated[float | None, optional("RATE")] = None
    """Learning rate of the backbone in each stage; that of the heads keeps its ratio to it."""
    seed: Count = None
    """Seed of all that is random in training."""
    values: Values = ()
    """Change any other setting: a path as `bao recipes show RECIPE` prints it, e.g. stages.bas.top_k=8. May be given
    many times; of all options it is the last to be applied."""


def localize(
    recipe: RecipeName,
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")],
    out: Out,
    changes: tyro.conf.OmitArgPrefixes[Changes] = Changes(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Boxes from one label a picture: train CAM and BAS, evaluate, report. The same command continues it.

    Args:
        recipe: Name of a recipe for localization, e.g. bas-cub-resnet50; an unknown name lists them all.
        data: Folder of the data set.
        out: Folder to write, or to continue in.
        changes: What to change in the recipe.
        device: What to compute on.
    """
    from baoseg.pipeline import localize as steps
    from baoseg.recipes import localization as recipes
    from baoseg.recipes import named_localization, with_values

    given = {name: value for name, value in vars(changes).items() if name != "values"}
    config = with_values(recipes.override(named_localization(recipe), data=data, **given), changes.values)
    steps.run(config, out, hardware=device.resolve())


def run(recipe: str, out: Path, overrides: Overrides, device: Device) -> None:
    """All steps of a recipe for localization. Raises RecipeError for an override that localization does not have."""
    from baoseg.pipeline import localize as steps

    steps.run(_changed(recipe, overrides), out, hardware=device.resolve())


def train(recipe: str, out: Path, overrides: Overrides, device: Device) -> None:
    """Its stages, trained and no more. Raises as `run`."""
    from baoseg.pipeline import localize as steps

    config, hardware = _changed(recipe, overrides), device.resolve()
    steps.train_stages(steps.begin(config, out), hardware=hardware)


def maps(folder: "Run", split: str | None, device: Device) -> None:
    from baoseg.pipeline import localize as steps

    steps.make_maps(folder, hardware=device.resolve(), split=split)


def evaluate(folder: "Run") -> None:
    from baoseg.pipeline import localize as steps

    steps.evaluate_stages(folder, hardware=Device().resolve())


def report(folder: "Run") -> None:
    from baoseg.pipeline import localize as steps

    steps.make_report(folder)


def reproduce(table: str, recipe: str, out: Path, overrides: Overrides, device: Device) -> None:
    """A table about localization. Raises RecipeError for an override that localization does not have."""
    from baoseg.reproduce import boxes

    base = _changed(recipe, replace(overrides, values=()))
    boxes.run(table, base, out, hardware=device.resolve(), values=overrides.values)


def compare(recipe: str, out: Path, methods: Words, overrides: Overrides, device: Device) -> None:
    """Methods side by side on one recipe for localization. Raises RecipeError for one that it does not have."""
    from baoseg.pipeline import localize as steps
    from baoseg.recipes import localization as recipes
    from baoseg.recipes import through

    base = _changed(recipe, replace(overrides, values=()))
    config = through(base, overrides.values, lambda config: recipes.only(config, methods))
    steps.run(config, out, hardware=device.resolve())


def is_recipe(name: str) -> bool:
    from baoseg.recipes import localization

    return name in localization.RECIPES


def is_run(folder: "Run") -> bool:
    """Whether a run folder is one for localization. Raises RunError for a folder that is no run."""
    from baoseg.pipeline import localize as steps

    return steps.holds(folder)


def _changed(recipe: str, overrides: Overrides) -> "Config":
    from baoseg.recipes import localization as recipes
    from baoseg.recipes import named_localization, with_values

    default = vars(Overrides())
    given = {name: value for name, value in vars(overrides).items() if value != default[name]}
    if odd := sorted(given.keys() - {"data", *vars(Changes())}):
        raise RecipeError(f"--{odd[0].replace('_', '-')}: does not go with {recipe}, which is for localization")
    values = given.pop("values", ())
    return with_values(recipes.override(named_localization(recipe), **given), values)
