"""Curves of a run as inline SVG. No text of the user's goes into them: legends are HTML."""

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from baoseg.core.errors import RunError
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.evaluate import decision_of, of_masks

COLOURS = (
    *("#3b82f6", "#f08c00", "#12a67c", "#e5484d", "#8e5cf0"),
    *("#d6409f", "#0ea5b7", "#8d8d86", "#9a6b3f", "#76a80f"),
)
DASHES = {  # of results that no one threshold gives
    "threshold_free": (0, (5, 3)),
    "image_specific": (0, (1, 1.5)),
    "refined": (0, (5, 1.5, 1, 1.5)),
    "predicted": (0, (5, 1.5, 1, 1.5, 1, 1.5)),
}
INK = "#010203"  # stands in a figure for the text colour of the page, which is light or dark


def threshold_curve(metrics: dict[str, dict[str, Any]], colours: dict[str, str]) -> Markup:
    """mIoU against threshold, and what each method reached without looking: a line across, or a dot on the curve."""
    figure, axes = axes_of(x="threshold on the class maps", y="mIoU in %", size=(5.2, 3.5))
    for name, result in metrics.items():
        style: dict[str, Any] = {"color": colours[name], "zorder": 3}
        sweep, oracle, decision = result["sweep"], result["oracle"], decision_of(result)
        reached = _float(of_masks(result)["miou"])
        if decision == "fixed":
            axes.plot(result["fixed"]["threshold"], reached, "o", markersize=7, **style)
        else:
            axes.axhline(reached, linewidth=2, linestyle=DASHES[decision], **style)
        if sweep is None:
            continue
        axes.plot(sweep["thresholds"], _floats(sweep["miou"]), linewidth=2, **style)
        best = _float(oracle["miou"])
        axes.plot(oracle["threshold"], best, "D", markersize=8, fillstyle="none", markeredgewidth=1.6, **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    return svg(figure, "mIoU against threshold; the numbers are in the tables")


def epoch_curves(run: RunFolder, colours: dict[str, str]) -> dict[str, Any] | None:
    """Colour of each method that was evaluated after each epoch (BAO figure 4), and one figure of them all."""
    curves = {name: rows for name in colours if (rows := read_rows(run.stage(name).epochs, ("epoch", "miou")))}
    if not curves:
        return None
    figure, axes = axes_of(x="epoch", y="mIoU in %", size=(5.2, 3.5))
    for name, rows in curves.items():
        epochs = [row["epoch"] for row in rows]
        style: dict[str, Any] = {"color": colours[name], "zorder": 3}
        axes.plot(epochs, [row["miou"] for row in rows], "o-", markersize=4, linewidth=2, **style)
        if "oracle_miou" in rows[0]:
            axes.plot(epochs, [row["oracle_miou"] for row in rows], "D:", markersize=4, fillstyle="none", **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return {"methods": {name: colours[name] for name in curves}, "figure": svg(figure, "mIoU after each epoch")}


def loss_curves(stage: StageFolder) -> dict[str, Any] | None:
    """Method, colour of each loss term, and the figure; None where nothing was trained."""
    rows = read_rows(stage.losses, ("epoch",))
    if not rows:
        return None
    terms = [key for key in rows[0] if key not in ("epoch", "step", "seconds")]
    colours = {term: COLOURS[i % len(COLOURS)] for i, term in enumerate(terms)}
    figure, axes = axes_of(x="epoch", y="mean loss", size=(4.6, 2.9))
    for term, colour in colours.items():
        epochs, values = [row["epoch"] for row in rows], [row[term] for row in rows]
        axes.plot(epochs, values, "o-", markersize=3, linewidth=2, color=colour)
    axes.set_ylim(bottom=min(0, axes.dataLim.y0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return {
        "method": stage.name,
        "terms": colours,
        "figure": svg(figure, f"{', '.join(terms)} against epoch"),
    }


def read_rows(path: Path, needed: Sequence[str] = ()) -> list[dict[str, float]]:
    """The rows of losses.csv or epochs.csv, which have at least the columns `needed`; none where there is no file."""
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        if missing := [key for key in needed if rows and key not in rows[0]]:
            raise ValueError(f"no column {missing[0]}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: not a table of {path.stem} ({error}); delete it and train again") from None
    return rows


def axes_of(*, x: str, y: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.margins(y=0.15)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(length=0, labelcolor=INK, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(color=INK, alpha=0.3)
    axes.grid(axis="y", color=INK, alpha=0.12)
    return figure, axes


def svg(figure: Figure, label: str) -> Markup:
    """The figure as an inline SVG that fills its place and takes fonts and text colour from the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)  # only what is referred to keeps its id, which are unique
    text = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", text, count=2)
    return Markup(text).replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1)


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _floats(values: Sequence[float | None]) -> list[float]:
    return [_float(value) for value in values]
