"""The documents say what is true: README's first example runs, and every command of a code block is one of `bao`."""

import functools
import inspect
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baoseg import cli, recipes
from baoseg.recipes import localization

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_first_example_labels_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "tests" / "photos" / "cat.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks(README, "python")[0], names)
    result = names["result"]
    mask = result.mask
    assert mask.dtype == np.uint8 and mask.shape == (300, 451)
    assert set(np.unique(mask).tolist()) == {0, 1}
    assert mask[130, 265] == 1 and mask[290, 440] == 0  # between the eyes; the blanket in the lower right corner
    assert 0.2 < (mask == 1).mean() < 0.8
    assert list(result.class_maps) == ["cat"] and result.class_maps["cat"].shape == mask.shape
    with Image.open(tmp_path / "cat-mask.png") as saved:
        assert np.array_equal(np.asarray(saved), 255 * mask)


# --------------------------------------------------------------------------------------------- commands


def commands(page: Path) -> list[tuple[str, ...]]:
    """The words behind `bao` of each such line in the page's code blocks for shells."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    found = []
    for words in (shlex.split(line, comments=True) for line in lines):
        end = next((place for place, word in enumerate(words) if word in {"|", "&&", ";", ">"}), len(words))
        if words[:1] == ["bao"]:
            found.append(tuple(words[1:end]))
    return found


def test_commands_are_found_with_the_lines_that_continue_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shell = "bao run photos \\\n    --out a  # why\nmake demo\nbao recipes | head -1\n"
    page.write_text(f"```sh\n{shell}```\n\n```python\nbao = 1\n```\n")
    assert commands(page) == [("run", "photos", "--out", "a"), ("recipes",)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[inspect.BoundArguments]:
    """What the verbs were called with, which do nothing."""
    calls: list[inspect.BoundArguments] = []

    def stand_in(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def keep(*positional: object, **named: object) -> None:
            calls.append(inspect.signature(verb).bind(*positional, **named))

        return keep

    monkeypatch.setattr(cli, "VERBS", {name: stand_in(verb) for name, verb in cli.VERBS.items()})
    groups = {
        group: (about, {name: stand_in(verb) for name, verb in verbs.items()})
        for group, (about, verbs) in cli.GROUPS.items()
    }
    monkeypatch.setattr(cli, "GROUPS", groups)
    return calls


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_parses_and_names_a_recipe_that_exists(
    page: Path,
    parsed: list[inspect.BoundArguments],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {*recipes.known(), *localization.RECIPES, "RECIPE", None}
    for words in commands(page):
        monkeypatch.setattr(sys, "argv", ["bao", *words])
        try:
            cli.main()
        except SystemExit as stop:
            pytest.fail(f"bao {shlex.join(words)}: exit code {stop.code}\n{capsys.readouterr().err}")
        assert parsed[-1].arguments.get("recipe") in known, words
    assert len(parsed) == len(commands(page))


def test_a_wrong_option_and_a_wrong_verb_do_not_parse(
    parsed: list[inspect.BoundArguments], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["maps", "runs/mine", "--scale", "2"], ["map", "runs/mine"], ["weights", "get", "conformer-small"]):
        monkeypatch.setattr(sys, "argv", ["bao", *words])
        with pytest.raises(SystemExit):
            cli.main()
    assert not parsed


# ------------------------------------------------------------------------------------------------ links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
