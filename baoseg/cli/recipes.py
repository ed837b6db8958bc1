"""The group `bao recipes`: the named settings of whole runs."""

from typing import Annotated

import tyro

from baoseg.cli.options import Values

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]


def list_() -> None:
    """List all recipes, each with a line about it."""
    from baoseg import recipes

    known = recipes.known()
    width = max(map(len, known))
    for name, make in known.items():
        summary = (getattr(make, "func", make).__doc__ or "").partition("\n")[0]
        print(f"{name:<{width}}  {summary}")


def show(recipe: Name, values: Values = ()) -> None:
    """Show each setting of a recipe, its value and its source: a paper, its released code, or ours.

    Other verbs take what is printed before the sources: --set stages.bao.schedule.epochs=3 changes that setting.

    Args:
        recipe: Name of a recipe, e.g. bao-voc; an unknown name lists all recipes.
        values: Change a setting before the recipe is shown.
    """
    from baoseg import recipes
    from baoseg.recipes import papers

    print(papers.describe(recipes.with_values(recipes.named(recipe), values)))
