"""`bao try`: masks of photographs in a minute, without training."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from baoseg.cli.options import Words, optional


def try_(
    photos: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO ...", help_behavior_hint="")
    ],
    labels: Annotated[Words, optional("NAME ...")] = (),
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("try"),
) -> None:
    """Make masks of photographs of everyday things in seconds, without training, data or network connection.

    An ImageNet classifier that comes with baoseg finds the classes; `bao run photos` trains on your own classes.

    Args:
        photos: Photographs, or folders of them.
        labels: Classes that the photographs show: ImageNet's classes and groups of them, e.g. dog sofa. Without it, the
            five likeliest classes of each photograph are printed, and the mask shows the first.
        out: Folder to write: the masks NAME.png, and overlays/NAME.png, the photographs under their masks.
    """
    from baoseg.predict import imagenet

    if imagenet.try_photos(photos, out, labels=labels):
        sys.exit(1)
