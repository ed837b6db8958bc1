"""Recipes to JSON and back, without pickles: nested frozen dataclasses, tuples, enums and the union of settings."""

from typing import Any

from cattrs import Converter
from cattrs.strategies import configure_tagged_union

from baoseg import methods, refine
from baoseg.core.errors import RecipeError
from baoseg.methods import Settings

# lists for tuples, as JSON files have them: what is read back then compares equal to what was written
_converter = Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
configure_tagged_union(Settings, _converter, tag_generator=methods.NAMES.__getitem__, tag_name="method")
configure_tagged_union(refine.Settings, _converter, tag_generator=refine.NAMES.__getitem__, tag_name="refiner")


def to_json(value: Any, kind: Any = None) -> Any:
    """Plain lists, dicts, numbers and strings. A value of a union is tagged when `kind` names that union."""
    return _converter.unstructure(value, unstructure_as=kind)


def from_json(value: Any, kind: Any, *, source: str) -> Any:
    """Raises RecipeError, naming `source`, when the value does not have the fields of `kind`."""
    try:
        return _converter.structure(value, kind)
    except Exception as error:  # cattrs raises groups of many kinds; the person needs one line
        raise RecipeError(f"{source}: written by another version of baoseg, or damaged ({error})") from error
