"""The order of the packages (docs/architecture.md): a module imports from its own package or from lower ones."""

import ast
import importlib
from pathlib import Path

import pytest

import baoseg
from baoseg._moved import MOVED

ORDER = (
    *("core", "data", "seeds", "nets", "training", "refine", "methods", "evaluate"),
    *("predict", "report", "recipes", "pipeline", "exchange", "review", "reproduce", "cli"),
)
ROOT = Path(baoseg.__file__).parent
FILES = {
    ".".join(("baoseg", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "baoseg":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in FILES else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "baoseg"}
    return found - {module, "baoseg"}


GRAPH = {module: imported(module) for module in FILES if module not in ("baoseg", "baoseg._moved")}


def level(module: str) -> int:
    return ORDER.index(module.split(".")[1])


@pytest.mark.parametrize("module", GRAPH)
def test_imports_go_down(module: str) -> None:
    above = {other for other in GRAPH[module] if level(other) > level(module)}
    assert not above, f"{module} imports {above} from a package above its own"


def test_there_is_no_circle() -> None:
    """Modules that import nothing but modules which are gone already are taken away until none is left."""
    left = dict(GRAPH)
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"import one another: {sorted(left)}"


def test_every_package_has_its_place() -> None:
    assert {path.name for path in ROOT.iterdir() if any(path.glob("*.py"))} == set(ORDER)


@pytest.mark.parametrize("old", MOVED)
def test_modules_are_found_under_their_old_names(old: str) -> None:
    module = importlib.import_module(f"baoseg.{old}")
    for new in MOVED[old]:
        home = importlib.import_module(f"baoseg.{new}")
        public = {name for name in vars(home) if not name.startswith("_")}
        assert all(getattr(module, name) is getattr(home, name) for name in public)


def test_documented_imports_of_version_0_1() -> None:
    from baoseg.runs import Run, read_json
    from baoseg.train import Hardware

    from baoseg import data, maps, nets, pipeline, recipes, train
    from baoseg.methods import bao, transcam

    assert train.Hardware is Hardware and maps.Config and nets.Config and data.Config and recipes.Stage
    assert pipeline.run and bao.Config and transcam.Config and Run and read_json


def test_names_of_version_0_1() -> None:
    from baoseg.nets.deeplab import LargeFOV, build

    from baoseg import pipeline
    from baoseg.core.run_folder import Run, RunFolder, Stage, StageFolder
    from baoseg.nets import segmentation
    from baoseg.seeds import Seed, SeedMaps
    from baoseg.seeds.masks import label_image, to_mask

    assert Run is RunFolder and Stage is StageFolder and Seed is SeedMaps
    assert label_image is to_mask
    assert build is segmentation.build and LargeFOV is segmentation.LargeFOV
    assert pipeline.segment_pictures is pipeline.segment_images
