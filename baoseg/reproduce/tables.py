"""The tables and figures of the papers, measured anew and set beside the published numbers.

Each is an `Experiment`: what to train, and which of the numbers measured stands beside a published one. What the papers
call a seed of a method without a background map is cut at the threshold that is best on the ground truth; ours beside
it is cut so too, and is called oracle. BAO's has no threshold on either side. Columns of masks and of the segmentation
network are measured where the recipe has a refinement and such a network: each trained row gets its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from baoseg import data, nets, pipeline
from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.data import Dataset
from baoseg.evaluate import evaluate_seeds, of_masks
from baoseg.methods import heads_of
from baoseg.predict import labeler
from baoseg.recipes import Recipe, Refinement, Segmentation, Task, comparison
from baoseg.reproduce import boxes, published
from baoseg.reproduce.experiments import EXPERIMENTS, Experiment
from baoseg.reproduce.figures import show
from baoseg.reproduce.lines import Line, Measure, Source, alike_columns, lines_of, measured_with
from baoseg.reproduce.published import Column
from baoseg.seeds import SeedMaps, load, save
from baoseg.training.train import Hardware

PSA = "+psa"  # ends the key of a line that is about the masks of another
CUT = "-image-threshold"  # ends the name of a stage whose maps are another's, cut where BAS's losses say


class Kind(StrEnum):
    """What a published column is about."""

    SEED = "seed"
    MASK = "mask"  # after refinement
    NETWORK = "network"  # of the segmentation network


def run(
    name: str,
    base: Recipe,
    out: Path,
    *,
    hardware: Hardware,
    seeds: Mapping[str, str] | None = None,
    allow_pickle: bool = False,
    values: Sequence[str] = (),
) -> RunFolder:
    """Train what the table or figure `name` compares, print it beside the published numbers, and write OUT/NAME.csv,
    for figures OUT/NAME.png, and the report.

    Data, network and schedules are those of `base`. `seeds` are folders of seeds that other tools made, by the key of
    the published row; `allow_pickle` admits .npy files with pickles there. `values` change settings
    (`recipes.through`).

    Raises RecipeError for an unknown name and for a network or seeds that do not serve, DataError without ground truth.
    """
    if base.task is Task.BOXES:
        if seeds or allow_pickle:
            raise RecipeError(f"{base.name}: draws boxes; seeds of other tools are for masks, leave them out")
        return boxes.run(name, base, out, hardware=hardware, values=values)
    table = published.table(name)
    if name not in EXPERIMENTS:
        raise RecipeError(f"{name}: is about boxes; name a recipe for them, e.g. --recipe cub20")
    experiment = EXPERIMENTS[name]

    def derived(base: Recipe) -> Recipe:
        recipe = replace(experiment.recipe(base), name=f"{base.name}: {name}")
        if seeds:
            recipe = _with_others(recipe, table, experiment, seeds, allow_pickle=allow_pickle)
        return _with_masks(recipe, base, table)

    recipe = measured_with(base, values, derived)
    sources = dict(experiment.sources(base))
    if seeds:
        sources |= {fusion.name: Source(fusion.name, Measure.ORACLE) for fusion in recipe.fusions}
    _check(recipe, experiment)
    folder = pipeline.run(recipe, out, hardware=hardware)
    if experiment.judge is not None:
        for source in sources.values():
            if source.stage != experiment.judge:
                choose_thresholds(folder, source.stage, judge=experiment.judge, hardware=hardware)
    note = "oracle: at the threshold that is best on the ground truth, as in the papers; masks: without it"
    show(folder, table, compare(folder, table, experiment, sources), note=note, draw=experiment.draw, hardware=hardware)
    if experiment.split_after is not None:
        progress.say("The curves use the ground truth to explain what a classifier sees; they choose nothing.")
    return folder


def _with_others(
    recipe: Recipe, table: published.Table, experiment: Experiment, seeds: Mapping[str, str], *, allow_pickle: bool
) -> Recipe:
    """The recipe with the seeds of others as fusions, and the sums of rows for which all parts are there."""
    parts = {row.key: row.key.split("+") for row in table.rows} if experiment.others else {}
    known = sorted({part for row in parts.values() for part in row} - set(recipe.names))
    for name, source in seeds.items():
        if name not in known:
            raise RecipeError(f"{table.id}: no seeds called {name!r}; it takes {', '.join(known) or 'none'}")
        if not Path(source).is_dir():
            raise DataError(f"{source}: no such folder; name the folder with the seeds of {name}")
    there = {*recipe.names, *seeds}
    sums = [key for key, row in parts.items() if len(row) > 1 and there.issuperset(row)]
    with_seeds = comparison(recipe, recipe.names, seeds=seeds, fuse=sums, allow_pickle=allow_pickle)
    return replace(recipe, fusions=with_seeds.fusions)


def _with_masks(recipe: Recipe, base: Recipe, table: published.Table) -> Recipe:
    """The refinements of `base` for each trained stage, and its segmentation network on their masks, where the table
    has columns of them. A name that other seeds have stays theirs.
    """
    wanted = {_kind(column) for column in table.columns if not _by_server(column)}
    chain = _chain(base) if wanted & {Kind.MASK, Kind.NETWORK} else []
    refinements: list[Refinement] = []
    segmentations: list[Segmentation] = []
    for stage in recipe.stages:
        own: list[Refinement] = []
        for refinement in chain:
            own.append(replace(refinement, of=own[-1].name if own else stage.name))
        if {one.name for one in own} & set(recipe.names):
            continue
        refinements += own
        if Kind.NETWORK in wanted and base.segmentations and not _learned_from(recipe):
            masks = own[-1].name if own else stage.name
            segmentations.append(replace(base.segmentations[0], masks=masks, called=_network_of(stage.name)))
    return replace(recipe, refinements=tuple(refinements), segmentations=tuple(segmentations))


def _chain(base: Recipe) -> list[Refinement]:
    """The refinements that lead to the last one, in their order."""
    by_name = {refinement.name: refinement for refinement in base.refinements}
    chain: list[Refinement] = []
    name = base.refinements[-1].name if base.refinements else ""
    while name in by_name:
        chain.insert(0, by_name[name])
        name = by_name[name].of
    return chain


def _network_of(stage: str) -> str:
    return f"{stage}+segment"


def _learned_from(recipe: Recipe) -> bool:
    """Whether the recipe trains on images that it is evaluated on; of a network that saw them that tells little."""
    train, shown = data.open_dataset(recipe.data, "train"), pipeline.open_split(recipe, None)
    return train.split == shown.split or not set(train.names).isdisjoint(shown.names)


def _check(recipe: Recipe, experiment: Experiment) -> None:
    """Refuse before hours of training what cannot be trained or compared."""
    dataset = pipeline.open_split(recipe, None)
    if not dataset.has_masks:
        raise DataError(
            f"{recipe.data.path}: no ground truth for {dataset.split}, so nothing to set beside published numbers; "
            "add masks, or name a split that has some"
        )
    for heads in {heads_of(stage.method) for stage in recipe.stages}:
        network = nets.build(recipe.net, len(dataset.classes), heads=heads, initialise=False)
        if experiment.attends and not network.backbone.attends:
            raise RecipeError(
                f"{recipe.name}: about self-attention, which {recipe.net.backbone} has not; "
                "use a Conformer or a vision transformer"
            )
        if experiment.split_after is not None:
            network.backbone.split(experiment.split_after)


def compare(
    folder: RunFolder, table: published.Table, experiment: Experiment, sources: Mapping[str, Source]
) -> list[Line]:
    """The lines of an evaluated table: the published rows, and what of ours the paper prints no number of.

    Data that are called as the data set of some columns stand beside those alone, others beside all.
    """
    recipe = pipeline.recipe_of(folder)
    path = recipe.data.path
    alike = alike_columns(table, path)

    def ours(row: published.Row, column: Column) -> tuple[float | None, str]:
        source, reason = _beside(row.key, column, table=table, sources=sources, experiment=experiment, recipe=recipe)
        if source is None:
            return None, reason
        if column not in alike:
            return None, f"ours is of {path}"
        value = _measured(folder, source, column)
        return value, f"not in {path}" if value is None else str(source)

    lines = lines_of(table, table.rows, table.columns, ours)
    rows = {row.key for row in table.rows}
    for key, source in sources.items():
        if key not in rows:
            miou = _scores(read_json(folder.stage(source.stage).metrics), source.measure)["miou"]
            lines.append(Line(row=key, column="seed", published_on="", ours=miou, published=None, source=str(source)))
    return lines


def _beside(
    key: str,
    column: Column,
    *,
    table: published.Table,
    sources: Mapping[str, Source],
    experiment: Experiment,
    recipe: Recipe,
) -> tuple[Source | None, str]:
    """What of ours stands beside a published number, or None and why."""
    if column.metric not in ("mIoU", "IoU"):
        return None, "of localization: name a recipe for it"
    if _by_server(column):
        return None, "its ground truth is the server's: `bao export voc`"
    kind = _kind(column)
    source = sources.get(key)
    if kind is Kind.MASK:  # in some tables masks have lines of their own
        with_own_lines = {row.key for row in table.rows if row.key.endswith(PSA)}
        source = None if f"{key}{PSA}" in with_own_lines else sources.get(key.removesuffix(PSA))
    if source is None:
        return None, experiment.reasons.get(key, _others(key, experiment))
    if kind is not Kind.SEED:
        made = _made(recipe, source.stage, kind)
        return (None, _why_not(recipe, kind)) if made is None else (Source(made, Measure.MASKS), "")
    return (_cut(source, experiment) if column.key.endswith(CUT) else source), ""


def _by_server(column: Column) -> bool:
    return column.split == "test" and _kind(column) is Kind.NETWORK


def _kind(column: Column) -> Kind:
    if column.key.endswith("-mask"):
        return Kind.MASK
    return Kind.SEED if "-seed" in column.key else Kind.NETWORK


def _made(recipe: Recipe, stage: str, kind: Kind) -> str | None:
    """What was made of a stage's seeds: the last refinement, or the segmentation network; None where there is none."""
    if kind is Kind.NETWORK:
        return next((one.name for one in recipe.segmentations if one.name == _network_of(stage)), None)
    found = None
    for refinement in recipe.refinements:
        if refinement.of == (found or stage):
            found = refinement.name
    return found


