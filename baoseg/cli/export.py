"""Verbs of `bao export` and `bao import`: what other tools take and give."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from baoseg.cli.options import Flag, Split, Words, optional

Format = Annotated[
    Literal["png", "coco", "label-studio", "cvat", "yolo", "labelme"], tyro.conf.arg(name="as", metavar="FORMAT")
]


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


def masks(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FOLDER")],
    form: Format,
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    *,
    stage: Annotated[str | None, optional("STAGE")] = None,
    split: Split = None,
    images: Annotated[Path | None, optional("FOLDER")] = None,
    classes: Annotated[Words, optional("NAME ...")] = (),
    min_area: Annotated[int, tyro.conf.arg(metavar="N")] = 1,
    outlines: Literal["rle", "polygon"] = "rle",
) -> None:
    """Write masks for an annotation tool or a trainer.

    Instances are the connected parts of a class, so objects of one class that touch one another are one instance.

    Args:
        source: Run folder; a folder with labels.csv and masks; or, with --images, a folder of masks NAME.png.
        form: png (index masks and data.yaml: semantic training of Ultralytics, MMSegmentation, LightlyTrain, FiftyOne,
            Hugging Face), coco (instances), label-studio (tasks with predictions), cvat (Segmentation mask 1.1), yolo
            or labelme.
        out: Folder to write. The same command again goes on where it was.
        stage: Stage of the run, e.g. bao+crf. Without it: the last segmentation, refinement or other stage.
        split: Split to write. Without it: the run's evaluation split, or all images of the folder.
        images: Folder of the images of a folder of masks, as bao predict and bao label write it.
        classes: Classes of a folder of masks, in the order of their indices from 1. Without it: classes.txt there, or
            beside the images.
        min_area: Pixels of the smallest instance that is written; index masks and cvat have all.
        outlines: In coco: run lengths, or polygons for tools that refuse run lengths.
    """
    from baoseg import exchange
    from baoseg.core.errors import RecipeError
    from baoseg.core.run_folder import Run
    from baoseg.core.types import ClassSet
    from baoseg.exchange import sources

    options = exchange.Options(min_area=min_area, outlines=exchange.Outlines(outlines))
    if classes and images is None:
        raise RecipeError("--classes are those of a folder of masks; name its images too, with --images")
    if images is not None:
        known = ClassSet(classes) if classes else sources.classes_of(source, images)
        results = sources.of_masks(source, images, known)
    elif Run(source).manifest.exists():
        results = sources.of_run(Run(source), stage=stage, split=split)
    else:
        results = sources.of_folder(source, split=split)
    exchange.export_masks(results, form, out, options)
    print(f"Written: {len(results)} images to {out.resolve()}")


def import_masks(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    form: Format,
    data: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
) -> None:
    """Write index masks NAME.png of what another tool drew, for `bao evaluate` and `bao segment RUN --masks FOLDER`.

    Args:
        source: What the tool exported: a .json file for coco and label-studio, a .zip file for cvat, else a folder.
        form: png, coco, label-studio, cvat, yolo or labelme; see `bao export masks`.
        data: Folder of the images with its labels.csv; classes are matched by name.
        out: Folder to write, e.g. masks in the folder of the images, where they are its ground truth.
    """
    from baoseg import exchange
    from baoseg.data.folder import Folder

    written = exchange.import_masks(lambda: exchange.FORMATS[form].read(source), Folder(data), out)
    print(f"Written: {written} masks to {out.resolve()}")
