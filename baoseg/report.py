"""A run on one HTML page, for people to look at, and its summary as a table for the terminal.

The page holds everything inside itself (pictures, maps, curves, code) and loads nothing: it works from disk, without
a network. What was chosen on the ground truth is called *oracle* and stands apart.
"""

import base64
import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from baoseg import seeds
from baoseg.data import Dataset
from baoseg.data.images import read_mask, voc_palette
from baoseg.errors import RecipeError, RunError
from baoseg.runs import Run, Stage, atomic, read_json
from baoseg.types import IGNORE

COLOURS = ("#3b82f6", "#f08c00", "#12a67c", "#e5484d", "#8e5cf0", "#d6409f", "#0ea5b7", "#8d8d86")
INK = "#010203"  # stands in a figure for the text colour of the page, which is light or dark


@dataclass(frozen=True, kw_only=True)
class Config:
    """`gallery` pictures are shown, spread evenly over the split, their long side at most `picture_size` pixels."""

    gallery: int = 24
    picture_size: int = 320

    def __post_init__(self) -> None:
        if self.gallery < 0 or self.picture_size < 1:
            raise RecipeError(
                f"report.gallery is {self.gallery} and report.picture_size {self.picture_size}; "
                "choose at least 0 pictures of at least 1 pixel"
            )


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a method reached, and what the best threshold for its class maps would have reached.

    All in percent but `oracle_threshold`; None where there is nothing to say. `scores` are SCORES of metrics.json.
    """

    method: str
    background: str  # how the background was told from the classes
    scores: dict[str, Any]
    oracle: dict[str, Any]

    @property
    def gap(self) -> float | None:
        """mIoU minus oracle mIoU: above 0 where the method beats every threshold on its class maps."""
        own, best = self.scores.get("miou"), self.oracle.get("miou")
        return None if own is None or best is None else own - best

    def cells(self) -> tuple[list[str], list[str]]:
        """The row as text: the method's own columns (OWN_COLUMNS) and the oracle's (ORACLE_COLUMNS)."""
        own = [number(self.scores.get(key)) for key in ("miou", "fp", "fn", "precision", "recall")]
        gap = "–" if self.gap is None else f"{self.gap:+.1f}"
        oracle = [number(self.oracle.get("miou")), number(self.oracle.get("threshold"), places=2), gap]
        return [self.method, self.background, *own], oracle


OWN_COLUMNS = ("method", "background", "mIoU", "FP", "FN", "precision", "recall")
ORACLE_COLUMNS = ("oracle mIoU", "at threshold", "gap")


def number(value: float | None, *, places: int = 1) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def summary(run: Run, stages: Sequence[str]) -> list[Row]:
    """The rows of the summary, one for each method: the page and the terminal show the same."""
    rows = []
    for name in stages:
        metrics = _metrics(run.stage(name))
        if metrics is None:
            background = "not evaluated"
        elif metrics["threshold_free"] is not None:
            background = "learned"
        else:
            background = f"fixed {metrics['fixed']['threshold']:.2f}"
        rows.append(
            Row(
                method=name,
                background=background,
                scores=(metrics["threshold_free"] or metrics["fixed"]) if metrics else {},
                oracle=metrics["oracle"] if metrics else {},
            )
        )
    return rows


def table(run: Run, stages: Sequence[str]) -> Table:
    """The summary for the terminal."""
    result = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0),
        caption="oracle: threshold chosen on the ground truth; gap: mIoU minus oracle mIoU",
        caption_justify="left",
    )
    for title in OWN_COLUMNS:
        result.add_column(title, justify="left" if title in ("method", "background") else "right")
    for title in ORACLE_COLUMNS:
        result.add_column(title.replace(" ", "\n"), justify="right", style="dim", header_style="dim bold")
    for row in summary(run, stages):
        own, oracle = row.cells()
        result.add_row(*(Text(cell) for cell in own + oracle))  # Text: brackets in a name are no markup
    return result


def build(run: Run, *, stages: Sequence[str], dataset: Dataset, config: Config, title: str) -> Path:
    """Write the report on `stages` of the run, with pictures of `dataset` (the evaluation split). Gives its path.

    Metrics, losses and masks may be absent: the page says so. Raises RunError or DataError where the manifest or the
    maps of a picture are missing, or anything is unreadable.
    """
    manifest = read_json(run.manifest)
    metrics = {name: found for name in stages if (found := _metrics(run.stage(name))) is not None}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(stages)}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("baoseg"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    html = environment.get_template("report.html.j2").render(
        title=title,
        facts=_facts(manifest, stages, dataset),
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
        has_masks=dataset.has_masks,
        own_columns=OWN_COLUMNS,
        oracle_columns=ORACLE_COLUMNS,
        rows=[row.cells() for row in summary(run, stages)],
        measured=next(iter(metrics.values()), None),
        per_class=_per_class(metrics),
        colours=colours,
        curve=_threshold_curve(metrics, colours) if metrics else None,
        losses=[curves for name in stages if (curves := _loss_curves(run.stage(name)))],
        gallery={
            "classes": ["background", *dataset.classes.names],
            "ignore": IGNORE,
            "palette": voc_palette().tolist(),
            "heat": _heat().tolist(),
            "methods": [_method(name, metrics.get(name)) for name in stages],
            "pictures": [
                _picture(run, stages, dataset, i, longest=config.picture_size)
                for i in _spread(len(dataset), config.gallery)
            ],
        },
    )
    with atomic(run.report) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return run.report


def _metrics(stage: Stage) -> dict[str, Any] | None:
    return read_json(stage.metrics) if stage.metrics.exists() else None


def _facts(manifest: dict[str, Any], stages: Sequence[str], dataset: Dataset) -> dict[str, str]:
    recipe = manifest["recipe"]
    return {
        "recipe": str(recipe.get("name", "unnamed")),
        "data set": str(recipe.get("data", {}).get("path", "unnamed")),
        "split": dataset.split,
        "images": f"{len(dataset):,}",
        "classes": str(len(dataset.classes)),
        "methods": ", ".join(stages),
        "version": f"baoseg {manifest['version']}",
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def _per_class(
    metrics: dict[str, dict[str, Any]],
) -> list[tuple[str, list[float | None], list[float | None]]]:
    """For each class its name, the IoU of each method and the oracle IoU of each method."""
    if not metrics:
        return []
    results = list(metrics.values())
    own = [(result["threshold_free"] or result["fixed"])["iou"] for result in results]
    oracle = [result["oracle"]["iou"] for result in results]
    return [(name, [iou[i] for iou in own], [iou[i] for iou in oracle]) for i, name in enumerate(results[0]["classes"])]


# --- curves: no text of the user's goes into them, legends are HTML ------------------------------------------------


def _threshold_curve(metrics: dict[str, dict[str, Any]], colours: dict[str, str]) -> Markup:
    """mIoU against threshold, and what each method reached without looking: a line across, or a dot on the curve."""
    figure, axes = _axes(x="threshold on the class maps", y="mIoU in %", size=(5.0, 3.1))
    by_oracle = sorted(metrics, key=lambda name: metrics[name]["oracle"]["threshold"])
    for name, result in metrics.items():
        style: dict[str, Any] = {"color": colours[name], "zorder": 3}
        sweep, oracle = result["sweep"], result["oracle"]
        axes.plot(sweep["thresholds"], _floats(sweep["miou"]), linewidth=2, **style)
        if result["threshold_free"] is not None:
            axes.axhline(_float(result["threshold_free"]["miou"]), linewidth=2, linestyle=(0, (5, 3)), **style)
        if result["fixed"] is not None:
            axes.plot(result["fixed"]["threshold"], _float(result["fixed"]["miou"]), "o", markersize=7, **style)
        if oracle["miou"] is not None:
            at = (oracle["threshold"], oracle["miou"])
            axes.plot(*at, "D", markersize=8, markerfacecolor="none", markeredgewidth=1.6, **style)
            left = name in by_oracle[: len(by_oracle) // 2]  # away from the others: methods lie close together
            offset, side = (-8, "right") if left else (8, "left")
            axes.annotate("oracle", at, (offset, 4), textcoords="offset points", ha=side, color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    return _svg(figure, "mIoU against threshold; the numbers are in the tables")


def _loss_curves(stage: Stage) -> dict[str, Any] | None:
    """Method, colour of each loss term, and the figure; None where nothing was trained."""
    if not stage.losses.exists():
        return None
    try:
        with stage.losses.open(encoding="utf-8", newline="") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        epochs = [row["epoch"] for row in rows]
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise RunError(f"{stage.losses}: not a table of losses ({error}); delete it and train again") from None
    if not rows:
        return None
    terms = [key for key in rows[0] if key not in ("epoch", "step", "seconds")]
    colours = {term: COLOURS[i % len(COLOURS)] for i, term in enumerate(terms)}
    figure, axes = _axes(x="epoch", y="mean loss", size=(4.6, 2.9))
    for term, colour in colours.items():
        axes.plot(epochs, [row[term] for row in rows], "o-", markersize=3, linewidth=2, color=colour)
    axes.set_ylim(bottom=min(0, axes.dataLim.y0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return {
        "method": stage.name,
        "terms": colours,
        "figure": _svg(figure, f"{', '.join(terms)} against epoch"),
    }


def _axes(*, x: str, y: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
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


def _svg(figure: Figure, label: str) -> Markup:
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


# --- gallery -------------------------------------------------------------------------------------------------------


def _spread(total: int, count: int) -> list[int]:
    """`count` indices, or all, in the middles of as many equal parts of 0..total-1."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _heat() -> UInt8[np.ndarray, "256 3"]:
    colours = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)
    return np.asarray(colours)[:, :3]


