"""What the methods of a run reached, as a table for the terminal and for the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.evaluate import decision_of, of_masks


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
            number(
                _share(inference.get("seconds"), of=inference.get("images", inference.get("pictures", 0))), places=2
            ),
        ]
        return [self.method, self.background, *own], oracle, costs


OWN_COLUMNS = ("method", "background", "mIoU", "FP", "FN", "precision", "recall")
ORACLE_COLUMNS = ("oracle mIoU", "at threshold", "gap")
COST_COLUMNS = ("training, minutes", "training, MB", "inference, s an image")


def number(value: float | None, *, places: int = 1) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _share(value: float | None, *, of: int) -> float | None:
    return value / of if value is not None and of else None


def summary(run: RunFolder, stages: Sequence[str]) -> list[Row]:
    """The rows of the summary, one for each method: the page and the terminal show the same."""
    rows = []
    for name in stages:
        metrics = metrics_of(run.stage(name))
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
                costs=costs_of(run.stage(name)),
            )
        )
    return rows


def table(run: RunFolder, stages: Sequence[str]) -> RenderableType:
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


def metrics_of(stage: StageFolder) -> dict[str, Any] | None:
    return read_json(stage.metrics) if stage.metrics.exists() else None


def costs_of(stage: StageFolder) -> dict[str, Any]:
    return read_json(stage.costs) if stage.costs.exists() else {}
