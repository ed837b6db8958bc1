"""A folder with data, and recipes for runs on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from baoseg import nets, pipeline, recipes
from baoseg.core.run_folder import RunFolder
from baoseg.methods import cam
from baoseg.predict import segment
from baoseg.recipes import Recipe
from baoseg.training import train

NAMES = tuple(f"p{index}" for index in range(6))
SHORT = train.Config(epochs=1, batch_size=4, lr=1e-3)
RECIPE = replace(tiny.RECIPE, stages=(recipes.Stage(method=cam.Config(), schedule=SHORT),))


def write_data(root: Path, *, masks: bool = True) -> Path:
    """Six images of two classes: four to train on, two to evaluate."""
    generator = np.random.default_rng(0)
    (root / "splits").mkdir(parents=True)
    lines = ["image,labels"]
    for index, name in enumerate(NAMES):
        Image.fromarray(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(root / f"{name}.png")
        lines.append(f"{name}.png,{('cat', 'dog')[index % 2]}")
        if masks:
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.full((48, 64), index % 2 + 1, dtype=np.uint8)).save(root / "masks" / f"{name}.png")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "splits" / "train.txt").write_text("\n".join(NAMES[:4]) + "\n")
    (root / "splits" / "val.txt").write_text("\n".join(NAMES[4:]) + "\n")
    return root


def recipe_on(path: object) -> Recipe:
    return tiny.with_data(RECIPE, path)


def begin(recipe: Recipe, out: Path) -> RunFolder:
    return pipeline.begin(recipe, out, hardware=tiny.HARDWARE)


CNN = nets.Config(backbone="timm:test_resnet")
SEGMENTATION = recipes.Segmentation(
    masks="cam",
    schedule=SHORT,
    net=segment.NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16),
    inference=segment.Inference(scales=(1.0,)),
)
NET = "deeplab-largefov:timm:test_resnet"


def state_of(folder: RunFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def backbone(folder: Path) -> Path:
    """Weights of the segmentation network's backbone."""
    path = folder / "backbone.safetensors"
    if not path.exists():
        model = nets.make_backbone(CNN, 1).model
        assert isinstance(model, torch.nn.Module)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path
