"""COCO's outlines to masks on disk: ours beside the published way, on generated annotations.

    python benchmarks/coco.py [--images 100] [--json FILE]

The published way asks pycocotools for the mask of each object by itself, largest first, and paints one over the other.
Images of 640 x 480 with seven objects each, as COCO has on average, drawn as polygons. Both must give the same masks.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from figures import compare, publish_results, with_about
from PIL import Image
from pycocotools import mask as coder

from baoseg.data.images import read_mask, write_mask
from baoseg.data.prepare import coco

Annotations = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Options:
    images: int = 100
    objects: int = 7
    corners: int = 40  # of an object
    size: tuple[int, int] = (480, 640)
    rounds: int = 3
    folder: Path = Path()  # of the masks: set by `main`
    json: Path | None = None


def annotations(options: Options) -> list[Annotations]:
    """Stars with wavy outlines."""
    random, (height, width) = np.random.default_rng(0), options.size
    angles = np.linspace(0, 2 * math.pi, options.corners, endpoint=False)

    def draw() -> dict[str, Any]:
        radius = random.uniform(10, 120) * (1 + 0.3 * np.sin(random.integers(2, 7) * angles))
        x = (random.uniform(0, width) + radius * np.cos(angles)).clip(0, width)
        y = (random.uniform(0, height) + radius * np.sin(angles)).clip(0, height)
        outline = np.stack([x, y], axis=1).flatten().tolist()
        return {"segmentation": [outline], "category_id": int(random.choice(list(coco.INDEX))), "iscrowd": 0}

    return [[draw() for _ in range(options.objects)] for _ in range(options.images)]


def ours(path: Path, objects: Annotations, height: int, width: int) -> None:
    write_mask(path, torch.from_numpy(coco.draw(objects, height=height, width=width)))


def the_published_way(path: Path, objects: Annotations, height: int, width: int) -> None:
    layers = [coder.decode(coder.merge(coder.frPyObjects(each["segmentation"], height, width))) for each in objects]
    mask = np.zeros((height, width), np.uint8)
    for layer, each in sorted(zip(layers, objects, strict=True), key=lambda pair: -int(pair[0].sum())):
        mask[layer == 1] = coco.INDEX[each["category_id"]]
    Image.fromarray(mask).save(path)


RUNS = {"ours": ours, "published": the_published_way}


def prepare(way: str, options: Options) -> Callable[[], None]:
    images = annotations(options)

    def run() -> None:
        for number, objects in enumerate(images):
            RUNS[way](options.folder / f"{number} {way}.png", objects, *options.size)

    return run


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = replace(options, folder=Path(folder))
        result, _ = compare(prepare, options, rounds=options.rounds)
        for number in range(options.images):
            mine, theirs = (read_mask(options.folder / f"{number} {way}.png") for way in RUNS)
            if not torch.equal(mine, theirs):
                raise SystemExit(f"the two ways differ on mask {number}")
    result = with_about(result, masks_per_second={way: options.images / took for way, took in result.seconds.items()})
    height, width = options.size
    what = f"{options.images} masks from COCO's outlines, {width} x {height}, {options.objects} objects"
    publish_results({what: result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
