"""The tables and figures about boxes of the BAS paper, measured anew and set beside the published numbers.

As those about masks, with a recipe for boxes: each is an `Experiment` that says which stages are trained and which
number of which stage stands beside a published row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from baoseg import nets, pipeline
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.evaluate.localization import BINS, CORRECT, PIXEL_THRESHOLDS
from baoseg.methods import bas, heads_of, name_of
from baoseg.recipes import Recipe, Stage
from baoseg.recipes.boxes import BACKBONES
from baoseg.report import COLOURS
from baoseg.report.curves import read_rows
from baoseg.reproduce import published
from baoseg.reproduce.experiments import LAYERS, PAIRS, ROWS_OF_PAIRS, WITHOUT_SUPPRESSION
from baoseg.reproduce.figures import Points, draw_activations, draw_grid, draw_stages, one_plot, show
from baoseg.reproduce.lines import Line, alike_columns, lines_of, measured_with
from baoseg.reproduce.published import Column, Row, Table
from baoseg.training.train import Hardware

GRID = {  # figure 9, in the ranges that its text speaks of (sec. 4.3): one weight varies, the others are the recipe's
    "alpha": (0.0, 0.2, 0.5, 0.8, 1.1),
    "beta": (0.9, 1.2, 1.5, 1.8, 2.1),
    "weight": (0.3, 0.6, 1.0, 1.3),
}


@dataclass(frozen=True)
class Source:
    """Which stage is ours, and of how many classes its maps are averaged: None for as many as its settings say."""

    stage: str
    top_k: int | None = None

    def __str__(self) -> str:
        return self.stage if self.top_k is None else f"{self.stage}, k = {self.top_k}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure: what is trained, made of the recipe's stages, and what stands beside published rows."""

    stages: Callable[[Recipe], Iterable[Stage]]
    sources: Callable[[Recipe], Mapping[str, Source]]  # by the key of a published row; other keys are our own
    by_backbone: bool = False  # whether the keys of published rows end with the backbone
    masks: bool = False  # whether it needs ground truth masks
    draw: Callable[[RunFolder, Hardware], Figure] | None = None


def run(name: str, base: Recipe, out: Path, *, hardware: Hardware, values: Sequence[str] = ()) -> RunFolder:
    """Train what the table or figure `name` compares, print it beside the published numbers, and write OUT/NAME.csv,
    for figures OUT/NAME.png, and the report. Data, network and schedules are those of `base`; `values` change settings.

    Raises RecipeError for a name that is unknown or not about boxes, and for a network that does not serve;
    DataError without masks where they are needed.
    """
    table = published.table(name)
    if name not in EXPERIMENTS:
        raise RecipeError(f"{name}: is not about boxes; name a recipe for masks, e.g. --recipe photos")
    experiment = EXPERIMENTS[name]

    def derived(base: Recipe) -> Recipe:
        return replace(base, name=f"{base.name}: {name}", stages=tuple(experiment.stages(base)))

    recipe = measured_with(base, values, derived)
    dataset = pipeline.open_split(recipe, None)
    if experiment.masks and not dataset.has_masks:
        raise DataError(f"{recipe.data.path}: no masks for {dataset.split}, and {name} is about them; add some")
    for heads in {heads_of(stage.method) for stage in recipe.stages}:
        nets.build(recipe.net, len(dataset.classes), heads=heads, initialise=False)
    folder = pipeline.run(recipe, out, hardware=hardware)
    note = "MaxBoxAccV2 and PIoU are at the threshold that is best on the ground truth, as in the paper."
    show(folder, table, compare(folder, table, experiment), note=note, draw=experiment.draw, hardware=hardware)
    return folder


def compare(folder: RunFolder, table: Table, experiment: Experiment) -> list[Line]:
    """The lines of an evaluated table: the published rows of the recipe's backbone, and then what of ours has none.

    Data that are called as a data set of the paper stand beside its columns alone, others beside all.
    """
    recipe = pipeline.recipe_of(folder)
    sources = experiment.sources(recipe)
    ending = f" {backbone_of(recipe)}"
    rows = [row for row in table.rows if not experiment.by_backbone or row.key.endswith(ending)] or table.rows
    own = [Row(key=key, label=key, values=(None,) * len(table.columns)) for key in sources]

    def ours(row: Row, column: Column) -> tuple[float | None, str]:
        source = sources.get(row.key)
        if source is None:
            return None, "not trained here"
        value = measured(folder, source, column)
        return value, "not measured" if value is None else str(source)

    all_rows = (*rows, *(row for row in own if row.key not in {known.key for known in rows}))
    return lines_of(table, all_rows, alike_columns(table, recipe.data.path), ours)


