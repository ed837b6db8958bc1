"""mIoU of all masks in run folders over their seeds, the difference to one of them, and the cost an image.

    bao compare msrc14 --methods bao bao-plus --refine crf regions --seed 0 --out runs/msrc14-0 ...   # and other seeds
    python benchmarks/quality.py --runs runs/msrc14-* runs/voc-mini-* --json quality.json --plot docs/quality.svg

Run folders of one recipe are its seeds. The difference to `--default` is that of the means over the seeds, and its 95 %
interval a paired bootstrap over the images: both are measured on the same resampled images. The cost is that of maps
and refinement on this machine, without training. The masks of the split choose nothing here.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from figures import publish
from matplotlib.axes import Axes

from baoseg import pipeline
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.evaluate import Confusion, class_iou
from baoseg.report import curves

Counts = np.ndarray  # [seeds images S S]


@dataclass(frozen=True, kw_only=True)
class Options:
    runs: tuple[Path, ...]
    default: str = "bao"  # the masks that the others are compared with
    split: str = "val"
    resamples: int = 1000
    json: Path | None = None
    plot: Path | None = None


def main(options: Options) -> None:
    groups: dict[str, list[RunFolder]] = defaultdict(list)
    for path in options.runs:
        groups[read_json(RunFolder(path).manifest)["recipe"]["name"].removesuffix("-comparison")].append(
            RunFolder(path)
        )
    figures = {name: _figures(runs, options) for name, runs in groups.items()}
    publish(figures, options.json)
    if options.plot is not None:
        _draw(figures, options.plot)


def _figures(runs: list[RunFolder], options: Options) -> dict[str, dict[str, Any]]:
    names = [path.parents[1].name for path in sorted(runs[0].root.glob(f"*/masks/{options.split}"))]
    counts = {name: np.stack([_counts(run, name, options.split) for run in runs]) for name in names}
    draw = np.random.default_rng(0)
    images = counts[names[0]].shape[1]
    weights = draw.multinomial(images, np.full(images, 1 / images), size=options.resamples)
    resampled = {name: _miou(np.einsum("ri,sijk->rsjk", weights, of)).mean(axis=1) for name, of in counts.items()}
    figures = {}
    for name, of in counts.items():
        seeds = _miou(of.sum(axis=1))
        figures[name] = {
            "seeds": [round(value, 1) for value in seeds.tolist()],
            "miou": round(seeds.mean(), 1),
            "deviation": round(seeds.std(ddof=1), 1) if len(runs) > 1 else None,
            "seconds": round(float(np.mean([_seconds(run, name) for run in runs])), 2),
        }
        if options.default in counts and name != options.default:
            low, high = np.quantile(resampled[name] - resampled[options.default], [0.025, 0.975])
            mean = seeds.mean() - _miou(counts[options.default].sum(axis=1)).mean()
            figures[name]["difference"] = [round(float(value), 1) for value in (mean, low, high)]
    return figures


def _counts(run: RunFolder, name: str, split: str) -> np.ndarray:
    """The confusion matrix of each image that has ground truth."""
    dataset, found = pipeline.open_split(pipeline.recipe_of(run), split), []
    for index, image in enumerate(dataset.names):
        if (truth := dataset.mask(index)) is not None:
            confusion = Confusion(len(dataset.classes))
            confusion.update(read_mask(run.stage(name).mask(split, image)), truth)
            found.append(confusion.counts.numpy())
    return np.stack(found)


def _miou(counts: np.ndarray) -> np.ndarray:
    """In percent, of matrices [... S S]."""
    return class_iou(torch.from_numpy(counts)).nanmean(dim=-1).numpy()


def _seconds(run: RunFolder, name: str) -> float:
    """Of the maps and of each refinement on the way to these masks, an image."""
    seconds, parts = 0.0, name.split("+")
    for end in range(1, len(parts) + 1):
        costs = read_json(run.stage("+".join(parts[:end])).costs)
        steps = [costs[step] for step in ("maps", "masks") if step in costs]
        seconds += sum(step["seconds"] / step.get("images", step.get("pictures")) for step in steps)
    return seconds


def _draw(figures: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    figure = curves.Figure(figsize=(5.2 * len(figures), 3.8))
    for number, (name, rows) in enumerate(figures.items(), start=1):
        axes: Axes = figure.add_subplot(1, len(figures), number)
        for method, row in rows.items():
            colour = curves.COLOURS[[key.partition("+")[0] for key in rows].index(method.partition("+")[0])]
            axes.errorbar(row["seconds"], row["miou"], yerr=row["deviation"] or 0, fmt="o", color=colour, capsize=3)
            axes.annotate(method, (row["seconds"], row["miou"]), xytext=(6, -3), textcoords="offset points", size=8)
        axes.set(title=name, xlabel="seconds an image (one core)", ylabel="mIoU in %", xlim=(0, None))
        axes.margins(x=0.35)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(tyro.cli(Options))
