"""Comparison with ground truth, and the page."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from baoseg import evaluate, progress, ranks, report, seeds
from baoseg.data import Dataset
from baoseg.data.images import read_mask
from baoseg.errors import DataError
from baoseg.manifest import note_truth, recipe_of, split_data, truth_changed
from baoseg.recipes import Recipe
from baoseg.runs import Run, Stage, write_json
from baoseg.steps.common import each, evaluated_stages, masked_stages


def evaluate_stages(folder: Run) -> bool:
    """Write metrics.json of each stage and print the table. False, and a line, where there is no ground truth."""
    recipe = recipe_of(folder)
    dataset = split_data(folder)
    if not dataset.has_masks:
        progress.say(f"No ground truth for the {len(dataset)} pictures of {dataset.split}: nothing to evaluate.")
        return False
    classes, split = len(dataset.classes), dataset.split
    changed = truth_changed(folder, dataset)
    if changed:
        progress.say(f"The ground truth of {split} has changed since this run was made: all is compared with it anew.")
    for paths in evaluated_stages(folder, recipe):
        pairs = _Pairs(paths, dataset, lambda stage, name: seeds.load(stage.maps(split, name)))
        with pairs.named():
            metrics = evaluate.evaluate_seeds(pairs, classes, threshold=recipe.masks_of(paths.name).threshold)
        _note_metrics(pairs, metrics)
    for decision, stages in masked_stages(folder, recipe, split).items():
        for paths in stages:
            pairs = _Pairs(paths, dataset, lambda stage, name: read_mask(stage.mask(split, name)))
            with pairs.named():
                metrics = evaluate.evaluate_masks(pairs, classes, decision=decision)
            _note_metrics(pairs, metrics)
    if changed and ranks.first():
        note_truth(folder, dataset)
    ranks.barrier()
    progress.say(report.table(folder, _reported(folder, recipe, split)))
    return True


def _note_metrics(pairs: "_Pairs", metrics: dict[str, Any]) -> None:
    dataset, count = pairs.dataset, sum(ranks.gathered(pairs.count))
    if not ranks.first():
        return
    about = {"split": dataset.split, "images": count, "classes": ["background", *dataset.classes.names]}
    write_json(pairs.paths.metrics, {**about, **metrics})


def make_report(folder: Run) -> Path:
    """Write the HTML page and say where it is."""
    recipe = recipe_of(folder)
    dataset = split_data(folder)
    names = _reported(folder, recipe, dataset.split)
    if truth_changed(folder, dataset):
        progress.say("The ground truth has changed since the evaluation: run `bao evaluate` and `bao report` again.")
    if ranks.first():
        report.build(folder, stages=names, dataset=dataset, config=recipe.report, title=recipe.name)
    ranks.barrier()
    progress.say(f"Report: {folder.report.resolve()}")
    return folder.report


def _reported(folder: Run, recipe: Recipe, split: str) -> list[str]:
    """Refinements and segmentations that are not made yet are left out."""
    masked = masked_stages(folder, recipe, split).values()
    return [paths.name for stages in (evaluated_stages(folder, recipe), *masked) for paths in stages]


class _Pairs:
    """What a stage says and the ground truth, for each picture that has some; remembers where it is, for errors."""

    def __init__(self, paths: Stage, dataset: Dataset, read: Callable[[Stage, str], Any]) -> None:
        self.paths = paths
        self.dataset = dataset
        self.read = read
        self.current = ""
        self.count = 0

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        count = len(self.dataset)
        for index in each(range(count), of=count, title=f"{self.paths.name} evaluate"):
            mask = self.dataset.mask(index)
            if mask is not None:
                self.current = name = self.dataset.names[index]
                self.count += 1
                yield self.read(self.paths, name), mask

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors inside name the picture at which they came up."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.dataset.split}/{self.current}: {error}") from error
