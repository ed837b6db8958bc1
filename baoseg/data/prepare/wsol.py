"""The data sets of weakly supervised localization, in the layouts that `baoseg.data.boxed` reads.

Each function unpacks, opens every split as training and evaluation do, and compares the number of images with the
published one. Images and boxes are left as they are.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from baoseg.core.progress import say
from baoseg.data import boxed as boxes
from baoseg.data.boxed import Layout
from baoseg.data.prepare import archives as packs
from baoseg.data.prepare.archives import Archive, Place

CUB_IMAGES = Archive(
    name="CUB_200_2011.tgz",
    md5="97eceeb196236b17998738112f37df78",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
)
CUB_SEGMENTATIONS = Archive(
    name="segmentations.tgz",
    md5="4d47ba1228eae64f2fa547c47bc65255",
    url="https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz?download=1",
)

_LOGIN = "log in at https://image-net.org/challenges/LSVRC/2012/2012-downloads.php and download"
ILSVRC_TRAIN = Archive(
    name="ILSVRC2012_img_train.tar",
    md5="1d675b47d978889d74fa0da5fadfb00e",
    by_hand=f"{_LOGIN} 'Training images (Task 1 & 2)' (138 GB)",
)
ILSVRC_VAL = Archive(
    name="ILSVRC2012_img_val.tar",
    md5="29b22e2961454d5413ddabcf34fc5622",
    by_hand=f"{_LOGIN} 'Validation images (all tasks)' (6.3 GB)",
)
ILSVRC_BOXES = Archive(
    name="ILSVRC2012_bbox_val_v3.tgz",
    md5="f4cd18b5ea29fe6bbea62ec9c20d80f0",
    by_hand=f"{_LOGIN} 'Validation bounding box annotations (all tasks)' (2.2 MB)",
)

# No checksum of these is public. The commit says what the lists hold, and the lists say what the other two hold.
_COMMIT = "b5c1e8a99868d5b2e869aa7f3f5ad8c310b16ca3"
OPENIMAGES_LISTS = Archive(
    name=f"wsolevaluation-{_COMMIT}.zip",
    md5=None,
    url=f"https://github.com/clovaai/wsolevaluation/archive/{_COMMIT}.zip",
)
OPENIMAGES_IMAGES = Archive(
    name="OpenImages_images.zip",
    md5=None,
    by_hand="open https://drive.google.com/open?id=1oOb4WQ-lb8SYppHEg3lWnpHk1X8WVO4e in a browser",
)
OPENIMAGES_MASKS = Archive(
    name="OpenImages_annotations.zip",
    md5=None,
    by_hand="open https://drive.google.com/open?id=1eu1YvcZlsEalhXTS_5Ni5tkImCliIPie in a browser",
)


@dataclass(frozen=True, kw_only=True)
class Cub:
    """CUB-200-2011: 200 kinds of birds. Segmentations are an archive of their own."""

    images: Archive = CUB_IMAGES
    segmentations: Archive = CUB_SEGMENTATIONS
    train_images: int = 5994
    test_images: int = 5794
    unpacking: packs.Config = field(default_factory=packs.Config)


@dataclass(frozen=True, kw_only=True)
class Ilsvrc:
    """ImageNet's ILSVRC 2012: 1,000 classes, boxes of the validation images."""

    train: Archive = ILSVRC_TRAIN
    val: Archive = ILSVRC_VAL
    boxes: Archive = ILSVRC_BOXES
    train_images: int = 1281167
    val_images: int = 50000
    unpacking: packs.Config = field(default_factory=packs.Config)


@dataclass(frozen=True, kw_only=True)
class OpenImages:
    """OpenImages30k (Choe et al., CVPR 2020): 100 classes with masks; the lists are in the authors' repository."""

    lists: Archive = OPENIMAGES_LISTS
    images: Archive = OPENIMAGES_IMAGES
    masks: Archive = OPENIMAGES_MASKS
    train_images: int = 29819
    val_images: int = 2500
    test_images: int = 5000
    unpacking: packs.Config = field(default_factory=packs.Config)


def cub200(root: Path, *, archives: Path | None = None, segmentations: bool = False, config: Cub = Cub()) -> Path:
    """Make the folder ROOT/CUB_200_2011 with the splits train and test; with masks if `segmentations`.

    `archives` is where the archives lie, and where missing ones are downloaded to (ROOT/archives). Raises DataError
    where one is missing, damaged or incomplete.
    """
    folder, archives = root / "CUB_200_2011", archives or root / "archives"
    unpack = functools.partial(packs.unpack_once, archives=archives, target=folder, config=config.unpacking)
    lists = "images|image_class_labels|train_test_split|bounding_boxes|classes"
    unpack(config.images, place=_what(rf"CUB_200_2011/((?:{lists})\.txt|images/.+\.jpg)"))
    if segmentations:
        unpack(config.segmentations, place=_what(r"(segmentations/.+\.png)"))
    masks = config.segmentations if segmentations else None
    counts = {"train": config.train_images, "test": config.test_images}
    _check(folder, Layout.CUB, {name: _Split(n, config.images, config.images, masks) for name, n in counts.items()})
    return folder


