"""The verb `bao localize`, short for `bao run` with a recipe for boxes."""

import tyro

from baoseg.cli import runs
from baoseg.cli.options import Device, Out, Overrides, RecipeName
from baoseg.core.errors import RecipeError


def localize(
    recipe: RecipeName,
    out: Out,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Draw boxes, trained with one label per image: the same as `bao run` with a recipe for boxes.

    Args:
        recipe: Name of a recipe for boxes, e.g. bas-cub-resnet50; an unknown name lists all recipes.
        out: Folder to write, or to continue in.
    """
    from baoseg import recipes

    if recipes.named(recipe).task is not recipes.Task.BOXES:
        raise RecipeError(f"{recipe}: is a recipe for masks; `bao run {recipe}` takes it")
    runs.run(recipe, out, overrides, device)
