"""The manifest of a run folder: which recipe on which data it holds, and what was added to it since.

Paths are kept absolute. Where the run folder was moved since, each is also looked for where it lay as seen from the
folder, so that a run and its data can be moved together. Data are known by their fingerprint and not by their path:
every step compares it, and data that were moved alone are found once their new place is named.
"""

import contextlib
import dataclasses
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import baoseg
from baoseg import data, recipes
from baoseg.core import progress, ranks, settings
from baoseg.core.errors import BaosegError, DivergenceError, NotFiniteError, RunError
from baoseg.core.files import make_folder, read_json, write_json
from baoseg.core.run_folder import RunFolder, alone
from baoseg.data import SYNTHETIC, Dataset
from baoseg.pipeline.known_data import (
    described,
    difference_of_classes,
    difference_of_data,
    first_difference,
    same_inputs,
)
from baoseg.pipeline.noted import (
    ADDITIONS,
    Addition,
    by_name,
    noted_recipe,
    recipe_difference,
    same_places,
    without_place,
    write_recipe,
)
from baoseg.pipeline.places import Places, absolute
from baoseg.recipes import Recipe, Task

Check = Callable[[Recipe, RunFolder, Dataset, Dataset], None]  # takes the data of training and of evaluation
CheckAddition = Callable[[Recipe, Addition, Dataset], None]  # takes the data of training

Role = Literal["train", "eval"]
NEW_FOLDER = "choose another folder with --out, or delete this one"
OTHER_OUT = dict.fromkeys(ADDITIONS, ", or choose another folder with --out")


@contextlib.contextmanager
def opened(recipe: Recipe, out: Path, *, check: Check, check_addition: CheckAddition) -> Iterator[RunFolder]:
    """The run folder `out` for `recipe`, made if needed, in which no other process works meanwhile.

    Raises RunError if the folder holds something else, and what `check` raises of a recipe that cannot work: nothing
    is written then. A manifest alone, as a first try leaves it that failed, holds nothing yet and is written anew.
    """
    folder, recipe = RunFolder(out), recipes.with_paths(recipe, absolute)
    with contextlib.ExitStack() as stack:
        with ranks.first_alone():
            train, shown = data.open_dataset(recipe.data, "train"), data.open_dataset(recipe.data, "eval")
            _require_same(folder, recipe, train, shown)
            check(recipe, folder, train, shown)
            if ranks.first():
                make_folder(folder.root)
                stack.enter_context(alone(folder.root))
                _require_same(folder, recipe, train, shown)  # another process may have been here
                _note(folder, recipe, train, shown)
                _withdraw(folder, train, of=[*ADDITIONS], check=check_addition)
                _add(folder, recipe, remedy=OTHER_OUT)
        yield folder


def add(folder: RunFolder, change: Callable[[Recipe], Recipe], *, to: Sequence[str], check: CheckAddition) -> None:
    """Note what `change` adds to the run's recipe; `to` are the fields (ADDITIONS) that the next step works through.

    Raises RunError if something else was made under the same name, and what `check` raises: the manifest stays as it
    is then. An addition that made nothing yet is replaced, and one that `check` refuses is withdrawn, with a line.
    """
    with ranks.first_alone():
        if not ranks.first():
            return
        with alone_in(folder):
            recipe_of(folder, task=Task.MASKS)
            images = training_data(folder)
            _withdraw(folder, images, of=to, check=check)
            before = recipe_of(folder)
            recipe = recipes.with_paths(change(before), absolute)
            for key in ADDITIONS:
                noted = by_name(before, key)
                for name, addition in by_name(recipe, key).items():
                    if noted.get(name) != addition:
                        check(recipe, addition, images)
            _add(folder, recipe, remedy={"segmentations": ", or name the new one with --called"})


@contextlib.contextmanager
def made_or_withdrawn(folder: RunFolder, name: str) -> Iterator[None]:
    """Inside, an addition is made. Where that fails and leaves nothing to go on from, it is taken back.

    Otherwise every later command in the folder would try it first, and fail.
    """
    try:
        yield
    except (BaosegError, torch.OutOfMemoryError) as error:
        stage = folder.stage(name)
        lost = isinstance(error, DivergenceError | NotFiniteError) and not stage.network.exists()
        if ranks.first() and (lost or not _made(folder, name)):
            with contextlib.suppress(BaosegError):  # the first error is the one to be told
                _take_back(folder, name)
        raise


