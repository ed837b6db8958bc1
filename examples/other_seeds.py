"""Seeds that another tool made: masks, metrics and a report from them, as from a method of baoseg.

    python examples/other_seeds.py my_photos irn/cams runs/irn      # seconds; nothing is trained

`irn/cams` holds a file NAME.npy for each image, as IRN, PSA, SEAM, TransCAM and their relatives save it: a dict from
class index to map, or a dict with `keys` and `cam` or `high_res`. Class indices count from 0 in the order of the
classes, without the background. This script writes such a file if you ask it to:

    python examples/other_seeds.py my_photos seeds runs/seeds --example

The map of each class of an image is then a blob in the middle of the image. Where there is ground truth
(my_photos/masks/NAME.png), the table shows how good that is.
"""

import argparse
from pathlib import Path

import numpy as np

from baoseg import pipeline, recipes
from baoseg.data import Folder

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", type=Path, help="folder with images and labels.csv")
parser.add_argument("seeds", type=Path, help="folder with NAME.npy for each image")
parser.add_argument("out", type=Path, help="run folder to write")
parser.add_argument("--example", action="store_true", help="write seeds to the folder first")
chosen = parser.parse_args()

if chosen.example:
    for sample in Folder(chosen.photos, "all"):
        height, width = sample.image.shape[1:]
        rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        blob = np.exp(-3 * (rows**2 + columns**2)).astype(np.float32)
        path = chosen.seeds / f"{sample.name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, dict.fromkeys(sample.labels.nonzero()[:, 0].tolist(), blob), allow_pickle=True)

# Data, threshold and CRF are those of a recipe; its methods are not trained. A dict in an .npy file is a pickle: baoseg
# reads arrays and numbers from it and runs nothing in it, but has to be told to read it.
recipe = recipes.override(recipes.named("photos"), data=str(chosen.photos))
run = pipeline.fuse_seeds(recipe, [str(chosen.seeds)], chosen.out, allow_pickle=True)
print(f"Masks: {run.stage('fused').root / 'masks'}")

# A second source in the list, e.g. "runs/mine/bao", adds its normalised maps: pipeline.fuse_seeds(recipe, [a, b], ...).
