"""CAM, AMN, BAS, BAO, BAO+ and CAM+BAS on small sets of real photographs, before and after a CRF, over several seeds.

    python benchmarks/voc_mini.py --data ../shared/data/voc-mini --out runs/voc-mini --json voc-mini.json
    python benchmarks/voc_mini.py --recipe msrc14 --data ../shared/data/msrc14 --splits val --out runs/msrc14

The network is EfficientNet-Lite2 with its embedded weights; all settings are those of the recipe. Training reads
image-level labels alone. Masks of the splits choose nothing: what they would have chosen is called oracle. With
`--network` the segmentation network of the recipe is trained too: on the CRF masks of BAO+ and on the true ones.
An interrupted benchmark continues with the same command.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from figures import publish

from baoseg import evaluate, pipeline, recipes, seeds
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.nets import embedded
from baoseg.recipes import Fusion, Recipe
from baoseg.training.train import Hardware

METHODS = ("cam", "amn", "bas", "bao", "bao-plus")
SUMS = ("cam+bas",)


@dataclass(frozen=True, kw_only=True)
class Options:
    data: Path
    out: Path  # a run folder for each seed is made in it
    recipe: str = "voc-mini"
    splits: tuple[str, ...] = ("train", "val")
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    network: bool = False
    json: Path | None = None


def main(options: Options) -> None:
    base = recipes.override(recipes.named(options.recipe), data=str(options.data), backbone=embedded.DEFAULT)
    sums = SUMS if {"cam", "bas"} <= {*options.methods} else ()
    hardware = Hardware(accelerator="cpu")
    of_seeds = []
    for seed in options.seeds:
        recipe = replace(base, seed=seed)
        out = options.out / str(seed)
        run = pipeline.compare(recipe, out, methods=options.methods, fuse=sums, refine=("crf",), hardware=hardware)
        of_seeds.append({split: _figures(run, split, hardware) for split in options.splits})
        if options.network:
            of_seeds[-1]["network"] = _networks(run, base, options, hardware)
    publish({"seeds": dict(zip(map(str, options.seeds), of_seeds, strict=True)), "mean": _mean(of_seeds)}, options.json)


def _figures(run: RunFolder, split: str, hardware: Hardware) -> dict[str, dict[str, float]]:
    """mIoU of each method as it decides, at its oracle threshold, and after the CRF."""
    _masks(run, split, hardware)
    recipe, dataset = pipeline.recipe_of(run), pipeline.open_split(pipeline.recipe_of(run), split)
    truths = {name: dataset.mask(index) for index, name in enumerate(dataset.names)}
    judged = [name for name, truth in truths.items() if truth is not None]
    classes, figures = len(dataset.classes), {}
    for name in recipe.names:
        maps = ((seeds.load(run.stage(name).maps(split, image)), truths[image]) for image in judged)
        metrics = evaluate.evaluate_seeds(maps, classes, threshold=recipe.masks_of(name).threshold)
        refined = ((read_mask(run.stage(f"{name}+crf").mask(split, image)), truths[image]) for image in judged)
        figures[name] = {
            "miou": evaluate.of_masks(metrics)["miou"],
            "oracle": metrics["oracle"]["miou"],
            "crf": evaluate.of_masks(evaluate.evaluate_masks(refined, classes, decision="refined"))["miou"],
        }
    return figures


def _masks(run: RunFolder, split: str, hardware: Hardware) -> None:
    pipeline.make_maps(run, hardware=hardware, split=split)
    pipeline.make_masks(run, split=split)
    pipeline.refine_masks(run, hardware=hardware, split=split)


def _networks(run: RunFolder, base: Recipe, options: Options, hardware: Hardware) -> dict[str, dict[str, float]]:
    """mIoU on the evaluation split, without labels, of the network trained on our masks and on the true ones.

    The true ones are those of the split `train`; images that come to it in `train_extra` have none.
    """
    split = base.data.train_split or "train"
    _masks(run, split, hardware)
    weak = run.stage("bao-plus+crf").masks(split)
    masks = {"weak": (weak, split), "full": (options.data / "SegmentationClass", "train")}
    figures = {}
    for name, (folder, learned) in masks.items():
        recipe = replace(
            base,
            name=f"{base.name}-{name}",
            data=replace(base.data, train_split=learned),
            stages=(),
            fusions=(Fusion(called="bao-plus", sources=(str(run.stage("bao-plus").root),)),),
            refinements=(),
            segmentations=(replace(base.segmentations[0], masks=str(folder), called="network"),),
            seed=pipeline.recipe_of(run).seed,
        )
        other = pipeline.run(recipe, run.root.with_name(f"{run.root.name}-{name}"), hardware=hardware)
        figures[name] = {"miou": evaluate.of_masks(read_json(other.stage("network").metrics))["miou"]}
    return figures


def _mean(of_seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of each figure over the seeds."""
    first = of_seeds[0]
    if isinstance(next(iter(first.values())), dict):
        return {key: _mean([figures[key] for figures in of_seeds]) for key in first}
    spread = statistics.stdev if len(of_seeds) > 1 else lambda values: 0.0
    columns = {key: [figures[key] for figures in of_seeds] for key in first}
    return {key: f"{statistics.mean(values):.1f} +- {spread(values):.1f}" for key, values in columns.items()}


if __name__ == "__main__":
    main(tyro.cli(Options))
