"""CVAT's "Segmentation mask 1.1": a zip of masks in the colours of its list of labels.

    labelmap.txt                            name:red,green,blue:: of each class and of the background
    ImageSets/Segmentation/default.txt      the names of the images
    SegmentationClass/NAME.png              RGB, a colour for each class
    SegmentationObject/NAME.png             RGB, a colour for each instance

CVAT makes an annotation of each colour of the second file; without it there would be one for each class, and one for
the background. It knows 255 of these colours: in an image with more instances, all of a class have one colour. Pixels
to ignore have a label of their own where there are any.
"""

import contextlib
import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from baoseg.core.errors import DataError, first_line
from baoseg.core.files import atomic
from baoseg.core.types import IGNORE
from baoseg.data.images import DAMAGE, voc_palette, what_is_wrong
from baoseg.exchange import colours
from baoseg.exchange.colours import LABELS
from baoseg.exchange.common import Options, ignore_name, track
from baoseg.exchange.result import Collection, Drawn, ImageResult, Layer

NAMES = "ImageSets/Segmentation/default.txt"
MASKS, OBJECTS = "SegmentationClass", "SegmentationObject"
COLOURS = 255
LONGEST = 1 << 20  # bytes of a list of labels


def write(results: Collection, out: Path, options: Options) -> None:
    """OUT/SPLIT.zip."""
    if odd := [name for name in results.classes.names if ":" in name or name.startswith("#")]:
        raise DataError(f"{odd[0]}: CVAT's list of labels has no room for : and a leading #; rename the class")
    palette = voc_palette()
    names = dict(enumerate(("background", *results.classes.names)))
    with atomic(out / f"{results.split}.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(NAMES, "\n".join(results.names) + "\n")
        for result in track(results):
            archive.writestr(f"{MASKS}/{result.name}.png", _png(palette[result.mask]))
            archive.writestr(f"{OBJECTS}/{result.name}.png", _png(palette[_objects(result)]))
            if IGNORE not in names and (result.mask == IGNORE).any():
                names[IGNORE] = ignore_name(results.classes)
        lines = [f"{name}:{','.join(map(str, palette[index].tolist()))}::" for index, name in names.items()]
        archive.writestr(LABELS, "\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n")


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def _objects(result: ImageResult) -> UInt8[np.ndarray, "h w"]:
    """A number for each instance, or for each class where these are too many; 0 is no object."""
    found = [*result.instances(), *result.ignored()]
    if len(found) > COLOURS:
        return result.mask
    objects = np.zeros(result.size, dtype=np.uint8)
    for number, one in enumerate(found, start=1):
        left, top, width, height = one.box
        objects[top : top + height, left : left + width][one.part] = number
    return objects


def read(source: Path) -> Iterator[Drawn]:
    """The masks of an export. Nothing is unpacked to the disk."""
    try:
        archive = zipfile.ZipFile(source)  # stays open for as long as there are masks to paint
        names = _labels(archive)
    except (OSError, KeyError, ValueError, IndexError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{source}: cannot be read ({first_line(error)}); export it from CVAT as Segmentation mask 1.1"
        ) from None
    for member in archive.namelist():
        path = PurePosixPath(member)
        if path.parts[:1] == (MASKS,) and path.suffix.lower() == ".png":
            with _opened(source, archive, member) as file:
                size = (file.height, file.width)
            yield Drawn(member.removeprefix(f"{MASKS}/"), size, partial(_paint, source, archive, member, names))


def _labels(archive: zipfile.ZipFile) -> dict[int, str]:
    """The names of the labels by their colour."""
    with archive.open(LABELS) as stream:
        content = stream.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise ValueError(f"{LABELS} is larger than {LONGEST} bytes")
    return colours.names_of(content)


def _paint(source: Path, archive: zipfile.ZipFile, member: str, names: dict[int, str]) -> Iterator[Layer]:
    with _opened(source, archive, member) as file:
        pixels = np.asarray(file.convert("RGB"))
    yield from colours.layers(pixels, names, where=f"{source}: {member}")


@contextlib.contextmanager
def _opened(source: Path, archive: zipfile.ZipFile, member: str) -> Iterator[Image.Image]:
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            archive.open(member) as stream,
            Image.open(stream, formats=["PNG"]) as file,
        ):
            yield file
    except (*DAMAGE, zipfile.BadZipFile) as error:
        raise DataError(f"{source}: {member}: {what_is_wrong(error, 'mask')}") from None