def measured(folder: RunFolder, source: Source, column: Column) -> float | None:
    """In percent; None where there is no such number, as of masks without masks."""
    metrics = read_json(folder.stage(source.stage).metrics)
    if source.top_k is not None:
        curve = metrics["top_k_curve"]
        at = {key: values[curve["k"].index(source.top_k)] for key, values in curve.items()}
        return at.get(METRICS[column.metric][-1])
    value: Any = metrics
    for key in METRICS[column.metric]:
        value = None if value is None else value[key]
    return float(np.mean(value)) if isinstance(value, list) else value


METRICS = {  # where metrics.json has them; of MaxBoxAccV2 it has the three that the mean is of
    "GT-known Loc": ("gt_known",),
    "Top-1 Loc": ("top1",),
    "Top-5 Loc": ("top5",),
    "median IoU": ("median_iou",),
    "MaxBoxAccV2": ("oracle", "max_box_accuracy"),
    "PIoU": ("oracle", "peak_iou", "iou"),
    "PxAP": ("pixel_average_precision",),
}


def backbone_of(recipe: Recipe) -> str:
    """As the paper calls it; the name in timm where it is none of the paper's."""
    model = recipe.net.backbone.removeprefix(nets.TIMM)
    return next((name for name, backbone in BACKBONES.items() if backbone.model == model), model)


# --- stages --------------------------------------------------------------------------------------------------------


def _both(recipe: Recipe) -> tuple[Stage, ...]:
    return recipe.stages


def _variants(variants: Mapping[str, Mapping[str, Any]]) -> Callable[[Recipe], Iterable[Stage]]:
    """BAS once for each variant of its settings, after what it starts from."""

    def stages(recipe: Recipe) -> Iterable[Stage]:
        ours = _only(recipe, "bas")
        yield from (stage for stage in recipe.stages if stage.name == ours.start)
        for name, changes in variants.items():
            yield replace(ours, method=replace(ours.method, **changes), called=name)

    return stages


def _grid(recipe: Recipe) -> Iterable[Stage]:
    return _variants({name: {key: value} for key, value, name in _points(recipe)})(recipe)


def _points(recipe: Recipe) -> list[tuple[str, float, str]]:
    """Weight, value and stage of each point of GRID; the points with the recipe's own weights are one stage."""
    own = _only(recipe, "bas").method
    return [
        (key, value, "bas" if value == getattr(own, key) else f"bas-{key}-{value}")
        for key, values in GRID.items()
        for value in values
    ]


def _only(recipe: Recipe, method: str) -> Any:
    """The stage of a method, which the experiment changes. Raises RecipeError for none or several."""
    found = [stage for stage in recipe.stages if name_of(stage.method) == method]
    if len(found) != 1:
        raise RecipeError(f"recipe {recipe.name}: has {len(found)} stages of {method}; this needs one")
    return found[0]


def _classifier(recipe: Recipe) -> tuple[Stage, ...]:
    return (_only(recipe, "cam"),)


# --- sources -------------------------------------------------------------------------------------------------------


def _named(*stages: str) -> Callable[[Recipe], Mapping[str, Source]]:
    """Rows that are called as the stages."""
    return lambda recipe: {stage: Source(stage) for stage in stages}


def _on_backbone(*stages: str) -> Callable[[Recipe], Mapping[str, Source]]:
    return lambda recipe: {f"{stage} {backbone_of(recipe)}": Source(stage) for stage in stages}


def _ablation(recipe: Recipe) -> Mapping[str, Source]:
    return {"bas w/o L_bas": Source("bas-without-suppression", 1), "bas k=1": Source("bas", 1), "bas": Source("bas")}


# --- figures -------------------------------------------------------------------------------------------------------


