"""The lines of a table: a published number and ours, printed and written."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.recipes import Recipe, through
from baoseg.report import number
from baoseg.reproduce import published


class Measure(StrEnum):
    ORACLE = "oracle"  # the class maps at the threshold that is best on the ground truth
    MASKS = "masks"  # the masks as the method decides them


@dataclass(frozen=True)
class Source:
    """Which number of which stage is ours."""

    stage: str
    measure: Measure

    def __str__(self) -> str:
        return f"{self.stage}, {self.measure}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A published number and ours. `published_on` names data and split, and is empty where there is no such number."""

    row: str
    column: str
    published_on: str
    ours: float | None
    published: float | None
    source: str  # where ours is from, or why there is none

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.published is None else self.ours - self.published


def lines_of(
    table: published.Table,
    rows: Iterable[published.Row],
    columns: Sequence[published.Column],
    ours: Callable[[published.Row, published.Column], tuple[float | None, str]],
) -> list[Line]:
    """The lines of these rows and columns of a table; a cell without any number has no line.

    `ours` gives our number of a cell and where it is from, or None and why there is none.
    """
    lines = []
    for row in rows:
        for column in columns:
            value, (measured, source) = row.values[table.columns.index(column)], ours(row, column)
            if measured is not None or value is not None:
                line = Line(
                    row=row.label,
                    column=column.label,
                    published_on=f"{column.data} {column.split}",
                    ours=measured,
                    published=value,
                    source=source,
                )
                lines.append(line)
    return lines


def alike_columns(table: published.Table, path: str) -> Sequence[published.Column]:
    """The columns of the data set that a folder is called as; all columns for a folder of another name."""
    return [column for column in table.columns if called_alike(path, column.data)] or table.columns


def called_alike(path: str, data: str) -> bool:
    """Whether a folder is called as the data set of a paper, as VOC2012 is as PASCAL VOC 2012."""
    name, paper = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (Path(path).name, data))
    return len(name) >= 3 and name in paper


def header(table: published.Table, *, data: str, split: str, images: int, net: nets.Config) -> Iterator[str]:
    """What the numbers are of, and how far they can be compared."""
    yield f"{table.id}: {table.title} ({table.source.partition(';')[0]} of {table.paper.title})"
    yield f"Ours: {data}, {split}, {images} images, network {net.backbone}."
    published_on = sorted({(column.data, column.split) for column in table.columns})
    if published_on:
        yield f"Published: {', '.join(f'{theirs} {of}' for theirs, of in published_on)}."
    else:
        yield "Published: curves without a number, on the data of the title."
    if not any(called_alike(data, theirs) for theirs, _ in published_on):
        yield f"{data} is not the paper's data: compare the order of rows and the shape of curves, not the numbers."
    elif not any(called_alike(data, theirs) and split == of for theirs, of in published_on):
        yield f"{split} is not the paper's split: compare the order of rows, not the numbers."
    for statement in table.statements:
        yield f"The paper: {statement}"


COLUMNS = ("row", "measured", "published on", "ours", "published", "difference", "ours is")


def cells(line: Line) -> dict[str, Any]:
    difference = None if line.difference is None else round(line.difference, 10)
    values = (line.row, line.column, line.published_on, line.ours, line.published, difference, line.source)
    return dict(zip(COLUMNS, values, strict=True))


def printed(lines: Sequence[Line]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("row", "measured", "ours", "published", "difference", "ours is"):
        table.add_column(title, justify="right" if title in ("ours", "published", "difference") else "left")
    for line in lines:
        difference = "-" if line.difference is None else f"{line.difference:+.1f}"
        numbers = ("-" if value is None else number(value) for value in (line.ours, line.published))
        cells = (line.row, line.column, *numbers, difference, line.source)
        table.add_row(*(Text(cell) for cell in cells))  # Text: brackets in a name are no markup
    return table


def measured_with(base: Recipe, values: Sequence[str], derived: Callable[[Recipe], Recipe]) -> Recipe:
    """What a table derives from the recipe `base`, with settings changed. Its rows go by the names of the stages.

    Raises RecipeError for a change that renames one.
    """
    recipe = through(base, values, derived)
    if values and [one.name for one in recipe.stages] != [one.name for one in derived(base).stages]:
        raise RecipeError("--set: a table finds its stages by their names; change no method of a stage, and no name")
    return recipe
