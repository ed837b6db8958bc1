"""Where masks come from: a stage of a run, the ground truth of a folder, or a folder of masks beside its images."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from baoseg.core.errors import DataError, RunError
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import IGNORE, ClassSet
from baoseg.data import Dataset, Excerpt
from baoseg.data.folder import ALL, Folder, mask_folder
from baoseg.data.images import image_size, read_image, read_mask
from baoseg.data.table_lines import read_list
from baoseg.data.walk import Walk
from baoseg.exchange.result import Collection, ImageResult
from baoseg.pipeline import manifest
from baoseg.pipeline.common import margins_of
from baoseg.recipes import Task


def of_run(run: RunFolder, *, stage: str | None = None, split: str | None = None) -> Collection:
    """The masks of a stage; by default the last segmentation, refinement or other stage that has masks of the split.

    Raises RunError where there are none.
    """
    recipe = manifest.recipe_of(run, task=Task.MASKS)
    dataset = manifest.split_data(run, split)
    made = [name for name in recipe.masked if run.stage(name).masks(dataset.split).is_dir()]
    name = stage or next(reversed(made), None)
    if name is None or name not in recipe.masked:
        raise RunError(f"{run.root}: has no stage {name!r} with masks; it has {', '.join(made) or 'none'}")
    paths = run.stage(name)
    missing = [image for image in dataset.names if not paths.mask(dataset.split, image).exists()]
    if missing:
        raise RunError(
            f"{paths.root}: {len(missing)} of {len(dataset)} images of the split {dataset.split} have no mask, e.g. "
            f"{missing[0]}; run `bao masks` or `bao refine` with --split {dataset.split} first"
        )
    margins = margins_of(run, recipe, name, dataset.split)

    def read(index: int) -> ImageResult:
        image = dataset.names[index]
        path = paths.mask(dataset.split, image)
        mask = _checked(path, _file(dataset, index), dataset.classes)
        margin = margins(image).numpy() if margins is not None and margins.file(image).exists() else None
        return _result(dataset, index, mask, path, source=name, margin=margin)

    origin = str(paths.root.resolve())
    return Collection(dataset.classes, dataset.split, dataset.names, origin, read, stage=name)


def of_folder(root: Path, *, split: str | None = None) -> Collection:
    """The ground truth of a folder with labels.csv: of the images of a split that have a mask."""
    dataset = Folder(root, split or ALL)
    indices = [index for index in range(len(dataset)) if dataset.mask_file(index) is not None]
    if not indices:
        raise DataError(f"{mask_folder(root)}: has no masks of {root}; name a run folder, or add masks")

    def read(number: int) -> ImageResult:
        index, mask = indices[number], dataset.mask(indices[number])
        path = dataset.mask_file(index)
        assert mask is not None and path is not None
        return _result(dataset, index, mask.numpy(), path, source="ground truth")

    names = [dataset.names[index] for index in indices]
    return Collection(dataset.classes, dataset.split, names, str(mask_folder(root).resolve()), read)


def classes_of(root: Path, images: Path) -> ClassSet:
    """The classes of a folder of masks: of labels.csv or classes.txt beside its images, or of its own classes.txt.

    Raises DataError without any of them.
    """
    for folder in (root, images):
        if (folder / "classes.txt").is_file():
            return ClassSet(tuple(read_list(folder / "classes.txt")))
    if (images / "labels.csv").is_file():
        return Folder(images).classes
    raise DataError(f"{root}: has no classes.txt, nor has {images}; name the classes with --classes, in their order")


def of_masks(root: Path, images: Path, classes: ClassSet) -> Collection:
    """Masks NAME.png of a folder, as `bao predict`, `bao label` and `bao review` write them, beside their images.

    The names of images are those of labels.csv where their folder has one, otherwise their paths in it.
    """
    failed: list[str] = []
    if (images / "labels.csv").is_file():
        dataset = Folder(images)
        files = {name: dataset.image_file(index) for index, name in enumerate(dataset.names)}
    else:
        walk = Walk(
            images, failed=lambda path, error: failed.append(f"{path}: {error}"), ignored=lambda path, kind: None
        )
        files = {os.path.splitext(path)[0]: images / path for path in sorted(walk.names())}  # noqa: PTH122
    there = {name: file for name, file in files.items() if (root / f"{name}.png").is_file()}
    if failed or not there:
        raise DataError(failed[0] if failed else f"{root}: has no mask NAME.png of an image in {images}")
    names = list(there)

    def read(index: int) -> ImageResult:
        path, image = root / f"{names[index]}.png", there[names[index]]
        return ImageResult(
            name=names[index],
            image=image,
            mask=_checked(path, image, classes),
            classes=classes,
            source="bao",
            made=path.stat().st_mtime,
            pixels=lambda: read_image(image).permute(1, 2, 0).numpy(),
        )

    return Collection(classes, ALL, names, str(root.resolve()), read)


def _result(
    dataset: Dataset,
    index: int,
    mask: UInt8[np.ndarray, "h w"],
    path: Path,
    *,
    source: str,
    margin: UInt8[np.ndarray, "h w"] | None = None,
) -> ImageResult:
    return ImageResult(
        name=dataset.names[index],
        image=_file(dataset, index),
        mask=mask,
        classes=dataset.classes,
        source=source,
        made=path.stat().st_mtime,
        pixels=lambda: dataset[index].image.permute(1, 2, 0).numpy(),
        margin=margin,
    )


def _file(dataset: Dataset, index: int) -> Path | None:
    """The file of an image; None for one that is generated, or made smaller."""
    if isinstance(dataset, Excerpt) and dataset.long_side is None:
        return _file(dataset.whole, dataset.indices[index])
    return dataset.image_file(index) if isinstance(dataset, Folder) else None


def _checked(path: Path, image: Path | None, classes: ClassSet) -> UInt8[np.ndarray, "h w"]:
    """A mask. Raises DataError for one of another size than its image, or with indices of no class."""
    mask = read_mask(path, classes=len(classes)).numpy()
    if image is not None and mask.shape != (size := image_size(image)):
        raise DataError(f"{path}: {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[1]}x{size[0]}; make it again")
    if len(outside := mask[(mask > len(classes)) & (mask != IGNORE)]):
        raise DataError(f"{path}: index {outside[0]} is outside 0..{len(classes)}; name all classes in their order")
    return mask