def _method(name: str, metrics: dict[str, Any] | None) -> dict[str, Any]:
    """What the threshold slider knows of a method beside its maps."""
    if metrics is None:
        return {"name": name, "fixed": None, "oracle": None, "sweep": None}
    return {
        "name": name,
        "fixed": metrics["fixed"]["threshold"] if metrics["fixed"] else None,
        "oracle": metrics["oracle"]["threshold"],
        "sweep": {"thresholds": metrics["sweep"]["thresholds"], "miou": metrics["sweep"]["miou"]},
    }


def _picture(run: Run, stages: Sequence[str], dataset: Dataset, index: int, *, longest: int) -> dict[str, Any]:
    """A picture of the gallery, shrunk to `longest` pixels where it is larger, with what each method says about it."""
    name, sample = dataset.names[index], dataset[index]
    height, width = sample.image.shape[-2:]
    scale = min(1, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))  # as Pillow says it: width first
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.LANCZOS)
    return {
        "name": name,
        "width": size[0],
        "height": size[1],
        "image": _uri(image, "JPEG", quality=82),
        "labels": [1 + i for i in sample.labels.nonzero()[:, 0].tolist()],
        "truth": None if sample.mask is None else _mask_uri(sample.mask.numpy(), size),
        "methods": [_result(run.stage(stage), dataset.split, name, size) for stage in stages],
    }


def _result(stage: Stage, split: str, name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Maps on their own grid (at most `size`; the page interpolates them) and mask of one method for one picture."""
    seed = seeds.load(stage.maps(split, name))
    mask = stage.mask(split, name)
    grid = (min(seed.scores.shape[-2], size[1]), min(seed.scores.shape[-1], size[0]))

    def uri(maps: Float[Tensor, "k h w"]) -> list[str]:
        levels = (255 * seeds.resize(maps, grid)).round().byte().numpy()
        return [_uri(Image.fromarray(level), "PNG", optimize=True) for level in levels]

    return {
        "classes": seed.classes.tolist(),
        "maps": uri(seed.scores),
        "background": None if seed.background is None else uri(seed.background[None])[0],
        "mask": _mask_uri(read_mask(mask).numpy(), size) if mask.exists() else None,
    }


def _mask_uri(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> str:
    """Class indices as grey values, nearest neighbour: a browser hands them on unchanged."""
    return _uri(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