def ilsvrc(root: Path, *, archives: Path | None = None, config: Ilsvrc = Ilsvrc()) -> Path:
    """Make the folder ROOT/ILSVRC with the splits val and, where its archive is at hand, train.

    All archives need a login, so a person puts them into `archives` (ROOT/archives). Raises DataError where those of
    val are missing, or one is damaged or incomplete.
    """
    folder, archives = root / "ILSVRC", archives or root / "archives"
    packs.require_at_hand([config.val, config.boxes], archives, folder)
    unpack = functools.partial(packs.unpack_once, archives=archives, target=folder, config=config.unpacking)
    unpack(config.boxes, place=_what(r"(val/ILSVRC2012_val_\d+\.xml)", below="Annotations/CLS-LOC/"))
    unpack(config.val, place=_what(r"(ILSVRC2012_val_\d+\.JPEG)", below="Data/CLS-LOC/val/"))
    splits = {}
    if packs.at_hand(config.train, archives, folder):
        unpack(config.train, place=_what(r"(n\d+/n\d+_\d+\.JPEG)", below="Data/CLS-LOC/train/"))
        splits["train"] = _Split(config.train_images, config.train, config.train)  # first: its folders are the classes
    _check(folder, Layout.ILSVRC, splits | {"val": _Split(config.val_images, config.val, config.boxes)})
    if not splits:
        say(f"no split train: {config.train.by_hand}, put {config.train.name} into {archives}, and run this again")
    return folder


def openimages(root: Path, *, archives: Path | None = None, config: OpenImages = OpenImages()) -> Path:
    """Make the folder ROOT/OpenImages with the splits train, val and test; the last two have masks.

    Images and masks are for a person to put into `archives` (ROOT/archives); the lists are downloaded. Raises
    DataError where an archive is missing, damaged or incomplete.
    """
    folder, archives = root / "OpenImages", archives or root / "archives"
    packs.require_at_hand([config.images, config.masks], archives, folder)
    unpack = functools.partial(packs.unpack_once, archives=archives, target=folder, config=config.unpacking)
    unpack(
        config.lists,
        place=_what(r"metadata/OpenImages/(\w+/(?:class_labels|localization)\.txt)", below="metadata/"),
    )
    for archive in (config.images, config.masks):
        unpack(archive, place=_what(r"((?:train|val|test)/\w+/\w+\.(?:jpg|png))"))
    splits = {
        "train": _Split(config.train_images, config.lists, config.images),
        "val": _Split(config.val_images, config.lists, config.images, config.masks),
        "test": _Split(config.test_images, config.lists, config.images, config.masks),
    }
    _check(folder, Layout.OPENIMAGES, splits)
    return folder


def boxed_folder(root: Path) -> list[str]:
    """All problems of a plain folder with boxes, each in one line: where, what, remedy. Every image is decoded."""
    return boxes.folder_problems(root)


class _Split(NamedTuple):
    """What a split should have, and which archive to ask for if it has not."""

    images: int
    counted: Archive  # where their number is wrong
    opened: Archive  # where one of them lacks what the lists say
    masks: Archive | None = None  # where one has no mask; None: they need none


def _check(folder: Path, layout: Layout, splits: Mapping[str, _Split]) -> None:
    """Open each split. Prints what is there; raises DataError where something is not."""
    table = Table("split", "images", "with boxes", "with masks")
    for name, split in splits.items():
        with packs.unpacked_from(split.opened, folder):
            entries = boxes.open_split(folder, layout, name).entries
        if len(entries) != split.images:
            problem = f"{len(entries)} images in {name} instead of {split.images}"
            raise packs.incomplete(folder, problem, split.counted, folder)
        masked = {entry.name for entry in entries if entry.masks and all(mask.is_file() for mask in entry.masks)}
        if split.masks is not None and len(masked) < len(entries):
            first = next(entry for entry in entries if entry.name not in masked)
            problem = f"{len(entries) - len(masked)} images of {name} lack a mask, e.g. {first.name}"
            raise packs.incomplete(folder, problem, split.masks, folder)
        boxed = sum(bool(entry.boxes) for entry in entries)
        table.add_row(name, f"{len(entries):,}", f"{boxed:,}", f"{len(masked):,}")
    say(table)


def _what(pattern: str, *, below: str = "") -> Place:
    """Places the members whose path ends as `pattern` says: its group, below a folder."""
    wanted = re.compile(rf"(?:.+/)?{pattern}")

    def place(name: str) -> str | None:
        found = wanted.fullmatch(name)
        return None if found is None else f"{below}{found[1]}"

    return place
