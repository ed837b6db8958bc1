"""Lines of labels.csv, classes.txt and lists of images, read strictly and in one form of Unicode (`core.text.tidy`)."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from baoseg.core.errors import DataError
from baoseg.core.text import tidy, tidy_path

HEADERS = (["image", "labels"], ["image", "label"])  # with "label", a cell is one label unless it has semicolons
_IMAGES = ("JPEGImages/", "images/")
_CELL = re.compile(r'[ \t]*+(?:"(?P<quoted>[^"]*+(?:""[^"]*+)*+)"[ \t]*+|(?P<plain>(?!")[^,\n]*+))(?P<end>[,\n])')
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Row(NamedTuple):
    """The cells of a line of a CSV file as written; `number` counts lines from 1."""

    number: int
    cells: list[str]


class Line(NamedTuple):
    """One image in labels.csv."""

    number: int
    path: str  # as written, but with slashes, and "." and ".." resolved
    image: str  # the path, tidied
    name: str  # the path below JPEGImages/ or images/, without suffix, tidied
    cell: str  # the cell of the labels, tidied
    labels: tuple[str, ...]


def below_images(path: str) -> str:
    """A path without a leading JPEGImages/ or images/."""
    for folder in _IMAGES:
        path = path.removeprefix(folder)
    return path


def read_list(path: Path) -> list[str]:
    """The lines of a file, tidied, without empty lines.

    Raises FileNotFoundError for a missing file, and DataError for a file that cannot be read.
    """
    return [name for _, name in numbered_lines(path, "one name a line")]


def matched(listed: Sequence[str], names: Mapping[str, object]) -> list[str]:
    """The names in `names` that the lines of a split mean; a line may have a suffix and the folder of the images.

    A line that means none of `names` is returned without suffix and folder.
    """

    def match(line: str) -> str:
        for spelt in (line, line.replace("\\", "/")):
            short = below_images(tidy_path(spelt))
            for name in (short, posixpath.splitext(short)[0]):
                if name in names:
                    return name
        return posixpath.splitext(below_images(line))[0]

    return [match(line) for line in listed]


def parse_labels(fields: Sequence[str], classes: Iterable[str] = (), *, single: bool = False) -> list[list[str]]:
    """The class names in each cell of the column `labels`: tidied, with the spelling of `classes`.

    In a cell with semicolons, semicolons separate names; in other cells, spaces do. But a cell with spaces and without
    semicolons is one name if it is in `classes`, or if it stands between semicolons in another cell. If `classes` is
    empty and other cells have semicolons, it is one name too, unless each of its words is a label of another cell.
    With `single` (the column is `label`), spaces never separate.
    """
    given = {tidy(name): name for name in classes}
    tidied = {field: tidy(field) for field in set(fields)}
    between = between_semicolons(tidied.values())
    alone = {field for field in tidied.values() if ";" not in field and " " not in field}
    names = set(given) or between | alone

    def parse(field: str) -> list[str]:
        if ";" in field:
            return _split_off(field, ";")
        parts = field.split()
        if single or field in names or (not given and between and not names.issuperset(parts)):
            return [field] if field else []
        return parts

    parsed = {field: [given.get(name, name) for name in parse(cell)] for field, cell in tidied.items()}
    return [parsed[field] for field in fields]


def between_semicolons(fields: Iterable[str]) -> set[str]:
    return {name for field in fields if ";" in field for name in _split_off(field, ";")}


def _split_off(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


# -------------------------------------------------------------------------------------------------------- the files


def _text(path: Path, form: str) -> str:
    """The text of a file with "\\n" after each line.

    Raises FileNotFoundError, and DataError for a file without text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it, or change its permissions") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read ({error}); save the file as {form}") from None
    if (found := _CONTROL.search(text)) is not None:
        where = f"{path}, line {text.count(chr(10), 0, found.start()) + 1}"
        raise DataError(f"{where}: has the character {found[0]!r}, which is not text; save the file as {form}")
    return text if text.endswith("\n") else text + "\n"


def numbered_lines(path: Path, form: str) -> list[tuple[int, str]]:
    text = _text(path, f"UTF-8 text, {form}")
    return [(number, line) for number, line in enumerate(map(tidy, text.split("\n")), start=1) if line]


def read_rows(path: Path, headers: Sequence[list[str]] = HEADERS) -> tuple[list[str], list[Row]]:
    """The header in lower case, and the other rows of a CSV file; rows without text are ignored."""
    columns = ",".join(headers[0])
    try:
        text = _text(path, "CSV in UTF-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; write a file with the columns {columns}") from None
    first, *rows = list(_csv(path, text)) or [Row(1, [])]
    header = [tidy(cell).casefold() for cell in first.cells]
    if first.number != 1 or header not in headers:
        shown = tidy(text.partition("\n")[0])[:80]
        raise DataError(
            f"{path}: the first line is {shown!r}; write {columns!r} there, with a comma between the columns"
        )
    return header, rows


def _csv(path: Path, text: str) -> Iterator[Row]:
    """Yields the rows of strict CSV: a quote opens at the start of a cell, closes at its end, and is doubled inside."""
    position, number, cells = 0, 1, list[str]()
    while position < len(text):
        cell = _CELL.match(text, position)
        quoted = None if cell is None else cell["quoted"]
        if cell is None or (quoted is not None and "\n" in quoted):
            raise DataError(
                f'{path}, line {number}: a quote is not closed, or not at the end of its cell; write "..." around the '
                "whole cell, within one line, or use no quotes"
            )
        cells.append(cell["plain"] if quoted is None else quoted.replace('""', '"'))
        position = cell.end()
        if cell["end"] == "\n":
            if any(map(str.strip, cells)):
                yield Row(number, cells)
            number, cells = number + 1, []
