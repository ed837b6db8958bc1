"""The reading on real photographs: BAO on msrc14 with MobileNetV2, without a threshold and before any refinement.

    python benchmarks/msrc14.py --data ../shared/data/msrc14 --weights mobilenetv2_100.safetensors --out runs/msrc14

Trains on the training images and their image-level labels alone, then evaluates on the masks of `val`, which choose
nothing: what they would have chosen is printed as oracle. Prints the seconds of each step.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from baoseg import pipeline, recipes
from baoseg.core.progress import say
from baoseg.training.train import Hardware


@dataclass(frozen=True, kw_only=True)
class Options:
    data: Path  # the msrc14 folder
    weights: Path  # ImageNet weights of timm's mobilenetv2_100 with pad_type "same"
    out: Path  # run folder
    seed: int = 0


def main(options: Options) -> None:
    recipe = recipes.override(recipes.msrc14(options.data, options.weights), seed=options.seed)
    hardware = Hardware(accelerator="cpu")
    start = time.perf_counter()
    run = pipeline.begin(recipe, options.out)
    steps = {
        "train": lambda: pipeline.train_stages(run, hardware=hardware),
        "maps": lambda: pipeline.make_maps(run, hardware=hardware),
        "masks": lambda: pipeline.make_masks(run),
        "evaluate": lambda: pipeline.evaluate_stages(run),
        "report": lambda: pipeline.make_report(run),
    }
    for name, step in steps.items():
        begun = time.perf_counter()
        step()
        say(f"{name}: {time.perf_counter() - begun:.0f} s")
    say(f"all: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Options))
