"""The group `bao prepare`: from the archives of the papers' data sets to folders that other verbs read."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import tyro

from baoseg.cli.options import Flag, optional
from baoseg.core.errors import DataError

Root = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Archives = Annotated[Path | None, optional("DIR")]
Workers = Annotated[int, tyro.conf.arg(metavar="N")]
Checked = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]


def voc12(
    root: Root,
    archives: Archives = None,
    labels: Literal["objects", "easy", "masks"] = "objects",
    workers: Workers = 2,
) -> None:
    """Prepare PASCAL VOC 2012 with SBD: 1,464 images in train, 10,582 in train_aug, 1,449 in val, 1,456 in test.

    Args:
        root: Folder to write VOC2012 in.
        archives: Folder of the archives; missing archives are downloaded to it. Without it: archives/ below --root.
        labels: Source of the labels: all objects, as in the papers; objects not marked difficult; or the masks.
        workers: Number of processes that make masks.
    """
    from baoseg.data import prepare
    from baoseg.data.prepare.voc import Labels

    folder = prepare.voc12(root, archives=archives, labels=Labels(labels), workers=workers)
    _next(*_run("bao-voc", folder))


def coco14(root: Root, archives: Archives = None, workers: Workers = 2) -> None:
    """Prepare MS COCO 2014 with 80 classes: 82,081 images in train and 40,137 in val, all with annotations.

    Args:
        root: Folder to write COCO2014 in.
        archives: Folder of the archives; missing archives are downloaded to it. Without it: archives/ below --root.
        workers: Number of processes that make masks.
    """
    from baoseg.data import prepare

    folder = prepare.coco14(root, archives=archives, workers=workers)
    _next(*_run("bao-coco", folder))


def cub200(root: Root, archives: Archives = None, segmentations: Flag = False) -> None:
    """Prepare CUB-200-2011 for localization: 5,994 images of birds in train and 5,794 in test, with boxes.

    Args:
        root: Folder to write CUB_200_2011 in.
        archives: Folder of the archives; missing archives are downloaded to it. Without it: archives/ below --root.
        segmentations: Also unpack the outlines of the birds, for metrics of pixels.
    """
    from baoseg.data import prepare

    _next(*_run("bas-cub-resnet50", prepare.cub200(root, archives=archives, segmentations=segmentations)))


def ilsvrc(root: Root, archives: Archives = None) -> None:
    """Prepare ImageNet's ILSVRC 2012 for localization: 1,281,167 images in train; 50,000 in val, with boxes.

    Args:
        root: Folder to write ILSVRC in.
        archives: Folder with the archives, which need a login. Without it: archives/ below --root.
    """
    from baoseg.data import prepare

    _next(*_run("bas-ilsvrc-resnet50", prepare.ilsvrc(root, archives=archives)))


def openimages(root: Root, archives: Archives = None) -> None:
    """Prepare OpenImages30k for localization: 29,819 images in train; 2,500 in val and 5,000 in test, with masks.

    Args:
        root: Folder to write OpenImages in.
        archives: Folder with the archives, which need a browser. Without it: archives/ below --root.
    """
    from baoseg.data import prepare

    _next(*_run("bas-openimages-resnet50", prepare.openimages(root, archives=archives)))


def folder(folder: Checked) -> None:
    """Check a folder of your own images, and print all problems at once. Nothing is changed.

    A folder with a boxes.csv is checked as a folder for localization (docs/localization.md).

    Args:
        folder: Folder of images with a labels.csv (columns image,labels).
    """
    from baoseg.data import prepare

    boxed = (folder / "boxes.csv").exists()
    problems = prepare.boxed_folder(folder) if boxed else prepare.folder(folder)
    for problem in problems:
        print(problem)
    if problems:
        raise DataError(f"{folder}: problems found: {len(problems)}; correct them and run the same command again")
    if boxed:
        _next(*_run("bas-cub-resnet50", folder, " --layout folder"))
    else:
        _say_classes(folder)
        _next(*_run("photos", folder))


def _say_classes(folder: Path) -> None:
    """Prints the classes, the images without labels, and the masks: some mistakes are visible only here."""
    from baoseg import data
    from baoseg.core import progress
    from baoseg.data.folder import ALL, split_files

    splits = [path.stem for path in split_files(folder)]
    for split in splits or [ALL]:
        dataset = data.Folder(folder, split)
        progress.say(f"{data.summary(dataset)}; {dataset.mask_count() or 'none'} with a mask")
    if splits and not data.folder.has_split(folder, "train"):
        progress.say(f"No split is called train: all images are trained on, those of {', '.join(splits)} too.")


def _run(recipe: str, data: Path, options: str = "") -> list[str]:
    """The command that runs a recipe, after the commands that fetch the weights of the recipe."""
    from baoseg import recipes
    from baoseg.recipes import weights

    fetch = [f"bao weights fetch {name}" for name in weights.needed(recipes.named(recipe))]
    return [*fetch, f"bao run {recipe} --data {shlex.quote(str(data))} --out runs/{recipe}{options}"]


def _next(*commands: str) -> None:
    from baoseg.core.progress import say

    say("\n".join(["Type next:", *(f"  {command}" for command in commands)]))
