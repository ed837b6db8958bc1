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
    """Masks for new images, which need no labels. Exit code 1 if some could not be read.

    Args:
        model: RUN/segment, RUN/bao, the network.safetensors in one of them, a run folder or a published checkpoint.
        images: Images, and folders of images at any depth; the masks of a folder lie in the same tree.
        out: Folder of the masks (palette PNGs). Masks that are there already are overwritten.
        crf: Draw the masks to the edges of the images with a dense CRF. Slow: many seconds a megapixel.
        overlays: Write the images in the colours of their masks too, into the folder overlays there.
        labels: What all the images show at most, e.g. "dog sofa". Without it: the model finds the classes itself.
        accelerator: auto takes a GPU where there is one.
    """
    import baoseg
    from baoseg.predict import predict
    from baoseg.training.train import Hardware

    loaded = baoseg.load(model, device=Hardware(accelerator=accelerator).fabric().device)
    config = predict.Config(crf=crf, overlays=overlays, labels=labels)
    if predict.run(loaded, images, out, config=config):
        sys.exit(1)