@contextlib.contextmanager
def alone_in(folder: RunFolder) -> Iterator[None]:
    """Keep other commands that train out of the folder. Of many processes of one command, the first stands for all."""
    with alone(folder.root) if ranks.first() else contextlib.nullcontext():
        yield


def recipe_of(folder: RunFolder, *, task: Task | None = None) -> Recipe:
    """The recipe that a run folder was made with, and what was added since, with paths as they are today.

    Raises RunError when it is none, or one of another `task` than a step works on.
    """
    manifest = read_json(folder.manifest)
    recipe = recipes.with_paths(noted_recipe(folder, manifest), Places.of(folder, manifest).find)
    if task not in (None, recipe.task):
        raise RunError(
            f"{folder.manifest}: a run for {recipe.task}, and this step is for {task}; for runs of boxes there are "
            "train, maps, evaluate and report"
        )
    return recipe


def training_data(folder: RunFolder) -> Dataset:
    """The images that the run learns from. Raises RunError if they are others than when it was made."""
    return _known_data(folder, "train", None)


def split_data(folder: RunFolder, split: str | None = None) -> Dataset:
    """The evaluation split, or the one named. Raises RunError if its images are others than when the run was made.

    Its ground truth may have changed: see `truth_changed`. A split that no step has worked on yet is noted.
    """
    return _known_data(folder, "eval", split)


def open_split(recipe: Recipe, split: str | None) -> Dataset:
    """The evaluation split of a recipe, or the one named, whatever it holds."""
    config = recipe.data if split is None else dataclasses.replace(recipe.data, eval_split=split)
    return data.open_dataset(config, "eval")


def truth_changed(folder: RunFolder, dataset: Dataset) -> bool:
    """Whether the ground truth of the evaluation split has changed since the run was made, or evaluated last."""
    return bool(read_json(folder.manifest)["data"]["eval"]["fingerprint"] != dataset.fingerprint())


def note_truth(folder: RunFolder, dataset: Dataset) -> None:
    """Remember the ground truth that was evaluated."""
    manifest = read_json(folder.manifest)
    manifest["data"]["eval"] = {**described(dataset), **manifest["data"]["eval"], "fingerprint": dataset.fingerprint()}
    write_json(folder.manifest, manifest)


def require_same_data(other: RunFolder, dataset: Dataset) -> None:
    """Raise RunError if another run worked on other images under the name of this split; see `fusion`.

    Of a run for boxes, whose data are read in another way, the class list and each map are compared elsewhere.
    """
    manifest = read_json(other.manifest)
    if noted_recipe(other, manifest).task is Task.BOXES:
        return
    noted = manifest.get("data", {})
    known = [noted[role] for role in ("train", "eval") if role in noted] + [*noted.get("others", {}).values()]
    for one in known:
        if one["split"] == dataset.split:
            difference = difference_of_data(one, dataset)
        else:
            difference = difference_of_classes(one, dataset.classes.names)
        if difference:
            raise RunError(
                f"{other.root}: was made on other data ({difference}); fuse seeds that were made of the same data"
            )


# ------------------------------------------------------------------------------------ what is noted


def _require_same(folder: RunFolder, recipe: Recipe, train: Dataset, shown: Dataset) -> None:
    """Raise RunError unless the folder is free, or holds this recipe on these data."""
    out = folder.root
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file, no run folder; choose another folder with --out")
    if not begun(folder):
        return
    if not folder.manifest.exists():
        raise RunError(f"{out}: exists and is no run folder; choose another folder with --out")
    manifest = read_json(folder.manifest)
    noted = same_places(folder, manifest, recipe)
    if settings.to_json(without_place(noted)) != settings.to_json(without_place(recipe)):
        raise RunError(f"{out}: holds a run with another recipe ({recipe_difference(noted, recipe)}); {NEW_FOLDER}")
    for role, dataset in (("train", train), ("eval", shown)):
        if difference := difference_of_data(manifest["data"][role], dataset, partial(_used, folder, dataset.split)):
            raise RunError(f"{out}: holds a run on other data ({difference}); {NEW_FOLDER}")
    _require_replaceable(folder, noted, recipe, remedy=OTHER_OUT)


