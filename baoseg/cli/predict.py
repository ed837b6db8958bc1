"""The verb for new images."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from baoseg.cli.options import Flag, optional


def predict(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, optional("IMAGE ...")],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    crf: Flag = False,
    overlays: Flag = False,
    labels: Annotated[str | None, optional("LABELS")] = None,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> None:
    """Make masks for new images, which need no labels. The exit code is 1 if an image could not be read.

    Args:
        model: RUN/segment, RUN/bao, a network.safetensors of a stage, a run folder, or a published checkpoint.
        images: Images, and folders of images at any depth; the masks of a folder keep its subfolders.
        out: Folder to write the masks (palette PNGs) in. Existing masks are overwritten.
        crf: Refine the masks along the edges of the images with a dense CRF. It takes many seconds a megapixel.
        overlays: Also write the images in the colours of their masks, into the folder overlays in --out.
        labels: Classes that the images may show, e.g. "dog sofa". Without it: the model predicts the classes.
        accelerator: auto uses a GPU if the machine has one.
    """
    import baoseg
    from baoseg.predict import predict
    from baoseg.training.train import Hardware

    loaded = baoseg.load(model, device=Hardware(accelerator=accelerator).fabric().device)
    config = predict.Config(crf=crf, overlays=overlays, labels=labels)
    if predict.run(loaded, images, out, config=config):
        sys.exit(1)
