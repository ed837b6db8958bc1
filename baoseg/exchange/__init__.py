"""Masks for annotation tools and trainers, and masks back from them (docs/exchange.md)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from baoseg.exchange import coco, cvat, index_png, label_studio, labelme, yolo
from baoseg.exchange.common import Options as Options
from baoseg.exchange.common import Outlines as Outlines
from baoseg.exchange.common import require_same
from baoseg.exchange.importing import import_masks as import_masks
from baoseg.exchange.result import Collection, Drawn


@dataclass(frozen=True)
class Format:
    write: Callable[[Collection, Path, Options], None]  # into a folder; a second call goes on, or writes again
    read: Callable[[Path], Iterator[Drawn]]


def export_masks(results: Collection, form: str, out: Path, options: Options) -> None:
    """Write masks into a folder as one of FORMATS. The same call again goes on where it was.

    Raises RunError if the folder holds another export of this split.
    """
    require_same(results, out, form, options)
    FORMATS[form].write(results, out, options)


FORMATS = {
    "png": Format(index_png.write, index_png.read),
    "coco": Format(coco.write, coco.read),
    "label-studio": Format(label_studio.write, label_studio.read),
    "cvat": Format(cvat.write, cvat.read),
    "yolo": Format(yolo.write, yolo.read),
    "labelme": Format(labelme.write, labelme.read),
}
