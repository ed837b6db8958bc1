"""The recipes by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from baoseg import nets, refine
from baoseg.core.errors import RecipeError
from baoseg.data import SYNTHETIC, transforms
from baoseg.data import Config as DataConfig
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.methods import Settings, amn, bao, bas, bnr, cam, name_of, transcam
from baoseg.methods.components.teacher import Follow
from baoseg.nets import embedded
from baoseg.predict import segment
from baoseg.predict.maps import Config as MapsConfig
from baoseg.refine import crf, irn, psa
from baoseg.report import Config as ReportConfig
from baoseg.seeds.masks import Config as MasksConfig
from baoseg.seeds.normalise import Scaling
from baoseg.training import train

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe().name: recipe for recipe in (demo, photos, msrc14, voc_mini, bao_voc, bao_voc_reference)
}


def known() -> dict[str, Callable[[], Recipe]]:
    """All recipes by name: those of this file, and those of `papers`."""
    from baoseg.recipes import papers  # noqa: PLC0415  (it builds on this module)

    return RECIPES | papers.RECIPES


def named(name: str) -> Recipe:
    """Raises RecipeError for an unknown name."""
    from baoseg.recipes import localization  # noqa: PLC0415  (it builds on this module)

    there, of_boxes = known(), localization.RECIPES
    if name in of_boxes:
        raise RecipeError(f"{name}: is a recipe for localization; `bao localize {name}` takes it")
    if name not in there:
        names = f"{', '.join(there)}, and for localization {', '.join(of_boxes)}"
        raise RecipeError(f"unknown recipe {name!r}; there are {names}")
    return there[name]()
