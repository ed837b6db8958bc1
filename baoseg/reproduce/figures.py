"""Figures of the papers, drawn anew from the stages of a run."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from baoseg import pipeline
from baoseg.core import progress
from baoseg.core.files import atomic, read_json
from baoseg.core.run_folder import Run
from baoseg.data import Dataset
from baoseg.predict import labeler
from baoseg.report import COLOURS
from baoseg.reproduce import exploration, published
from baoseg.reproduce.lines import Line, Measure, cells, header, printed, write_csv
from baoseg.training.train import Hardware

VOC = {"alpha": 0.2, "beta": 1.2, "weight": 1.0}  # of BAS, sec. 3.4; weight is lambda
BAS_GRID = {  # figure 18, in the ranges that its text speaks of (sec. 5.2): one weight varies, the others are VOC's
    "alpha": (0.05, 0.1, 0.2, 0.35, 0.5),
    "beta": (0.6, 0.9, 1.2, 1.5, 1.8),
    "weight": (0.6, 0.8, 1.0, 1.2, 1.4),
}


def grid_name(weight: str, value: float) -> str:
    """The point at which the three lines of the grid meet is one stage."""
    return "bas" if value == VOC[weight] else f"bas-{weight}-{value}"


def draw_epochs(folder: Run, hardware: Hardware) -> Figure:
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


def draw_thresholds(folder: Run, hardware: Hardware) -> Figure:
    """Noise reduction figure 4: mIoU over the background threshold."""
    figure, axes = one_plot(x="background threshold", y="mIoU of the seed in %")
    for name, colour in zip(pipeline.recipe_of(folder).names, COLOURS, strict=False):
        sweep = read_json(folder.stage(name).metrics)["sweep"]
        axes.plot(sweep["thresholds"], sweep["miou"], color=colour, label=name)
    axes.legend()
    return figure


def draw_weights(folder: Run, hardware: Hardware) -> Figure:
    """BAS figure 18: the seed over the weight of each loss."""
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    for axes, (weight, values) in zip(figure.subplots(1, len(BAS_GRID), sharey=True), BAS_GRID.items(), strict=True):
        stages = [folder.stage(grid_name(weight, value)) for value in values]
        axes.plot(values, [read_json(stage.metrics)["oracle"]["miou"] for stage in stages], "o-", color=COLOURS[0])
        axes.set_xlabel("lambda" if weight == "weight" else weight)
        axes.set_ylabel("mIoU of the seed in %")
    return figure


def draw_stage_activations(folder: Run, hardware: Hardware) -> Figure:
    model = labeler.load(folder.stage("cam").network, device=hardware.fabric().device)
    return draw_activations(model, pipeline.split_data(folder), folder)


def draw_activations(model: labeler.Labeler, dataset: Dataset, folder: Run) -> Figure:
    """BAS figures 1 and 6; their mean curves go to OUT/activations.csv. Masks of the ground truth are needed."""
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


def save_figure(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
    progress.say(f"Figure: {path.resolve()}")


def show(
    folder: Run,
    table: published.Table,
    lines: Sequence[Line],
    *,
    note: str,
    draw: Callable[[Run, Hardware], Figure] | None,
    hardware: Hardware,
) -> None:
    """Print what an experiment measured, and write it to OUT/NAME.csv and, of a figure, OUT/NAME.png."""
    recipe, ours = pipeline.recipe_of(folder), read_json(folder.manifest)["data"]["eval"]
    for text in header(table, data=recipe.data.path, split=ours["split"], images=ours["images"], net=recipe.net):
        progress.say(text)
    if lines:
        progress.say(printed(lines))
        progress.say(note)
        write_csv(folder.root / f"{table.id}.csv", [cells(line) for line in lines])
    if draw is not None:
        save_figure(draw(folder, hardware), folder.root / f"{table.id}.png")
