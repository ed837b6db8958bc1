"""The recipe that a manifest holds: read, written, and compared with another."""

import dataclasses
from typing import Any

from baoseg import recipes
from baoseg.core import settings
from baoseg.core.errors import RunError
from baoseg.core.files import write_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import SYNTHETIC
from baoseg.pipeline.known_data import first_difference
from baoseg.pipeline.places import Places, absolute
from baoseg.recipes import Recipe, legacy, paths

Addition = recipes.Refinement | recipes.Segmentation

# What may be added to a run at any time, by the fields of Recipe and the classes of their entries.
ADDITIONS: dict[str, type[Addition]] = {"refinements": recipes.Refinement, "segmentations": recipes.Segmentation}


def noted_recipe(folder: RunFolder, manifest: dict[str, Any]) -> Recipe:
    source = str(folder.manifest)
    if legacy.KEY in manifest:
        return legacy.boxes_of(manifest[legacy.KEY], source=source)
    if "recipe" not in manifest:
        raise RunError(f"{source}: is no manifest of a run; is {folder.root} a run folder?")
    added: Any = {
        key: tuple(settings.from_json(value, kind, source=source) for value in manifest.get(key, {}).values())
        for key, kind in ADDITIONS.items()
    }
    return dataclasses.replace(settings.from_json(legacy.renamed(manifest["recipe"]), Recipe, source=source), **added)


def write_recipe(folder: RunFolder, manifest: dict[str, Any], recipe: Recipe) -> None:
    """The manifest with this recipe, and where the folder is if any path depends on that."""
    bare = dataclasses.replace(recipe, refinements=(), segmentations=())
    added = {key: {name: settings.to_json(one) for name, one in by_name(recipe, key).items()} for key in ADDITIONS}
    place = {"folder": absolute(str(folder.root))} if recipes.paths_of(recipe) else {}
    others = {key: value for key, value in manifest.items() if key != legacy.KEY}
    write_json(folder.manifest, {**others, "recipe": settings.to_json(bare), **added, **place})


def by_name(recipe: Recipe, key: str) -> dict[str, Addition]:
    return {addition.name: addition for addition in getattr(recipe, key)}


def same_places(folder: RunFolder, manifest: dict[str, Any], recipe: Recipe) -> Recipe:
    """The noted recipe with the paths of `recipe` wherever they mean the same."""
    places, given = Places.of(folder, manifest), recipes.paths_of(recipe)

    def current(path: str) -> str:
        return next((other for other in given if places.same(path, other)), places.find(path))

    return recipes.with_paths(noted_recipe(folder, manifest), current)


def without_place(recipe: Recipe) -> Recipe:
    """All but additions, and but the folder of the data, which the data are known without."""
    path = SYNTHETIC if recipe.data.path == SYNTHETIC else "a folder"
    bare = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, path=path))
    return dataclasses.replace(bare, refinements=(), segmentations=())


def recipe_difference(before: Recipe, now: Recipe) -> str:
    """The first setting in which two recipes differ, by its path."""
    old, new = without_place(before), without_place(now)
    by_path = paths.paths(old), paths.paths(new)
    if [*by_path[0]] == [*by_path[1]]:
        return first_difference(*by_path)
    return first_difference(settings.to_json(old), settings.to_json(new))
