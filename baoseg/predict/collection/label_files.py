"""Files with the labels of an image, which lie beside the image: NAME.json, NAME.txt or NAME.cls."""

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from baoseg.core.errors import DataError
from baoseg.core.text import tidy
from baoseg.core.types import ClassSet
from baoseg.data.table_lines import parse_labels

Beside = list[tuple[str, bytes | None]]  # label files of an image: suffix (".txt") and content; None for a link


def link_problem(kind: str) -> str:
    return f"this {kind} is a link or a device and has no content; make the shard with tar -h --hard-dereference"


def read_beside(path: Path, spellings: Iterable[str]) -> Beside:
    """The label files of the image `path` in a folder: files of its name with a suffix in one of these spellings."""
    files: dict[tuple[int, int], tuple[str, bytes]] = {}  # by inode: one file may have names in two spellings
    for suffix in sorted(spellings):
        try:
            with path.with_suffix(suffix).open("rb") as file:
                found = os.fstat(file.fileno())
                files[found.st_dev, found.st_ino] = suffix.lower(), file.read()
        except OSError as error:
            if error.errno == errno.ENOENT and path.with_suffix(suffix).is_symlink():
                raise DataError(
                    f"{suffix} is a link to a missing file; restore that file, or remove the link"
                ) from None
            if error.errno not in {errno.ENOENT, errno.ENAMETOOLONG, errno.EISDIR}:
                raise DataError(f"{suffix} cannot be read ({error.strerror}); change its permissions") from None
    return list(files.values())


def labels_of(beside: Beside, classes: ClassSet) -> tuple[str, ...] | None:
    """The labels in the label files of an image, or None. Of several files with labels, the first in LABELS counts."""
    for suffix, read in LABELS.items():
        contents = [content for kind, content in beside if kind == suffix]
        if not contents:
            continue
        try:
            labels = read(_only_text(contents), classes)
            classes.encode(labels or ())  # refuses unknown names
        except (ValueError, TypeError, DataError) as error:
            raise DataError(f"{suffix}: {error}") from None
        if labels is not None:
            return labels
    return None


def _only_text(contents: list[bytes | None]) -> str:
    """The text of the only label file of a suffix. An empty file is refused: a failed copy leaves one."""
    if len(contents) > 1:
        raise DataError(f"there are {len(contents)} files of this suffix for one image; keep one")
    (content,) = contents
    if content is None:
        raise DataError(link_problem("label file"))
    if not content:
        raise DataError(
            "is empty; if the image shows background alone, write [] into a .json file; otherwise remove this file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text; save it as UTF-8") from None


def _of_json(text: str, classes: ClassSet) -> tuple[str, ...] | None:
    """A list of class names, or the list `labels` of an object. None for an object without `labels`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error}); correct the file or remove it") from None
    labels = content.get("labels") if isinstance(content, dict) else content
    if labels is None:
        return None
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError('not a list of class names; write ["cat", "dog"] or {"labels": ["cat", "dog"]}')
    spelt = {tidy(name): name for name in classes.names}
    names: list[str] = labels
    return tuple(spelt.get(tidy(name), name) for name in names)


def _of_text(text: str, classes: ClassSet) -> tuple[str, ...]:
    """Class names, separated as in a cell of labels.csv."""
    return tuple(parse_labels([text], classes.names)[0])


def _of_number(text: str, classes: ClassSet) -> tuple[str, ...]:
    """The class by its number from 0, as in WebDataset. The number is the class's value in a mask minus 1."""
    number = int(text) if text.strip().isdecimal() else -1
    if not 0 <= number < len(classes):
        raise ValueError(f"{text.strip()!r} is not a class number; write one of 0..{len(classes) - 1}")
    return (classes.names[number],)


LABELS: dict[str, Callable[[str, ClassSet], tuple[str, ...] | None]] = {
    ".json": _of_json,
    ".txt": _of_text,
    ".cls": _of_number,
}
