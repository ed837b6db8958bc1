"""The verbs of `bao weights`, on a tiny checkpoint."""

import hashlib
import sys
from dataclasses import replace

import pytest
import torch
from nets.published import random_state
from safetensors.torch import load_file

from baoseg import cli
from baoseg.cli import weights as verbs
from baoseg.nets import catalogue
from baoseg.recipes import weights

ALL = {"list": verbs.list_, "show": verbs.show, "fetch": verbs.fetch, "convert": verbs.convert}
TINY = {"ratio": 0.5, "width": 8, "depth": 3, "classes": 4}  # of random_state


@pytest.fixture
def bao(monkeypatch):
    monkeypatch.setitem(cli.GROUPS, "weights", ("Weights.", ALL))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["bao", "weights", *map(str, words)])
        cli.main()

    return run


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.pth"
    torch.save(random_state(**TINY), path)
    return path


def test_list_and_show(bao, capsys):
    bao("list")
    told = capsys.readouterr().out
    assert all(name in told for name in catalogue.checkpoints())
    bao("show", "conformer-small")
    assert capsys.readouterr().out == weights.show("conformer-small") + "\n"


def test_convert_reports_what_matched(bao, published, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    bao("convert", published, "--out", out)
    assert load_file(out).keys() == torch.load(published, weights_only=True).keys()
    assert capsys.readouterr().out == f"{out}: {catalogue.convert(published, out)}\n"


def test_fetch_leaves_the_file_and_its_safetensors(bao, published, tmp_path, monkeypatch, capsys):
    entry = replace(
        catalogue.checkpoint("conformer-small"),
        kind=catalogue.Kind.CONFORMER,
        file="published.pth",
        sha256=hashlib.sha256(published.read_bytes()).hexdigest(),
    )
    monkeypatch.setattr(catalogue, "checkpoints", lambda: {"tiny": entry})
    bao("fetch", "tiny", "--to", tmp_path)  # it is there already; the download has tests of its own
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published.pth", "tiny.safetensors"]
    assert load_file(tmp_path / "tiny.safetensors").keys() == torch.load(published, weights_only=True).keys()
    assert "tensors matched" in capsys.readouterr().out


def test_what_is_for_a_person_is_an_error_of_one_line(bao, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        bao("fetch", "transcam-voc", "--to", tmp_path)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "https://drive.google.com" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["", *ALL])
def test_help_is_narrow_and_hides_none(bao, capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        bao(*([verb] if verb else []), "--help")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "None" not in text and max(map(len, text.splitlines())) <= 110
