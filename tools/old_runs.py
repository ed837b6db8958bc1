"""Write the run folders of tests/fixtures/old: one for masks and one for boxes, as version 0.1 made them.

    git checkout 3d2f866 && python tools/old_runs.py tests/fixtures/old

Run it with the code of that commit, the last one with a framework of its own for boxes: the folders show that today's
code opens what was made then (tests/pipeline/test_old_runs.py). The networks are tiny: all of it stays below 100 kB.
"""

import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from baoseg.recipes.box_schema import Config as BoxConfig
from baoseg.recipes.box_schema import Localizer
from PIL import Image

from baoseg import nets, pipeline
from baoseg.data import Config, transforms, wsol
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.methods import bao, bas, cam
from baoseg.pipeline import localize
from baoseg.predict.maps import Config as MapsConfig
from baoseg.recipes import Fusion, Recipe, Refinement, Stage
from baoseg.refine import crf
from baoseg.report import Config as ReportConfig
from baoseg.training import train
from baoseg.training.train import Hardware

HARDWARE = Hardware(accelerator="cpu", workers=0)
NET = nets.Config(
    backbone="timm:resnet10t",
    options=(("channels", (4, 4, 8, 8)), ("stem_width", 4)),
    stride=16,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
SCHEDULE = train.Config(epochs=1, batch_size=4, lr=1e-3)
PLACE = "/somewhere"  # stands for the folder in which they were made
COLOURS = {"blue": (30, 40, 220), "red": (220, 30, 20)}


def masks(out: Path) -> None:
    """Stages, a fusion and a refinement on generated scenes."""
    recipe = Recipe(
        name="old-masks",
        data=Config(path="synthetic", synthetic=SyntheticConfig(size=64, train_images=4, eval_images=2)),
        net=NET,
        augment=transforms.Config(resize_long=(48, 80), crop=64),
        stages=(
            Stage(method=cam.Config(), schedule=SCHEDULE),
            Stage(method=bao.Config(), schedule=SCHEDULE, start="cam"),
        ),
        fusions=(Fusion(called="cam+bao", sources=("cam", "bao")),),
        refinements=(Refinement(of="bao", by=crf.LABELS),),
        maps=MapsConfig(sizes=(64,)),
        report=ReportConfig(gallery=1),
    )
    pipeline.run(recipe, out / "run", hardware=HARDWARE)


def boxes(out: Path) -> None:
    """CAM, and BAS that starts from it, on four images; two of them have a mask, too."""
    data = out / "data"
    (data / "masks").mkdir(parents=True)
    labels, corners = ["image,label"], ["image,x0,y0,x1,y1"]
    for number, (colour, i) in enumerate(itertools.product(COLOURS, range(2))):
        pixels = np.full((60 + 10 * i, 80, 3), 120, dtype=np.uint8)
        x0, y0 = 5 + 8 * number, 4 + 6 * number
        pixels[y0 : y0 + 26, x0 : x0 + 31] = COLOURS[colour]
        Image.fromarray(pixels).save(data / f"{colour}{i}.png")
        labels.append(f"{colour}{i}.png,{colour}")
        corners.append(f"{colour}{i}.png,{x0},{y0},{x0 + 30},{y0 + 25}")
        if i == 1:
            Image.fromarray((pixels[..., 0] != 120).astype(np.uint8)).save(data / f"masks/{colour}{i}.png")
    (data / "labels.csv").write_text("\n".join(labels) + "\n", encoding="utf-8")
    (data / "boxes.csv").write_text("\n".join(corners) + "\n", encoding="utf-8")
    config = BoxConfig(
        name="old-boxes",
        data=wsol.Config(path=str(data)),
        net=NET,
        stages=(
            Localizer(method=cam.Config(), schedule=SCHEDULE, threshold=0.2),
            Localizer(method=bas.Config(alpha=0.5, beta=1.5), schedule=SCHEDULE, threshold=0.1, top_k=2, start="cam"),
        ),
        side=72,
        crop=64,
    )
    localize.make_maps(localize.run(config, out / "run", hardware=HARDWARE), hardware=HARDWARE)


def main(out: Path) -> None:
    for make in (masks, boxes):
        folder = out.resolve() / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
        (folder / "run" / "report.html").unlink()  # 60 kB that tests write anew
        manifest = folder / "run" / "run.json"
        text = manifest.read_text(encoding="utf-8").replace(json.dumps(str(out.resolve()))[1:-1], PLACE)
        manifest.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
