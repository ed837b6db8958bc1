"""The verb `bao review`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from baoseg.cli.options import Flag, Split, Words, optional


def review(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FOLDER")],
    *,
    split: Split = None,
    stage: Annotated[str | None, optional("STAGE")] = None,
    sample: Literal["doubt", "random"] = "doubt",
    classes: Annotated[Words, optional("NAME ...")] = (),
    suggest: Flag = False,
    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 8080,
    browse: Flag = False,
) -> None:
    """Look at masks in the browser, correct them, or label the images of a folder. Ends with Ctrl-C.

    Masks go to RUN/reviewed: `bao segment RUN --masks reviewed`, `bao evaluate RUN --truth reviewed`.

    Labels go to FOLDER/labels.csv: `bao run photos --data FOLDER`, or a button of the page.

    Args:
        folder: Run folder, or a folder of images.
        split: Split of the run to review, e.g. train. Without it: the evaluation split.
        stage: Stage whose masks are reviewed. Without it: the last segmentation, refinement or other stage.
        sample: The doubtful images first, to correct what is wrong; or a random order, to learn how good the masks are.
        classes: Classes to give to the images of a folder; more can be added in the page.
        suggest: Offer the likeliest of ImageNet's classes for an image of a folder.
        host: Address to serve at. Another one than this machine's own is guarded by a token in the printed address.
        port: Port to serve at.
        browse: Open the page in the browser.
    """
    from baoseg import review as server
    from baoseg.core.run_folder import Run
    from baoseg.data.reviewed import Chosen
    from baoseg.review.session import Session
    from baoseg.review.tagging import Tagging

    work: Session | Tagging
    if Run(folder).manifest.exists():
        work = Session(Run(folder), split=split, stage=stage, chosen=Chosen(sample))
    else:
        work = Tagging(folder, classes=classes, suggest=suggest)
    server.serve(work, host=host, port=port, browse=browse)
