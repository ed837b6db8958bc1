"""A tiny data set of colours with boxes, and a recipe for it."""

import itertools

import numpy as np
from PIL import Image

from baoseg import nets
from baoseg.data import Config as DataConfig
from baoseg.data import boxed
from baoseg.methods import bas, cam
from baoseg.predict.boxes import BoxConfig
from baoseg.recipes import Recipe, Stage, for_boxes
from baoseg.training import train
from baoseg.training.train import Hardware

HARDWARE = Hardware(accelerator="cpu", workers=0)
SCHEDULE = train.Config(epochs=2, batch_size=4, lr=1e-3)
NET = nets.Config(backbone="timm:test_efficientnet", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
COLOURS = {"blue": (30, 40, 220), "green": (20, 200, 60), "red": (220, 30, 20)}
BAS = bas.Config(alpha=0.5, beta=1.5)


def write_images(root, *, each: int = 2) -> None:
    """Rectangles of a colour on grey, of some sizes, with their boxes; the second of each colour has a mask too."""
    generator = np.random.default_rng(0)
    labels, boxes = ["image,label"], ["image,x0,y0,x1,y1"]
    for colour, i in itertools.product(COLOURS, range(each)):
        height, width = 60 + 10 * i, 80
        x0, y0 = generator.integers(0, 30, 2).tolist()
        x1, y1 = x0 + 30, y0 + 25
        pixels = np.full((height, width, 3), 120, dtype=np.uint8)
        pixels[y0 : y1 + 1, x0 : x1 + 1] = COLOURS[colour]
        Image.fromarray(pixels).save(root / f"{colour}{i}.png")
        labels.append(f"{colour}{i}.png,{colour}")
        boxes.append(f"{colour}{i}.png,{x0},{y0},{x1},{y1}")
        if i == 1:
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray((pixels[..., 0] != 120).astype(np.uint8)).save(root / f"masks/{colour}{i}.png")
    (root / "labels.csv").write_text("\n".join(labels) + "\n", encoding="utf-8")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")


def data_in(root: object) -> DataConfig:
    return DataConfig(path=str(root), layout=boxed.Layout.FOLDER)


def settings(root, **options) -> Recipe:
    stages = (
        Stage(method=cam.Config(), schedule=SCHEDULE, box=BoxConfig(threshold=0.2)),
        Stage(method=BAS, schedule=SCHEDULE, box=BoxConfig(threshold=0.1, top_k=2)),
    )
    given = {
        "name": "colours",
        "data": data_in(root),
        "net": NET,
        "stages": stages,
        "side": 72,
        "crop": 64,
    }
    return for_boxes(**{**given, **options})
