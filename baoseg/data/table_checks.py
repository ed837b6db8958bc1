"""What is wrong with labels.csv and classes.txt, and how to mend it: one `Problem` for each fault.

A line that may mean two things is a fault too: a separator that is none, a class in two spellings, the background as a
class.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from baoseg.core.errors import DataError
from baoseg.core.text import folded, tidy
from baoseg.core.types import ClassSet
from baoseg.data.table_lines import Line, Row, between_semicolons

_DRIVE = re.compile(r"[A-Za-z]:/")

_QUOTES = "'\"`´‘’“”„«»"
_QUOTED = re.compile(f"[{_QUOTES}](.+)[{_QUOTES}]")
_HALF_QUOTED = re.compile(r"""["“„«][^"”»]*|[^"“„«]*(?<!\d)["”»]""")  # but not 5", the size of a pipe
_LISTED = re.compile(r"\[(.*)\]|\{(.*)\}|\((.*[,;'\"].*)\)")
_COMMAS = re.compile("[,|，、；]")  # hardly ever part of a name
_SLASHES = re.compile(r"[/+&\\]")  # part of a name, unless the parts between are classes
_HYPHENS = re.compile(r"[-_.:=>#~·•]|\b(?:and|or)\b")  # likewise, unless classes.txt has the whole name
_BETWEEN_WORDS = re.compile(r"(?i:and|or)|[-_.:=>#~·•]+")
_ONLY_MARKS = re.compile(r"[,|，、；/+&\\]*")
_NUMBER = re.compile(r"^\d+\s*[:.,)=\-\s]\s*|\s*[:,=(\s]\s*\d+\)?$")
_BACKGROUND = {"background", "bg", "ignore", "n/a", "nan", "none", "null", "unlabeled", "unlabelled"}
_JOINTS = re.compile("[-_ ]+")
_NOTHING = re.compile(f"[-_–—.?*{_QUOTES}]+")


class Problem(NamedTuple):
    """A fault of a file and how to fix it. `where` is the file and line, `case` the name or text in question."""

    where: str
    case: str
    what: str
    remedy: str

    def line(self, others: int = 0) -> str:
        """The one-line message; `others` is the number of further problems of the same kind."""
        case = f"{self.case} " if self.case else ""
        more = f" (and {others} more)" if others else ""
        return f"{self.where}: {case}{self.what}{more}; {self.remedy}"


def refuse(problems: Sequence[Problem]) -> None:
    """Raise DataError for the first problem, with the number of others of its kind. Without problems do nothing."""
    if problems:
        alike = sum(problem.what == problems[0].what for problem in problems)
        raise DataError(problems[0].line(alike - 1))


# --------------------------------------------------------------------------------------------------- what is wrong


def table_problems(
    path: Path,
    lines: Sequence[Line],
    names: Sequence[str],
    *,
    listed: Sequence[tuple[int, str]] | None,
    single: bool,
) -> list[Problem]:
    """All problems of the lines of labels.csv and of the class names, in the order of the messages.

    `names` are the classes, `listed` the numbered lines of classes.txt (None where there is no such file). `single`
    says that the header is image,label.
    """
    doubtful = [
        *_background(path.parent, listed or (), lines),
        *_doubtful(path, lines, named=None if listed is None else names),
        *(_half_known(path, lines) if listed is None and not single else ()),
    ]
    return [
        *_paths(path, lines),
        *doubtful,
        *_class_set(path if listed is None else path.parent / "classes.txt", names),
        *(_joined_otherwise(path, names) if listed is None else ()),
        *_unknown(path, lines, names, told={problem.case for problem in doubtful}),
        *_same_names(path, lines),
    ]


def malformed_rows(path: Path, rows: Sequence[Row], good: Sequence[Row]) -> Iterator[Problem]:
    numbers = {row.number for row in good}
    for row in rows:
        if row.number not in numbers:
            yield Problem(
                f"{path}, line {row.number}",
                "",
                "is not of the form 'path,labels'",
                "separate labels by semicolons or spaces, and quote a path with a comma",
            )


def _paths(path: Path, lines: Sequence[Line]) -> Iterator[Problem]:
    if not lines:
        yield Problem(str(path), "", "no images", "add a line 'path,labels' for each")
    for line in lines:
        if is_outside(line.path):
            remedy = f"write paths relative to {path.parent}"
            yield Problem(f"{path}, line {line.number}", line.image, "lies outside the folder", remedy)
    for image, numbers in _repeated((line.image, line.number) for line in lines):
        case = f"{image} is on the lines {_and(numbers)}"
        yield Problem(str(path), case, "but may have one line", "keep one, with all of its labels")


def is_outside(path: str) -> bool:
    return path == ".." or path.startswith(("/", "../")) or _DRIVE.match(path) is not None


def _same_names(path: Path, lines: Sequence[Line]) -> Iterator[Problem]:
    unique = {line.image: line.name for line in lines}
    for name, images in _repeated((name, image) for image, name in unique.items()):
        what = "differ only in suffix or folder, so they have the same name"
        yield Problem(str(path), _and(images), what, f"rename all but one of them, as only one image can be {name}")


def _background(root: Path, listed: Iterable[tuple[int, str]], lines: Sequence[Line]) -> Iterator[Problem]:
    """Yields problems of names that mean the background, which has index 0 and is never named."""
    for number, name in listed:
        if _is_background(name):
            where, what = f"{root / 'classes.txt'}, line {number}", "is the background, which always has index 0"
            yield Problem(where, name, what, "delete this line")
    meant = set(filter(_is_background, {label for line in lines for label in line.labels}))
    for line in lines:
        for label in meant.intersection(line.labels):
            where, what = f"{root / 'labels.csv'}, line {line.number}", "is the background, which is not a label"
            yield Problem(where, label, what, "delete it; an image that shows no class has an empty cell")


def _is_background(name: str) -> bool:
    """Whether the name means no class in other tools, e.g. `__background__`, `0: background`, `None`, `-`."""
    plain = _NUMBER.sub("", name).strip("_-<>[](){} \"'").casefold()
    return plain in _BACKGROUND or _NOTHING.fullmatch(name) is not None


def _class_set(source: Path, names: Sequence[str]) -> Iterator[Problem]:
    for name in (name for name, count in Counter(names).items() if count > 1):
        yield Problem(str(source), name, "is named more than once", "keep one line")
    for _, alike in _repeated((folded(name), name) for name in dict.fromkeys(names)):
        yield Problem(str(source), _and(alike), "differ in letter case only", "use one spelling, or rename one of them")
    try:
        ClassSet(tuple(dict.fromkeys(names)))
    except DataError as error:
        what, _, remedy = str(error).partition("; ")
        yield Problem(str(source), "", what, remedy)


def _joined_otherwise(path: Path, names: Sequence[str]) -> Iterator[Problem]:
    """Yields problems of classes that differ only in joints or forms of letters: `dining table` and `dining_table`."""
    plain = {name: folded(unicodedata.normalize("NFKC", name)) for name in names}
    for _, alike in _repeated((" ".join(_JOINTS.split(plain[name])).strip(), name) for name in names):
        if len({folded(str(name)) for name in alike}) > 1:
            what = "differ in spaces, hyphens, underscores or forms of letters only"
            yield Problem(str(path), _and(alike), what, "use one spelling, or name both in classes.txt")


def _unknown(path: Path, lines: Iterable[Line], names: Sequence[str], *, told: set[str]) -> Iterator[Problem]:
    """Yields problems of labels that are not in `names`, but not of the labels and cells in `told`."""
    known = set(names) | told
    numbered = {_NUMBER.sub("", name): name for name in names}
    cased = {folded(name): name for name in names}
    for line in lines:
        for label in line.labels:
            if label not in known and line.cell not in told:
                remedy = "correct the label, or add the class to classes.txt"
                if label in numbered:
                    remedy = f"write the line {numbered[label]!r} of classes.txt without the number"
                elif folded(label) in cased:
                    remedy = f"write {cased[folded(label)]} as in classes.txt"
                where, case = f"{path}, line {line.number}", f"{label} (of {line.image})"
                yield Problem(where, case, "is not a class of classes.txt", remedy)


def _doubtful(path: Path, lines: Sequence[Line], *, named: Sequence[str] | None) -> Iterator[Problem]:
    """Yields problems of cells that most likely mean other labels than the labels that were read from them.

    A name in classes.txt (`named`) is a label, unless it consists of other classes.
    """
    labels = {label for line in lines for label in line.labels}
    known = {folded(name) for name in (labels if named is None else named)}
    declared, between = set(named or ()), between_semicolons(line.cell for line in lines)
    shared = Counter(folded(part) for label in labels for part in set(_parts(_COMMAS, label)))
    first: dict[str, Line] = {}
    for line in lines:
        first.setdefault(line.cell, line)
    for cell, line in first.items():
        where = f"{path}, line {line.number}"
        undeclared = [part for part in (cell, *line.labels) if part not in declared]
        if (words := next(filter(None, map(_listed, undeclared)), None)) is not None:
            yield Problem(where, cell, "is a list in brackets or quotes", f"write {'; '.join(words)}")
            continue
        for label in line.labels:
            parts = _several(label, declared=label in declared, known=known, shared=shared)
            if not parts and label != cell and label not in declared and _BETWEEN_WORDS.fullmatch(label):
                parts = [word for word in line.labels if word != label]
            if not parts and label == cell and label not in declared | between:
                parts = _as_classes(label.split(), known)
            if parts:
                marks = _COMMAS if _COMMAS.search(cell) else _SLASHES
                meant = parts if len(parts) > 1 else _parts(marks, cell)
                remedy = f"separate labels by semicolons: {'; '.join(meant)}"
                if named is None:
                    remedy += ", or name the class in classes.txt"
                yield Problem(where, cell, "has a separator that is not used here", remedy)
                break


def _half_known(path: Path, lines: Sequence[Line]) -> Iterator[Problem]:
    """Yields problems of cells with spaces that were read as one name but contain another class: `cat bird`."""
    between = between_semicolons(line.cell for line in lines)
    known = {folded(label): label for line in lines for label in line.labels}
    for cell, line in {line.cell: line for line in reversed(lines)}.items():
        if " " not in cell or line.labels != (cell,) or cell in between:
            continue
        words = f" {folded(cell)} "
        held = [label for name, label in known.items() if f" {name} " in words and name != folded(cell)]
        if held and not _as_classes(cell.split(), set(known)):
            what = f"may be one name or several names, because {held[0]} is a class"
            remedy = f"write '{cell};' for one name, and semicolons between several"
            yield Problem(f"{path}, line {line.number}", cell, what, remedy)


def _listed(cell: str) -> list[str]:
    """The words of a printed list (`['cat', 'dog']`) or of quoted text; empty for other cells."""
    found = _LISTED.fullmatch(cell) or _QUOTED.fullmatch(cell)
    if found is None:
        return [cell.strip(_QUOTES)] if _HALF_QUOTED.fullmatch(cell) else []
    inside = "".join(filter(None, found.groups()))
    words = [tidy(word.strip(_QUOTES + " ")) for word in re.split("[,;]|(?<=['\"]) +(?=['\"])", inside)]
    return list(filter(None, words)) or ["nothing"]


def _several(label: str, *, declared: bool, known: set[str], shared: Mapping[str, int]) -> list[str]:
    """The labels that a name between semicolons consists of; empty if it is one name."""
    if _ONLY_MARKS.fullmatch(label):
        return [] if declared else [label]
    others = known - {folded(label)}
    for marks in (_COMMAS, _SLASHES) if declared else (_COMMAS, _SLASHES, _HYPHENS):
        parts = _parts(marks, label)
        if len(parts) > 1 and others.issuperset(map(folded, parts)):
            return parts
        if made := _made_of(label, others, marks):
            return made
    parts = _parts(_COMMAS, label)
    if declared or not _COMMAS.search(label):
        return []
    trailing = len(parts) < len(_COMMAS.split(label))
    return parts if trailing or any(folded(part) in others or shared[folded(part)] > 1 for part in parts) else []


def _made_of(label: str, known: set[str], marks: re.Pattern[str]) -> list[str]:
    """The two or more classes that a label joins by marks; names may contain marks too: `C++/cat`."""
    for mark in marks.finditer(label):
        first, rest = label[: mark.start()].strip(), label[mark.end() :].strip()
        if folded(first) in known:
            others = [rest] if folded(rest) in known else _made_of(rest, known, marks)
            if others:
                return [first, *others]
    return []


def _as_classes(words: Sequence[str], known: set[str]) -> list[str]:
    """The words as two or more classes, the first as long as possible; empty if they are not classes."""
    for end in range(len(words) - 1, 0, -1):
        name = " ".join(words[:end])
        if folded(name) in known:
            rest = " ".join(words[end:])
            more = [rest] if folded(rest) in known else _as_classes(words[end:], known)
            if more:
                return [name, *more]
    return []


def _parts(marks: re.Pattern[str], label: str) -> list[str]:
    return [part for part in map(tidy, marks.split(label)) if part]


def _repeated(pairs: Iterable[tuple[str, object]]) -> Iterator[tuple[str, list[object]]]:
    """Yields the keys that occur more than once, each with its values."""
    pairs = list(pairs)
    counts, values = Counter(key for key, _ in pairs), defaultdict(list)
    for key, value in pairs:
        if counts[key] > 1:
            values[key].append(value)
    return iter(values.items())


def _and(items: Iterable[object]) -> str:
    return " and ".join(map(str, items))
