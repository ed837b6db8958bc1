"""Verbs of `bao export`: what other tools take."""

from pathlib import Path
from typing import Annotated

import tyro

from baoseg.cli.options import Flag, Split


def onnx(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
) -> None:
    """Write a trained network as an ONNX file, for any number and size of images.

    Args:
        model: Run folder, RUN/STAGE, a network.safetensors, or a published checkpoint.
        out: File to write, e.g. bao.onnx.
    """
    import baoseg
    from baoseg.predict import export

    export.onnx(baoseg.load(model), out)
    print(f"Written: {out.resolve()}")


def voc(
    stage: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN[/STAGE]")],
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    split: Split = None,
    tar: Flag = False,
) -> None:
    """Copy masks into the layout of the VOC evaluation server: results/VOC2012/Segmentation/comp6_test_cls.

    Args:
        stage: Stage of a run, e.g. RUN/segment. Of a run folder: its last segmentation, refinement or other stage.
        out: Folder to write.
        split: Split to copy, e.g. test; its masks are there. Without it: the recipe's evaluation split.
        tar: Also write results.tgz, which is what the server is given.
    """
    from baoseg.core.run_folder import Run
    from baoseg.pipeline import manifest
    from baoseg.predict import export
    from baoseg.recipes import Task

    inside = not Run(stage).manifest.exists() and Run(stage.parent).manifest.exists()
    run = Run(stage.parent if inside else stage)
    recipe = manifest.recipe_of(run, task=Task.MASKS)
    last = (recipe.segmentations or recipe.refinements or recipe.fusions or recipe.stages)[-1]
    paths = run.stage(stage.name if inside else last.name)
    written = export.voc(paths, manifest.split_data(run, split), out, tar=tar)
    print(f"Written: {written.resolve()}")
