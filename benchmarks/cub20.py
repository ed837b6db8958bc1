"""CAM and BAS on the first 20 classes of CUB-200-2011 with MobileNetV2: boxes from one label an image, in one table.

    python benchmarks/cub20.py --data ../shared/data/cub20/CUB_200_2011 --weights mobilenetv2_100.safetensors --out RUN

The settings are those of the recipe cub20 (`recipes.boxes.cub20`), which says how they were chosen.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from figures import publish

from baoseg import pipeline, recipes
from baoseg.core.files import read_json
from baoseg.training.train import Hardware


@dataclass(frozen=True, kw_only=True)
class Options:
    data: Path  # the folder CUB_200_2011
    weights: Path  # ImageNet weights of timm's mobilenetv2_100 with pad_type "same"
    out: Path  # run folder
    seed: int = 0
    workers: int = 2
    json: Path | None = None


def main(options: Options) -> None:
    recipe = recipes.override(
        recipes.named("cub20"), data=str(options.data), weights=options.weights, seed=options.seed
    )
    run = pipeline.run(recipe, options.out, hardware=Hardware(accelerator="cpu", workers=options.workers))
    figures = {}
    for name in read_json(run.manifest)["stages"]:
        metrics, costs = read_json(run.stage(name).metrics), read_json(run.stage(name).costs)
        figures[name] = {
            "minutes": round(costs["train"]["seconds"] / 60, 1),
            **{
                key: metrics[key] for key in ("gt_known", "top1", "top5", "median_iou", "image_specific", "top_k_curve")
            },
            "oracle": metrics["oracle"],
        }
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
