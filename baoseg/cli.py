"""The verbs of `bao`; no logic. Torch is imported when a verb runs, so that help appears at once."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from baoseg.errors import BaosegError

if TYPE_CHECKING:
    from baoseg.recipes import Recipe
    from baoseg.train import Hardware


@dataclass(frozen=True, kw_only=True)
class Device:
    """What to compute on."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    """Number of GPUs (or processes)."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    workers: int = 2
    """Processes that load pictures."""

    def resolve(self) -> "Hardware":
        from baoseg.train import Hardware

        return Hardware(**vars(self))


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What to change in the recipe; everything else stays as `run.json` of the run folder then shows it."""

    data: str | None = None
    """Folder with labels.csv and pictures (see docs/data.md), or "synthetic"."""
    train_split: str | None = None
    """Split to train on; default: train where there is one, else all pictures."""
    eval_split: str | None = None
    """Split to make maps and masks of; default: val where there is one, else the pictures trained on."""
    backbone: str | None = None
    """conformer_{nano,tiny,small,base}, or timm:NAME for any CNN or ViT of timm."""
    weights: Path | None = None
    """Weights to start from: safetensors or .pth, in timm's names or those of the published Conformers."""
    only: str | None = None
    """Train this stage of the recipe alone, e.g. bao, starting from --weights."""
    epochs: int | None = None
    """Epochs of the last stage."""
    batch_size: int | None = None
    lr: float | None = None
    """Learning rate of the backbone in the last stage; the rate of the heads keeps its ratio to it."""
    seed: int | None = None

    def apply(self, recipe: "Recipe") -> "Recipe":
        from baoseg.recipes import override

        return override(recipe, **vars(self))


Name = Annotated[str, tyro.conf.Positional]
Folder = Annotated[Path, tyro.conf.Positional]


def demo(out: Path = Path("demo"), device: tyro.conf.OmitArgPrefixes[Device] = Device()) -> None:
    """See the whole thing work in a few minutes: generated scenes, a tiny network, no data and no weights needed.

    Args:
        out: Run folder to write.
        device: What to compute on.
    """
    _run("demo", out, Overrides(), device)


def run(
    recipe: Name,
    out: Path,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """All steps of a recipe: train, maps, masks, evaluate, report. Run it again to continue after an interruption.

    Args:
        recipe: Name of a recipe, e.g. photos for your own pictures; an unknown name lists all.
        out: Run folder to write, or to continue.
        overrides: What to change in the recipe.
        device: What to compute on.
    """
    _run(recipe, out, overrides, device)


def train(
    recipe: Name,
    out: Path,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Train the stages of a recipe. Run it again to continue after an interruption.

    Args:
        recipe: Name of a recipe, e.g. photos for your own pictures; an unknown name lists all.
        out: Run folder to write, or to continue.
        overrides: What to change in the recipe.
        device: What to compute on.
    """
    from baoseg import pipeline, recipes

    folder = pipeline.begin(overrides.apply(recipes.named(recipe)), out)
    pipeline.train_stages(folder, hardware=device.resolve())


def maps(
    run: Folder,
    split: str | None = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Make the multi-scale activation maps of a trained run.

    Args:
        run: Run folder.
        split: Split of the data set; default: the recipe's evaluation split.
        device: What to compute on.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.make_maps(Run(run), hardware=device.resolve(), split=split)


def masks(run: Folder, split: str | None = None, threshold: float | None = None) -> None:
    """Turn maps into masks (palette PNGs): with the learned background, or a threshold where a method has none.

    Args:
        run: Run folder.
        split: Split of the data set; default: the recipe's evaluation split.
        threshold: In [0, 1], for methods without a learned background; default: the recipe's.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.make_masks(Run(run), split=split, threshold=threshold)


def evaluate(run: Folder, split: str | None = None) -> None:
    """Compare maps with ground truth where there is some: mIoU, FP, FN, and the sweep over all thresholds.

    Args:
        run: Run folder.
        split: Split of the data set; default: the recipe's evaluation split.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.evaluate_stages(Run(run), split=split)


def report(run: Folder) -> None:
    """Write the HTML page of a run.

    Args:
        run: Run folder.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.make_report(Run(run))


def _run(recipe: str, out: Path, overrides: Overrides, device: Device) -> None:
    from baoseg import pipeline, recipes

    pipeline.run(overrides.apply(recipes.named(recipe)), out, hardware=device.resolve())


VERBS = {verb.__name__: verb for verb in (demo, run, train, maps, masks, evaluate, report)}


def main() -> None:
    """Entry point of `bao`. Mistakes of the person at the keyboard end in one line and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="bao",
            description="Pixel masks from image-level labels, with no background threshold to tune.",
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
    except BaosegError as error:
        print(f"bao: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nbao: stopped; the same command continues where it was", file=sys.stderr)
        sys.exit(130)
