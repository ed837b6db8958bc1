"""Manifests of earlier versions: names of settings, and runs for boxes, which had settings of their own."""

from functools import partial
from typing import Any

from baoseg import nets
from baoseg.core import settings
from baoseg.core.errors import RecipeError
from baoseg.data import Config as DataConfig
from baoseg.methods import Settings
from baoseg.predict.boxes import BoxConfig
from baoseg.recipes.boxes import for_boxes
from baoseg.recipes.schema import Recipe, Stage
from baoseg.training import train

KEY = "localization"  # of the settings in such a manifest


def renamed(recipe: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a recipe with the names that its settings have today."""
    report = {"image_size" if key == "picture_size" else key: value for key, value in recipe.get("report", {}).items()}
    return {**recipe, "report": report} if report else recipe


def boxes_of(noted: dict[str, Any], *, source: str) -> Recipe:
    """The recipe for boxes that settings of version 0.1 stand for. Raises RecipeError for damaged ones."""
    read = partial(settings.from_json, source=source)
    try:
        stages = [
            Stage(
                method=read(stage["method"], Settings),
                schedule=read(stage["schedule"], train.Config),
                start=stage["start"],
                called=stage["called"],
                box=BoxConfig(threshold=stage["threshold"], top_k=stage["top_k"]),
            )
            for stage in noted["stages"]
        ]
        return for_boxes(
            noted["name"],
            data=read(noted["data"], DataConfig),
            net=read(noted["net"], nets.Config),
            stages=stages,
            **{key: noted[key] for key in ("side", "crop", "ten_crops", "seed")},
        )
    except (KeyError, TypeError) as error:
        raise RecipeError(f"{source}: written by another version of baoseg, or damaged ({error})") from error
