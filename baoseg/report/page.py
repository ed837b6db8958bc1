"""A run on one HTML page, for people to look at, and its summary as a table for the terminal.

The page holds everything inside itself (images, maps, curves, code) and loads nothing: it works from disk, without
a network. What was chosen on the ground truth is called *oracle* and stands apart.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from baoseg.core.errors import RecipeError
from baoseg.core.files import atomic, read_json
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import IGNORE
from baoseg.data import Dataset
from baoseg.data.images import voc_palette
from baoseg.evaluate import decision_of, of_masks
from baoseg.report.curves import COLOURS, epoch_curves, loss_curves, threshold_curve
from baoseg.report.gallery import heat, image_of, method_of, spread
from baoseg.report.tables import COST_COLUMNS, ORACLE_COLUMNS, OWN_COLUMNS, metrics_of, number, summary


@dataclass(frozen=True, kw_only=True)
class Config:
    """`gallery` images are shown, spread evenly over the split, their long side at most `image_size` pixels."""

    gallery: int = 24
    image_size: int = 320

    def __post_init__(self) -> None:
        if self.gallery < 0 or self.image_size < 1:
            raise RecipeError(
                f"report.gallery is {self.gallery} and report.image_size {self.image_size}; "
                "choose at least 0 images of at least 1 pixel"
            )


def build(run: RunFolder, *, stages: Sequence[str], dataset: Dataset, config: Config, title: str) -> Path:
    """Write the report on `stages` of the run, with images of `dataset` (the evaluation split). Gives its path.

    Metrics, losses and masks may be absent: the page says so. Raises RunError or DataError where the manifest or the
    maps of an image are missing, or anything is unreadable.
    """
    rows = summary(run, stages)
    metrics = {name: found for name in stages if (found := metrics_of(run.stage(name))) is not None}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(stages)}
    return render(
        run,
        "masks.html.j2",
        dataset,
        title=title,
        colours=colours,
        has_masks=dataset.has_masks,
        own_columns=OWN_COLUMNS,
        oracle_columns=ORACLE_COLUMNS,
        cost_columns=COST_COLUMNS if any(row.costs for row in rows) else (),
        rows=[row.cells() for row in rows],
        measured=next(iter(metrics.values()), None),
        with_oracle=[name for name, result in metrics.items() if result["oracle"]],
        per_class=_per_class(metrics),
        curve=threshold_curve(metrics, colours) if metrics else None,
        decisions={decision_of(result) for result in metrics.values()},
        epochs=epoch_curves(run, colours),
        review=f"bao review {shlex.quote(str(run.root))}",
        gallery={
            "classes": ["background", *dataset.classes.names],
            "ignore": IGNORE,
            "palette": voc_palette().tolist(),
            "heat": heat().tolist(),
            "methods": [method_of(name, metrics.get(name)) for name in stages],
            "images": [
                image_of(run, stages, dataset, i, longest=config.image_size)
                for i in spread(len(dataset), config.gallery)
            ],
        },
    )


def render(
    run: RunFolder, template: str, dataset: Dataset, *, title: str, colours: dict[str, str], **content: object
) -> Path:
    """Write a page with the facts of the run and what its template needs. Gives its path.

    `colours` are those of the stages, by name.
    """
    manifest = read_json(run.manifest)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("baoseg.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    html = environment.get_template(template).render(
        title=title,
        colours=colours,
        facts=_facts(manifest, [*colours], dataset),
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
        losses=[curves for name in colours if (curves := loss_curves(run.stage(name)))],
        **content,
    )
    with atomic(run.report) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return run.report


def _facts(manifest: dict[str, Any], stages: Sequence[str], dataset: Dataset) -> dict[str, str]:
    recipe = manifest.get("recipe") or manifest["localization"]  # of a run for boxes of version 0.1
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
