"""Reader of a plain folder of one's own images with boxes, strict about its lists."""

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

from baoseg.core.errors import DataError
from baoseg.core.text import tidy_path
from baoseg.data import table
from baoseg.data.boxed.entries import Box, Entry, box_of, numbers_of, refuse, require_pixels
from baoseg.data.files import Tree
from baoseg.data.folder import misnamed, read_split
from baoseg.data.table_lines import read_rows

CORNERS = ["image", "x0", "y0", "x1", "y1"]


def read_folder(root: Path, split: str) -> tuple[list[str], list[Entry]]:
    """A plain folder. Without split files there is one split, of all images, by any name."""
    problems: list[str] = []
    names, entries = listed_in(root, split, problems)
    refuse(problems)
    return names, entries


def splits_of(root: Path) -> list[str]:
    """The splits of a plain folder that has lists of them, hidden files aside."""
    return sorted(path.stem for path in (root / "splits").glob("*.txt") if not path.name.startswith("."))


def listed_in(root: Path, split: str, problems: list[str]) -> tuple[list[str], list[Entry]]:
    """Class names and images of a split; what is wrong with the lists is added to `problems`."""
    problems += [problem.line() for problem in misnamed(root)]
    listed = table.read(root)
    problems += [problem.line() for problem in listed.problems]
    labels = _labels(listed, problems)
    boxes = _boxes(root, labels, problems)
    chosen = list(labels)
    if (root / "splits").is_dir():
        chosen = _split(root / "splits" / f"{split}.txt", listed, problems)
    files, written = Tree(root), {line.image: line.path for line in listed.lines}
    entries = []
    for image in chosen:
        mask, ignored = (_mask(files, f"{kind}/{_name(image)}.png", problems) for kind in ("masks", "ignored"))
        entries.append(
            Entry(
                name=_name(image),
                path=root / (files.find(written[image]) or written[image]),
                label=labels[image],
                boxes=tuple(boxes.get(image, ())),
                masks=() if mask is None else (mask,),
                ignored=ignored,
            )
        )
    return list(listed.classes), entries


def _labels(listed: table.Table, problems: list[str]) -> dict[str, str]:
    """The label of each image of labels.csv."""
    labels: dict[str, str] = {}
    told = len(problems)
    for line in listed.lines:
        if len(line.labels) != 1 and not told:  # of cells that say something else than they seem to, that is said
            problems.append(
                f"{listed.path}, line {line.number}: {line.image} has {len(line.labels)} labels; for localization an "
                "image has one, write that"
            )
        labels[line.image] = next(iter(line.labels), "")
    return labels


def _mask(files: Tree, path: str, problems: list[str]) -> Path | None:
    """A mask that may be there; one that is called almost so is a problem."""
    if (found := files.find(path)) is not None:
        return files.root / found
    if near := files.hint(path):
        problems.append(f"{files.root / path}: no such mask, but there is {near}; save or call it as the first")
    return None


def _boxes(root: Path, labels: Mapping[str, str], problems: list[str]) -> dict[str, list[Box]]:
    """The boxes of each image of boxes.csv; none where there is no such file."""
    path, boxes = root / "boxes.csv", dict[str, list[Box]]()
    if not path.exists():
        return boxes
    largest, begun = 0.0, len(problems)
    for row in read_rows(path, [CORNERS])[1]:
        cells, where = [cell.strip() for cell in row.cells], f"{path}, line {row.number}"
        if len(cells) != len(CORNERS) or "" in cells:
            raise DataError(f"{where}: {','.join(cells)!r} does not have the columns {','.join(CORNERS)}; correct it")
        image = tidy_path(table.plain_path(root, cells[0]))
        if image not in labels:
            problems.append(f"{where}: {image} has no line in labels.csv; add one, or take its box out")
            continue
        try:
            corners = numbers_of(cells[1:], 4, where)
            largest = max(largest, *corners)
            boxes.setdefault(image, []).append(_pixels(corners, where))
        except DataError as error:
            problems.append(str(error))
    if boxes and largest <= 1 and len(problems) == begun:
        problems.append(f"{path}: all boxes lie in 0..1; write them in pixels of their images")
    return boxes


def _pixels(corners: Sequence[float], where: str) -> Box:
    """A box of one's own list. Raises DataError for one that is not in pixels or not of two corners."""
    shown = ", ".join(f"{corner:g}" for corner in corners)
    require_pixels(corners, where)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise DataError(
            f"{where}: the box {shown} ends before it starts, or at once; write x0, y0, x1, y1, not x, y, width, height"
        )
    return box_of(corners, where)


def _split(path: Path, listed: table.Table, problems: list[str]) -> list[str]:
    """The images that a split file names, with or without the suffix."""
    images = {line.name: line.image for line in listed.lines}
    try:
        names, wrong = read_split(path, images)
    except FileNotFoundError:
        known = ", ".join(splits_of(path.parent.parent)) or "none"
        raise DataError(f"{path}: no such split; the splits of {path.parent.parent} are: {known}") from None
    problems += [problem.line() for problem in wrong]
    return [images[name] for name in dict.fromkeys(names) if name in images]


def _name(image: str) -> str:
    return posixpath.splitext(image)[0]
