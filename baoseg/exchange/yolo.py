"""YOLO's segmentation labels: a text file beside each image, an outline for each connected part of a class.

    OUT/images/SPLIT/NAME.jpg       copies
    OUT/labels/SPLIT/NAME.txt       class x1 y1 x2 y2 ...: in parts of width and height, classes from 0
    OUT/data.yaml                   the splits and the names of the classes, without the background

Holes hang on their outline by a seam without width. Semantic training of Ultralytics takes index masks instead
(`index_png`), which lose nothing. Pixels to ignore come back as background.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from baoseg.core.errors import DataError
from baoseg.core.files import atomic
from baoseg.data.images import image_size, image_suffixes
from baoseg.exchange.common import Options, copy_image, is_current, names_of_yaml, track, write_yaml
from baoseg.exchange.outlines import fill, outlines
from baoseg.exchange.result import Collection, Drawn, ImageResult, Layer

BOX = 4  # numbers of a line for detection
WITHIN = 0.25  # pixels: some readers round coordinates and others cut them off, and both find the same pixel


def write(results: Collection, out: Path, options: Options) -> None:
    images, labels = out / "images" / results.split, out / "labels" / results.split
    for result in track(results):
        path = labels / f"{result.name}.txt"
        if not is_current(path, result):
            copy_image(result, images)
            with atomic(path) as temporary:
                temporary.write_text("".join(_lines(result, options)), encoding="ascii")
    write_yaml(out, {"nc": len(results.classes), "names": dict(enumerate(results.classes.names))})


def _lines(result: ImageResult, options: Options) -> Iterator[str]:
    scale = np.array(result.size[::-1], dtype=np.float64)
    for instance in result.instances(min_area=options.min_area):
        for outline in outlines(instance.part):
            points = " ".join(f"{value:.6f}" for value in ((outline + instance.box[:2] + WITHIN) / scale).ravel())
            yield f"{instance.label - 1} {points}\n"


def read(source: Path) -> Iterator[Drawn]:
    """A data set with data.yaml; the sizes are those of its images."""
    names = names_of_yaml(source)
    images, labels = source / "images", source / "labels"
    if not images.is_dir() or not labels.is_dir():
        raise DataError(f"{source}: has no folders images and labels; give the folder of data.yaml")
    for image in sorted(path for path in images.rglob("*") if path.suffix.lower() in image_suffixes()):
        name = image.relative_to(images)
        path = (labels / name).with_suffix(".txt")
        if path.is_file():
            yield _drawn(path, name.as_posix(), image_size(image), names)


def _drawn(path: Path, name: str, size: tuple[int, int], names: dict[int, str]) -> Drawn:
    def paint() -> Iterator[Layer]:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                label, *values = line.split()
                if len(values) == BOX:
                    raise ValueError("a box")
                points = np.array(values, dtype=np.float64).reshape(-1, 2) * (size[1], size[0])
                yield names[int(label)], fill([points], size)
            except (ValueError, KeyError) as error:
                raise DataError(
                    f"{path}: line {number} is no outline of a class ({error}); write `class x1 y1 x2 y2 ...`"
                ) from None

    return Drawn(name, size, paint)
