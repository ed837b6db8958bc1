"""The tables and figures of the papers, measured anew and set beside the published numbers.

Each is an `Experiment`: what to train, and which of the numbers measured stands beside a published one. What the papers
call a seed of a method without a background map is cut at the threshold that is best on the ground truth; ours beside
it is cut so too, and is called oracle. BAO's has no threshold on either side. Columns of masks and of the segmentation
network are measured where the recipe has a refinement and such a network: each trained row gets its own.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast

from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from baoseg import data, nets, pipeline
from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import atomic, read_json, write_json
from baoseg.core.run_folder import Run, Stage
from baoseg.data import Dataset
from baoseg.evaluate import evaluate_seeds, of_masks
from baoseg.methods import bas, heads_of
from baoseg.predict import labeler
from baoseg.recipes import Recipe, Refinement, Segmentation, comparison, follow_ablation, through
from baoseg.report import COLOURS, number
from baoseg.reproduce import exploration, published
from baoseg.reproduce.published import Column
from baoseg.seeds import Seed, load, save
from baoseg.training.train import Hardware

R = TypeVar("R")  # a recipe
VOC = {"alpha": 0.2, "beta": 1.2, "weight": 1.0}  # of BAS, sec. 3.4; weight is lambda
BAS_GRID = {  # figure 18, in the ranges that its text speaks of (sec. 5.2): one weight varies, the others are VOC's
    "alpha": (0.05, 0.1, 0.2, 0.35, 0.5),
    "beta": (0.6, 0.9, 1.2, 1.5, 1.8),
    "weight": (0.6, 0.8, 1.0, 1.2, 1.4),
}
BAS_WEIGHTS = ((0.2, 1.2), (0.5, 1.5), (0.7, 1.7), (1.0, 2.0), (1.5, 2.5))  # alpha, beta of table 7; lambda is 1
PSA = "+psa"  # ends the key of a line that is about the masks of another
CUT = "-image-threshold"  # ends the name of a stage whose maps are another's, cut where BAS's losses say


class Kind(StrEnum):
    """What a published column is about."""

    SEED = "seed"
    MASK = "mask"  # after refinement
    NETWORK = "network"  # of the segmentation network


class Measure(StrEnum):
    ORACLE = "oracle"  # the class maps at the threshold that is best on the ground truth
    MASKS = "masks"  # the masks as the method decides them


@dataclass(frozen=True)
class Source:
    """Which number of which stage is ours."""

    stage: str
    measure: Measure

    def __str__(self) -> str:
        return f"{self.stage}, {self.measure}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure. The recipe is made of the one that it is reproduced with; `sources` says, by the key of a
    published row, what of ours stands beside its seeds. Where the paper prints no numbers the keys are our own.
    """

    recipe: Callable[[Recipe], Recipe]
    sources: Callable[[Recipe], Mapping[str, Source]] = lambda base: {}
    reasons: Mapping[str, str] = field(default_factory=dict)  # why a row has no number of ours
    attends: bool = False  # whether it is about self-attention
    split_after: int | None = None  # the stage at which its figure cuts the backbone
    others: bool = False  # whether rows are of seeds that other tools made, or of their sums with ours
    judge: str | None = None  # the stage whose losses choose a threshold for each image, for all seeds of the table
    draw: Callable[[Run, Hardware], Figure] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A published number and ours. `published_on` names data and split, and is empty where there is no such number."""

    row: str
    column: str
    published_on: str
    ours: float | None
    published: float | None
    source: str  # where ours is from, or why there is none

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.published is None else self.ours - self.published


def run(
    name: str,
    base: Recipe,
    out: Path,
    *,
    hardware: Hardware,
    seeds: Mapping[str, str] | None = None,
    allow_pickle: bool = False,
    values: Sequence[str] = (),
) -> Run:
    """Train what the table or figure `name` compares, print it beside the published numbers, and write OUT/NAME.csv,
    for figures OUT/NAME.png, and the report.

    Data, network and schedules are those of `base`. `seeds` are folders of seeds that other tools made, by the key of
    the published row; `allow_pickle` admits .npy files with pickles there. `values` change settings
    (`recipes.through`).

    Raises RecipeError for an unknown name and for a network or seeds that do not serve, DataError without ground truth.
    """
    table = published.table(name)
    if name not in EXPERIMENTS:
        raise RecipeError(f"{name}: is about localization; name a recipe for it, e.g. --recipe cub20")
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
    ours = read_json(folder.manifest)["data"]["eval"]
    for text in header(table, data=_data(folder), split=ours["split"], images=ours["images"], net=recipe.net):
        progress.say(text)
    if lines := compare(folder, table, experiment, sources):
        progress.say(printed(lines))
        progress.say("oracle: at the threshold that is best on the ground truth, as in the papers; masks: without it")
        write_csv(folder.root / f"{name}.csv", [cells(line) for line in lines])
    if experiment.draw is not None:
        save_figure(experiment.draw(folder, hardware), folder.root / f"{name}.png")
    if experiment.split_after is not None:
        progress.say("The curves use the ground truth to explain what a classifier sees; they choose nothing.")
    return folder


def measured_with(base: R, values: Sequence[str], derived: Callable[[R], R]) -> R:
    """What a table derives from the recipe `base`, with settings changed. Its rows go by the names of the stages.

    Raises RecipeError for a change that renames one.
    """
    recipe: Any = through(base, values, derived)
    if values and [one.name for one in recipe.stages] != [one.name for one in cast(Any, derived(base)).stages]:
        raise RecipeError("--set: a table finds its stages by their names; change no method of a stage, and no name")
    return cast(R, recipe)


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
    """Whether the recipe trains on pictures that it is evaluated on; of a network that saw them that tells little."""
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


def compare(folder: Run, table: published.Table, experiment: Experiment, sources: Mapping[str, Source]) -> list[Line]:
    """The lines of an evaluated table: the published rows, and what of ours the paper prints no number of.

    Data that are called as the data set of some columns stand beside those alone, others beside all.
    """
    path, recipe = _data(folder), pipeline.recipe_of(folder)
    alike = [column for column in table.columns if called_alike(path, column.data)] or table.columns
    lines = []
    for row in table.rows:
        for column, value in zip(table.columns, row.values, strict=True):
            source, reason = _beside(
                row.key, column, table=table, sources=sources, experiment=experiment, recipe=recipe
            )
            ours = None
            if source is not None and column not in alike:
                reason = f"ours is of {path}"
            elif source is not None:
                ours = _measured(folder, source, column)
                reason = f"not in {path}" if ours is None else str(source)
            if ours is not None or value is not None:
                line = Line(
                    row=row.label,
                    column=column.label,
                    published_on=f"{column.data} {column.split}",
                    ours=ours,
                    published=value,
                    source=reason,
                )
                lines.append(line)
    rows = {row.key for row in table.rows}
    for key, source in sources.items():
        if key not in rows:
            ours = _scores(read_json(folder.stage(source.stage).metrics), source.measure)["miou"]
            lines.append(Line(row=key, column="seed", published_on="", ours=ours, published=None, source=str(source)))
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
        return "learns from these pictures: name another --eval-split"
    return "the recipe has no segmentation network"


def _others(key: str, experiment: Experiment) -> str:
    if not experiment.others:
        return "a method of others"
    return f"needs seeds of others: {' and '.join(part for part in key.split('+') if part != 'bas')}"


def _cut(source: Source, experiment: Experiment) -> Source:
    """The same seeds with a threshold for each image; those of the judge itself have one as they are."""
    return Source(source.stage if source.stage == experiment.judge else source.stage + CUT, Measure.MASKS)


def _measured(folder: Run, source: Source, column: Column) -> float | None:
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


def choose_thresholds(folder: Run, name: str, *, judge: str, hardware: Hardware) -> None:
    """Cut the maps of the stage `name` where the losses of the BAS network `judge` say (BAS sec. 5.5, table 15).

    Maps and metrics go to the stage NAME-image-threshold; a picture that is done is not done again.
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


