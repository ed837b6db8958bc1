"""`bao try`: masks of photographs in a minute, without training."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from baoseg.cli.options import Words, optional


def try_(
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO ...")],
    labels: Annotated[Words, optional("NAME ...")] = (),
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("try"),
) -> None:
    """Masks of photographs of everyday things in seconds: no training, no data, no network connection.

    An ImageNet classifier that comes with baoseg finds the classes. For classes of your own, train: `bao run photos`.

    Args:
        photos: Photographs, or folders of them.
        labels: What the photographs show: ImageNet's classes and groups of them, e.g. dog sofa. Without it: the
            likeliest class of each photograph alone; the five likeliest are printed.
        out: Folder to write: NAME.png, the mask, and overlays/NAME.png, the photograph under its mask.
    """
    from baoseg import imagenet

    if imagenet.try_photos(photos, out, labels=labels):
        sys.exit(1)
