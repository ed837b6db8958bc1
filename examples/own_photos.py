"""Masks and a segmentation network from your own images and their image-level labels.

    python examples/own_photos.py my_photos runs/mine              # trains; the same command continues a stopped run
    python examples/own_photos.py my_photos runs/mine --smoke      # only shows that all steps run, in seconds

`my_photos` holds images and a labels.csv that says what each image shows:

    image,labels
    beach.jpg,dog
    couch.jpg,dog sofa
    sky.jpg,

The same on the command line: bao run photos --data my_photos --out runs/mine
"""

import argparse
from pathlib import Path

from PIL import Image

import baoseg
from baoseg import pipeline, recipes
from baoseg.training.train import Hardware

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", type=Path, help="folder with images and labels.csv")
parser.add_argument("out", type=Path, help="run folder to write")
parser.add_argument("--smoke", action="store_true", help="a few small images and one epoch; the masks mean nothing")
chosen = parser.parse_args()

# A recipe holds all settings of a run. `override` changes a few of them; `smoke` makes everything small.
recipe = recipes.override(recipes.named("photos"), data=str(chosen.photos))
if chosen.smoke:
    recipe = recipes.smoke(recipe)

# Train CAM and BAO+, refine its masks with a CRF, train a segmentation network on them, write runs/mine/report.html.
run = pipeline.run(recipe, chosen.out, hardware=Hardware())
print(f"Masks of the training images: {run.stage('bao-plus+crf').root / 'masks'}")

# The segmentation network needs no labels. Its masks hold 0 for the background and 1..K for the classes.
segmenter = baoseg.load(run.root / "network")
print(f"Classes: {', '.join(segmenter.classes.names)}")
photo = next(path for path in sorted(chosen.photos.rglob("*")) if path.suffix.lower() in {".jpg", ".png"})
mask, _ = segmenter(photo)
Image.fromarray(mask.numpy()).save(run.root / "first-mask.png")
print(f"Mask of {photo}: {run.root / 'first-mask.png'}")
