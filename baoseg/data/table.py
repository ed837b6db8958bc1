"""labels.csv and classes.txt of a folder, as people and spreadsheets write them.

The files are read strictly and in one form of Unicode (`core.text.tidy`). Ambiguous lines are problems
(`table_checks`), not guesses.
"""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baoseg.core.errors import DataError
from baoseg.core.text import tidy, tidy_path
from baoseg.data.table_checks import Problem, malformed_rows, table_problems
from baoseg.data.table_lines import HEADERS, Line, Row, below_images, numbered_lines, parse_labels, read_rows


@dataclass(frozen=True, kw_only=True)
class Table:
    """The lines of labels.csv, the class names, and all problems of both."""

    path: Path
    lines: Sequence[Line]
    classes: tuple[str, ...]  # in the order of their indices
    problems: Sequence[Problem]


def read(root: Path) -> Table:
    """Read labels.csv and, if it exists, classes.txt. Raises DataError if a file cannot be read at all."""
    if root.is_file():
        raise DataError(f"{root}: is a file; give the folder of labels.csv")
    path = root / "labels.csv"
    header, rows = read_rows(path)
    good = [row for row in rows if len(row.cells) == 2 and row.cells[0].strip()]
    tidied = {field: tidy(field) for field in {row.cells[1] for row in good}}
    fields = [tidied[row.cells[1]] for row in good]
    listed = _class_list(root / "classes.txt")
    single = header == HEADERS[1]
    parsed = parse_labels(fields, [name for _, name in listed or ()], single=single)
    lines = [_line(root, *parts) for parts in zip(good, fields, parsed, strict=True)]
    if listed is None:
        names = sorted({label for line in lines for label in line.labels})
    else:
        names = [name for _, name in listed]
    malformed = malformed_rows(path, rows, good)
    problems = [*malformed, *table_problems(path, lines, names, listed=listed, single=single)]
    return Table(path=path, lines=lines, classes=tuple(names), problems=problems)


def _line(root: Path, row: Row, cell: str, labels: Sequence[str]) -> Line:
    path = plain_path(root, row.cells[0])
    image = tidy_path(path)
    return Line(row.number, path, image, posixpath.splitext(below_images(image))[0], cell, tuple(dict.fromkeys(labels)))


def _class_list(path: Path) -> list[tuple[int, str]] | None:
    """The line numbers and class names of classes.txt; None without this file."""
    try:
        return numbered_lines(path, "one class a line")
    except FileNotFoundError:
        return None


def plain_path(root: Path, path: str) -> str:
    """The path without "." and "..", with slashes for backslashes unless a file has the backslashes in its name."""
    if "\\" in path and not os.path.exists(root / path):  # noqa: PTH110 - False where Path.exists would raise
        path = path.replace("\\", "/")
    return posixpath.normpath(path)
