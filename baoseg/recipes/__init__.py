"""Named settings of whole runs. Numbers that a paper gives are cited; all others are ours, with the reason."""

from collections.abc import Callable

from baoseg.core.errors import RecipeError
from baoseg.predict.boxes import BoxConfig as BoxConfig
from baoseg.predict.boxes import ViewConfig as ViewConfig
from baoseg.recipes import boxes, papers
from baoseg.recipes.additions import REFINERS as REFINERS
from baoseg.recipes.additions import SEGMENTATION_SCHEDULE as SEGMENTATION_SCHEDULE
from baoseg.recipes.additions import from_reviewed as from_reviewed
from baoseg.recipes.additions import in_rounds as in_rounds
from baoseg.recipes.additions import refined as refined
from baoseg.recipes.additions import segmented as segmented
from baoseg.recipes.bao_voc import bao_voc as bao_voc
from baoseg.recipes.bao_voc import bao_voc_reference as bao_voc_reference
from baoseg.recipes.bao_voc import large_fov as large_fov
from baoseg.recipes.bao_voc import mctformer as mctformer
from baoseg.recipes.boxes import for_boxes as for_boxes
from baoseg.recipes.edit import comparable as comparable
from baoseg.recipes.edit import comparison as comparison
from baoseg.recipes.edit import follow_ablation as follow_ablation
from baoseg.recipes.edit import only as only
from baoseg.recipes.edit import override as override
from baoseg.recipes.edit import paths_of as paths_of
from baoseg.recipes.edit import smoke as smoke
from baoseg.recipes.edit import with_paths as with_paths
from baoseg.recipes.paths import through as through
from baoseg.recipes.paths import with_values as with_values
from baoseg.recipes.paths import within as within
from baoseg.recipes.schema import Fusion as Fusion
from baoseg.recipes.schema import Recipe as Recipe
from baoseg.recipes.schema import Refinement as Refinement
from baoseg.recipes.schema import Rest as Rest
from baoseg.recipes.schema import Segmentation as Segmentation
from baoseg.recipes.schema import Stage as Stage
from baoseg.recipes.schema import Task as Task
from baoseg.recipes.small import bao_plus as bao_plus
from baoseg.recipes.small import demo as demo
from baoseg.recipes.small import embedded_net as embedded_net
from baoseg.recipes.small import msrc14 as msrc14
from baoseg.recipes.small import photos as photos
from baoseg.recipes.small import voc_mini as voc_mini

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe().name: recipe for recipe in (demo, photos, msrc14, voc_mini, bao_plus, bao_voc, bao_voc_reference)
}


def known() -> dict[str, Callable[[], Recipe]]:
    """All recipes by name: those for masks, then those for boxes."""
    return RECIPES | papers.RECIPES | boxes.RECIPES


def named(name: str) -> Recipe:
    """Raises RecipeError for an unknown name."""
    there = known()
    if name not in there:
        masks = ", ".join(one for one in there if one not in boxes.RECIPES)
        raise RecipeError(f"unknown recipe {name!r}; there are {masks}, and for boxes {', '.join(boxes.RECIPES)}")
    return there[name]()
