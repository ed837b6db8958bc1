"""A run on one HTML page, for people to look at, and its summary as a table for the terminal.

The page holds everything inside itself (images, maps, curves, code) and loads nothing: it works from disk, without
a network. What was chosen on the ground truth is called *oracle* and stands apart.
"""

import base64
import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from baoseg import seeds
from baoseg.core.errors import DataError, RecipeError, RunError
from baoseg.core.files import atomic, read_json
from baoseg.core.run_folder import Run, Stage
from baoseg.core.types import IGNORE
from baoseg.data import Dataset
from baoseg.data.images import read_mask, voc_palette
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


@dataclass(frozen=True, kw_only=True)
class Config:
    """`gallery` images are shown, spread evenly over the split, their long side at most `picture_size` pixels."""

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
    """What a method reached, what the best threshold for its class maps would have reached, and what it cost.

    `scores` and `oracle` are those of metrics.json, `costs` are costs.json; each is empty where there is none.
    """

    method: str
    background: str  # how the background was told from the classes
    scores: dict[str, Any]
    oracle: dict[str, Any]
    costs: dict[str, Any] = field(default_factory=dict)

    @property
    def gap(self) -> float | None:
        """mIoU minus oracle mIoU: above 0 where the method beats every threshold on its class maps."""
        own, best = self.scores.get("miou"), self.oracle.get("miou")
        return None if own is None or best is None else own - best

    def cells(self) -> tuple[list[str], list[str], list[str]]:
        """The row as text: the method's own columns (OWN_COLUMNS), the oracle's and those of what it cost."""
        own = [number(self.scores.get(key)) for key in ("miou", "fp", "fn", "precision", "recall")]
        gap = "–" if self.gap is None else f"{self.gap:+.1f}"
        oracle = [number(self.oracle.get("miou")), number(self.oracle.get("threshold"), places=2), gap]
        train, inference = self.costs.get("train", {}), self.costs.get("maps", self.costs.get("masks", {}))
        costs = [
            number(_share(train.get("seconds"), of=60)),
            number(train.get("peak_mb"), places=0),
            number(_share(inference.get("seconds"), of=inference.get("pictures", 0)), places=2),
        ]
        return [self.method, self.background, *own], oracle, costs


OWN_COLUMNS = ("method", "background", "mIoU", "FP", "FN", "precision", "recall")
ORACLE_COLUMNS = ("oracle mIoU", "at threshold", "gap")
COST_COLUMNS = ("training, minutes", "training, MB", "inference, s a picture")


def number(value: float | None, *, places: int = 1) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _share(value: float | None, *, of: int) -> float | None:
    return value / of if value is not None and of else None


def summary(run: Run, stages: Sequence[str]) -> list[Row]:
    """The rows of the summary, one for each method: the page and the terminal show the same."""
    rows = []
    for name in stages:
        metrics = _metrics(run.stage(name))
        if metrics is None:
            background = "not evaluated"
        elif metrics["threshold_free"] is not None:
            background = "learned"
        elif metrics["image_specific"] is not None:
            background = "per image"
        elif metrics["fixed"] is not None:
            background = f"fixed {metrics['fixed']['threshold']:.2f}"
        else:
            background = decision_of(metrics)
        rows.append(
            Row(
                method=name,
                background=background,
                scores=of_masks(metrics) if metrics else {},
                oracle=(metrics["oracle"] or {}) if metrics else {},
                costs=_costs(run.stage(name)),
            )
        )
    return rows


def table(run: Run, stages: Sequence[str]) -> RenderableType:
    """The summary for the terminal, 80 columns wide; what the methods cost is a table of its own below it."""
    rows = summary(run, stages)
    scores = _terminal_table("oracle: threshold chosen on the ground truth; gap: mIoU minus oracle mIoU")
    scores.add_column(OWN_COLUMNS[1], no_wrap=True)
    for title in OWN_COLUMNS[2:]:
        scores.add_column(title, justify="right", no_wrap=True)
    for title in ORACLE_COLUMNS:
        header = title.replace(" ", "\n")
        scores.add_column(header, justify="right", no_wrap=True, style="dim", header_style="dim bold")
    costs = _terminal_table("of each method alone, not what it starts from")
    for title in COST_COLUMNS:
        costs.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        own, oracle, cost = row.cells()
        scores.add_row(*(Text(cell) for cell in own + oracle))  # Text: brackets in a name are no markup
        costs.add_row(*(Text(cell) for cell in [row.method, *cost]))
    return Group(scores, costs) if any(row.costs for row in rows) else scores


