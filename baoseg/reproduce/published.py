"""The numbers that the papers print, to be set beside what is measured here.

The data is `published.json`. A row is joined to a measurement by its key and by the key of a column: a column means
the same in every table. Of the columns of mIoU, "seed" is of the maps by themselves, "mask" of what refinement makes of
seeds, and those that name neither of a segmentation network trained on masks.
"""

import json
from dataclasses import dataclass
from importlib.resources import files

from baoseg.core.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Paper:
    key: str
    title: str
    authors: str
    published: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """What the numbers below it measure."""

    key: str
    label: str
    data: str
    split: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """The numbers of a method; None where the paper prints none. Its key is unique within a table."""

    key: str
    label: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table or a figure of a paper; a figure of which the text has no number has no rows."""

    id: str
    paper: Paper
    title: str
    unit: str
    source: str  # table or figure of the paper, and the lines of the text that it was read from
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    statements: tuple[str, ...]  # what the paper says about it, in our words
    notes: tuple[str, ...]  # doubts about the reading, and where the paper contradicts itself


def tables() -> dict[str, Table]:
    """All tables and figures by their id, in the order of the papers."""
    data = json.loads(files("baoseg.reproduce").joinpath("published.json").read_text(encoding="utf-8"))
    papers = {key: Paper(key=key, **fields) for key, fields in data["papers"].items()}
    columns = {key: Column(key=key, **fields) for key, fields in data["columns"].items()}
    return {
        name: Table(
            id=name,
            paper=papers[entry["paper"]],
            title=entry["title"],
            unit=entry["unit"],
            source=entry["source"],
            columns=tuple(columns[key] for key in entry["columns"]),
            rows=tuple(Row(key=row["key"], label=row["label"], values=tuple(row["values"])) for row in entry["rows"]),
            statements=tuple(entry["statements"]),
            notes=tuple(entry["notes"]),
        )
        for name, entry in data["tables"].items()
    }


def table(name: str) -> Table:
    """Raises RecipeError, listing the ids, for one that is not there."""
    known = tables()
    if name not in known:
        raise RecipeError(f"no published table {name!r}; there are {', '.join(known)}")
    return known[name]
