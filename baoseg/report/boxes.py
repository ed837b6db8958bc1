"""A run for boxes: its table, and its page with curves, and images under the true boxes and those of the methods."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.transforms.v2.functional as TF
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table

from baoseg.core.errors import RunError
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.data.boxed import Boxed, squash
from baoseg.evaluate import localization
from baoseg.predict.boxes import ViewConfig, truth_on_crop
from baoseg.report.curves import COLOURS, axes_of, svg
from baoseg.report.gallery import spread, uri
from baoseg.report.page import Config, render
from baoseg.report.tables import costs_of, metrics_of, number

CORNERS = ("x0", "y0", "x1", "y1")  # columns of boxes.csv
OWN_COLUMNS = ("method", "GT-known", "Top-1", "Top-5", "median IoU", "own threshold", "PxAP", "training, minutes")
ORACLE_COLUMNS = ("MaxBoxAccV2", "0.3", "0.5", "0.7", "all contours", "PIoU")
TRUTH_COLOUR = COLOURS[3]
STAGE_COLOURS = [colour for colour in COLOURS if colour != TRUTH_COLOUR]


def table(run: RunFolder, stages: Sequence[str]) -> Table:
    """The summary for the terminal, 80 columns wide."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0), caption="MaxBoxAccV2 and PIoU: oracle")
    for column in (*OWN_COLUMNS[:-1], "MaxBox\nAccV2", ORACLE_COLUMNS[-1]):
        result.add_column(column, justify="left" if column == OWN_COLUMNS[0] else "right")
    for name, own, oracle in _rows(run, stages):
        result.add_row(name, *own[:-1], oracle[0], oracle[-1])
    return result


def _rows(run: RunFolder, stages: Sequence[str]) -> list[tuple[str, list[str], list[str]]]:
    """Name of each stage, and its cells of OWN_COLUMNS (but the name) and of ORACLE_COLUMNS."""
    rows = []
    for name in stages:
        metrics, cost = _metrics(run, name), costs_of(run.stage(name)).get("train", {})
        own, oracle = metrics["image_specific"] or {}, metrics["oracle"]
        levels, peak = oracle["max_box_accuracy"], oracle["peak_iou"] or {}
        shown = [*(metrics[key] for key in ("gt_known", "top1", "top5", "median_iou")), own.get("gt_known")]
        best = [_mean(levels), *levels, _mean(oracle["max_box_accuracy_multi_contour"]), peak.get("iou")]
        rows.append(
            (
                name,
                [number(value) for value in (*shown, metrics["pixel_average_precision"], cost.get("seconds", 0) / 60)],
                [number(value) for value in best],
            )
        )
    return rows


def _metrics(run: RunFolder, name: str) -> dict[str, Any]:
    """Of an evaluated stage. Raises RunError for one that is not."""
    found = metrics_of(run.stage(name))
    if found is None:
        raise RunError(f"{run.stage(name).metrics}: not evaluated yet; run `bao evaluate {run.root}` first")
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def build(
    run: RunFolder, *, stages: Sequence[str], dataset: Boxed, view: ViewConfig, config: Config, title: str
) -> Path:
    """Write the page: the table, the curves, and images of `dataset` (the evaluation split). Gives its path.

    Raises RunError for a stage that is not evaluated.
    """
    metrics = {name: _metrics(run, name) for name in stages}
    colours = {name: STAGE_COLOURS[i % len(STAGE_COLOURS)] for i, name in enumerate(stages)}
    return render(
        run,
        "boxes.html.j2",
        dataset,
        title=title,
        colours=colours,
        own_columns=OWN_COLUMNS,
        oracle_columns=ORACLE_COLUMNS,
        rows=_rows(run, stages),
        images=len(dataset),
        figures=_figures(metrics, colours),
        drawn={"true box": TRUTH_COLOUR, **colours},
        crop=view.crop,
        gallery=_gallery(run, dataset, view, colours, count=config.gallery),
    )


def _figures(metrics: dict[str, dict[str, Any]], colours: dict[str, str]) -> list[tuple[str, Markup]]:
    """Captions and figures; those without anything to show are left out."""

    def lines(curves: Mapping[str, tuple[Sequence, Sequence]], *, x: str, y: str) -> Figure:
        figure, axes = axes_of(x=x, y=y, size=(4.6, 2.9))
        for name, (positions, values) in curves.items():
            axes.plot(positions, values, linewidth=2, color=colours[name])
        return figure

    thresholds, pixels = localization.THRESHOLDS[::10], localization.PIXEL_THRESHOLDS[::10]
    boxes = {name: (thresholds.tolist(), result["box_curve"][1]) for name, result in metrics.items()}
    accuracy = lines(boxes, x="threshold", y="boxes in %")
    for name, result in metrics.items():
        accuracy.axes[0].plot(result["threshold"], result["gt_known"], "o", markersize=7, color=colours[name])
    centres = ((np.arange(localization.BINS) + 0.5) * 100 / localization.BINS).tolist()
    shares = {
        name: (centres, [100 * count / result["images"] for count in result["iou_histogram"]])
        for name, result in metrics.items()
    }
    figures = [
        ("Boxes with an IoU of at least 0.5, and the fixed threshold", accuracy),
        ("IoU of the boxes", lines(shares, x="IoU in %", y="images in %")),
    ]
    if masked := {name: result["iou_curve"] for name, result in metrics.items() if result["iou_curve"] is not None}:
        curves = {name: (pixels.tolist(), values) for name, values in masked.items()}
        figures.append(("IoU of the pixels", lines(curves, x="threshold", y="IoU in %")))
    if top := {name: result["top_k_curve"] for name, result in metrics.items() if result["top_k_curve"] is not None}:
        curves = {name: (values["k"], values["gt_known"]) for name, values in top.items()}
        by_classes = lines(curves, x="k", y="GT-known Loc in %")
        by_classes.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        figures.append(("Maps of k classes averaged", by_classes))
    for name, result in metrics.items():
        figure, axes = axes_of(x="relative size of the object", y="IoU", size=(4.6, 2.9))
        axes.imshow(np.array(result["density"]).T, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap="viridis")
        axes.grid(visible=False)
        figures.append((f"{name}: images by size of the object and IoU", figure))
    return [(caption, svg(figure, caption)) for caption, figure in figures]


def _gallery(
    run: RunFolder, dataset: Boxed, view: ViewConfig, colours: dict[str, str], *, count: int
) -> list[dict[str, Any]]:
    """Images spread evenly over the split, as crops, with the true boxes and each stage's."""
    tables = {name: _read_boxes(run.stage(name)) for name in colours}
    images = []
    for index in spread(len(dataset), count):
        sample = dataset[index]
        crop = TF.center_crop(squash(sample.image, view.side), [view.crop, view.crop])
        size = (int(sample.image.shape[1]), int(sample.image.shape[2]))
        truth = truth_on_crop(dataset.boxes(index), None, size, view=view)
        found = {name: rows[index] for name, rows in tables.items()}
        boxes = [(TRUTH_COLOUR, box.tolist()) for box in truth.boxes]
        boxes += [(colours[name], [int(row[corner]) for corner in CORNERS]) for name, row in found.items()]
        images.append(
            {
                "name": sample.name.rpartition("/")[2],
                "image": uri(Image.fromarray(crop.permute(1, 2, 0).numpy()), "JPEG", quality=82),
                "boxes": boxes,
                "ious": [(name, float(row["iou"])) for name, row in found.items()],
            }
        )
    return images


def _read_boxes(paths: StageFolder) -> list[dict[str, str]]:
    with (paths.root / "boxes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
