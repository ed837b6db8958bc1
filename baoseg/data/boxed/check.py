"""What is wrong with images, boxes and masks, found before anything is trained on them."""

from pathlib import Path

from baoseg.core.errors import DataError
from baoseg.core.progress import say, track
from baoseg.core.types import ClassSet
from baoseg.data.boxed.dataset import Boxed
from baoseg.data.boxed.entries import Entry, missing
from baoseg.data.boxed.folder import listed_in, splits_of
from baoseg.data.dataset import summary
from baoseg.data.images import image_size, read_image
from baoseg.data.truth import wrong_size

BEYOND = 0.1  # share of an image's side by which a box may reach beyond it: what annotators draw too far is cut off


def folder_problems(root: Path, *, decode: bool = True) -> list[str]:
    """All that is wrong with a plain folder, each in one line. With `decode` every image is read to its end.

    Boxes are asked for in the split `test`, or where there is none in every split that is not one to train on. Where
    nothing is wrong, the classes of each split are said.
    """
    problems: list[str] = []
    summaries: list[str] = []
    splits = splits_of(root)
    evaluated = [name for name in splits if not name.startswith("train")] or splits or ["all"]
    seen: dict[Path, Entry] = {}
    try:
        for split in splits or ["all"]:
            names, entries = listed_in(root, split, problems)
            if not entries:
                problems.append(f"{root}: no image in the split {split}; add some")
                continue
            there = [entry for entry in entries if entry.path.is_file()]
            problems += [missing(entry.path) for entry in entries if not entry.path.is_file()]
            seen |= {entry.path: entry for entry in there}
            if problems:
                continue
            boxed = Boxed(ClassSet(tuple(names)), split, there)
            summaries.append(summary(boxed))
            if split in evaluated:
                problems += truth_problems(boxed, strict=True)
    except DataError as error:  # nothing else can be understood without this table
        problems.append(str(error))
    for path in track(seen, title="images", total=len(seen)) if decode else ():
        try:
            read_image(path)
        except DataError as error:
            problems.append(str(error))
    for line in [] if problems else summaries:
        say(line)
    return list(dict.fromkeys(problems))


def truth_problems(boxed: Boxed, *, strict: bool) -> list[str]:
    """What evaluation would fail at, found without decoding images: each in one line.

    A box that lies outside its image; an image with neither box nor mask; a mask that is not there or of another size.
    Where `strict`, masks are read, and a box may not reach beyond its image by more than BEYOND of the image's side, as
    boxes that were drawn at another size do.
    """
    problems = []
    cut = 0
    for index, entry in track(enumerate(boxed.entries), title="boxes", total=len(boxed)):
        try:
            height, width = image_size(entry.path)
            if strict or not (entry.boxes or entry.masks):
                boxed.mask(index)
                boxed.boxes(index)
            sizes = {path: image_size(path) for path in (*entry.masks, *([entry.ignored] if entry.ignored else []))}
        except DataError as error:
            problems.append(str(error))
            continue
        problems += filter(None, (wrong_size(path, size, (height, width)) for path, size in sizes.items()))
        for box in entry.boxes:
            x0, y0, x1, y1 = box
            beyond = max(-x0 / width, -y0 / height, (x1 - width) / width, (y1 - height) / height)
            outside = x0 >= width or y0 >= height or x1 < 0 or y1 < 0
            if outside or (strict and beyond > BEYOND):
                how = "lies outside" if outside else "reaches far beyond"
                problems.append(
                    f"{boxed.split}/{entry.name}: the box {list(box)} {how} the image of {width}x{height} pixels; "
                    "correct it"
                )
            cut += min(x0, y0) < 0 or x1 > width or y1 > height
    if cut and not problems:
        say(f"{cut} boxes of {boxed.split} reach beyond their images: they are cut off at the sides.")
    return problems
