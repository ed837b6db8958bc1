import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from baoseg import cli, localize, reproduce_localization
from baoseg import localize_recipes as recipes
from baoseg.cli import localize as verbs
from baoseg.cli.options import Device, Overrides
from baoseg.data.wsol import Layout
from baoseg.errors import RecipeError
from baoseg.train import Hardware

HARDWARE = Hardware(accelerator="cpu", workers=0)


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bao", *map(str, words)])
        cli.main()

    return run


def test_localize_hands_on_what_was_asked(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    monkeypatch.setattr(localize, "run", lambda *given, **named: seen.append((given, named)))
    changes = ("--layout", "folder", "--weights", "w.pth", "--epochs", "2", "--lr", "0.01", "--seed", "3")
    device = ("--accelerator", "cpu", "--workers", "0")
    bao("localize", "bas-cub-vgg16", "--data", "here", "--out", tmp_path, *changes, *device)
    expected = recipes.override(
        recipes.named("bas-cub-vgg16"),
        data="here",
        layout="folder",
        weights=Path("w.pth"),
        epochs=2,
        lr=0.01,
        seed=3,
    )
    assert seen == [((expected, tmp_path), {"hardware": HARDWARE})]


def test_an_unknown_recipe_and_missing_data_are_one_line(
    bao: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe, message in (("cub", "unknown recipe for localization 'cub'; there are"), ("cub20", "cannot be read")):
        with pytest.raises(SystemExit) as ended:
            bao("localize", recipe, "--data", tmp_path, "--out", tmp_path / "run")
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.startswith("bao: ") and message in error and error.count("\n") == 1


def test_help_fits(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        bao("localize", "--help")
    page = capsys.readouterr().out
    assert "RECIPE" in page and "--data FOLDER" in page and "None" not in page
    assert max(map(len, page.splitlines())) <= 110


def test_the_layouts_are_those_that_can_be_read() -> None:
    annotated = get_type_hints(verbs.Changes)["layout"]
    assert {value for kind in get_args(annotated) for value in get_args(kind)} == {str(layout) for layout in Layout}


def test_reproduce_takes_the_overrides_that_localization_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr(reproduce_localization, "run", lambda *given, **named: seen.append((given, named)))
    device = Device(accelerator="cpu", workers=0)
    overrides = Overrides(data="here", eval_split="test", epochs=1, seed=2)
    verbs.reproduce("bas-table-1", "cub20", tmp_path, overrides, device)
    expected = recipes.override(recipes.cub20(), data="here", eval_split="test", epochs=1, seed=2)
    assert seen == [(("bas-table-1", expected, tmp_path), {"hardware": HARDWARE})]
    with pytest.raises(RecipeError, match="--only: does not go with cub20"):
        verbs.reproduce("bas-table-1", "cub20", tmp_path, Overrides(only="bas"), device)
    assert verbs.is_recipe("cub20") and not verbs.is_recipe("demo")


def test_compare_keeps_the_methods_asked_for_and_what_they_start_from(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    monkeypatch.setattr(localize, "run", lambda config, out, *, hardware: seen.append(config))
    device = ("--accelerator", "cpu", "--workers", "0")
    bao("compare", "bas-cub-vgg16", "--methods", "bas", "--data", "here", "--out", tmp_path, *device)
    bao("compare", "cub20", "--methods", "bas", "--data", "here", "--out", tmp_path, *device)
    assert [[stage.name for stage in config.stages] for config in seen] == [["bas"], ["cam", "bas"]]
    assert {config.data.path for config in seen} == {"here"}
    with pytest.raises(SystemExit):
        bao("compare", "cub20", "--methods", "bao", "--out", tmp_path, *device)
    assert "cub20: has no method 'bao'; it has cam, bas" in capsys.readouterr().err
