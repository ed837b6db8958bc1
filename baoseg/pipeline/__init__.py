"""The steps, top to bottom: train -> maps -> masks -> refine -> segment -> evaluate -> report; for boxes without the
four in the middle, as the evaluation draws them.

Each is a function of a run folder, reads what the step before it left there, and can be run again at any time. What
takes long, training and maps, is skipped where it is done already. `run` does all of them from one recipe.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from baoseg import nets, recipes
from baoseg.core import progress
from baoseg.core.run_folder import RunFolder
from baoseg.methods import METHODS
from baoseg.pipeline import manifest
from baoseg.pipeline.checking import check_addition, check_recipe
from baoseg.pipeline.evaluation import evaluate_stages, make_report
from baoseg.pipeline.manifest import open_split, recipe_of, split_data
from baoseg.pipeline.mapping import make_maps, make_masks
from baoseg.pipeline.refining import add_refinements, refine_masks
from baoseg.pipeline.reviewing import evaluate_reviewed as evaluate_reviewed
from baoseg.pipeline.segmenting import add_segmentation, segment_images
from baoseg.pipeline.training import train_stages
from baoseg.recipes import Recipe, Task
from baoseg.training.train import Hardware

__all__ = [
    "add_refinements",
    "add_segmentation",
    "begin",
    "compare",
    "evaluate_stages",
    "fuse_seeds",
    "make_maps",
    "make_masks",
    "make_report",
    "open_split",
    "recipe_of",
    "refine_masks",
    "run",
    "segment_images",
    "split_data",
    "train_stages",
]

segment_pictures = segment_images  # the name up to version 0.1


def begin(recipe: Recipe, out: Path, *, hardware: Hardware | None = None) -> RunFolder:
    """Open the run folder `out` for `recipe`, or make it.

    Raises RunError if it holds something else, and other errors for a recipe that cannot work: nothing is made then.
    """
    check = partial(check_recipe, hardware=hardware)
    with manifest.opened(recipe, out, check=check, check_addition=check_addition) as folder:
        return folder


def run(recipe: Recipe, out: Path, *, hardware: Hardware) -> RunFolder:
    """All steps of `recipe` in the folder `out`. On a folder that an earlier call left unfinished, it continues.

    Raises as `begin`, and RunError while another process works in the folder.
    """
    hardware.fabric()  # the processes of other devices start here, and come this way as well
    check = partial(check_recipe, hardware=hardware)
    with manifest.opened(recipe, out, check=check, check_addition=check_addition) as folder:
        train_stages(folder, hardware=hardware)
        if recipe.task is Task.MASKS:
            make_maps(folder, hardware=hardware)
            make_masks(folder)
            refine_masks(folder, hardware=hardware)
            segment_images(folder, hardware=hardware)
        evaluate_stages(folder, hardware=hardware)
        make_report(folder)
    return folder


def compare(
    base: Recipe,
    out: Path,
    *,
    methods: Sequence[str],
    hardware: Hardware,
    values: Sequence[str] = (),
    **choices: Any,
) -> RunFolder:
    """Methods side by side on the data, network and schedules of `base`: see `recipes.comparison` for the choices.

    `values` change settings of `base`, or of what the comparison has beside it (`recipes.through`).

    On a network without attention some methods are others, as TransCAM is CAM, and are left out: a line says so.
    """

    def compared(methods: Sequence[str]) -> Recipe:
        return recipes.through(base, values, lambda base: recipes.comparison(base, methods, **choices))

    recipe = compared(methods)
    same = {name: METHODS[name].without_attention for name in methods if name in METHODS}
    same = {name: other for name, other in same.items() if other is not None}
    if same and not nets.build(recipe.net, 1, initialise=False).backbone.attends:
        for name, other in same.items():
            progress.say(f"{name}: the same as {other} on a network without attention; left out")
        recipe = compared([name for name in methods if name not in same] or [str(other) for other in same.values()])
    return run(recipe, out, hardware=hardware)


def fuse_seeds(base: Recipe, sources: Sequence[str], out: Path, *, allow_pickle: bool = False) -> RunFolder:
    """The normalised sum of seeds, or those of a single source: masks, metrics and a report on the data of `base`."""
    fusion = recipes.Fusion(called="fused", sources=tuple(sources), allow_pickle=allow_pickle)
    recipe = dataclasses.replace(base, name="fusion", stages=(), fusions=(fusion,), refinements=(), segmentations=())
    return run(recipe, out, hardware=Hardware(accelerator="cpu"))