def _threshold(model: labeler.Labeler, dataset: Dataset, index: int, seed: Seed) -> float:
    if len(seed.classes) == 0:
        return 1.0
    sample = dataset[index]
    views = model.views(sample.image)
    labels, scores = sample.labels.to(model.device), seed.scores.to(model.device)
    return model.method.threshold(views, labels, scores, fixed=model.masks.threshold)


def _pairs(stage: Stage, dataset: Dataset) -> Iterator[tuple[Seed, UInt8[Tensor, "h w"]]]:
    for index, name in enumerate(dataset.names):
        truth = dataset.mask(index)
        if truth is not None:
            yield load(stage.maps(dataset.split, name)), truth


# --- what is printed and written -----------------------------------------------------------------------------------


def _data(folder: Run) -> str:
    return str(pipeline.recipe_of(folder).data.path)


def called_alike(path: str, data: str) -> bool:
    """Whether a folder is called as the data set of a paper, as VOC2012 is as PASCAL VOC 2012."""
    name, paper = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (Path(path).name, data))
    return len(name) >= 3 and name in paper


def header(table: published.Table, *, data: str, split: str, images: int, net: nets.Config) -> Iterator[str]:
    """What the numbers are of, and how far they can be compared."""
    yield f"{table.id}: {table.title} ({table.source.partition(';')[0]} of {table.paper.title})"
    yield f"Ours: {data}, {split}, {images} pictures, network {net.backbone}."
    published_on = sorted({(column.data, column.split) for column in table.columns})
    if published_on:
        yield f"Published: {', '.join(f'{theirs} {of}' for theirs, of in published_on)}."
    else:
        yield "Published: curves without a number, on the data of the title."
    if not any(called_alike(data, theirs) for theirs, _ in published_on):
        yield f"{data} is not the paper's data: compare the order of rows and the shape of curves, not the numbers."
    elif not any(called_alike(data, theirs) and split == of for theirs, of in published_on):
        yield f"{split} is not the paper's split: compare the order of rows, not the numbers."
    for statement in table.statements:
        yield f"The paper: {statement}"


