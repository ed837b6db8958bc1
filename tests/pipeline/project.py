"""A folder with data, and recipes for runs on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from baoseg import nets, pipeline, recipes
from baoseg.core import settings
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import Run
from baoseg.methods import amn, bas, cam
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


def begin(recipe: Recipe, out: Path) -> Run:
    return pipeline.begin(recipe, out, hardware=tiny.HARDWARE)


CNN = nets.Config(backbone="timm:test_resnet")
SEGMENTATION = recipes.Segmentation(
    masks="cam",
    schedule=SHORT,
    net=segment.NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16),
    inference=segment.Inference(scales=(1.0,)),
)
NET = "deeplab-largefov:timm:test_resnet"


def state_of(folder: Run) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def backbone(folder: Path) -> Path:
    """Weights of the segmentation network's backbone."""
    path = folder / "backbone.safetensors"
    if not path.exists():
        model = nets.make_backbone(CNN, 1).model
        assert isinstance(model, torch.nn.Module)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def test_what_an_earlier_version_noted_and_cannot_be_made_is_withdrawn(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Run(copy / "run")
    noted = read_json(folder.manifest)
    bad = replace(SEGMENTATION, net=segment.NetConfig(name="smp:unet/resnet188"))
    noted["segmentations"]["segment"] = settings.to_json(bad)
    irn = replace(recipes.refined(recipe_on("data"), ["irn"]).refinements[0], schedule=SHORT)
    noted["refinements"]["cam+irn"] = settings.to_json(irn)
    write_json(folder.manifest, noted)
    pipeline.add_refinements(folder, ["crf"])
    assert "cam+irn: withdrawn, as it cannot be made: Conformer: no stages" in capsys.readouterr().out
    pipeline.run(recipe_on("data"), folder.root, hardware=tiny.HARDWARE)
    assert "segment: withdrawn, as it cannot be made: smp:unet/resnet188" in capsys.readouterr().out
    assert [*read_json(folder.manifest)["refinements"]] == ["cam+crf"]
    assert not read_json(folder.manifest)["segmentations"]
    assert folder.stage("cam+crf").mask("val", "p4").exists()


# ------------------------------------------------------------------------- refused before it begins


def refusals() -> dict[str, tuple[Recipe, str]]:
    base = replace(RECIPE, data=tiny.RECIPE.data)
    (stage,) = base.stages
    return {
        "irn": (recipes.refined(base, ["irn"]), "no stages"),
        "bas": (replace(base, stages=(replace(stage, method=bas.Config()),)), "no stages for a generator"),
        "amn": (replace(base, stages=(replace(stage, method=amn.Config()),)), "learns from seeds; name the stage"),
        "backbone": (replace(base, net=nets.Config(backbone="conformer_giant")), "unknown backbone"),
        "pretrained": (replace(base, net=replace(tiny.NET, pretrained=True)), "timm has no weights for it"),
        "crop": (replace(base, augment=replace(base.augment, crop=60)), "crops of 60 pixels are no multiple"),
        "weights": (replace(base, net=replace(tiny.NET, weights="none.pth")), "none.pth: no such weights"),
        "masks": (replace(base, segmentations=(replace(SEGMENTATION, masks="none"),)), "none: neither a stage"),
        "network": (
            replace(base, segmentations=(replace(SEGMENTATION, net=segment.NetConfig(name="smp:unet/x")),)),
            "no such encoder",
        ),
        "seeds": (
            replace(base, fusions=(recipes.Fusion(called="sum", sources=("cam", "none")),)),
            "none: neither a stage of this run nor a folder",
        ),
        "devices": (replace(base, stages=(replace(stage, schedule=replace(SHORT, batch_size=3)),)), "divided by 2"),
    }
