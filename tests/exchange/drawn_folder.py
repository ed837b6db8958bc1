"""A folder of images with masks that have holes, several classes and ignored pixels."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

CLASSES = ("cat", "dog & co", "Bär")
NAMES = ("a/one", "two", "b/three")
SIZES = ((40, 56), (33, 47), (64, 30))


def masks(*, ignore: bool = True) -> dict[str, np.ndarray]:
    """Blobs of noise, so with holes and islands; of the last image, nothing but background."""
    draw, found = np.random.default_rng(3), {}
    for name, (height, width) in zip(NAMES, SIZES, strict=True):
        noise = cv2.GaussianBlur(draw.random((height, width)), (0, 0), 2.0)
        levels = np.quantile(noise, [0.4, 0.6, 0.8, 0.92])
        mask = np.searchsorted(levels, noise).astype(np.uint8)
        mask[mask == 4] = 255 if ignore else 0
        found[name] = mask
    found[NAMES[2]][:] = 0
    return found


def write(root: Path, of: dict[str, np.ndarray] | None = None) -> Path:
    """The images in `root`, and the masks as its ground truth if they are given."""
    lines = ["image,labels"]
    for name, size in zip(NAMES, SIZES, strict=True):
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        shown = [] if of is None else [CLASSES[index - 1] for index in np.unique(of[name]) if index in (1, 2, 3)]
        lines.append(f"images/{name}.png,{'; '.join(shown)}")
        if of is not None:
            target = root / "masks" / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(of[name]).save(target)
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return root
