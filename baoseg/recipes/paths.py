"""Each setting of a recipe by its path, as `bao recipes show` prints it and `--set` takes it.

`stages.bao.schedule.epochs` is a field of a field, and so on; stages, fusions, refinements and segmentation networks go
by their names. What a path takes is read from the annotations of the dataclasses, so a new setting has a path at once.
"""

import difflib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from baoseg.core import settings
from baoseg.core.errors import RecipeError

R = TypeVar("R")  # a recipe

PYTHON = {"True": True, "False": False, "None": None}  # beside the names that JSON has
PLAIN: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    NoneType: "null",
    Any: "a value of JSON",
}


def paths(recipe: Any) -> dict[str, Any]:
    """The value of each setting by its path, as JSON has values."""
    return {path: place.json() for path, place in _places(_apart(recipe, type(recipe))) if place.is_leaf()}


def with_values(recipe: R, assignments: Sequence[str]) -> R:
    """The recipe with settings changed, each by a text PATH=VALUE.

    A value is written as JSON has it; text needs no quotes, and the items of a list may stand without brackets, between
    commas. All changes are made before any is checked, so settings that depend on one another change together. Stages
    go by the names that they have in `recipe`. A path that `bao recipes show` splits further takes an object of JSON,
    whose missing fields get their defaults; null where the setting may be absent.

    Raises RecipeError for an unknown path, a value of another type, and what the classes of the settings refuse.
    """
    root, done = _apart(recipe, type(recipe)), set[str]()
    for assignment in assignments:
        path, place, text = _find(root, assignment)
        if path in done:
            raise RecipeError(f"--set {path}: is given twice; give each path once")
        done.add(path)
        place.write(path, text)
    made: R = _together(root, "")
    return made


def through(base: R, assignments: Sequence[str], derive: Callable[[R], R]) -> R:
    """The recipe that `derive` makes of `base`, with settings changed (see `with_values`): those that `base` has before
    it is derived from, all others afterwards.

    Raises RecipeError, also for a change of which nothing is left in what `derive` makes.
    """
    there = dict(_places(_apart(base, type(base))))
    own = [one for one in assignments if _known(there, one)]
    made = derive(with_values(base, own))
    for one in own:
        rest = [other for other in own if other != one]
        if with_values(base, rest) != with_values(base, own) and derive(with_values(base, rest)) == made:
            raise RecipeError(f"--set {one}: changes nothing of what is to run here; leave it out")
    return with_values(made, [one for one in assignments if one not in own])


def within(recipe: R, assignments: Sequence[str], parts: Sequence[str]) -> R:
    """The recipe with settings of some of its parts changed, e.g. of segmentations.segment.

    Raises RecipeError as `with_values`, and for settings of other parts.
    """
    there = list(dict(_places(_apart(recipe, type(recipe)))))
    for one in assignments:
        path = _known(there, one)
        if path is not None and not path.startswith(tuple(f"{part}." for part in parts)):
            raise RecipeError(f"--set {path}: is fixed in this run; here you can set what begins with {parts[0]}.")
    return with_values(recipe, assignments)


