"""Ablations over seeds: the papers' (BNR's noise, how BAO's target follows) and BAO's options beyond the papers.

    python benchmarks/ablations.py --recipe demo --out runs/ablations                       # three seeds
    python benchmarks/ablations.py --recipe msrc14 --data msrc14 --weights mobilenetv2_100.safetensors --seeds 0 ...

For each seed one run folder, which an interrupted call continues. Prints mean and spread over the seeds; nothing is
chosen by the masks, what they would have chosen is called oracle.
"""

import csv
import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from figures import publish

from baoseg import data, evaluate, pipeline, recipes
from baoseg.core import progress
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import RunFolder
from baoseg.methods import bao, make
from baoseg.methods.components.decisions import Cut
from baoseg.predict import labeler
from baoseg.recipes import Recipe
from baoseg.training.train import Hardware

LOW = 0.2  # a low threshold: figure 4 of the noise paper shows its gain below the best one


@dataclass(frozen=True, kw_only=True)
class Options:
    recipe: str = "demo"
    out: Path  # a run folder for each seed is made in it
    data: Path | None = None
    weights: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    papers: bool = True  # the papers' ablations
    beyond: int = 1  # for how many of the seeds BAO's options beyond the papers are measured
    workers: int = 0
    json: Path | None = None


def main(options: Options) -> None:
    base = recipes.override(
        recipes.named(options.recipe),
        data=None if options.data is None else str(options.data),
        weights=options.weights,
    )
    hardware = Hardware(accelerator="cpu", workers=options.workers)
    readings: dict[str, dict[str, list[float]]] = {}
    for number, seed in enumerate(options.seeds):
        beyond = number < options.beyond
        recipe = ablations(dataclasses.replace(base, seed=seed), papers=options.papers, beyond=beyond)
        run = pipeline.begin(recipe, options.out / f"seed-{seed}")
        pipeline.train_stages(run, hardware=hardware)
        pipeline.make_maps(run, hardware=hardware)
        pipeline.evaluate_stages(run)
        for name in recipe.names:
            note(readings, name, read_json(run.stage(name).metrics))
            if options.papers:
                note_online(readings, name, run.stage(name).epochs)
        if beyond:
            for choice in (bao.ClassMaps.WITH_ACTIVATION, bao.ClassMaps.ACTIVATION):
                note(readings, f"bao, {choice}", at_inference(run, recipe, choice))
        publish({name: summary(values) for name, values in readings.items()}, options.json)


def ablations(base: Recipe, *, papers: bool, beyond: bool) -> Recipe:
    """One recipe with all variants. `bao` is the base's own, and in the curves its online network is evaluated."""
    recipe = recipes.comparison(base, ["bnr", "bao"] if papers else ["bao"])
    last = recipe.stages[-1]
    config = last.method
    assert isinstance(config, bao.Config)
    changes: dict[str, dict[str, Any]] = {}
    stages = list(recipe.stages)
    if papers:
        follow = recipes.follow_ablation(base)
        # share+ema is how `bao` is trained: its curve is that of its online network too
        stages += [stage for stage in follow.stages if stage.name not in {*recipe.names, "share+ema"}]
    if beyond:
        changes |= {"otsu": {"cut": Cut.OTSU}, "mixture": {"cut": Cut.MIXTURE}}
        changes |= {"doubt": {"doubt": 0.2}, "backgrounds": {"backgrounds": 4}}
    for name, change in changes.items():
        stages.append(dataclasses.replace(last, called=name, method=dataclasses.replace(config, **change)))
    return dataclasses.replace(recipe, name=f"{base.name}-ablations", stages=tuple(stages), epoch_curves=papers)


def at_inference(run: RunFolder, recipe: Recipe, choice: bao.ClassMaps) -> dict[str, Any]:
    """Metrics of the trained BAO with other class maps at inference."""
    kept = run.stage("bao").root / f"metrics-{choice}.json"
    if not kept.exists():
        trained = labeler.load(run.stage("bao").network)
        method = trained.method
        assert isinstance(method, bao.BAO)
        changed = dataclasses.replace(method.config, class_channels=choice)
        model = labeler.Labeler(make(changed, method.network), trained.classes, maps=trained.maps, masks=trained.masks)
        dataset = data.open_dataset(recipe.data, "eval")
        pairs = (
            (model.seed(sample.image, sample.labels), sample.mask)
            for sample in progress.track((dataset[i] for i in range(len(dataset))), title=choice, total=len(dataset))
            if sample.mask is not None
        )
        write_json(kept, evaluate.evaluate_seeds(pairs, len(dataset.classes), threshold=trained.masks.threshold))
    return read_json(kept)


def note(readings: dict[str, dict[str, list[float]]], name: str, metrics: dict[str, Any]) -> None:
    at = [round(threshold, 2) for threshold in metrics["sweep"]["thresholds"]].index(LOW)
    values = {
        "miou": evaluate.of_masks(metrics)["miou"],
        "oracle": metrics["oracle"]["miou"],
        f"miou at {LOW}": metrics["sweep"]["miou"][at],
    }
    for key, value in values.items():
        readings.setdefault(name, {}).setdefault(key, []).append(value)


def note_online(readings: dict[str, dict[str, list[float]]], name: str, epochs: Path) -> None:
    """The network in training, the online one of BAO, after its last epoch."""
    with epochs.open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    for key in ("miou", "oracle_miou"):
        readings[name].setdefault(f"online {key}", []).append(float(last[key]))


def summary(values: dict[str, list[float]]) -> dict[str, str]:
    """Mean and standard deviation over the seeds, and each of them."""
    text = {}
    for key, each in values.items():
        spread = statistics.stdev(each) if len(each) > 1 else 0.0
        text[key] = f"{statistics.mean(each):.1f} +- {spread:.1f} ({', '.join(f'{value:.1f}' for value in each)})"
    return text


if __name__ == "__main__":
    main(tyro.cli(Options))
