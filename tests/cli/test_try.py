import sys
from pathlib import Path

import pytest
from PIL import Image

from baoseg import cli
from baoseg.data.images import read_mask

CAT = Path(__file__).parents[1] / "photos" / "cat.jpg"


def _bao(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bao", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_masks_and_overlays_of_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(CAT.read_bytes()[:1000])
    out = tmp_path / "out"
    assert _bao(monkeypatch, "try", CAT, broken, "--labels", "cat", "--out", out) == 1
    output = capsys.readouterr()
    assert "cat: feline mammal" in output.out and "(7 of ImageNet's classes)" in output.out
    assert str(broken) in output.err and output.err.count("\n") == 1
    assert set(read_mask(out / "cat.png").unique().tolist()) == {0, 1}
    with Image.open(out / "overlays" / "cat.png") as overlay:
        assert overlay.size == (451, 300)
    assert not (out / "broken.png").exists()


def test_without_labels_the_five_likeliest_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _bao(monkeypatch, "try", CAT, "--out", tmp_path) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(str(CAT)))
    assert line.count(",") == 4 and "Egyptian cat 0." in line


def test_an_unknown_label_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _bao(monkeypatch, "try", CAT, "--labels", "zebrra", "--out", tmp_path / "out") == 2
    assert "did you mean zebra" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
