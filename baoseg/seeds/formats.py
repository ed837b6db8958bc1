"""Seeds of other tools, one file per image.

- `.npz` files of baoseg (`seeds.save`).
- `.npy` with a dict, as IRN and tools based on it save it: `keys` [k], class indices from 0 without the background, and
  maps `high_res` [k H W] of the size of the image, or `cam` [k h w] on a coarser grid.
- `.npy` with a dict from class index, again from 0 without the background, to a map [H W] (PSA, SEAM, TransCAM).

Maps may hold Booleans, integers or floating-point numbers: negative values become 0, and each map is scaled to [0, 1]
by its own extremes, so the type and the unit do not matter.

Only the labels of the image show whether the indices have another order or start from 1. So a file that has maps but
none of the classes of its image is refused, and so is a folder in which most files lack a class of their image and have
another class (`survey`).

A dict in an `.npy` is a pickle; `seeds.pickles` reads it without running it.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from baoseg import seeds
from baoseg.core.errors import DataError
from baoseg.seeds import SeedMaps
from baoseg.seeds.fusion import scaled
from baoseg.seeds.pickles import is_pickle, unpickle

STRIDE = 4  # pixels per cell, as in `maps.Config`, so that these seeds are as small as ours

LOOKED_AT = 200  # at most so many files are read by `survey`: a wrong order is the same in all files

ByClass = Mapping[int, Shaped[np.ndarray, "_ _"]]  # class index from 0 -> map


def read(
    folder: Path,
    name: str,
    *,
    labels: Float[Tensor, "K"],
    size: tuple[int, int],
    allow_pickle: bool = False,
    flat: bool = False,
) -> SeedMaps:
    """The seed of the image `name` of height and width `size`: `folder/name.npz` or `folder/name.npy`.

    With `flat`, the file may be named by the last part of `name` alone, as by tools that write no folders; these parts
    must be unique. Maps are scaled to [0, 1] on a grid of a quarter of the sides. Classes that the image does not have
    are dropped. A class that the file lacks gets a map of zeros, but a file with maps and without any class of the
    image is refused.

    Raises DataError, with the path, if the file is missing or damaged, has another format, other classes or the size of
    another image, and if it is a pickle and `allow_pickle` is False.
    """
    path = find(folder, name, flat=flat)
    if path is None:
        tried = ", ".join(str(each) for pair in _places(folder, name, flat=flat) for each in pair)
        raise DataError(f"{tried}: no such seed; check the folder, or make a seed for each image")
    try:
        if path.suffix == ".npz":
            return _of_ours(seeds.load(path), labels=labels, size=size)
        maps = _maps(_content(path, allow_pickle=allow_pickle), size)
        return SeedMaps(*_select(maps, labels=labels, size=size), None, size)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None


def survey(
    folder: Path,
    names: Sequence[str],
    labels: Callable[[int], Float[Tensor, "K"]],
    *,
    allow_pickle: bool = False,
    flat: bool = False,
) -> str:
    """Check the seeds of these images before they are used: that all exist, and that their classes fit the labels.

    `labels` maps the index of an image to its label vector. The classes of at most `LOOKED_AT` files, evenly spaced,
    are read. Returns a line about seeds that lack a class, or an empty string. Raises DataError for images without a
    seed, for files that `read` refuses, and if more than half of the files lack a class of their image and have another
    class.
    """
    paths = [find(folder, name, flat=flat) for name in names]
    if absent := [name for name, path in zip(names, paths, strict=True) if path is None]:
        raise DataError(
            f"{folder}: {len(absent)} of {len(names)} images have no seed, {absent[0]} for one (.npz or .npy); "
            "check the folder, or make a seed for each image"
        )
    lacking, odd = 0, []
    chosen = range(0, len(names), math.ceil(len(names) / LOOKED_AT) or 1)
    for index in chosen:
        path, given = paths[index], labels(index)
        assert path is not None
        present = {*given.nonzero()[:, 0].tolist()}
        try:
            held = {*_classes(path, allow_pickle=allow_pickle)}
            _check_classes(held, present, len(given))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}") from None
        lacking += bool(present - held)
        if present - held and held - present:
            odd.append(f"{path.name} has the class indices {_listed(held)} for {_listed(present)}")
    if len(odd) > len(chosen) / 2:
        raise DataError(
            f"{folder}: {len(odd)} of {len(chosen)} seeds lack a class of their image's labels and have another "
            f"({odd[0]}); {_REMEDY}"
        )
    return (
        f"{folder}: {lacking} of {len(chosen)} seeds lack a class that the labels name; its maps are taken as 0"
        if lacking
        else ""
    )


def agree(seed: SeedMaps, *, labels: Float[Tensor, "K"], size: tuple[int, int]) -> None:
    """Raise ValueError if the size of the seed is not `size`, or if it has maps but no class of the labels."""
    if seed.size != size:
        raise ValueError(
            f"the seed is for an image of {_sides(seed.size)}, not {_sides(size)}; make it from this image"
        )
    present = {*labels.nonzero()[:, 0].tolist()}
    _check_classes({index - 1 for index in seed.classes.tolist()}, present, len(labels))


_REMEDY = (
    "indices count from 0 in the order of the classes, without the background: subtract 1 if they count from 1, or "
    "change the order of the class list if it is not the order of the seeds"
)


def _check_classes(held: Collection[int], present: Collection[int], classes: int) -> None:
    """Raise ValueError unless the class indices of a file fit those of its image; both count from 0."""
    if outside := [index for index in held if not 0 <= index < classes]:
        raise ValueError(
            f"class index {_listed(outside)} is outside 0..{classes - 1} (without the background); "
            "use seeds of the same classes"
        )
    if held and present and not {*held} & {*present}:
        raise ValueError(
            f"has maps of the class indices {_listed(held)}, but its image has the labels {_listed(present)}; {_REMEDY}"
        )


def _listed(indices: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(indices)))


def _classes(path: Path, *, allow_pickle: bool) -> Collection[int]:
    """The class indices of a file, from 0."""
    if path.suffix == ".npz":
        return [index - 1 for index in seeds.load(path).classes.tolist()]
    return _maps(_content(path, allow_pickle=allow_pickle), None).keys()


def _content(path: Path, *, allow_pickle: bool) -> Any:
    content = path.read_bytes()
    if not allow_pickle and is_pickle(content):
        raise ValueError("the file is a pickle; if you trust its source, give --allow-pickle")
    return unpickle(content)


def _places(folder: Path, name: str, *, flat: bool) -> list[list[Path]]:
    stems = [name, name.rpartition("/")[2]] if flat and "/" in name else [name]
    return [[folder / f"{stem}{suffix}" for suffix in (".npz", ".npy")] for stem in stems]


def find(folder: Path, name: str, *, flat: bool) -> Path | None:
    """The file of the seed of an image, or None. Raises DataError if there are two files."""
    for pair in _places(folder, name, flat=flat):
        match [path for path in pair if path.is_file()]:
            case [path]:
                return path
            case [one, other]:
                raise DataError(f"{one}: there is also {other.name}; remove one of them")
    return None


def _of_ours(seed: SeedMaps, *, labels: Float[Tensor, "K"], size: tuple[int, int]) -> SeedMaps:
    agree(seed, labels=labels, size=size)
    indices = [index - 1 for index in seed.classes.tolist()]
    classes, scores = _select(_by_class(indices, seed.scores.numpy()), labels=labels, size=size)
    background = None if seed.background is None else scaled(seed.background[None], _grid(size))[0]
    return dataclasses.replace(seed, classes=classes, scores=scores, background=background)


def _maps(content: Any, size: tuple[int, int] | None) -> ByClass:
    """The maps of the dict that a tool saved, by class index from 0. Shapes are checked if `size` is given."""
    match content:
        case {"keys": keys, "high_res": np.ndarray() as stack}:
            maps = _by_class(_indices(keys), stack)
            _check_size(stack.shape[1:], size)
        case {"keys": keys, "cam": np.ndarray() as stack}:
            maps = _by_class(_indices(keys), stack)
            _check_sides(stack.shape[1:], size)
        case dict() if all(type(key) is int and isinstance(value, np.ndarray) for key, value in content.items()):
            maps = content
            for each in maps.values():
                _check_size(each.shape, size)
        case _:
            raise ValueError(
                "holds neither {class index: map} nor {'keys', 'cam' or 'high_res'} with NumPy arrays; save one of both"
            )
    return maps


def _indices(keys: Any) -> list[int]:
    """The list of class indices. A leading -1 for the background is allowed; see `_by_class`."""
    values = keys.tolist() if isinstance(keys, np.ndarray) and keys.ndim == 1 else keys
    if not isinstance(values, list | tuple) or not all(type(value) is int for value in values):
        raise ValueError("'keys' is not a list of class indices; save one integer for each map")
    return list(values)


def _by_class(indices: list[int], stack: Shaped[np.ndarray, "..."]) -> ByClass:
    """The maps [k h w] by class index.

    Some tools write the background as a first index without a map. An index of -1 is certainly the background. An index
    of 0 with one index too many may mean that all indices are shifted, so it is refused.
    """
    if stack.ndim != 3 or 0 in stack.shape[1:]:
        raise ValueError(f"maps of shape {stack.shape}; save them as [classes, height, width]")
    if len(indices) == len(stack) + 1 and indices[0] == -1:
        indices = indices[1:]
    if len(indices) != len(stack):
        raise ValueError(
            f"{len(indices)} class indices for {len(stack)} maps; save one for each map, without the background"
        )
    if len(set(indices)) != len(indices):
        raise ValueError("a class has two maps; save one for each class")
    return dict(zip(indices, stack, strict=True))


def _check_sides(shape: tuple[int, ...], size: tuple[int, int] | None) -> None:
    """Raise ValueError for maps in landscape format for an image in portrait format, or the reverse."""
    if size is not None and (shape[0] - shape[1]) * (size[0] - size[1]) < 0:
        raise ValueError(
            f"maps of {shape[0]} x {shape[1]} cells for an image of {_sides(size)}: rows and columns are exchanged; "
            "save maps as [classes, height, width]"
        )


def _check_size(shape: tuple[int, ...], size: tuple[int, int] | None) -> None:
    if size is not None and shape != size:
        raise ValueError(f"maps of {_sides(shape)} for an image of {_sides(size)}; make them from this image")


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + " pixels"


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    return math.ceil(size[0] / STRIDE), math.ceil(size[1] / STRIDE)


def _select(maps: ByClass, *, labels: Float[Tensor, "K"], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The class indices [k] from 1 and the scores [k h w] of the present classes."""
    _check_classes(maps.keys(), labels.nonzero()[:, 0].tolist(), len(labels))
    present = labels.nonzero()[:, 0]
    scores = torch.zeros(len(present), *_grid(size))
    for row, index in enumerate(present.tolist()):
        if index in maps:
            # values that do not fit into single precision become infinite, and are refused
            with np.errstate(all="ignore"):
                values = torch.from_numpy(maps[index].astype(np.float32))
            if not values.isfinite().all():
                raise ValueError(f"the map of class index {index} has values that are NaN or infinite; make it again")
            scores[row] = scaled(values[None], _grid(size))[0]
    return present + 1, scores
