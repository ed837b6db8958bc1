"""Masks for annotation tools and trainers, and masks back from them (docs/exchange.md)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from baoseg.exchange import coco, cvat, index_png, label_studio, labelme, yolo
from baoseg.exchange.common import Options as Options
from baoseg.exchange.common import Outlines as Outlines
from baoseg.exchange.importing import import_masks as import_masks
from baoseg.exchange.result import Collection, Drawn


@dataclass(frozen=True)
class Format:
    write: Callable[[Collection, Path, Options], None]  # into a folder; a second call goes on, or writes again
    read: Callable[[Path], Iterator[Drawn]]


FORMATS = {
    "png": Format(index_png.write, index_png.read),
    "coco": Format(coco.write, coco.read),
    "label-studio": Format(label_studio.write, label_studio.read),
    "cvat": Format(cvat.write, cvat.read),
    "yolo": Format(yolo.write, yolo.read),
    "labelme": Format(labelme.write, labelme.read),
}
