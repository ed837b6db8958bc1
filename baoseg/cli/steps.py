"""Verbs that do one step of a run."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from baoseg.cli.options import (
    Count,
    Device,
    Flag,
    Out,
    Overrides,
    RecipeName,
    RunArgument,
    Split,
    Values,
    Words,
    optional,
)
from baoseg.core.errors import RecipeError
from baoseg.core.run_folder import RunFolder


def train(
    recipe: RecipeName,
    out: Out,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Train the stages of a recipe, nothing more. The same command continues an interrupted training.

    Args:
        recipe: Name of a recipe, e.g. photos for your own images; an unknown name lists them all.
        out: Folder to write, or to continue in.
    """
    from baoseg import pipeline, recipes

    hardware = device.resolve()
    folder = pipeline.begin(overrides.apply(recipes.named(recipe)), out, hardware=hardware)
    pipeline.train_stages(folder, hardware=hardware)


def maps(
    run: RunArgument,
    split: Split = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Make the multi-scale activation maps of a trained run, for the images that have none yet.

    Of a run for boxes: the map of each image's class, as its box is drawn from it.

    Args:
        run: Run folder.
        split: Split of the data set. Without it: the recipe's evaluation split.
    """
    from baoseg import pipeline

    pipeline.make_maps(RunFolder(run), hardware=device.resolve(), split=split)


def masks(run: RunArgument, split: Split = None, threshold: Annotated[float | None, optional("CUT")] = None) -> None:
    """Turn maps into masks (palette PNGs), by the learned background or, for stages without one, by a threshold.

    Args:
        run: Run folder.
        split: Split of the data set. Without it: the recipe's evaluation split.
        threshold: Cut the maps of every stage here, in 0..1. Without it: the learned background, or the recipe's cut.
    """
    from baoseg import pipeline

    pipeline.make_masks(RunFolder(run), split=split, threshold=threshold)


def refine(
    run: RunArgument,
    ways: Annotated[Words, tyro.conf.arg(name="with", metavar="WAY ...")],
    *,
    of: Annotated[Words, optional("STAGE ...")] = (),
    regions: Annotated[str | None, optional("SOURCE")] = None,
    values: Values = (),
    split: Split = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Draw the masks of a run to the edges of the images; what was refined so far is brought up to date too.

    Args:
        run: Run folder that has maps and masks.
        ways: Of crf (dense CRF) and regions (each region of the image takes the class of the largest mean map), which
            train nothing, and psa and irn (a network learns from the run's maps first).
        of: Stages whose masks are refined, also refined ones, e.g. bao+irn. Without it: the last stage.
        regions: Regions for `--with regions`: sam:MODEL, or a folder of PNG or JSON files that any tool made. Without
            it: superpixels.
        values: Change a setting of what is added, e.g. refinements.bao+crf.by.steps=5 (see `bao recipes show`).
        split: Split of the data set. Without it: the recipe's evaluation split.
    """
    from baoseg import pipeline, recipes

    if not ways:
        raise RecipeError(f"--with: name one way or more, of {', '.join(recipes.REFINERS)}")
    if regions is not None and "regions" not in ways:
        raise RecipeError("--regions: names the regions of `--with regions`; add that")
    hardware = device.resolve()  # before anything is written: the processes of other devices start here
    pipeline.split_data(RunFolder(run), split)
    pipeline.add_refinements(RunFolder(run), ways, of=of, regions=regions, values=values)
    pipeline.refine_masks(RunFolder(run), hardware=hardware, split=split)


def segment(
    run: RunArgument,
    *,
    masks: Annotated[str | None, optional("SOURCE")] = None,
    net: Annotated[str | None, optional("NAME")] = None,
    weights: Annotated[Path | None, optional("FILE")] = None,
    epochs: Count = None,
    batch_size: Count = None,
    lr: Annotated[float | None, optional("RATE")] = None,
    reweight: Flag = False,
    rest: Annotated[Literal["keep", "weigh", "leave-out"] | None, optional("WAY")] = None,
    rounds: Count = None,
    called: Annotated[str | None, optional("NAME")] = None,
    values: Values = (),
    split: Split = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Train a segmentation network on masks, and segment images with it, without labels.

    Args:
        run: Run folder; its training images are learned from.
        masks: A stage, e.g. bao+crf, or a folder of masks NAME.png, or reviewed: masks accepted or corrected with
            `bao review`, and the rest as --rest says. Without it: the last refinement, or the last stage.
        net: E.g. smp:segformer/mit_b2, deeplab-largefov:resnet38, mctformer:resnet38, deeplabv2:timm:NAME.
        weights: Weights to start from: of such a network, or of its backbone.
        epochs: Epochs of training.
        batch_size: Images a step.
        lr: Learning rate of the backbone; that of the head is ten times as high.
        reweight: Pixels of which the maps are not sure count less.
        rest: With --masks reviewed, masks that nobody has reviewed: keep (they are learned from too), weigh (their
            pixels count by the margin of the maps) or leave-out. Without it: keep. Rejected images never count.
        rounds: In further rounds it learns from its own predictions, restricted to the labels of the images; 1 is
            the first, which is all that there is without this option.
        called: Name of its folder in the run; another one keeps what is there. Without it: segment or, where nothing is
            asked for, those of the recipe.
        values: Change a setting of the network, e.g. segmentations.segment.inference.flip=false (see `bao recipes
            show`).
        split: Split to segment. Without it: the recipe's evaluation split.
    """
    from baoseg import pipeline

    hardware = device.resolve()
    pipeline.split_data(RunFolder(run), split)
    if rest is not None and masks != "reviewed":
        raise RecipeError("--rest: says what becomes of masks beside reviewed ones; add --masks reviewed")
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "reweight": reweight,
        "rounds": rounds,
    }
    names = {"masks": masks, "rest": rest, "called": called}
    pipeline.add_segmentation(RunFolder(run), net=net, weights=weights, values=values, **names, **settings)
    pipeline.segment_images(RunFolder(run), hardware=hardware, split=split)


def evaluate(
    run: RunArgument,
    truth: Annotated[Literal["folder", "reviewed"], tyro.conf.arg(metavar="SOURCE")] = "folder",
    split: Split = None,
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Compare maps with ground truth masks where there are some: mIoU, FP, FN, and the sweep over all thresholds.

    Of a run for boxes: boxes with the true ones, for the stages that have no metrics.json.

    Args:
        run: Run folder; its evaluation split is the one that is compared.
        truth: The masks of the data set (folder), or those of `bao review` (reviewed): then mIoU with an interval, from
            the images of its random sample alone.
        split: With --truth reviewed, the split that was reviewed. Without it: the recipe's evaluation split.
        device: What to compute on, where boxes are drawn.
    """
    from baoseg import pipeline

    if truth == "reviewed":
        pipeline.evaluate_reviewed(RunFolder(run), split=split)
        return
    if split is not None:
        raise RecipeError("--split: goes with --truth reviewed; without it the recipe's evaluation split is compared")
    pipeline.evaluate_stages(RunFolder(run), hardware=device.resolve())


def report(run: RunArgument) -> None:
    """Write the HTML page of a run: table, curves, and a gallery of the evaluation split.

    Args:
        run: Run folder.
    """
    from baoseg import pipeline

    pipeline.make_report(RunFolder(run))
