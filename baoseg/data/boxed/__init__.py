"""Images with one label each and boxes around the object: the data of weakly supervised localization.

Labels are for training; boxes and masks are for evaluation only. Four layouts are read:

    folder       labels.csv (image,label or, as for segmentation, image,labels), boxes.csv (image,x0,y0,x1,y1; a line
                 for each box), and optional: classes.txt, splits/SPLIT.txt, masks/NAME.png (0 beside the object),
                 ignored/NAME.png (0 where a pixel counts)
    cub          CUB-200-2011: images.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt,
                 classes.txt, images/, and, if it is there, segmentations/
    ilsvrc       Data/CLS-LOC/train/SYNSET/*.JPEG, Data/CLS-LOC/val/*.JPEG, Annotations/CLS-LOC/val/*.xml
    openimages   of OpenImages-WSOL (Choe et al., CVPR 2020): metadata/SPLIT/class_labels.txt (path,number) and
                 metadata/SPLIT/localization.txt (path,mask,ignored; a line for each mask), paths below the folder

A box is (x0, y0, x1, y1) in pixels of the upright image, both ends inside.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from baoseg.core.errors import DataError
from baoseg.core.types import ClassSet
from baoseg.data.boxed.check import folder_problems, truth_problems
from baoseg.data.boxed.dataset import Boxed, squash, squash_mask
from baoseg.data.boxed.entries import Box, Entry, Layout, and_more, missing, refuse, some
from baoseg.data.boxed.folder import read_folder
from baoseg.data.boxed.published import read_cub, read_ilsvrc, read_openimages

__all__ = [
    "Box",
    "Boxed",
    "Entry",
    "Layout",
    "folder_problems",
    "open_split",
    "refuse",
    "squash",
    "squash_mask",
    "truth_problems",
]

READERS: Mapping[Layout, Callable[[Path, str], tuple[list[str], list[Entry]]]] = {
    Layout.FOLDER: read_folder,
    Layout.CUB: read_cub,
    Layout.ILSVRC: read_ilsvrc,
    Layout.OPENIMAGES: read_openimages,
}


def open_split(
    path: str | Path, layout: Layout, split: str, *, classes: Sequence[str] = (), limit: int | None = None
) -> Boxed:
    """Open a split of a folder. Raises DataError if its lists are inconsistent.

    Class indices are those of the data set's own list, or of `classes`; images of other classes are left out. With
    `limit` there are at most so many images, spread evenly.
    """
    root = Path(path).expanduser()
    names, entries = READERS[layout](root, split)
    if unknown := sorted(set(classes) - set(names)):
        raise DataError(f"{root}: has no class {unknown[0]!r}; its classes are {some(names)}")
    chosen = tuple(classes) or tuple(names)
    kept = [entry for entry in entries if entry.label in set(chosen)]
    if not kept:
        raise DataError(f"{root}: no image in the split {split!r} of the classes {some(chosen)}; name another split")
    labels: dict[str, str] = {}
    for entry in entries:
        if entry.name in labels:
            other = "" if labels[entry.name] == entry.label else f", as {labels[entry.name]!r} and as {entry.label!r}"
            raise DataError(f"{root}: {entry.name} is in the lists more than once{other}; keep one line")
        labels[entry.name] = entry.label
    if absent := [entry.path for entry in kept if not entry.path.is_file()]:
        raise DataError(missing(absent[0]) + and_more(absent))
    return Boxed(ClassSet(chosen), split, spread(kept, limit))


def spread(entries: Sequence[Entry], limit: int | None) -> Sequence[Entry]:
    """At most `limit` of the entries, evenly over all."""
    count = len(entries) if limit is None else min(limit, len(entries))
    return [entries[position * len(entries) // count] for position in range(count)]
