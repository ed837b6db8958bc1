"""Verbs that run one step of a run."""

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
    """Train the stages of a recipe and run no other step. The same command continues a training.

    Args:
        recipe: Name of a recipe, e.g. photos for your own images; an unknown name lists all recipes.
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
    """Make the multi-scale activation maps of a trained run for the images that have no maps yet.

    A run for boxes gets the map of the class of each image, from which the box is drawn.

    Args:
        run: Run folder.
        split: Split of the data set. Without it: the recipe's evaluation split.
    """
    from baoseg import pipeline

    pipeline.make_maps(RunFolder(run), hardware=device.resolve(), split=split)


def masks(run: RunArgument, split: Split = None, threshold: Annotated[float | None, optional("CUT")] = None) -> None:
    """Make masks (palette PNGs) from maps by the learned background or, for stages without one, by a threshold.

    Args:
        run: Run folder.
        split: Split of the data set. Without it: the recipe's evaluation split.
        threshold: Threshold in 0..1 for the maps of all stages. Without it: the learned background, or the threshold of
            the recipe.
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
    """Refine the masks of a run along the edges of the images; earlier refinements are brought up to date too.

    Args:
        run: Run folder that has maps and masks.
        ways: Some of crf (dense CRF), regions (each region of the image takes the class of the largest mean map), psa
            and irn (both first train a network on the maps of the run).
        of: Stages or refinements whose masks are refined, e.g. bao+irn. Without it: the last stage.
        regions: Regions for `--with regions`: sam:MODEL, or a folder of PNG or JSON files that any tool made. Without
            it: superpixels.
        values: Change a setting of the added refinements, e.g. refinements.bao+crf.by.steps=5 (see `bao recipes show`).
        split: Split of the data set. Without it: the recipe's evaluation split.
    """
    from baoseg import pipeline, recipes

    if not ways:
        raise RecipeError(f"--with: names no refinement; name one or more of {', '.join(recipes.REFINERS)}")
    if regions is not None and "regions" not in ways:
        raise RecipeError("--regions: is for `--with regions` only; add regions to --with")
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
    """Train a segmentation network on masks, and segment images with it; the images need no labels.

    Args:
        run: Run folder; the network learns from its training images.
        masks: Masks to learn from: a stage, e.g. bao+crf, a folder of masks NAME.png, or reviewed: the masks that were
            accepted or corrected with `bao review`. Without it: the last refinement, or the last stage.
        net: Name of the network, e.g. smp:segformer/mit_b2, deeplab-largefov:resnet38, mctformer:resnet38 or
            deeplabv2:timm:NAME.
        weights: Weights to start from: weights of the network, or of its backbone.
        epochs: Epochs of training.
        batch_size: Number of images in a step.
        lr: Learning rate of the backbone; the learning rate of the head is ten times as high.
        reweight: Pixels count less where the maps are uncertain.
        rest: With --masks reviewed, what happens to masks that nobody has reviewed: keep (the network learns from them
            too), weigh (their pixels count by the margin of the maps) or leave-out. Without it: keep. Rejected images
            never count.
        rounds: Number of rounds. From the second round on, a network learns from the predictions of the round before,
            restricted to the labels of the images. Without it: 1.
        called: Name of the folder of the network in the run; a new name keeps an earlier network. Without it: segment,
            or the networks of the recipe if no other option is given.
        values: Change a setting of the network, e.g. segmentations.segment.inference.flip=false (see `bao recipes
            show`).
        split: Split to segment. Without it: the recipe's evaluation split.
    """
    from baoseg import pipeline

    hardware = device.resolve()
    pipeline.split_data(RunFolder(run), split)
    if rest is not None and masks != "reviewed":
        raise RecipeError("--rest: is for --masks reviewed only; add --masks reviewed")
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
    """Compare maps and masks with the ground truth: mIoU, FP, FN, and a sweep over all thresholds.

    In a run for boxes, compare the boxes with the true boxes, for the stages that have no metrics.json.

    Args:
        run: Run folder; its evaluation split is compared.
        truth: The masks of the data set (folder), or the masks of `bao review` (reviewed), which give mIoU with an
            interval from the images of the random sample.
        split: With --truth reviewed, the split that was reviewed. Without it: the recipe's evaluation split.
        device: Device to compute on; only boxes need it.
    """
    from baoseg import pipeline

    if truth == "reviewed":
        pipeline.evaluate_reviewed(RunFolder(run), split=split)
        return
    if split is not None:
        raise RecipeError(
            "--split: is for --truth reviewed only; leave it out to compare the evaluation split of the recipe"
        )
    pipeline.evaluate_stages(RunFolder(run), hardware=device.resolve())


def report(run: RunArgument) -> None:
    """Write the HTML page of a run, with a table, curves, and a gallery of the evaluation split.

    Args:
        run: Run folder.
    """
    from baoseg import pipeline

    pipeline.make_report(RunFolder(run))
