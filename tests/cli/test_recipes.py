import re
import sys

import pytest

from baoseg import cli, recipes
from baoseg.cli import recipes as verbs
from baoseg.recipes import papers


def test_list_has_a_line_for_each_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    verbs.list_()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*recipes.known()]
    assert all(len(line.split(maxsplit=1)[1]) > 10 for line in lines)


def test_show_prints_the_settings_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    verbs.show("bao-voc")
    assert capsys.readouterr().out == papers.describe(recipes.named("bao-voc")) + "\n"


def test_show_knows_the_recipes_for_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    verbs.show("bas-cub-vgg16")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stages.bas.method.beta")]
    assert line.split(maxsplit=3)[1:] == ["=", "0.9", "BAS-code WSOL"]


def test_show_prints_a_changed_recipe_as_other_verbs_would_run_it(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("stages.bas.method.beta=1.1", "stages.bas.box.top_k=3")
    verbs.show("bas-cub-vgg16", changes)
    changed = capsys.readouterr().out.splitlines()
    verbs.show("bas-cub-vgg16")
    different = [line.split(maxsplit=3) for line in changed if line not in capsys.readouterr().out]
    (beta,) = [line for line in different if line[0] == "stages.bas.method.beta"]
    assert beta[1:] == ["=", "1.1", "ours, in place of 0.9: BAS-code WSOL"]


def test_what_is_printed_before_the_source_is_what_set_takes(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipes.named("bao-voc")
    verbs.show("bao-voc")
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    printed = [re.sub(r"^(\S+) +=", r"\1=", line) for line in lines]
    values = [re.split(r"  +\S", line)[0].replace("= ", "=", 1).rstrip() for line in printed]
    assert len(values) > 100
    assert recipes.with_values(recipe, values) == recipe


def test_the_group_answers_and_refuses_unknown_recipes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = {"list": verbs.list_, "show": verbs.show}
    monkeypatch.setitem(cli.GROUPS, "recipes", ("Named settings of whole runs.", group))
    monkeypatch.setattr(sys, "argv", ["bao", "recipes", "show", "bas-voc"])
    cli.main()
    assert "stages.bas.schedule.lr" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["bao", "recipes", "show", "voc"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("bao: unknown recipe 'voc'; there are demo, photos, ")