COLUMNS = ("row", "measured", "published on", "ours", "published", "difference", "ours is")


def cells(line: Line) -> dict[str, Any]:
    difference = None if line.difference is None else round(line.difference, 10)
    values = (line.row, line.column, line.published_on, line.ours, line.published, difference, line.source)
    return dict(zip(COLUMNS, values, strict=True))


def printed(lines: Sequence[Line]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("row", "measured", "ours", "published", "difference", "ours is"):
        table.add_column(title, justify="right" if title in ("ours", "published", "difference") else "left")
    for line in lines:
        difference = "-" if line.difference is None else f"{line.difference:+.1f}"
        numbers = ("-" if value is None else number(value) for value in (line.ours, line.published))
        cells = (line.row, line.column, *numbers, difference, line.source)
        table.add_row(*(Text(cell) for cell in cells))  # Text: brackets in a name are no markup
    return table


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def save_figure(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
    progress.say(f"Figure: {path.resolve()}")


# --- figures -------------------------------------------------------------------------------------------------------


def _draw_epochs(folder: Run, hardware: Hardware) -> Figure:
    """BAO figure 4: the network in training after each epoch, from the trained classifier on."""
    classifier, *learners = pipeline.recipe_of(folder).stages
    start = read_json(folder.stage(classifier.name).metrics)["oracle"]["miou"]
    figure, axes = one_plot(x="epoch", y="mIoU of the seed in %")
    for stage, colour in zip(learners, COLOURS, strict=False):
        threshold_free = read_json(folder.stage(stage.name).metrics)["threshold_free"] is not None
        key = "miou" if threshold_free else "oracle_miou"
        with folder.stage(stage.name).epochs.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        points = [(0, start), *((int(row["epoch"]), float(row[key])) for row in rows)]
        measure = Measure.MASKS if threshold_free else Measure.ORACLE
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"{stage.name} ({measure})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def _draw_thresholds(folder: Run, hardware: Hardware) -> Figure:
    """Noise reduction figure 4: mIoU over the background threshold."""
    figure, axes = one_plot(x="background threshold", y="mIoU of the seed in %")
    for name, colour in zip(pipeline.recipe_of(folder).names, COLOURS, strict=False):
        sweep = read_json(folder.stage(name).metrics)["sweep"]
        axes.plot(sweep["thresholds"], sweep["miou"], color=colour, label=name)
    axes.legend()
    return figure


def _draw_weights(folder: Run, hardware: Hardware) -> Figure:
    """BAS figure 18: the seed over the weight of each loss."""
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    for axes, (weight, values) in zip(figure.subplots(1, len(BAS_GRID), sharey=True), BAS_GRID.items(), strict=True):
        stages = [folder.stage(_grid_name(weight, value)) for value in values]
        axes.plot(values, [read_json(stage.metrics)["oracle"]["miou"] for stage in stages], "o-", color=COLOURS[0])
        axes.set_xlabel("lambda" if weight == "weight" else weight)
        axes.set_ylabel("mIoU of the seed in %")
    return figure


def _draw_activations(folder: Run, hardware: Hardware) -> Figure:
    model = labeler.load(folder.stage("cam").network, device=hardware.fabric().device)
    return draw_activations(model, pipeline.split_data(folder), folder)


def draw_activations(model: labeler.Labeler, dataset: Dataset, folder: Run) -> Figure:
    """BAS figures 1 and 6, and the numbers of the means in OUT/activations.csv. It uses the ground truth to explain."""
    config = exploration.Config()
    curves = exploration.explore(model, dataset, config)
    summary = exploration.summarise(curves, config)
    rows = []
    for i, area in enumerate(summary.area.tolist()):
        row = {"relative area": round(area, 6), "objects": int(summary.objects[i])}
        for quantity, mean, spread in zip(exploration.QUANTITIES, summary.mean, summary.spread, strict=True):
            row |= {quantity: mean[i].item(), f"{quantity} spread": spread[i].item()}
        rows.append(row)
    write_csv(folder.root / "activations.csv", rows)
    return exploration.draw(summary, curves[0])


def one_plot(*, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


# --- the tables and figures ----------------------------------------------------------------------------------------


def _variants(base: Recipe, methods: Sequence[str], variants: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`methods` side by side, the last of them once for each variant of its settings."""
    recipe = comparison(base, methods)
    *first, last = recipe.stages
    varied = (replace(last, method=replace(last.method, **changes), called=name) for name, changes in variants.items())
    return replace(recipe, stages=(*first, *varied))


def _bas(variants: Mapping[str, Mapping[str, Any]]) -> Callable[[Recipe], Recipe]:
    return lambda base: _variants(base, ["bas"], variants)


def _grid_name(weight: str, value: float) -> str:
    """The point at which the three lines of the grid meet is one stage."""
    return "bas" if value == VOC[weight] else f"bas-{weight}-{value}"


def _pair_name(alpha: float, beta: float) -> str:
    return f"bas-alpha-{alpha}-beta-{beta}"


def _oracle(*stages: str) -> Callable[[Recipe], Mapping[str, Source]]:
    """Rows that are called as the stages whose best threshold stands beside them."""
    return lambda base: {stage: Source(stage, Measure.ORACLE) for stage in stages}


def _classifier(base: Recipe) -> str:
    """The stage in the place of the papers' TransCAM, from which BAO starts."""
    first = base.stages[0]
    if heads_of(first.method).backgrounds:
        raise RecipeError(f"recipe {base.name} begins with {first.name}; BAO is compared with the classifier before it")
    return first.name


def _bao_table(base: Recipe) -> Mapping[str, Source]:
    return {"transcam": Source(_classifier(base), Measure.ORACLE), "bao": Source("bao", Measure.MASKS)}


def _bao_figure(base: Recipe) -> Mapping[str, Source]:
    return {
        "transcam": Source(_classifier(base), Measure.ORACLE),
        "transcam+amn": Source("amn", Measure.ORACLE),
        "bao-share": Source("share", Measure.MASKS),
        "bao-ema": Source("ema", Measure.MASKS),
        "bao": Source("share+ema", Measure.MASKS),
    }


def _bas_weights(base: Recipe) -> Mapping[str, Source]:
    return {
        f"bas alpha={alpha} beta={beta} lambda=1.0": Source(_pair_name(alpha, beta), Measure.ORACLE)
        for alpha, beta in BAS_WEIGHTS
    }


def _without_suppression(base: Recipe) -> Mapping[str, Source]:
    return {
        "bas w/o L_bas": Source("bas-without-suppression", Measure.ORACLE),
        "bas": Source("bas", Measure.ORACLE),
    }


_NOISE = {f"bnr-{noise}": {"noise": noise} for noise in (0, 1, 2)}
_LAYERS = {f"bas-layer-{layer}": {"generator_after": layer} for layer in (1, 2, 3, 4)}
_GRID = {_grid_name(weight, value): {**VOC, weight: value} for weight, values in BAS_GRID.items() for value in values}
_PAIRS = {_pair_name(alpha, beta): {"alpha": alpha, "beta": beta, "weight": 1.0} for alpha, beta in BAS_WEIGHTS}
_FOREGROUND = {
    "bas": {"foreground": bas.Foreground.NONE},
    "bas+foreground-replace": {"foreground": bas.Foreground.REPLACE},
    "bas+foreground-average": {"foreground": bas.Foreground.AVERAGE},
}

_NOISE_REDUCTION = Experiment(
    recipe=lambda base: comparison(base, ["transcam", "bnr"]), sources=_oracle("transcam", "bnr"), attends=True
)
_ACTIVATIONS = Experiment(
    recipe=lambda base: comparison(base, ["cam"]), split_after=exploration.Config().after, draw=_draw_activations
)
_SUMS = Experiment(recipe=lambda base: comparison(base, ["bas"]), sources=_oracle("bas"), others=True)

EXPERIMENTS: dict[str, Experiment] = {
    "bao-table-1": Experiment(
        recipe=lambda base: comparison(base, [_classifier(base), "bao"]),
        sources=_bao_table,
    ),
    "bao-figure-4": Experiment(recipe=follow_ablation, sources=_bao_figure, draw=_draw_epochs),
    "bnr-table-1": _NOISE_REDUCTION,
    "bnr-table-2-val": _NOISE_REDUCTION,
    "bnr-table-2-test": _NOISE_REDUCTION,
    "bnr-table-5": Experiment(
        recipe=lambda base: _variants(base, ["transcam", "bnr"], _NOISE),
        sources=_oracle("transcam", *_NOISE),
        attends=True,
    ),
    "bnr-figure-4": replace(_NOISE_REDUCTION, draw=_draw_thresholds),
    "bas-figure-1": _ACTIVATIONS,
    "bas-figure-6": _ACTIVATIONS,
    "bas-table-6": Experiment(
        recipe=_bas({"bas-without-suppression": {"weight": 0.0}, "bas": {}}), sources=_without_suppression
    ),
    "bas-figure-18": Experiment(recipe=_bas(_GRID), sources=_oracle(*_GRID), draw=_draw_weights),
    "bas-table-7": Experiment(
        recipe=_bas(_PAIRS), sources=_bas_weights, reasons={"bas": "the best of each column, not a setting"}
    ),
    "bas-table-8": Experiment(recipe=_bas(_LAYERS), sources=_oracle(*_LAYERS)),
    "bas-table-9": _SUMS,
    "bas-table-10": _SUMS,
    "bas-table-13": Experiment(recipe=_bas(_FOREGROUND), sources=_oracle(*_FOREGROUND)),
    "bas-table-14": _SUMS,
    "bas-table-15": Experiment(
        recipe=lambda base: _variants(base, ["cam", "bas"], {"bas": {"threshold": bas.Threshold.IMAGE}}),
        sources=_oracle("cam", "bas"),
        others=True,
        judge="bas",
    ),
}
