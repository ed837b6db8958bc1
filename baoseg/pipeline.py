"""The steps, top to bottom: train -> maps -> masks -> refine -> segment -> evaluate -> report.

Each is a function of a run folder, reads what the step before it left there, and can be run again at any time. What
takes long, training and maps, is skipped where it is done already. `run` does all of them from one recipe.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from baoseg import nets, progress, recipes
from baoseg.errors import CheckpointError
from baoseg.manifest import begin, open_split, recipe_of
from baoseg.methods import heads_of
from baoseg.recipes import Recipe
from baoseg.runs import Run
from baoseg.steps.evaluation import evaluate_stages, make_report
from baoseg.steps.mapping import check_sources, make_maps, make_masks
from baoseg.steps.refining import add_refinements, refine_masks
from baoseg.steps.segmenting import add_segmentation, segment_pictures
from baoseg.steps.training import train_stages
from baoseg.train import Hardware

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
    "segment_pictures",
    "train_stages",
]


def run(recipe: Recipe, out: Path, *, hardware: Hardware) -> Run:
    """All steps of `recipe` in the folder `out`. On a folder that an earlier call left unfinished, it continues."""
    hardware.fabric()  # the processes of other devices start here, and come this way as well
    check_sources(Run(out), recipe)
    folder = begin(recipe, out)
    _check_weights(folder, recipe)
    train_stages(folder, hardware=hardware)
    make_maps(folder, hardware=hardware)
    make_masks(folder)
    refine_masks(folder, hardware=hardware)
    segment_pictures(folder, hardware=hardware)
    evaluate_stages(folder)
    make_report(folder)
    return folder


def _check_weights(folder: Run, recipe: Recipe) -> None:
    """Files of weights that a later step needs are missed now, not after hours. Raises CheckpointError."""
    needed = {one.name: one.net.weights for one in recipe.segmentations}
    needed |= {one.name: one.net.weights for one in recipe.refinements if one.net is not None}
    needed |= {stage.name: recipe.net.weights for stage in recipe.stages}
    due = {path for name, path in needed.items() if path is not None and not folder.stage(name).network.exists()}
    if missing := sorted(path for path in due if not Path(path).exists()):
        fetch = f"bao weights fetch {Path(missing[0]).stem}"
        raise CheckpointError(
            f"{', '.join(missing)}: no such weights; check the path, or get published ones with `{fetch}`"
        )


def compare(
    base: Recipe,
    out: Path,
    *,
    methods: Sequence[str],
    hardware: Hardware,
    seeds: Mapping[str, str] | None = None,
    fuse: Sequence[str] = (),
    refine: Sequence[str] = (),
    allow_pickle: bool = False,
) -> Run:
    """Methods side by side on the data, network and schedules of `base`: see `recipes.comparison`.

    `refine` are ways (`recipes.REFINERS`) to refine the masks of each of them.

    On a network without attention TransCAM is CAM, so it is not trained a second time: a line says so.
    """
    if "transcam" in methods and not _network(base, nets.NO_HEADS).backbone.attends:
        progress.say("transcam: the same as cam on a network without attention; left out")
        methods = [name for name in methods if name != "transcam"] or ["cam"]
    recipe = recipes.comparison(base, methods, seeds=seeds, fuse=fuse, allow_pickle=allow_pickle)
    recipe = recipes.refined(recipe, refine, of=recipe.names)
    for heads in {heads_of(stage.method) for stage in recipe.stages}:
        _network(recipe, heads)  # what cannot be built is refused before hours of training
    return run(recipe, out, hardware=hardware)


def fuse_seeds(base: Recipe, sources: Sequence[str], out: Path, *, allow_pickle: bool = False) -> Run:
    """The normalised sum of seeds, or those of a single source: masks, metrics and a report on the data of `base`."""
    fusion = recipes.Fusion(called="fused", sources=tuple(sources), allow_pickle=allow_pickle)
    recipe = dataclasses.replace(base, name="fusion", stages=(), fusions=(fusion,), refinements=(), segmentations=())
    return run(recipe, out, hardware=Hardware(accelerator="cpu"))


def _network(recipe: Recipe, heads: nets.Heads) -> nets.Network:
    """The recipe's network without its weights, to look at."""
    return nets.build(recipe.net, 1, heads=heads, initialise=False)
