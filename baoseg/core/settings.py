"""Recipes to JSON and back, without pickles: nested frozen dataclasses, tuples, enums and the union of settings."""

from collections.abc import Mapping
from typing import Any

from cattrs import Converter
from cattrs.strategies import configure_tagged_union

from baoseg.core.errors import RecipeError

# lists for tuples, as JSON files have them: what is read back then compares equal to what was written
_converter = Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})


def register(union: Any, names: Mapping[type, str], *, tag: str) -> None:
    """Tell the members of a union of settings apart in JSON by the field `tag`, which holds their names."""
    configure_tagged_union(union, _converter, tag_generator=names.__getitem__, tag_name=tag)


def to_json(value: Any, kind: Any = None) -> Any:
    """Plain lists, dicts, numbers and strings. A value of a union is tagged when `kind` names that union."""
    return _converter.unstructure(value, unstructure_as=kind)


def from_json(value: Any, kind: Any, *, source: str) -> Any:
    """Raises RecipeError, naming `source`, when the value does not have the fields of `kind`."""
    try:
        return _converter.structure(value, kind)
    except Exception as error:  # cattrs raises groups of many kinds; the person needs one line
        raise RecipeError(f"{source}: written by another version of baoseg, or damaged ({error})") from error