def begun(folder: RunFolder) -> bool:
    """Whether a folder holds more than a manifest. Files whose names begin with a dot are the system's."""
    if not folder.root.exists():
        return False
    return any(path != folder.manifest and not path.name.startswith(".") for path in folder.root.iterdir())


def _note(folder: RunFolder, recipe: Recipe, train: Dataset, shown: Dataset) -> None:
    """Write the manifest of a free folder. In that of one that is begun, update what the recipe says of places."""
    if not begun(folder):
        environment = {
            "commit": _commit(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "system": f"{platform.system()} {platform.machine()}",
        }
        manifest = {
            "recipe": {},
            "data": {"train": described(train), "eval": described(shown)},
            "stages": recipe.names,
            "version": baoseg.__version__,
            "environment": environment,
        }
        write_recipe(folder, manifest, dataclasses.replace(recipe, refinements=(), segmentations=()))
        return
    manifest = read_json(folder.manifest)
    noted = noted_recipe(folder, manifest)
    known = same_places(folder, manifest, recipe)
    current = dataclasses.replace(known, data=dataclasses.replace(known.data, path=recipe.data.path))
    for role, dataset in (("train", train), ("eval", shown)):
        if not same_inputs(manifest["data"][role], dataset):
            manifest["data"][role] = described(dataset)
        elif "bytes" not in manifest["data"][role]:  # written by an earlier version
            manifest["data"][role] = {**described(dataset), **manifest["data"][role]}
    if current != noted or manifest != read_json(folder.manifest):
        write_recipe(folder, manifest, current)


def _add(folder: RunFolder, recipe: Recipe, *, remedy: dict[str, str]) -> None:
    manifest = read_json(folder.manifest)
    noted = same_places(folder, manifest, recipe)
    _require_replaceable(folder, noted, recipe, remedy=remedy)
    merged: dict[str, Any] = {key: {**by_name(noted, key), **by_name(recipe, key)} for key in ADDITIONS}
    for key in ADDITIONS:
        for name, addition in by_name(recipe, key).items():
            if by_name(noted, key).get(name, addition) != addition:
                shutil.rmtree(folder.stage(name).root, ignore_errors=True)  # labels for what it was to be
    added: dict[str, Any] = {key: tuple(merged[key].values()) for key in ADDITIONS}
    if any(added[key] != getattr(noted, key) for key in ADDITIONS):
        write_recipe(folder, manifest, dataclasses.replace(noted, **added))


def _withdraw(folder: RunFolder, images: Dataset, *, of: Sequence[str], check: CheckAddition) -> None:
    """Take back additions that made nothing and cannot: they would stop every command in the folder."""
    manifest, recipe = read_json(folder.manifest), recipe_of(folder)
    kept: dict[str, Any] = {}
    for key in ADDITIONS:
        kept[key] = []
        for name, addition in by_name(recipe, key).items():
            try:
                if key in of and not _made(folder, name):
                    check(recipe, addition, images)
                kept[key].append(addition)
            except BaosegError as error:
                progress.say(f"{name}: withdrawn, as it cannot be made: {error}")
                shutil.rmtree(folder.stage(name).root, ignore_errors=True)
        kept[key] = tuple(kept[key])
    if any(kept[key] != getattr(recipe, key) for key in ADDITIONS):
        write_recipe(folder, manifest, dataclasses.replace(recipe, **kept))


def _take_back(folder: RunFolder, name: str) -> None:
    """Note an addition no longer, nor those that were to be made from it, and remove what lies in their folders."""
    manifest, recipe = read_json(folder.manifest), recipe_of(folder)
    gone = {name}
    left: list[Addition] = [*recipe.refinements, *recipe.segmentations]
    while followers := [one.name for one in left if one.name not in gone and _source(one) in gone]:
        gone |= {follower for follower in followers if not _made(folder, follower)}
        left = [one for one in left if one.name not in followers]
    kept: dict[str, Any] = {key: tuple(a for a in getattr(recipe, key) if a.name not in gone) for key in ADDITIONS}
    write_recipe(folder, manifest, dataclasses.replace(recipe, **kept))
    for sharded in gone:
        shutil.rmtree(folder.stage(sharded).root, ignore_errors=True)


def _source(addition: Addition) -> str:
    return addition.of if isinstance(addition, recipes.Refinement) else addition.masks


def _require_replaceable(folder: RunFolder, noted: Recipe, recipe: Recipe, *, remedy: dict[str, str]) -> None:
    for key in ADDITIONS:
        known = by_name(noted, key)
        for name, addition in by_name(recipe, key).items():
            if known.get(name, addition) != addition and _made(folder, name):
                difference = first_difference(settings.to_json(known[name]), settings.to_json(addition))
                raise RunError(
                    f"{folder.root}: holds another {name} ({difference}); "
                    f"delete {folder.stage(name).root} to make it anew{remedy.get(key, '')}"
                )


def _made(folder: RunFolder, name: str) -> bool:
    stage = folder.stage(name)
    return stage.network.exists() or stage.state.exists() or (stage.root / "masks").is_dir()


# --------------------------------------------------------------------------------------------- data


def _known_data(folder: RunFolder, role: Role, split: str | None) -> Dataset:
    manifest = read_json(folder.manifest)
    config, places = noted_recipe(folder, manifest).data, Places.of(folder, manifest)
    if split is not None:
        config = dataclasses.replace(config, eval_split=split)
    differences = []
    for path in _there(folder, config.path, places):
        dataset = data.open_dataset(dataclasses.replace(config, path=path), role)
        noted = _description(manifest["data"], role, dataset.split)
        if noted is not None and same_inputs(noted, dataset):
            return dataset
        difference = "" if noted is None else difference_of_data(noted, dataset, partial(_used, folder, dataset.split))
        if not difference:
            _note_data(folder, role, dataset)
            return dataset
        differences.append(
            f"{folder.root}: {path} holds other data than this run was made on ({difference}); "
            "restore the data, or begin a run on them in another folder"
        )
    raise RunError(differences[0])


def _there(folder: RunFolder, path: str, places: Places) -> list[str]:
    if path == SYNTHETIC:
        return [path]
    there = [place for place in places.candidates(path) if Path(place).is_dir()]
    if not there:
        relative = "" if Path(path).is_absolute() else ", as seen from where the run was made: go there, or"
        raise RunError(
            f"{folder.manifest}: its data are not in {path}{relative or ';'} run the command that made this run "
            "again with --data and the folder where they are now"
        )
    return there


def _description(noted: dict[str, Any], role: str, split: str) -> dict[str, Any] | None:
    """What is noted of a split: that of the role first, for it may be a split of both."""
    for one in (noted[role], noted["train"], noted["eval"]):
        if one["split"] == split:
            return dict(one)
    return noted.get("others", {}).get(split)


def _note_data(folder: RunFolder, role: Role, dataset: Dataset) -> None:
    """Note the data of a split, so that the next step can compare; not while another process works in the folder."""
    if not ranks.first():
        return
    with contextlib.suppress(RunError), alone(folder.root):
        manifest = read_json(folder.manifest)
        noted = manifest["data"]
        if noted[role]["split"] == dataset.split:
            noted[role] = described(dataset)
        else:
            noted["others"] = {**noted.get("others", {}), dataset.split: described(dataset)}
        write_json(folder.manifest, manifest)


def _used(folder: RunFolder, split: str, name: str) -> bool:
    """Whether something in the run was made from an image: it was there to learn from, or has maps or masks."""
    noted = read_json(folder.manifest)
    if noted["data"]["train"]["split"] == split:
        return True
    stages = [
        folder.stage(stage) for stage in (*noted["stages"], *(name for key in ADDITIONS for name in noted.get(key, ())))
    ]
    return any(stage.maps(split, name).exists() or stage.mask(split, name).exists() for stage in stages)


def _commit() -> str | None:
    """Git commit of the code, where it runs from a checkout of its own."""
    checkout = Path(baoseg.__file__).parents[1]
    if not (checkout / ".git").exists():  # installed: a repository above would be somebody else's
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
