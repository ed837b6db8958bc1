"""Index masks beside their images: one layout for Ultralytics' semantic training, MMSegmentation, LightlyTrain,
FiftyOne and the imagefolder of Hugging Face `datasets`.

    OUT/images/SPLIT/NAME.jpg           copies
    OUT/masks/SPLIT/NAME.png            one channel (mode L): 0 background, 1..K classes, 255 ignore
    OUT/metadata.jsonl                  file_name, mask_file_name and split of each image, of all splits: `datasets`
                                        takes no path that leaves the folder of this file
    OUT/data.yaml                       the splits and the names of the classes

The masks look black in a viewer: their values are class indices, not colours. Readers that take a palette PNG for
colours (OpenCV 5) read these as they are.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from baoseg.core.errors import DataError, first_line
from baoseg.core.files import atomic
from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.data.images import image_size, read_image, read_mask
from baoseg.exchange import colours
from baoseg.exchange.colours import LABELS
from baoseg.exchange.common import Options, copy_image, copy_name, is_current, names_of_yaml, track, write_yaml
from baoseg.exchange.result import Collection, Drawn, Layer

SPLIT = "split"
MASKS = ("masks", "SegmentationClass", "labels", "annotations")


def write(results: Collection, out: Path, options: Options) -> None:
    images, masks = out / "images" / results.split, out / "masks" / results.split
    metadata = out / "metadata.jsonl"
    with atomic(metadata) as temporary, temporary.open("w", encoding="utf-8") as lines:
        lines.writelines(_of_other_splits(metadata, results.split))
        for result in track(results):
            mask = masks / f"{result.name}.png"
            if not is_current(mask, result):
                copy_image(result, images)
                with atomic(mask) as file:
                    Image.fromarray(result.mask, mode="L").save(file, format="PNG")
            image = images / copy_name(result)
            files = {"file_name": image.relative_to(out).as_posix(), "mask_file_name": mask.relative_to(out).as_posix()}
            lines.write(json.dumps({**files, SPLIT: results.split}, ensure_ascii=False) + "\n")
    names = {BACKGROUND: "background", **dict(enumerate(results.classes.names, start=1))}
    write_yaml(out, {"masks_dir": "masks", "names": names, "ignore_index": IGNORE})


def _of_other_splits(metadata: Path, split: str) -> Iterator[str]:
    """The lines that earlier exports of other splits wrote."""
    if metadata.exists():
        with metadata.open(encoding="utf-8") as lines:
            yield from (line for line in lines if json.loads(line)[SPLIT] != split)


def read(source: Path) -> Iterator[Drawn]:
    """Masks below a folder: of this layout, or NAME.png alone with a list of the classes beside them.

    With data.yaml or classes.txt the values are class indices. With labelmap.txt colours are classes, as in the folder
    of an unpacked export of CVAT.
    """
    root = next((source / folder for folder in MASKS if (source / folder).is_dir()), source)
    files = [(path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.png"))]
    if (source / LABELS).is_file():
        try:
            of_colours = colours.names_of((source / LABELS).read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(
                f"{source / LABELS}: {first_line(error)}; write name:red,green,blue:: on each line"
            ) from None
        yield from (Drawn(name, image_size(path), partial(_in_colour, path, of_colours)) for path, name in files)
    else:
        names = names_of_yaml(source)
        yield from (Drawn(name, image_size(path), partial(_indexed, path, names)) for path, name in files)


def _in_colour(path: Path, names: dict[int, str]) -> Iterator[Layer]:
    yield from colours.layers(read_image(path).permute(1, 2, 0).numpy(), names, where=str(path))


def _indexed(path: Path, names: dict[int, str]) -> Iterator[Layer]:
    mask = read_mask(path, classes=max(names)).numpy()
    shown = np.unique(mask).tolist()
    if unknown := sorted(set(shown) - {BACKGROUND, IGNORE, *names}):
        raise DataError(f"{path}: has the value {unknown[0]}, and the class list has {', '.join(map(str, names))}")
    for index in shown:
        if index != BACKGROUND:
            yield (None if index == IGNORE else names[index]), mask == index
