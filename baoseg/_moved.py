"""Modules under the names that they had up to version 0.1: `import baoseg.train` finds `baoseg.training.train`."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

MOVED = {
    "attention": ("nets.attention",),
    "checkpoints": ("nets.catalogue", "recipes.weights"),
    "costs": ("core.costs",),
    "decisions": ("methods.components.decisions",),
    "errors": ("core.errors",),
    "data.wsol": ("data.boxed",),
    "exploration": ("reproduce.exploration",),
    "export": ("predict.export",),
    "formats": ("seeds.formats",),
    "fusion": ("seeds.fusion",),
    "label": ("predict.collection", "predict.collection.job", "predict.collection.work"),
    "labeler": ("predict.labeler",),
    "learner": ("training.learner",),
    "loading": ("predict.loading",),
    "localization": ("evaluate.localization",),
    "localize": ("predict.boxes", "pipeline"),
    "localize_recipes": ("recipes.boxes",),
    "losses": ("training.losses",),
    "manifest": ("pipeline.manifest",),
    "maps": ("predict.maps",),
    "masks": ("seeds.masks",),
    "nets.deeplab": ("nets.segmentation",),
    "papers": ("recipes.papers",),
    "prepare": ("data.prepare",),
    "progress": ("core.progress",),
    "published": ("reproduce.published",),
    "ranks": ("core.ranks",),
    "runs": ("core.files", "core.run_folder"),
    "segment": ("predict.segment",),
    "settings": ("core.settings",),
    "shards": ("data.shards",),
    "teacher": ("methods.components.teacher",),
    "train": ("training.train",),
    "types": ("core.types",),
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module under its old name that has the names of the modules which took its place."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        known = package == "baoseg" and name in MOVED
        return importlib.machinery.ModuleSpec(fullname, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        for new in MOVED[module.__name__.partition(".")[2]]:
            home = importlib.import_module(f"baoseg.{new}")
            module.__dict__.update({name: value for name, value in vars(home).items() if not name.startswith("__")})


def keep_old_names() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # before those that look for files
