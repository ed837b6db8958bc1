"""The group `bao recipes`: the named settings of whole runs."""

from typing import Annotated

import tyro

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]


def list_() -> None:
    """What there is: each recipe and what it runs."""
    from baoseg import recipes

    known = recipes.known()
    width = max(map(len, known))
    for name, make in known.items():
        summary = (make.__doc__ or "").partition("\n")[0]
        print(f"{name:<{width}}  {summary}")


def show(recipe: Name) -> None:
    """Every setting of a recipe, its value, and where it comes from: a paper, its released code, or ourselves.

    Args:
        recipe: E.g. bao-voc; an unknown name lists them all.
    """
    from baoseg import papers, recipes

    print(papers.describe(recipes.named(recipe)))
