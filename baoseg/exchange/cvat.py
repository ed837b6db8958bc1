"""CVAT's "Segmentation mask 1.1": a zip of masks in the colours of its list of labels.

    labelmap.txt                            name:red,green,blue:: of each class and of the background
    ImageSets/Segmentation/default.txt      the names of the images
    SegmentationClass/NAME.png              RGB

Pixels to ignore have no label in it, so they come back as background.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from baoseg.core.errors import DataError
from baoseg.core.files import atomic
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.data.images import DAMAGE, voc_palette
from baoseg.exchange.common import Options, track
from baoseg.exchange.result import Collection, Drawn

LABELS, NAMES, MASKS = "labelmap.txt", "ImageSets/Segmentation/default.txt", "SegmentationClass"


def write(results: Collection, out: Path, options: Options) -> None:
    """OUT/SPLIT.zip."""
    palette = voc_palette()
    palette[IGNORE] = palette[BACKGROUND]
    labels = ["# label:color_rgb:parts:actions"]
    for index, name in enumerate(("background", *results.classes.names)):
        labels.append(f"{name}:{','.join(map(str, palette[index].tolist()))}::")
    with atomic(out / f"{results.split}.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(LABELS, "\n".join(labels) + "\n")
        archive.writestr(NAMES, "\n".join(results.names) + "\n")
        for result in track(results):
            content = io.BytesIO()
            Image.fromarray(palette[result.mask]).save(content, format="PNG")
            archive.writestr(f"{MASKS}/{result.name}.png", content.getvalue())


def read(source: Path) -> Iterator[Drawn]:
    """The masks of an export. Nothing is unpacked to the disk."""
    try:
        with zipfile.ZipFile(source) as archive:
            names, colours = _labels(source, archive)
            for member in archive.namelist():
                path = PurePosixPath(member)
                if path.parts[:1] == (MASKS,) and path.suffix == ".png":
                    yield _drawn(source, archive, member, names, colours)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source}: cannot be read ({error}); export it from CVAT as Segmentation mask 1.1") from None


def _labels(source: Path, archive: zipfile.ZipFile) -> tuple[list[str], Int[np.ndarray, "n"]]:
    try:
        lines = archive.read(LABELS).decode("utf-8-sig").splitlines()
        parts = [line.rsplit(":", 3) for line in lines if line.strip() and not line.startswith("#")]
        names = [name for name, *_ in parts]
        colours = np.array([[int(value) for value in colour.split(",")] for _, colour, *_ in parts])
        return names, _number(colours)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"{source}: no {LABELS} as CVAT writes it ({error!r}); export Segmentation mask 1.1") from None


def _drawn(
    source: Path, archive: zipfile.ZipFile, member: str, names: list[str], colours: Int[np.ndarray, "n"]
) -> Drawn:
    try:
        with archive.open(member) as stream, Image.open(stream) as file:
            pixels = _number(np.asarray(file.convert("RGB")))
    except DAMAGE as error:
        raise DataError(f"{source}: {member} cannot be read ({error}); export it again") from None
    shown = np.unique(pixels)
    if unknown := sorted(set(shown.tolist()) - set(colours.tolist())):
        raise DataError(f"{source}: {member} has the colour #{unknown[0]:06x}, which {LABELS} does not name")
    size = (pixels.shape[0], pixels.shape[1])
    layers: list[tuple[str | None, Bool[np.ndarray, "h w"]]] = [
        (names[index], pixels == colour)
        for index, colour in enumerate(colours.tolist())
        if colour in shown and names[index] != "background"
    ]
    return Drawn(member.removeprefix(f"{MASKS}/"), size, lambda: layers)


def _number(colours: UInt8[np.ndarray, "... 3"] | Int[np.ndarray, "... 3"]) -> Int[np.ndarray, "..."]:
    """A colour as one number."""
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
