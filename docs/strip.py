"""Makes docs/strip.jpg, the photographs of the README under the masks of `bao try`.

    pip install scikit-image && python docs/strip.py

The photographs come with scikit-image: Chelsea the cat (Stefan van der Walt, CC0), a cup of coffee (Pikolo Espresso
Bar / Rachel Michetti, public domain), astronaut Eileen Collins (NASA, public domain), a rocket (SpaceX, CC0).
"""

from pathlib import Path

import skimage.data
import torch
from PIL import Image

import baoseg
from baoseg.data.images import as_image
from baoseg.predict.predict import overlay

PHOTOS = {"chelsea": ["cat"], "coffee": ["cup"], "astronaut": ["space shuttle"], "rocket": ["missile"]}
HEIGHT, GAP = 220, 6


def main() -> None:
    labeler = baoseg.load("imagenet")
    strips = []
    for name, labels in PHOTOS.items():
        image = as_image(getattr(skimage.data, name)())
        mask = torch.from_numpy(labeler(image, labels=labels).mask)
        pair = [Image.fromarray(image.permute(1, 2, 0).numpy()), overlay(image, mask)]
        strips += [photo.resize((round(photo.width * HEIGHT / photo.height), HEIGHT)) for photo in pair]
    strip = Image.new("RGB", (sum(photo.width + GAP for photo in strips) - GAP, HEIGHT), "white")
    left = 0
    for photo in strips:
        strip.paste(photo, (left, 0))
        left += photo.width + GAP
    strip.save(Path(__file__).with_name("strip.jpg"), quality=85)


if __name__ == "__main__":
    main()
