import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import baoseg
from baoseg import cli
from baoseg.core.run_folder import Run
from baoseg.predict import export as exports


def bao(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bao", "export", *map(str, words)])
    cli.main()


def test_the_masks_of_the_last_stage_or_of_one_named(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, source in (("bao", tiny_run.root), ("transcam", tiny_run.root / "transcam")):
        bao(monkeypatch, "voc", source, "--out", tmp_path / stage)
        assert str(exports.COMP6) in capsys.readouterr().out
        for path in sorted((tiny_run.root / stage / "masks" / "val").iterdir()):
            assert (tmp_path / stage / exports.COMP6 / path.name).read_bytes() == path.read_bytes()
    bao(monkeypatch, "voc", tiny_run.root, "--out", tmp_path / "bao", "--tar")
    assert (tmp_path / "bao" / "results.tgz").exists()


def test_missing_masks_are_one_line(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_run.root, tmp_path / "run")
    (copy / "bao" / "masks" / "val" / "val_00001.png").unlink()
    with pytest.raises(SystemExit, match="2"):
        bao(monkeypatch, "voc", copy, "--out", tmp_path / "out")
    assert "val_00001.png: no such mask" in capsys.readouterr().err


def test_the_model_that_is_named_is_written(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(exports, "onnx", lambda *call: seen.extend(call))
    bao(monkeypatch, "onnx", tiny_run.root / "transcam", "--out", tmp_path / "model.onnx")
    assert isinstance(seen[0], baoseg.Labeler) and not seen[0].method.learns_background
    assert seen[1] == tmp_path / "model.onnx" and "model.onnx" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["onnx", "voc"])
def test_help_is_narrow_and_shows_no_none(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        bao(monkeypatch, verb, "--help")
    text = capsys.readouterr().out
    assert "None" not in text and max(map(len, text.splitlines())) <= 110