def _draw_weights(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAS figure 9: GT-known Loc over the weight of each loss."""
    stages = {(weight, value): stage for weight, value, stage in _points(pipeline.recipe_of(folder))}

    def measure(weight: str, value: float) -> float:
        return float(read_json(folder.stage(stages[weight, value]).metrics)["gt_known"])

    return draw_grid(GRID, measure, y="GT-known Loc in %")


def _draw_top_k(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAS figure 10. It shows; k is chosen beforehand."""
    curve = read_json(folder.stage("bas").metrics)["top_k_curve"]
    figure, axes = one_plot(x="k", y="GT-known Loc in %")
    axes.plot(curve["k"], curve["gt_known"], "o-", color=COLOURS[0])
    return figure


def _draw_suppression(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAS figure 12: the mean of L_bas in each epoch; the paper has the training iterations."""

    def points(stage: StageFolder) -> Points:
        rows = read_rows(stage.losses)
        return [row["epoch"] for row in rows], [row["suppression"] for row in rows]

    return draw_stages(folder, _RELU, points, x="epoch", y="L_bas", style="o-")


def _draw_right_boxes(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAS figure 13: distribution of the IoU of boxes that are right, and its median."""
    figure, axes = one_plot(x="IoU in %", y="right boxes in %")
    first = round(BINS * CORRECT)
    centres = (np.arange(first, BINS) + 0.5) * 100 / BINS
    for name, colour in zip(pipeline.recipe_of(folder).names, COLOURS, strict=False):
        metrics = read_json(folder.stage(name).metrics)
        counts = np.array(metrics["iou_histogram"][first:])
        axes.plot(centres, 100 * counts / max(counts.sum(), 1), "o-", color=colour, label=name)
        if metrics["median_iou"] is not None:
            axes.axvline(metrics["median_iou"], color=colour, linestyle="--")
    axes.legend()
    return figure


def _draw_pixels(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAS figure 15: IoU of the pixels over the threshold, here in 0..1."""

    def points(stage: StageFolder) -> Points:
        return PIXEL_THRESHOLDS[::10].tolist(), read_json(stage.metrics)["iou_curve"]

    names = pipeline.recipe_of(folder).names
    return draw_stages(folder, names, points, x="threshold", y="IoU of the pixels in %")


# --- the tables and figures ----------------------------------------------------------------------------------------

_RELU = {"bas-conference": {"relu": bas.Relu.CONFERENCE}, "bas-raw": {"relu": bas.Relu.RAW}}
_ACTIVATIONS = Experiment(stages=_classifier, sources=lambda recipe: {}, masks=True, draw=draw_activations)

EXPERIMENTS: dict[str, Experiment] = {
    "bas-figure-1": _ACTIVATIONS,
    "bas-figure-6": _ACTIVATIONS,
    "bas-table-1": Experiment(stages=_both, sources=_on_backbone("cam", "bas"), by_backbone=True),
    "bas-table-2": Experiment(stages=_variants(WITHOUT_SUPPRESSION), sources=_ablation),
    "bas-table-3": Experiment(stages=_variants(LAYERS), sources=_named(*LAYERS)),
    "bas-figure-9": Experiment(
        stages=_grid,
        sources=lambda recipe: {stage: Source(stage) for *_, stage in _points(recipe)},
        draw=_draw_weights,
    ),
    "bas-figure-10": Experiment(stages=_variants({"bas": {}}), sources=_named("bas"), draw=_draw_top_k),
    "bas-figure-12": Experiment(stages=_variants(_RELU), sources=lambda recipe: {}, draw=_draw_suppression),
    "bas-table-4": Experiment(stages=_both, sources=_on_backbone("cam", "bas"), by_backbone=True),
    "bas-table-5": Experiment(
        stages=_variants(_RELU),
        sources=lambda recipe: {
            f"bas-conference {backbone_of(recipe)}": Source("bas-conference"),
            f"bas {backbone_of(recipe)}": Source("bas-raw"),
        },
        by_backbone=True,
    ),
    "bas-figure-13": Experiment(
        stages=_both, sources=_on_backbone("cam", "bas"), by_backbone=True, draw=_draw_right_boxes
    ),
    "bas-figure-15": Experiment(stages=_both, sources=_named("cam", "bas"), masks=True, draw=_draw_pixels),
    "bas-table-7": Experiment(
        stages=_variants(PAIRS),
        sources=lambda recipe: {key: Source(stage) for key, stage in ROWS_OF_PAIRS.items()},
    ),
}