def _why_not(recipe: Recipe, kind: Kind) -> str:
    if kind is Kind.MASK:
        if recipe.refinements:
            return "refined are trained stages alone"
        return "the recipe has no refinement: name a way with --refine"
    if recipe.segmentations:
        return "no network learned from these"
    if _learned_from(recipe):
        return "learns from these images: name another --eval-split"
    return "the recipe has no segmentation network"


def _others(key: str, experiment: Experiment) -> str:
    if not experiment.others:
        return "a method of others"
    return f"needs seeds of others: {' and '.join(part for part in key.split('+') if part != 'bas')}"


def _cut(source: Source, experiment: Experiment) -> Source:
    """The same seeds with a threshold for each image; those of the judge itself have one as they are."""
    return Source(source.stage if source.stage == experiment.judge else source.stage + CUT, Measure.MASKS)


def _measured(folder: RunFolder, source: Source, column: Column) -> float | None:
    """In percent; None for a class that ours does not have, or that occurs nowhere."""
    metrics = read_json(folder.stage(source.stage).metrics)
    scores = _scores(metrics, source.measure)
    if column.metric == "mIoU":
        value = scores["miou"]
    else:
        value = dict(zip(metrics["classes"], scores["iou"], strict=True)).get(column.label)
    return None if value is None else float(value)