def _terminal_table(caption: str) -> Table:
    """With a column for the methods; where the terminal is narrow, their names are what is broken."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0), caption=caption, caption_justify="left")
    result.add_column(OWN_COLUMNS[0], overflow="fold")
    return result


def build(run: Run, *, stages: Sequence[str], dataset: Dataset, config: Config, title: str) -> Path:
    """Write the report on `stages` of the run, with images of `dataset` (the evaluation split). Gives its path.

    Metrics, losses and masks may be absent: the page says so. Raises RunError or DataError where the manifest or the
    maps of an image are missing, or anything is unreadable.
    """
    manifest = read_json(run.manifest)
    rows = summary(run, stages)
    metrics = {name: found for name in stages if (found := _metrics(run.stage(name))) is not None}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(stages)}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("baoseg.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    html = environment.get_template("report.html.j2").render(
        title=title,
        facts=_facts(manifest, stages, dataset),
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
        has_masks=dataset.has_masks,
        own_columns=OWN_COLUMNS,
        oracle_columns=ORACLE_COLUMNS,
        cost_columns=COST_COLUMNS if any(row.costs for row in rows) else (),
        rows=[row.cells() for row in rows],
        measured=next(iter(metrics.values()), None),
        with_oracle=[name for name, result in metrics.items() if result["oracle"]],
        per_class=_per_class(metrics),
        colours=colours,
        curve=_threshold_curve(metrics, colours) if metrics else None,
        decisions={decision_of(result) for result in metrics.values()},
        epochs=_epoch_curves(run, colours),
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


def _costs(stage: Stage) -> dict[str, Any]:
    return read_json(stage.costs) if stage.costs.exists() else {}


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
    """For each class its name, the IoU of each method, and the oracle IoU of each that has maps."""
    if not metrics:
        return []
    results = list(metrics.values())
    own = [of_masks(result)["iou"] for result in results]
    oracle = [result["oracle"]["iou"] for result in results if result["oracle"]]
    return [(name, [iou[i] for iou in own], [iou[i] for iou in oracle]) for i, name in enumerate(results[0]["classes"])]


# --- curves: no text of the user's goes into them, legends are HTML ------------------------------------------------


def _threshold_curve(metrics: dict[str, dict[str, Any]], colours: dict[str, str]) -> Markup:
    """mIoU against threshold, and what each method reached without looking: a line across, or a dot on the curve."""
    figure, axes = _axes(x="threshold on the class maps", y="mIoU in %", size=(5.2, 3.5))
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
    return _svg(figure, "mIoU against threshold; the numbers are in the tables")


def _epoch_curves(run: Run, colours: dict[str, str]) -> dict[str, Any] | None:
    """Colour of each method that was evaluated after each epoch (BAO figure 4), and one figure of them all."""
    curves = {name: rows for name in colours if (rows := _read_rows(run.stage(name).epochs, ("epoch", "miou")))}
    if not curves:
        return None
    figure, axes = _axes(x="epoch", y="mIoU in %", size=(5.2, 3.5))
    for name, rows in curves.items():
        epochs = [row["epoch"] for row in rows]
        style: dict[str, Any] = {"color": colours[name], "zorder": 3}
        axes.plot(epochs, [row["miou"] for row in rows], "o-", markersize=4, linewidth=2, **style)
        if "oracle_miou" in rows[0]:
            axes.plot(epochs, [row["oracle_miou"] for row in rows], "D:", markersize=4, fillstyle="none", **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return {"methods": {name: colours[name] for name in curves}, "figure": _svg(figure, "mIoU after each epoch")}


def _loss_curves(stage: Stage) -> dict[str, Any] | None:
    """Method, colour of each loss term, and the figure; None where nothing was trained."""
    rows = _read_rows(stage.losses, ("epoch",))
    if not rows:
        return None
    terms = [key for key in rows[0] if key not in ("epoch", "step", "seconds")]
    colours = {term: COLOURS[i % len(COLOURS)] for i, term in enumerate(terms)}
    figure, axes = _axes(x="epoch", y="mean loss", size=(4.6, 2.9))
    for term, colour in colours.items():
        epochs, values = [row["epoch"] for row in rows], [row[term] for row in rows]
        axes.plot(epochs, values, "o-", markersize=3, linewidth=2, color=colour)
    axes.set_ylim(bottom=min(0, axes.dataLim.y0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return {
        "method": stage.name,
        "terms": colours,
        "figure": _svg(figure, f"{', '.join(terms)} against epoch"),
    }


def _read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, float]]:
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
    if metrics is None or metrics["sweep"] is None:
        return {"name": name, "fixed": None, "oracle": None, "sweep": None}
    return {
        "name": name,
        "fixed": metrics["fixed"]["threshold"] if metrics["fixed"] else None,
        "oracle": metrics["oracle"]["threshold"],
        "sweep": {"thresholds": metrics["sweep"]["thresholds"], "miou": metrics["sweep"]["miou"]},
    }


def _picture(run: Run, stages: Sequence[str], dataset: Dataset, index: int, *, longest: int) -> dict[str, Any]:
    """An image of the gallery, shrunk to `longest` pixels where it is larger, with what each method says about it."""
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
    """Maps on their own grid (at most `size`; the page interpolates them) and mask of one method for one image.

    What refines or predicts masks has no maps: `classes` is null then.
    """
    mask = stage.mask(split, name)
    mask_uri = _mask_uri(read_mask(mask).numpy(), size) if mask.exists() else None
    if not stage.has_maps and stage.masks(split).is_dir():
        if mask_uri is None:
            raise DataError(f"{mask}: no such mask; make it again with the command that made the run, or restore it")
        return {"classes": None, "maps": [], "background": None, "threshold": None, "mask": mask_uri}
    seed = seeds.load(stage.maps(split, name))
    grid = (min(seed.scores.shape[-2], size[1]), min(seed.scores.shape[-1], size[0]))

    def uri(maps: Float[Tensor, "k h w"]) -> list[str]:
        levels = (255 * seeds.resize(maps, grid)).round().byte().numpy()
        return [_uri(Image.fromarray(level), "PNG", optimize=True) for level in levels]

    return {
        "classes": seed.classes.tolist(),
        "maps": uri(seed.scores),
        "background": None if seed.background is None else uri(seed.background[None])[0],
        "threshold": seed.threshold,
        "mask": mask_uri,
    }


def _mask_uri(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> str:
    """Class indices as grey values, nearest neighbour: a browser hands them on unchanged."""
    return _uri(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