# ------------------------------------------------------------------------------------ a recipe taken apart


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """The fields of a dataclass while they change. Fields that are dataclasses are drafts, named entries a dict."""

    kind: type
    parts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A field of a draft, or which class of a union of settings it holds (`tag`)."""

    draft: _Draft
    field: str
    kind: Any
    tag: str | None = None

    def is_leaf(self) -> bool:
        return self.tag is not None or not isinstance(self.draft.parts[self.field], _Draft | dict)

    def may_be_object(self) -> bool:
        """Whether this is no object of settings, but could be one."""
        return self.is_leaf() and any(is_dataclass(member) for member in _members(self.kind))

    def json(self) -> Any:
        value = self.draft.parts[self.field]
        return settings.names_in(self.kind)[value.kind] if self.tag is not None else settings.to_json(value)

    def write(self, path: str, text: str) -> None:
        """Put the value that a text stands for. Another class of settings has its defaults."""
        if self.tag is None:
            self.draft.parts[self.field] = _apart(_read(path, text, self.kind), self.kind)
        elif text not in (name := self.json(), json.dumps(name)):
            names = tuple(settings.names_in(self.kind).values())
            value = {self.tag: _read(path, text, Literal[names])}
            self.draft.parts[self.field] = _apart(_read(path, json.dumps(value), self.kind), self.kind)


def _apart(value: Any, kind: Any) -> Any:
    if is_dataclass(value):
        own: type = type(value)
        hints = _hints(own)
        return _Draft(kind=own, parts={key: _apart(getattr(value, key), hints[key]) for key in hints})
    if _has_names(kind):
        entries = {entry.name: _apart(entry, type(entry)) for entry in value}
        return entries if len(entries) == len(value) else value  # a name twice: left to the checks of the recipe
    return value


def _together(part: Any, path: str) -> Any:
    if isinstance(part, dict):
        return tuple(_together(entry, f"{path}.{name}") for name, entry in part.items())
    if not isinstance(part, _Draft):
        return part
    values = {key: _together(one, f"{path}.{key}" if path else key) for key, one in part.parts.items()}
    return _make(path, part.kind, values)


def _make(path: str, kind: type, values: Mapping[str, Any]) -> Any:
    try:
        return kind(**values)
    except RecipeError as error:
        problem = str(error).removeprefix(f"{path.rpartition('.')[2]}: ")
        raise RecipeError(f"{path}: {problem}" if path else problem) from None


def _places(draft: _Draft, above: str = "") -> Iterator[tuple[str, _Place]]:
    for key, kind in _hints(draft.kind).items():
        path, part = f"{above}{key}", draft.parts[key]
        yield path, _Place(draft=draft, field=key, kind=kind)
        if tag := settings.tag_of(kind):
            yield f"{path}.{tag}", _Place(draft=draft, field=key, kind=kind, tag=tag)
        entries = part if isinstance(part, dict) else {}
        for name, entry in entries.items():
            yield from _places(entry, f"{path}.{name}.")
        if isinstance(part, _Draft):
            yield from _places(part, f"{path}.")


def _find(root: _Draft, assignment: str) -> tuple[str, _Place, str]:
    """The path, its place, and the text of the value. Names of stages may have a = in them."""
    there = dict(_places(root))
    if known := _known(there, assignment):
        return known, there[known], assignment.removeprefix(f"{known}=")
    path, mark, _ = assignment.partition("=")
    shown = [path for path, place in there.items() if place.is_leaf()]
    if not mark:
        example = path if path in shown else _nearest(path, shown)
        raise RecipeError(f"--set {assignment}: write PATH=VALUE, e.g. {example}={json.dumps(there[example].json())}")
    if absent := [one for one in shown if path.startswith(f"{one}.") and there[one].may_be_object()]:
        raise RecipeError(f"--set {path}: {absent[0]} is null; set that to an object first, e.g. {absent[0]}={{}}")
    raise RecipeError(
        f"--set {path}: no such setting; did you mean {_nearest(path, shown)}? `bao recipes show RECIPE` prints all"
    )


def _known(there: Iterable[str], assignment: str) -> str | None:
    return max((path for path in there if assignment.startswith(f"{path}=")), key=len, default=None)


def _nearest(path: str, known: Sequence[str]) -> str:
    """The known path that is most like another: of those that end alike, where there are any."""
    ending = [one for one in known if f".{one}".endswith(f".{path}")]
    return difflib.get_close_matches(path, ending or known, n=1, cutoff=0.0)[0]


# ------------------------------------------------------------------------------------------- types


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass by field, in the order of its fields."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _has_names(kind: Any) -> bool:
    """Whether values are entries that have names, as the stages of a recipe."""
    item = get_args(kind)[0] if get_origin(kind) is tuple else None
    return is_dataclass(item) and hasattr(item, "name")


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _read(path: str, text: str, kind: Any) -> Any:
    """The value of type `kind` that a text stands for. Raises RecipeError where there is none."""
    for value in _readings(text):
        try:
            return _typed(path, value, kind)
        except TypeError:
            continue
    raise RecipeError(f"--set {path}: {text!r} is not {_expected(kind)}")


def _readings(text: str) -> list[Any]:
    """What a text may stand for: a value of JSON, itself, or a list."""
    whole = _plain(text)
    if whole is None:
        return [whole]
    if text.startswith(("[", "{")):
        return [whole, text]
    items = [item.strip() for item in text.split(",")]
    return [whole, text, [_plain(item) for item in items], items]


def _plain(text: str) -> Any:
    if text in PYTHON:
        return PYTHON[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _typed(path: str, value: Any, kind: Any) -> Any:
    """A value of JSON as one of type `kind`. Raises TypeError where it is none."""
    if settings.tag_of(kind) is not None:
        return _of_union(path, value, kind)
    if len(members := _members(kind)) > 1:
        return _of_any(path, value, members)
    if get_origin(kind) is tuple:
        return _of_list(path, value, get_args(kind))
    if is_dataclass(kind):
        return _of_object(path, value, cast(type, kind))
    return _scalar(value, kind)


def _scalar(value: Any, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        fits = value in get_args(kind)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        fits = value in [one.value for one in kind]
        value = kind(value) if fits else value
    elif kind is float:
        fits = type(value) in (int, float) and abs(value) <= sys.float_info.max
        value = float(value) if fits else value
    else:
        fits = kind is Any or (kind in PLAIN and type(value) is kind)
    if not fits:
        raise TypeError
    return value


def _of_any(path: str, value: Any, members: Sequence[Any]) -> Any:
    for member in members:
        try:
            return _typed(path, value, member)
        except TypeError:
            continue
    raise TypeError


def _of_list(path: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise TypeError
    return tuple(_typed(path, item, kind) for item, kind in zip(value, kinds, strict=True))


def _of_union(path: str, value: Any, kind: Any) -> Any:
    tag, classes = settings.tag_of(kind), {name: member for member, name in settings.names_in(kind).items()}
    if not isinstance(value, dict) or value.get(tag) not in classes:
        raise TypeError
    return _typed(path, {key: one for key, one in value.items() if key != tag}, classes[value[tag]])


def _of_object(path: str, value: Any, kind: type) -> Any:
    hints = _hints(kind)
    required = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    if not isinstance(value, dict) or value.keys() - hints or set(required) - value.keys():
        raise TypeError
    return _make(path, kind, {key: _typed(path, one, hints[key]) for key, one in value.items()})


def _expected(kind: Any) -> str:
    """A type as a person reads it."""
    if tag := settings.tag_of(kind):
        return f'an object such as {{"{tag}": "{next(iter(settings.names_in(kind).values()))}"}}'
    members = sorted(_members(kind), key=lambda member: member is NoneType)
    if len(members) > 1:
        return " or ".join(_expected(member) for member in members)
    if get_origin(kind) is tuple:
        return _expected_list(get_args(kind))
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        choices = get_args(kind) or [one.value for one in kind]
        return f"one of {', '.join(map(str, choices))}"
    if is_dataclass(kind):
        return f"an object of {', '.join(_hints(cast(type, kind)))}"
    return PLAIN.get(kind, "what the command line can set")


def _expected_list(kinds: tuple[Any, ...]) -> str:
    if kinds[-1] is Ellipsis:
        return f"a list (each item: {_expected(kinds[0])})"
    return f"a list of {len(kinds)} ({', '.join(map(_expected, kinds))})"
