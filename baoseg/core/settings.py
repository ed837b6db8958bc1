"""Recipes to JSON and back, without pickles: nested frozen dataclasses, tuples, enums and unions."""

from collections.abc import Callable, Mapping
from typing import Any

from cattrs import Converter

from baoseg.core.errors import RecipeError

# tuples become lists, as in JSON files, so that written and read values compare equal
_converter = Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
_registered: dict[Any, tuple[str, Callable[[], Mapping[type, str]]]] = {}


def register(kind: Any, names: Callable[[], Mapping[type, str]], *, tag: str) -> None:
    """Give the members of a union, or the subclasses of a class, a field `tag` in JSON, which holds their name.

    `names` is called each time, so the table of names may grow.
    """

    def unstructure(value: Any) -> dict[str, Any]:
        return {**_converter.unstructure(value), tag: names()[type(value)]}

    def structure(value: Any, _: Any) -> Any:
        fields = dict(value)
        name = fields.pop(tag)
        classes = {known: member for member, known in names().items()}
        if name not in classes:
            raise ValueError(f"{tag} is {name!r}; there are {', '.join(classes)}")
        return _converter.structure(fields, classes[name])

    def is_kind(other: Any) -> bool:
        return bool(other == kind)

    _converter.register_unstructure_hook_func(is_kind, unstructure)
    _converter.register_structure_hook_func(is_kind, structure)
    _registered[kind] = (tag, names)


def tag_of(kind: Any) -> str | None:
    """The field that tells what `register` was told of apart in JSON; None for any other type."""
    return _registered[kind][0] if kind in _registered else None


def names_in(kind: Any) -> Mapping[type, str]:
    """The names that this field may hold, by the classes that they stand for."""
    return _registered[kind][1]()


def to_json(value: Any, kind: Any = None) -> Any:
    """Plain lists, dicts, numbers and strings. A value of a registered kind is tagged when `kind` names that."""
    return _converter.unstructure(value, unstructure_as=kind)


def from_json(value: Any, kind: Any, *, source: str) -> Any:
    """A value of type `kind` from its JSON form. Raises RecipeError, with `source`, if the fields do not fit."""
    try:
        return _converter.structure(value, kind)
    except Exception as error:  # cattrs raises groups of many kinds; the user needs one line
        raise RecipeError(f"{source}: written by another version of baoseg, or damaged ({error})") from error
