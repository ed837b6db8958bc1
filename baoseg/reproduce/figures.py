"""Figures of the papers, drawn anew from the stages of a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from baoseg import pipeline
from baoseg.core import progress
from baoseg.core.files import atomic, read_json, write_csv
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.predict import labeler
from baoseg.report import COLOURS
from baoseg.report.curves import read_rows
from baoseg.reproduce import exploration, published
from baoseg.reproduce.lines import Line, Measure, cells, header, printed
from baoseg.training.train import Hardware

VOC = {"alpha": 0.2, "beta": 1.2, "weight": 1.0}  # of BAS, sec. 3.4; weight is lambda
BAS_GRID = {  # figure 18, in the ranges that its text speaks of (sec. 5.2): one weight varies, the others are VOC's
    "alpha": (0.05, 0.1, 0.2, 0.35, 0.5),
    "beta": (0.6, 0.9, 1.2, 1.5, 1.8),
    "weight": (0.6, 0.8, 1.0, 1.2, 1.4),
}


Points = tuple[Sequence[float], Sequence[float]]  # of a line in a figure: x, and y


def grid_name(weight: str, value: float) -> str:
    """The point at which the three lines of the grid meet is one stage."""
    return "bas" if value == VOC[weight] else f"bas-{weight}-{value}"


def draw_epochs(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAO figure 4: the network in training after each epoch, from the trained classifier on."""
    classifier, *learners = pipeline.recipe_of(folder).stages
    start = read_json(folder.stage(classifier.name).metrics)["oracle"]["miou"]
    figure, axes = one_plot(x="epoch", y="mIoU of the seed in %")
    for stage, colour in zip(learners, COLOURS, strict=False):
        threshold_free = read_json(folder.stage(stage.name).metrics)["threshold_free"] is not None
        key = "miou" if threshold_free else "oracle_miou"
        points = [(0, start), *((row["epoch"], row[key]) for row in read_rows(folder.stage(stage.name).epochs))]
        measure = Measure.MASKS if threshold_free else Measure.ORACLE
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"{stage.name} ({measure})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def draw_thresholds(folder: RunFolder, hardware: Hardware) -> Figure:
    """Noise reduction figure 4: mIoU over the background threshold."""

    def points(stage: StageFolder) -> Points:
        sweep = read_json(stage.metrics)["sweep"]
        return sweep["thresholds"], sweep["miou"]

    names = pipeline.recipe_of(folder).names
    return draw_stages(folder, names, points, x="background threshold", y="mIoU of the seed in %")


def draw_weights(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAS figure 18: the seed over the weight of each loss."""

    def measure(weight: str, value: float) -> float:
        return float(read_json(folder.stage(grid_name(weight, value)).metrics)["oracle"]["miou"])

    return draw_grid(BAS_GRID, measure, y="mIoU of the seed in %")


def draw_grid(grid: Mapping[str, Sequence[float]], measure: Callable[[str, float], float], *, y: str) -> Figure:
    """A plot for each weight of the loss of BAS: `measure(weight, value)` over the values of this weight."""
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    for axes, (weight, values) in zip(figure.subplots(1, len(grid), sharey=True), grid.items(), strict=True):
        axes.plot(values, [measure(weight, value) for value in values], "o-", color=COLOURS[0])
        axes.set_xlabel("lambda" if weight == "weight" else weight)
        axes.set_ylabel(y)
    return figure


def draw_stages(
    folder: RunFolder,
    names: Iterable[str],
    points: Callable[[StageFolder], Points],
    *,
    x: str,
    y: str,
    style: str = "-",
) -> Figure:
    """One plot with a line for each of the stages."""
    figure, axes = one_plot(x=x, y=y)
    for name, colour in zip(names, COLOURS, strict=False):
        axes.plot(*points(folder.stage(name)), style, color=colour, label=name)
    axes.legend()
    return figure


def draw_activations(folder: RunFolder, hardware: Hardware) -> Figure:
    """BAS figures 1 and 6, of the classifier; their mean curves go to OUT/activations.csv.

    The ground truth masks explain what the classifier sees; they choose nothing.
    """
    model = labeler.load(folder.stage("cam").network, device=hardware.fabric().device)
    config = exploration.Config()
    curves = exploration.explore(model, pipeline.split_data(folder), config)
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
    folder: RunFolder,
    table: published.Table,
    lines: Sequence[Line],
    *,
    note: str,
    draw: Callable[[RunFolder, Hardware], Figure] | None,
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
