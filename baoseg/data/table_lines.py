"""Lines of labels.csv, classes.txt and lists of images, read strictly and in one form of Unicode (`core.text.tidy`)."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from baoseg.core.errors import DataError
from baoseg.core.text import tidy, tidy_path

HEADERS = (["image", "labels"], ["image", "label"])  # with the second a cell is one label unless it has semicolons
_IMAGES = ("JPEGImages/", "images/")
_CELL = re.compile(r'[ \t]*+(?:"(?P<quoted>[^"]*+(?:""[^"]*+)*+)"[ \t]*+|(?P<plain>(?!")[^,\n]*+))(?P<end>[,\n])')
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Row(NamedTuple):
    """The cells of a line of a CSV file as they are written; lines count from 1."""

    number: int
    cells: list[str]


class Line(NamedTuple):
    """What labels.csv says of one image."""

    number: int
    path: str  # as written, but for "." and "..", and slashes
    image: str  # the path, tidied
    name: str  # the path below the folder of the images without the suffix, tidied
    cell: str  # of the labels, tidied
    labels: tuple[str, ...]


def below_images(path: str) -> str:
    """A path without the folder of the images, where it begins with one."""
    for folder in _IMAGES:
        path = path.removeprefix(folder)
    return path


def read_list(path: Path) -> list[str]:
    """The lines of a file that are not empty, tidied. Raises DataError where it cannot be read, but for a missing one:
    FileNotFoundError.
    """
    return [name for _, name in numbered_lines(path, "one name a line")]


def matched(listed: Sequence[str], names: Mapping[str, object]) -> list[str]:
    """The names that the lines of a split mean: with or without suffix and the folder of the images.

    A line that means none of `names` stays as it is.
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
    """Class names in each field of the `labels` column, tidied; those of `classes` as they are spelt there.

    Semicolons separate where a field has them, spaces elsewhere. A field with spaces and without semicolons
    is one name if it is one of `classes` or stands between semicolons in another field. Where `classes` is
    empty and other fields use semicolons, it is also one name unless each of its words labels another field.
    With `single` (the column `label`) spaces never separate.
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
    """The text of a file with "\\n" at the end of each line. Raises FileNotFoundError, and DataError for no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it, or change its permissions") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as {form}") from None
    if (found := _CONTROL.search(text)) is not None:
        where = f"{path}, line {text.count(chr(10), 0, found.start()) + 1}"
        raise DataError(f"{where}: has the character {found[0]!r}, which is no text; save it as {form}")
    return text if text.endswith("\n") else text + "\n"


def numbered_lines(path: Path, form: str) -> list[tuple[int, str]]:
    text = _text(path, f"UTF-8 text, {form}")
    return [(number, line) for number, line in enumerate(map(tidy, text.split("\n")), start=1) if line]


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The header and the other rows; those without any text are passed over."""
    try:
        text = _text(path, "CSV in UTF-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; write one with the columns image,labels") from None
    first, *rows = list(_csv(path, text)) or [Row(1, [])]
    header = [tidy(cell).casefold() for cell in first.cells]
    if first.number != 1 or header not in HEADERS:
        shown = tidy(text.partition("\n")[0])[:80]
        raise DataError(
            f"{path}: the first line is {shown!r}; write 'image,labels' there, with a comma between the columns"
        )
    return header, rows


def _csv(path: Path, text: str) -> Iterator[Row]:
    """Strict CSV: a quote opens at the start of a cell, closes at its end and in its line, and is doubled inside."""
    position, number, cells = 0, 1, list[str]()
    while position < len(text):
        cell = _CELL.match(text, position)
        quoted = None if cell is None else cell["quoted"]
        if cell is None or (quoted is not None and "\n" in quoted):
            raise DataError(
                f'{path}, line {number}: a quote is not closed, or not at the end of its cell; write "..." around the '
                "whole cell, in one line, or no quotes"
            )
        cells.append(cell["plain"] if quoted is None else quoted.replace('""', '"'))
        position = cell.end()
        if cell["end"] == "\n":
            if any(map(str.strip, cells)):
                yield Row(number, cells)
            number, cells = number + 1, []