def _scores(metrics: dict[str, Any], measure: Measure) -> dict[str, Any]:
    return metrics["oracle"] if measure is Measure.ORACLE else of_masks(metrics)


def choose_thresholds(folder: RunFolder, name: str, *, judge: str, hardware: Hardware) -> None:
    """Cut the maps of the stage `name` where the losses of the BAS network `judge` say (BAS sec. 5.5, table 15).

    Maps and metrics go to the stage NAME-image-threshold; an image that is done is not done again.
    """
    dataset = pipeline.split_data(folder)
    model = labeler.load(folder.stage(judge).network, device=hardware.fabric().device)
    given, cut = folder.stage(name), folder.stage(name + CUT)
    for index in progress.track(range(len(dataset)), title=f"{cut.name} maps", total=len(dataset)):
        path = cut.maps(dataset.split, dataset.names[index])
        if not path.exists():
            seed = load(given.maps(dataset.split, dataset.names[index]))
            save(path, replace(seed, background=None, threshold=_threshold(model, dataset, index, seed)))
    metrics = evaluate_seeds(_pairs(cut, dataset), len(dataset.classes), threshold=1.0)  # each seed has its own
    write_json(cut.metrics, {**read_json(given.metrics), **metrics})


def _threshold(model: labeler.Labeler, dataset: Dataset, index: int, seed: SeedMaps) -> float:
    if len(seed.classes) == 0:
        return 1.0
    sample = dataset[index]
    views = model.views(sample.image)
    labels, scores = sample.labels.to(model.device), seed.scores.to(model.device)
    return model.method.threshold(views, labels, scores, fixed=model.masks.threshold)


def _pairs(stage: StageFolder, dataset: Dataset) -> Iterator[tuple[SeedMaps, UInt8[Tensor, "h w"]]]:
    for index, name in enumerate(dataset.names):
        truth = dataset.mask(index)
        if truth is not None:
            yield load(stage.maps(dataset.split, name)), truth
