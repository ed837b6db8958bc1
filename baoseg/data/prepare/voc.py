"""PASCAL VOC 2012 for segmentation, with the training images of SBD.

VOC has 1,464 images to train on and 1,449 to evaluate on. Hariharan et al. (2011, "Semantic contours from inverse
detectors", SBD) outlined objects in 11,355 of VOC's images. The papers train on 10,582: VOC's train united with SBD's
train and val, without VOC's val. SBD's outlines are coarser, so VOC's masks are kept where there are any.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from rich.table import Table

from baoseg.core.errors import DataError
from baoseg.core.progress import say
from baoseg.data.images import read_image, read_mask, write_mask
from baoseg.data.prepare import archives as packs
from baoseg.data.prepare.archives import Archive
from baoseg.data.prepare.common import IMAGES, MASKS, SPLITS, in_parallel, need, read_split, write_labels, write_lines
from baoseg.data.voc import CLASSES

_DEVKIT = "VOCdevkit/VOC2012/"
_SBD = "benchmark_RELEASE/dataset/"


class Labels(Enum):
    """The source of the image-level labels."""

    OBJECTS = "objects"  # all objects of the XML files, difficult ones too, as in PSA's list, which the papers use
    EASY = "easy"  # without objects marked difficult, unless an image has no others
    MASKS = "masks"  # the classes with a pixel in the mask


TRAINVAL = Archive(
    name="VOCtrainval_11-May-2012.tar",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
)
SBD = Archive(
    name="benchmark.tgz",
    md5="82b4d87ceb2ed10f6038a1cba92111cb",
    url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
)
TEST = Archive(
    name="VOC2012test.tar",
    md5="9065beb292b6c291fad82b2725749fda",
    by_hand="register at http://host.robots.ox.ac.uk:8080 and download 'VOC2012 test data' there",
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The official archives, and how many images of each split they hold."""

    trainval: Archive = TRAINVAL
    sbd: Archive = SBD
    test: Archive = TEST
    train_images: int = 1464
    train_aug_images: int = 10582
    val_images: int = 1449
    test_images: int = 1456
    unpacking: packs.Config = field(default_factory=packs.Config)


@dataclass(frozen=True)
class _ImageClasses:
    """What the annotations say of one image."""

    objects: frozenset[str]
    easy: frozenset[str]  # objects that are not marked difficult
    masked: frozenset[str]  # classes with a pixel in the mask


def voc12(
    root: Path,
    *,
    archives: Path | None = None,
    labels: Labels = Labels.OBJECTS,
    workers: int = 2,
    config: Config = Config(),
) -> Path:
    """Make the folder ROOT/VOC2012 with the splits train, train_aug, val and, where its archive is at hand, test.

    `archives` is where the archives lie, and where missing ones are downloaded to (ROOT/archives). Images of the test
    split have neither labels nor masks. Prints how many images there are, and on how many of them image-level labels
    from the objects and from the masks differ. Raises DataError where an archive is missing, damaged or incomplete.
    """
    need("scipy.io")
    folder, sbd, archives = root / "VOC2012", root / "SBD", archives or root / "archives"
    unpack = functools.partial(packs.unpack_once, config=config.unpacking)
    unpack(config.trainval, archives, folder, place=_place_devkit)
    unpack(config.sbd, archives, sbd, place=_place_sbd)
    tests = packs.at_hand(config.test, archives, folder)
    if tests:
        unpack(config.test, archives, folder, place=_place_devkit)
    splits = _splits(folder, sbd, config, tests=tests)

    names = sorted({*splits["train_aug"], *splits["val"]})
    describe = functools.partial(_describe, folder=folder, sbd=sbd, config=config)
    images = dict(zip(names, in_parallel(describe, names, title="masks", workers=workers), strict=True))
    chosen = {name: _labels(image, labels) for name, image in images.items()}
    chosen |= {name: frozenset() for name in splits.get("test", [])}
    write_labels(folder, CLASSES, chosen)
    say(_table(splits, images))
    if not tests:
        say(f"no test split: {config.test.by_hand}, put {config.test.name} into {archives}, and run this again")
    return folder


