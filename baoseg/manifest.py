"""The manifest of a run folder: which recipe on which data, and what was added to it since."""

import dataclasses
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import baoseg
from baoseg import data, ranks, recipes, settings
from baoseg.data import Dataset
from baoseg.errors import RunError
from baoseg.recipes import Recipe
from baoseg.runs import Run, read_json, write_json

# What may be added to a run at any time, by the fields of Recipe and the classes of their entries.
ADDITIONS: dict[str, Any] = {"refinements": recipes.Refinement, "segmentations": recipes.Segmentation}


def begin(recipe: Recipe, out: Path) -> Run:
    """Open the run folder `out` for `recipe`, or make it. Raises RunError if it holds something else.

    A manifest alone, as a first try leaves it that a mistake ended, holds nothing yet and is written anew.
    """
    with ranks.first_alone():
        return _begun(recipe, out)


def _begun(recipe: Recipe, out: Path) -> Run:
    folder = Run(out)
    described = {
        role: {"split": dataset.split, "images": len(dataset), "fingerprint": dataset.fingerprint()}
        for role in ("train", "eval")
        for dataset in [data.open_dataset(recipe.data, role)]
    }
    without: Any = dict.fromkeys(ADDITIONS, ())
    wanted = {"recipe": settings.to_json(dataclasses.replace(recipe, **without)), "data": described}
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file, no run folder; choose another folder with --out")
    begun = out.exists() and any(path != folder.manifest for path in out.iterdir())
    if begun and not folder.manifest.exists():
        raise RunError(f"{out}: exists and is no run folder; choose another folder with --out")
    if begun:
        recipe_of(folder)  # refuses a run for localization
        manifest = read_json(folder.manifest)
        manifest["recipe"] = settings.completed(manifest["recipe"], Recipe, source=str(folder.manifest))
        for key, value in wanted.items():
            if manifest.get(key) != value:
                raise RunError(
                    f"{out}: holds a run with {'another recipe' if key == 'recipe' else 'other data'} "
                    f"({_difference(manifest.get(key), value)}); choose another folder with --out, or delete this one"
                )
    else:
        environment = {
            "commit": _commit(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "system": f"{platform.system()} {platform.machine()}",
        }
        about = {"version": baoseg.__version__, "environment": environment}
        write_json(folder.manifest, {**wanted, **{key: {} for key in ADDITIONS}, "stages": recipe.names, **about})
    add(folder, recipe)
    return folder


def add(folder: Run, recipe: Recipe) -> None:
    """Note what `recipe` adds to the run. Raises RunError if something else has the same name."""
    manifest = read_json(folder.manifest)
    changed = False
    for key, kind in ADDITIONS.items():
        noted = manifest.setdefault(key, {})
        for addition in getattr(recipe, key):
            described = settings.to_json(addition)
            changed |= addition.name not in noted
            there = noted.setdefault(addition.name, described)
            there = settings.completed(there, kind, source=str(folder.manifest))
            if there != described:
                raise RunError(
                    f"{folder.root}: holds another {addition.name} "
                    f"({_difference(there, described)}); choose another folder with --out, or name"
                )
    if changed:
        write_json(folder.manifest, manifest)


def recipe_of(folder: Run) -> Recipe:
    """The recipe that a run folder was made with, and what was added since. Raises RunError when it is none."""
    manifest, source = read_json(folder.manifest), str(folder.manifest)
    if "recipe" not in manifest:
        raise RunError(
            f"{source}: a run for localization; this step is for runs of `bao run`, `compare` and `fuse`, and for this "
            "one there are maps, evaluate and report"
        )
    added: Any = {
        key: tuple(settings.from_json(value, kind, source=source) for value in manifest.get(key, {}).values())
        for key, kind in ADDITIONS.items()
    }
    return dataclasses.replace(settings.from_json(manifest["recipe"], Recipe, source=source), **added)


def open_split(recipe: Recipe, split: str | None) -> Dataset:
    """The evaluation split, or the one named."""
    config = recipe.data if split is None else dataclasses.replace(recipe.data, eval_split=split)
    return data.open_dataset(config, "eval")


def _commit() -> str | None:
    """Git commit of the code, where it runs from a checkout of its own."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():  # installed: a repository above would be somebody else's
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _difference(old: object, new: object, at: str = "") -> str:
    """The first place where two JSON values differ, as `path: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    if isinstance(old, list) and isinstance(new, list):
        for number, (left, right) in enumerate(zip(old, new, strict=False)):
            if left != right:
                return _difference(left, right, f"{at}[{number}]")
        return f"{at} had {len(old)} entries, now {len(new)}"
    return f"{at} was {old}, now {new}"
