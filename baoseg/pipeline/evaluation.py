"""Comparison with ground truth, and the page."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from baoseg import evaluate, report, seeds
from baoseg.core import progress, ranks
from baoseg.core.errors import DataError
from baoseg.core.files import write_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.data import Dataset, boxed_of, folder_of
from baoseg.data.images import read_mask
from baoseg.data.truth import Agreement, named_by
from baoseg.pipeline.boxes import evaluate_boxes
from baoseg.pipeline.common import evaluated_stages, masked_stages, sharded
from baoseg.pipeline.manifest import note_truth, recipe_of, split_data, truth_changed
from baoseg.recipes import Recipe, Task
from baoseg.training.train import Hardware

_GLANCE = 200  # masks that are looked at before a run


def glance_at_masks(recipe: Recipe, dataset: Dataset) -> None:
    """Look at some of the ground truth before work of hours, and say how it is read.

    Raises DataError where it cannot belong to the labels, as `evaluate_stages` would after the work.
    """
    _say_how_masks_are_read(dataset)
    check, count = _Check(dataset, recipe), min(_GLANCE, len(dataset))
    if folder_of(dataset) is None or not dataset.has_masks:
        return
    for index in (position * len(dataset) // count for position in range(count)):
        if (mask := dataset.mask(index)) is not None:
            check.add(index, mask)
    check.refuse(check.agreement)


def evaluate_stages(folder: RunFolder, *, hardware: Hardware | None = None) -> bool:
    """Write metrics.json of each stage and print the table. False, and a line, where there is no ground truth.

    Stages that draw boxes are measured where they have no metrics.json; their networks run on `hardware`.

    Of masks the first pass over the masks also compares them with the labels. Raises DataError where they cannot belong
    together.
    """
    recipe, dataset = recipe_of(folder), split_data(folder)
    _say_how_masks_are_read(dataset)
    if recipe.task is Task.MASKS and not dataset.has_masks:
        progress.say(f"No ground truth for the {len(dataset)} images of {dataset.split}: nothing to evaluate.")
        return False
    if changed := truth_changed(folder, dataset):
        progress.say(
            f"The ground truth of {dataset.split} has changed since this run was made: all is compared with it anew."
        )
    if recipe.task is Task.BOXES:
        evaluate_boxes(folder, recipe, boxed_of(dataset), hardware=hardware or Hardware(), anew=changed)
    else:
        _evaluate_masks(folder, recipe, dataset)
    if changed and ranks.first():
        note_truth(folder, dataset)
    ranks.barrier()
    made = report.boxes.table if recipe.task is Task.BOXES else report.table
    progress.say(made(folder, _reported(folder, recipe, dataset.split)))
    return True


def _evaluate_masks(folder: RunFolder, recipe: Recipe, dataset: Dataset) -> None:
    classes, split = len(dataset.classes), dataset.split
    check = _Check(dataset, recipe)
    for paths in evaluated_stages(folder, recipe):
        pairs = _Pairs(paths, dataset, lambda stage, name: seeds.load(stage.maps(split, name)), check)
        with pairs.named():
            metrics = evaluate.evaluate_seeds(pairs, classes, threshold=recipe.masks_of(paths.name).threshold)
        check.conclude()
        _note_metrics(pairs, metrics)
    for decision, stages in masked_stages(folder, recipe, split).items():
        for paths in stages:
            pairs = _Pairs(paths, dataset, lambda stage, name: read_mask(stage.mask(split, name)), check)
            with pairs.named():
                metrics = evaluate.evaluate_masks(pairs, classes, decision=decision)
            check.conclude()
            _note_metrics(pairs, metrics)


def _say_how_masks_are_read(dataset: Dataset) -> None:
    """Raises DataError for masks of a folder that cannot be what its labels say."""
    source = folder_of(dataset)
    for remark in [] if source is None else source.mask_remarks():
        progress.say(remark)


class _Check:
    """Ground truth against labels, counted in the first pass over the masks."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self.dataset = dataset
        self.where = recipe.data.path
        self.agreement = Agreement(dataset.classes.names)
        self.done = False

    def add(self, index: int, mask: UInt8[Tensor, "h w"]) -> None:
        if not self.done:
            self.agreement.add(self.dataset.names[index], mask, named_by(self.dataset.labels(index)))

    def conclude(self) -> None:
        """Say what is odd, once. Raises DataError where masks and labels cannot belong together."""
        if self.done:
            return
        self.done = True
        first, *others = ranks.gathered(self.agreement)
        whole = sum(others, start=first)
        self.refuse(whole)
        if whole.masks < len(self.dataset):
            share = f"{whole.masks} of {len(self.dataset)} images of {self.dataset.split}"
            progress.say(f"{share} have ground truth: the others are left out of the evaluation.")
        for remark in whole.remarks():
            progress.say(f"{self.where}: {remark}")

    def refuse(self, agreement: Agreement) -> None:
        if refusal := agreement.refusal():
            raise DataError(f"{self.where}: {refusal}")


def _note_metrics(pairs: "_Pairs", metrics: dict[str, Any]) -> None:
    dataset, count = pairs.dataset, sum(ranks.gathered(pairs.count))
    if not ranks.first():
        return
    about = {"split": dataset.split, "images": count, "classes": ["background", *dataset.classes.names]}
    write_json(pairs.paths.metrics, {**about, **metrics})


def make_report(folder: RunFolder) -> Path:
    """Write the HTML page and say where it is."""
    recipe = recipe_of(folder)
    dataset = split_data(folder)
    names = _reported(folder, recipe, dataset.split)
    if truth_changed(folder, dataset):
        progress.say("The ground truth has changed since the evaluation: run `bao evaluate` and `bao report` again.")
    if ranks.first():
        about: dict[str, Any] = {"stages": names, "config": recipe.report, "title": recipe.name}
        if recipe.task is Task.BOXES:
            report.boxes.build(folder, dataset=boxed_of(dataset), view=recipe.view, **about)
        else:
            report.build(folder, dataset=dataset, **about)
    ranks.barrier()
    progress.say(f"Report: {folder.report.resolve()}")
    return folder.report


def _reported(folder: RunFolder, recipe: Recipe, split: str) -> list[str]:
    """Refinements and segmentations that are not made yet are left out."""
    masked = masked_stages(folder, recipe, split).values()
    return [paths.name for stages in (evaluated_stages(folder, recipe), *masked) for paths in stages]


class _Pairs:
    """What a stage says and the ground truth, for each image that has some; remembers where it is, for errors."""

    def __init__(
        self, paths: StageFolder, dataset: Dataset, read: Callable[[StageFolder, str], Any], check: _Check
    ) -> None:
        self.check = check
        self.paths = paths
        self.dataset = dataset
        self.read = read
        self.current = ""
        self.count = 0

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        count = len(self.dataset)
        for index in sharded(range(count), of=count, title=f"{self.paths.name} evaluate"):
            mask = self.dataset.mask(index)
            if mask is not None:
                self.current = name = self.dataset.names[index]
                self.count += 1
                self.check.add(index, mask)
                yield self.read(self.paths, name), mask

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors inside name the image at which they came up."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.dataset.split}/{self.current}: {error}") from error
