"""MS COCO 2014 as 80 classes and a background: one mask an image from the outlines of its objects.

Images without any annotation are left out, as in the papers (BAS sec. 5.1): 702 of the 82,783 for training, which
leaves 82,081, and 367 of the 40,504 for validation, which leaves 40,137. The noise paper (sec. 4.1) evaluates on the
81,394 training images "with pixel-level ground truth labels" and does not say which 687 it leaves out; nothing in the
annotations is defined to be 81,394 images. Here all 82,081 have a mask, and the number of those with an object that
is no crowd is printed, as only these have ground truth for a class.
"""

import functools
import json
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from baoseg.core.errors import DataError
from baoseg.core.progress import say
from baoseg.core.types import IGNORE
from baoseg.data.boxed import refuse
from baoseg.data.images import read_image, write_mask
from baoseg.data.prepare import archives as packs
from baoseg.data.prepare.archives import Archive
from baoseg.data.prepare.common import IMAGES, MASKS, SPLITS, in_parallel, listed, need, write_labels, write_lines

# The ids of the annotations, with gaps, and the names of their classes. The n-th is class n of the masks, n = 1..80.
# fmt: off
CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}
# fmt: on
INDEX = {category: index for index, category in enumerate(CATEGORIES, start=1)}
CLASSES = tuple(CATEGORIES.values())