def read_objects(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The classes of all objects of an XML file, and of those not marked difficult. Raises DataError."""
    try:
        objects = list(ElementTree.parse(path).iter("object"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it") from None
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it") from None
    named = [(entry.findtext("name", "").strip(), entry.findtext("difficult", "0").strip() == "1") for entry in objects]
    for name, _ in named:
        if name not in CLASSES:
            raise DataError(f"{path}: unknown class {name!r}, none of VOC's {len(CLASSES)}; correct it")
    return frozenset(name for name, _ in named), frozenset(name for name, difficult in named if not difficult)


def _place_devkit(name: str) -> str | None:
    return name.removeprefix(_DEVKIT) if name.startswith(_DEVKIT) else None


def _place_sbd(name: str) -> str | None:
    """The lists and the classes of pixels; images are VOC's own."""
    path = name.removeprefix("./").removeprefix(_SBD)
    return path if path.startswith("cls/") or path in {"train.txt", "val.txt"} else None


def _splits(folder: Path, sbd: Path, config: Config, *, tests: bool) -> dict[str, list[str]]:
    """The names of each split. Writes the list of train_aug."""
    lists = folder / SPLITS
    with packs.unpacked_from(config.trainval, folder):
        splits = {split: read_split(lists / f"{split}.txt") for split in ("train", "val")}
    with packs.unpacked_from(config.sbd, sbd):
        outlined = {*read_split(sbd / "train.txt"), *read_split(sbd / "val.txt")}
    if tests:
        with packs.unpacked_from(config.test, folder):
            splits["test"] = read_split(lists / "test.txt")
    splits["train_aug"] = sorted((outlined | set(splits["train"])) - set(splits["val"]))
    expected = {  # the train_aug of a whole VOC is wrong only by SBD
        "train": (config.train_images, config.trainval, folder),
        "val": (config.val_images, config.trainval, folder),
        "test": (config.test_images, config.test, folder),
        "train_aug": (config.train_aug_images, config.sbd, sbd),
    }
    for split, (count, source, target) in expected.items():
        if split in splits and len(splits[split]) != count:
            raise packs.incomplete(folder, f"{len(splits[split])} images in {split} instead of {count}", source, target)
    # SBD's masks would take the place of VOC's
    packs.require([*splits["train"], *splits["val"]], folder / MASKS, config.trainval, folder)
    packs.require(splits.get("test", []), folder / IMAGES, config.test, folder)
    write_lines(lists / "train_aug.txt", splits["train_aug"])
    return splits


def _describe(name: str, *, folder: Path, sbd: Path, config: Config) -> _ImageClasses:
    """Reads all that there is about an image, and makes its mask from SBD's where VOC has none."""
    with packs.unpacked_from(config.trainval, folder):
        size = read_image(folder / IMAGES / f"{name}.jpg").shape[-2:]
        objects, easy = read_objects(folder / "Annotations" / f"{name}.xml")
    path = folder / MASKS / f"{name}.png"
    if not path.exists():
        with packs.unpacked_from(config.sbd, sbd):
            write_mask(path, torch.from_numpy(_read_outlines(sbd / "cls" / f"{name}.mat")))
    mask = read_mask(path)
    if mask.shape != size:
        raise DataError(f"{path}: not of the size of its image; delete it and run the same command again")
    values = np.unique(mask.numpy())
    masked = frozenset(CLASSES[value - 1] for value in values if 1 <= value <= len(CLASSES))
    return _ImageClasses(objects, easy, masked)


def _read_outlines(path: Path) -> np.ndarray:
    """The class of each pixel: GTcls.Segmentation of one of SBD's files."""
    try:
        content = need("scipy.io").loadmat(path, variable_names=["GTcls"])
        classes = content["GTcls"]["Segmentation"][0, 0].astype(np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it") from None
    except Exception as error:  # SciPy's reader raises whatever a damaged file leads it to
        what = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read ({what}); restore it") from None
    if classes.ndim != 2 or classes.max(initial=0) > len(CLASSES):
        raise DataError(f"{path}: not classes 0..{len(CLASSES)} of pixels; restore it")
    return classes


def _labels(image: _ImageClasses, source: Labels) -> frozenset[str]:
    match source:
        case Labels.OBJECTS:
            return image.objects
        case Labels.EASY:
            return image.easy or image.objects
        case Labels.MASKS:
            return image.masked


def _table(splits: Mapping[str, Sequence[str]], images: Mapping[str, _ImageClasses]) -> Table:
    """Numbers of images, and of those whose labels from masks differ from those from objects."""
    table = Table("split", "images", "masks differ from objects", "... from those not difficult")
    for split, names in splits.items():
        known = [images[name] for name in names if name in images]
        objects, easy = (sum(getattr(image, of) != image.masked for image in known) for of in ("objects", "easy"))
        table.add_row(split, f"{len(names):,}", f"{objects:,}", f"{easy:,}")
    return table
