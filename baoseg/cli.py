"""The verbs of `bao`; no logic. Torch is imported when a verb runs, so that help appears at once."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from baoseg import published
from baoseg.errors import BaosegError, RecipeError

if TYPE_CHECKING:
    from baoseg.recipes import Recipe
    from baoseg.train import Hardware


def _optional(metavar: str) -> object:
    """Help shows the word for the value of an option that may be left out, and not that its default is None."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


RecipeName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Out = Annotated[Path, tyro.conf.arg(metavar="RUN")]
Table = Annotated[
    str | None,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="[TABLE]",
        help=f"One of {', '.join(published.tables())}. Without it, they are listed with their titles.",
        help_behavior_hint="",
    ),
]
Split = Annotated[str | None, _optional("SPLIT")]
Count = Annotated[int | None, _optional("N")]
Words = tuple[str, ...]
Seeds = Annotated[Words, _optional("NAME=FOLDER ...")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Device:
    """What to compute on. It is no part of the recipe: a run may continue on another device."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """The mixed ones are faster on GPUs that have them; results differ a little."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Processes that load pictures during training; any number gives the same result."""

    def resolve(self) -> "Hardware":
        from baoseg.train import Hardware

        return Hardware(**vars(self))


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What to change in the recipe; all else stays as it is. run.json in the run folder holds the outcome."""

    data: Annotated[str | None, _optional("FOLDER")] = None
    """Folder of pictures with a labels.csv (columns image,labels), or "synthetic" for generated scenes."""
    train_split: Split = None
    """Pictures to train on. Without it: train, or all pictures where there is no such split."""
    eval_split: Split = None
    """Pictures to label. Without it: val, or those of training where there is no such split."""
    backbone: Annotated[str | None, _optional("NAME")] = None
    """conformer_nano, conformer_tiny, conformer_small or conformer_base, or timm:NAME for a CNN or ViT of timm."""
    weights: Annotated[Path | None, _optional("FILE")] = None
    """Weights to start from: .safetensors or .pth in the names of timm, of the published Conformers, or of a run."""
    only: Annotated[str | None, _optional("STAGE")] = None
    """Train this stage of the recipe alone, e.g. bao; with --weights, from an already trained classifier."""
    epochs: Count = None
    """Epochs of the last stage."""
    batch_size: Count = None
    """Pictures a step in the last stage."""
    lr: Annotated[float | None, _optional("RATE")] = None
    """Learning rate of the backbone in the last stage; that of the heads keeps its ratio to it."""
    seed: Count = None
    """Seed of all that is random in training."""
    refine: Annotated[Words | None, _optional("WAY ...")] = None
    """Ways to refine the masks, of crf psa irn, in the place of the recipe's own."""

    def apply(self, recipe: "Recipe") -> "Recipe":
        from baoseg.recipes import override

        return override(recipe, **vars(self))


def demo(out: Out = Path("demo"), device: tyro.conf.OmitArgPrefixes[Device] = Device()) -> None:
    """See the whole thing work in a few minutes: generated scenes, a tiny network, no data and no weights needed.

    Args:
        out: Folder to write; the same command continues an interrupted run there.
        device: What to compute on.
    """
    _run("demo", out, Overrides(), device)


def run(
    recipe: RecipeName,
    out: Out,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """All steps of a recipe: train, maps, masks, refine, evaluate, report. The same command continues it.

    Args:
        recipe: Name of a recipe, e.g. photos for your own pictures; an unknown name lists them all.
        out: Folder to write, or to continue in.
        overrides: What to change in the recipe.
        device: What to compute on.
    """
    _run(recipe, out, overrides, device)


def compare(
    *,
    out: Out,
    methods: Annotated[Words, tyro.conf.arg(metavar="METHOD ...")],
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = "demo",
    seeds: Seeds = (),
    fuse: Annotated[Words, _optional("A+B ...")] = (),
    allow_pickle: Flag = False,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Methods side by side on one recipe's data and network. The same command continues an interrupted comparison.

    Args:
        out: Folder to write, or to continue in.
        methods: Of cam transcam bnr amn transcam+amn bas bao. What one of them starts from is trained and shown too.
        recipe: Name of a recipe, e.g. msrc14; its schedules are those of all methods.
        seeds: Seeds of other tools to show beside the methods: a name and a folder of .npy or .npz, e.g. irn=irn/cams.
        fuse: Sums of normalised seeds to show, of methods and of the names of --seeds, e.g. cam+bas.
        allow_pickle: Read .npy files that are pickles, as IRN's relatives write them; only NumPy arrays are taken.
        overrides: What to change in the recipe.
        device: What to compute on.
    """
    from baoseg import pipeline, recipes

    pipeline.compare(
        overrides.apply(recipes.named(recipe)),
        out,
        methods=methods,
        seeds=_folders(seeds),
        fuse=fuse,
        refine=overrides.refine or (),
        allow_pickle=allow_pickle,
        hardware=device.resolve(),
    )


def reproduce(
    *,
    table: Table = None,
    recipe: Annotated[str, tyro.conf.arg(metavar="RECIPE")] = "demo",
    out: Annotated[Path | None, _optional("RUN")] = None,
    seeds: Seeds = (),
    allow_pickle: Flag = False,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Measure a table or figure of the papers anew, beside the published numbers. The same command continues it.

    Args:
        recipe: Name of a recipe: the data, network and schedules to measure with.
        out: Folder to write, or to continue in. Without it: a folder of the table's name.
        seeds: Seeds of other tools for the rows that have some; an unknown NAME lists those of the table.
        allow_pickle: Read .npy files that are pickles, as IRN's relatives write them; only NumPy arrays are taken.
        overrides: What to change in the recipe.
        device: What to compute on.
    """
    if table is None:
        for known in published.tables().values():
            print(f"{known.id:<18} {known.title}")
        return
    from baoseg import recipes
    from baoseg import reproduce as tables

    tables.run(
        table,
        overrides.apply(recipes.named(recipe)),
        out or Path(table),
        seeds=_folders(seeds),
        allow_pickle=allow_pickle,
        hardware=device.resolve(),
    )


def fuse(
    sources: Annotated[Words, tyro.conf.Positional, _optional("SOURCE ...")],
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")],
    out: Out,
    eval_split: Split = None,
    allow_pickle: Flag = False,
) -> None:
    """Add up the seeds of runs and of other tools, or take those of one: masks, table and report.

    Args:
        sources: Each a run folder (its last stage), RUN/STAGE, or a folder of .npy or .npz of another tool.
        data: Folder of the pictures, with a labels.csv (columns image,labels), or "synthetic" for the demo's scenes.
        out: Folder to write, or to continue in.
        eval_split: Pictures to label. Without it: val, or all pictures where there is no such split.
        allow_pickle: Read .npy files that are pickles, as IRN's relatives write them; only NumPy arrays are taken.
    """
    from baoseg import pipeline, recipes

    recipe = recipes.named("demo" if data == "synthetic" else "photos")
    base = recipes.override(recipe, data=data, eval_split=eval_split)
    pipeline.fuse_seeds(base, sources, out, allow_pickle=allow_pickle)


def train(
    recipe: RecipeName,
    out: Out,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Train the stages of a recipe, nothing more. The same command continues an interrupted training.

    Args:
        recipe: Name of a recipe, e.g. photos for your own pictures; an unknown name lists them all.
        out: Folder to write, or to continue in.
        overrides: What to change in the recipe.
        device: What to compute on.
    """
    from baoseg import pipeline, recipes

    folder = pipeline.begin(overrides.apply(recipes.named(recipe)), out)
    pipeline.train_stages(folder, hardware=device.resolve())


def maps(
    run: RunFolder,
    split: Split = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Make the multi-scale activation maps of a trained run, for the pictures that have none yet.

    Args:
        run: Run folder.
        split: Split of the data set. Without it: the recipe's evaluation split.
        device: What to compute on.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.make_maps(Run(run), hardware=device.resolve(), split=split)


def masks(run: RunFolder, split: Split = None, threshold: Annotated[float | None, _optional("CUT")] = None) -> None:
    """Turn maps into masks (palette PNGs), by the learned background or, for stages without one, by a threshold.

    Args:
        run: Run folder.
        split: Split of the data set. Without it: the recipe's evaluation split.
        threshold: Cut the maps of every stage here, in 0..1. Without it: the learned background, or the recipe's cut.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.make_masks(Run(run), split=split, threshold=threshold)


def refine(
    run: RunFolder,
    ways: Annotated[Words, tyro.conf.arg(name="with", metavar="WAY ...")],
    of: Annotated[Words, _optional("STAGE ...")] = (),
    split: Split = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Draw the masks of a run to the edges of the pictures; what was refined so far is brought up to date too.

    Args:
        run: Run folder that has maps and masks.
        ways: Of crf (dense CRF, nothing to train), psa and irn (a network learns from the run's maps first).
        of: Stages whose masks are refined, also refined ones, e.g. bao+irn. Without it: the last stage.
        split: Split of the data set. Without it: the recipe's evaluation split.
        device: What to compute on.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.add_refinements(Run(run), ways, of=of)
    pipeline.refine_masks(Run(run), hardware=device.resolve(), split=split)


def segment(
    run: RunFolder,
    *,
    masks: Annotated[str | None, _optional("SOURCE")] = None,
    net: Annotated[str | None, _optional("NAME")] = None,
    weights: Annotated[Path | None, _optional("FILE")] = None,
    epochs: Count = None,
    batch_size: Count = None,
    lr: Annotated[float | None, _optional("RATE")] = None,
    reweight: Flag = False,
    rounds: Annotated[int, tyro.conf.arg(metavar="N")] = 1,
    called: Annotated[str, tyro.conf.arg(metavar="NAME")] = "segment",
    split: Split = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Train a segmentation network on masks, and segment pictures with it, without labels.

    Args:
        run: Run folder; its training pictures are learned from.
        masks: A stage, e.g. bao+crf, or a folder of masks NAME.png. Without it: the last refinement, or the last stage.
        net: E.g. smp:segformer/mit_b2, deeplab-largefov:resnet38, deeplabv2:resnet101, deeplabv2:timm:NAME.
        weights: Weights to start from: of such a network, or of its backbone.
        epochs: Epochs of training.
        batch_size: Pictures a step.
        lr: Learning rate of the backbone; that of the head is ten times as high.
        reweight: Pixels of which the maps are not sure count less.
        rounds: In further rounds it learns from its own predictions, restricted to the labels of the pictures.
        called: Name of its folder in the run; another one keeps what is there.
        split: Split to segment. Without it: the recipe's evaluation split.
        device: What to compute on.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "reweight": reweight, "rounds": rounds}
    pipeline.add_segmentation(Run(run), masks=masks, net=net, weights=weights, called=called, **settings)
    pipeline.segment_pictures(Run(run), hardware=device.resolve(), split=split)


def evaluate(run: RunFolder) -> None:
    """Compare maps with ground truth masks where there are some: mIoU, FP, FN, and the sweep over all thresholds.

    Args:
        run: Run folder; its evaluation split is the one that is compared.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.evaluate_stages(Run(run))


def report(run: RunFolder) -> None:
    """Write the HTML page of a run: table, curves, and a gallery of the evaluation split.

    Args:
        run: Run folder.
    """
    from baoseg import pipeline
    from baoseg.runs import Run

    pipeline.make_report(Run(run))


def _run(recipe: str, out: Path, overrides: Overrides, device: Device) -> None:
    from baoseg import pipeline, recipes

    pipeline.run(overrides.apply(recipes.named(recipe)), out, hardware=device.resolve())


def _folders(pairs: Sequence[str]) -> dict[str, str]:
    """Folders by name, of words NAME=FOLDER."""
    folders: dict[str, str] = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if not folder or name in folders:
            raise RecipeError(f"--seeds {pair}: write NAME=FOLDER, e.g. irn=irn/cams, and each name once")
        folders[name] = str(Path(folder).expanduser())
    return folders


_VERBS = (demo, run, compare, reproduce, fuse, train, maps, masks, refine, segment, evaluate, report)
VERBS = {verb.__name__: verb for verb in _VERBS}


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