ANNOTATIONS = Archive(
    name="annotations_trainval2014.zip",
    md5="0a379cfc70b0e71301e0f377548639bd",
    url="http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
)
TRAIN = Archive(
    name="train2014.zip",
    md5="0da8c0bd3d6becc4dcb32757491aca88",
    url="http://images.cocodataset.org/zips/train2014.zip",
)
VAL = Archive(
    name="val2014.zip",
    md5="a3d79f5ed8d289b7a7554ce06a5782b3",
    url="http://images.cocodataset.org/zips/val2014.zip",
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The official archives, and how many of their images have annotations (BAS sec. 5.1)."""

    annotations: Archive = ANNOTATIONS
    train: Archive = TRAIN
    val: Archive = VAL
    train_images: int = 82081
    val_images: int = 40137
    unpacking: packs.Config = field(default_factory=packs.Config)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its annotations, as in the JSON file."""

    name: str  # without suffix
    height: int
    width: int
    annotations: list[dict[str, Any]]

    def classes(self) -> set[str]:
        """The classes of all annotations, crowds too."""
        return {CATEGORIES[annotation["category_id"]] for annotation in self.annotations}


def coco14(root: Path, *, archives: Path | None = None, workers: int = 2, config: Config = Config()) -> Path:
    """Make the folder ROOT/COCO2014 with the splits train and val, on `workers` processes (0: in this one).

    `archives` is where the archives lie, and where missing ones are downloaded to (ROOT/archives). Masks that exist are
    not made again. Raises DataError where an archive is missing, damaged or incomplete, or an image is damaged: all
    others are done first.
    """
    need("pycocotools.mask")
    folder, archives = root / "COCO2014", archives or root / "archives"
    unpack = functools.partial(packs.unpack_once, archives=archives, target=folder, config=config.unpacking)
    unpack(config.annotations, place=_place_annotations)
    with packs.unpacked_from(config.annotations, folder):
        splits = {split: read_images(folder / _instances(split)) for split in ("train", "val")}
    for split, count in (("train", config.train_images), ("val", config.val_images)):
        if len(splits[split]) != count:
            problem = f"{len(splits[split])} images with annotations instead of {count}"
            raise packs.incomplete(folder / _instances(split), problem, config.annotations, folder)
    for split, source in (("train", config.train), ("val", config.val)):
        names = {image.name for image in splits[split]}
        unpack(source, place=functools.partial(_place_image, names=names))
        packs.require(names, folder / IMAGES, source, folder)
        write_lines(folder / SPLITS / f"{split}.txt", (image.name for image in splits[split]))
        outlined = sum(any(not entry.get("iscrowd") for entry in image.annotations) for image in splits[split])
        say(f"{split}: {len(names):,} images, {outlined:,} of them with an object that is no crowd")
    everything = splits["train"] + splits["val"]
    present = listed(folder / MASKS)
    todo = [image for image in everything if image.name not in present]
    in_parallel(functools.partial(_write_mask, folder), todo, title="masks", workers=workers)
    write_labels(folder, CLASSES, {image.name: image.classes() for image in everything})
    return folder


def read_images(path: Path) -> list[AnnotatedImage]:
    """The images of an instances JSON that have annotations, in the order of their ids. Raises DataError."""
    try:
        content = json.loads(path.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        categories = {annotation["category_id"] for annotation in content["annotations"]}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the instances of COCO ({error}); restore it") from None
    strange = [f"category {number}" for number in sorted(categories - CATEGORIES.keys())]
    strange += [f"image {number}" for number in sorted(annotations.keys() - images.keys())]
    refuse(
        [
            f"{path}: an annotation names {what}, which COCO 2014 does not have; take the official file"
            for what in strange
        ]
    )
    return [
        AnnotatedImage(PurePosixPath(image["file_name"]).stem, image["height"], image["width"], annotations[number])
        for number, image in sorted(images.items())
        if number in annotations
    ]


def draw(annotations: Sequence[Mapping[str, Any]], *, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """Draw the mask of an image: classes 1..80, and 255 for pixels of a crowd without an object of its own outline.

    Where objects overlap, the object with fewer pixels is on top; of equally large objects, the later one. Each object
    is decoded by pycocotools, as in its `annToMask`.
    """
    coder = need("pycocotools.mask")
    codes = [_encode(annotation["segmentation"], height=height, width=width) for annotation in annotations]
    crowds = [bool(annotation.get("iscrowd")) for annotation in annotations]
    areas = coder.area(codes)
    with warnings.catch_warnings(action="ignore"):  # pycocotools does not know the copy keyword of NumPy 2
        layers = coder.decode(codes) != 0  # [h w objects]
    mask = np.zeros((height, width), dtype=np.uint8, order="F")  # the order of the layers
    for row in sorted(range(len(codes)), key=lambda row: (not crowds[row], -int(areas[row]))):
        mask[layers[:, :, row]] = IGNORE if crowds[row] else INDEX[annotations[row]["category_id"]]
    return np.ascontiguousarray(mask)


def _encode(outline: Any, *, height: int, width: int) -> dict[str, Any]:
    """Polygons, or runs as a list or a string, to the runs that pycocotools decodes."""
    coder = need("pycocotools.mask")
    if isinstance(outline, list):
        return coder.merge(coder.frPyObjects(outline, height, width))
    if isinstance(outline["counts"], list):
        return coder.frPyObjects(outline, height, width)
    return outline


def _write_mask(folder: Path, image: AnnotatedImage) -> None:
    path = folder / IMAGES / f"{image.name}.jpg"
    try:
        size = tuple(read_image(path).shape[-2:])
    except DataError as error:
        what = str(error).rpartition(";")[0]  # another remedy fits here
        url = f"http://images.cocodataset.org/{image.name.split('_')[1]}/{path.name}"
        raise DataError(f"{what}; put a whole copy there, from {url}, and run the same command again") from None
    if size != (image.height, image.width):
        raise DataError(f"{path}: not of the size that its annotations say; put the official image there")
    try:
        mask = draw(image.annotations, height=image.height, width=image.width)
    except Exception as error:  # pycocotools raises whatever a damaged outline leads it to
        what = " ".join(str(error).split())
        raise DataError(f"{path}: its annotations cannot be decoded ({what}); take the official annotations") from None
    write_mask(folder / MASKS / f"{image.name}.png", torch.from_numpy(mask))


def _instances(split: str) -> str:
    return f"annotations/instances_{split}2014.json"


def _place_annotations(name: str) -> str | None:
    return name if name in {_instances("train"), _instances("val")} else None


def _place_image(name: str, *, names: set[str]) -> str | None:
    path = PurePosixPath(name)
    return f"{IMAGES}/{path.name}" if path.suffix == ".jpg" and path.stem in names else None
