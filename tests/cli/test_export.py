import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import baoseg
from baoseg import cli, pipeline
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.predict import export as exports


def bao(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bao", "export", *map(str, words)])
    cli.main()


def test_the_masks_of_the_last_stage_or_of_one_named(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, source in (("bao", tiny_run.root), ("transcam", tiny_run.root / "transcam")):
        bao(monkeypatch, "voc", source, "--out", tmp_path / stage)
        assert str(exports.COMP6) in capsys.readouterr().out
        for path in sorted((tiny_run.root / stage / "masks" / "val").iterdir()):
            assert (tmp_path / stage / exports.COMP6 / path.name).read_bytes() == path.read_bytes()
    bao(monkeypatch, "voc", tiny_run.root, "--out", tmp_path / "bao", "--tar")
    assert (tmp_path / "bao" / "results.tgz").exists()


def test_missing_masks_are_one_line(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_run.root, tmp_path / "run")
    (copy / "bao" / "masks" / "val" / "val_00001.png").unlink()
    with pytest.raises(SystemExit, match="2"):
        bao(monkeypatch, "voc", copy, "--out", tmp_path / "out")
    assert "val_00001.png: no such mask" in capsys.readouterr().err


def test_the_model_that_is_named_is_written(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def test_masks_go_to_a_tool_and_come_back(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run, of a folder of masks and of a folder with ground truth."""
    photos = tmp_path / "photos"
    bao(monkeypatch, "masks", tiny_run.root, "--as", "png", "--out", photos)
    assert "Written: 5 images to" in capsys.readouterr().out
    shutil.move(photos / "images/val", photos / "JPEGImages")
    names = [f"val_{index:05d}" for index in range(5)]
    scenes = pipeline.open_split(pipeline.recipe_of(tiny_run), "val")
    lines = [
        f"JPEGImages/{name}.png,{'; '.join(scenes.classes.decode(scenes.labels(i)))}" for i, name in enumerate(names)
    ]
    (photos / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n", encoding="utf-8")
    (photos / "classes.txt").write_text("\n".join(scenes.classes.names) + "\n", encoding="utf-8")
    given = ["--images", photos / "JPEGImages", "--classes", *scenes.classes.names]
    bao(monkeypatch, "masks", photos / "masks/val", *given, "--as", "labelme", "--out", tmp_path / "labelme")
    words = [tmp_path / "labelme", "--as", "labelme", "--data", photos, "--out", tmp_path / "back"]
    monkeypatch.setattr(sys, "argv", ["bao", "import", "masks", *map(str, words)])
    cli.main()
    assert "Written: 5 masks to" in capsys.readouterr().out
    for name in names:
        assert torch.equal(read_mask(tmp_path / f"back/{name}.png"), read_mask(tiny_run.stage("bao").mask("val", name)))
    shutil.rmtree(photos / "masks")
    shutil.copytree(tmp_path / "back", photos / "masks")
    bao(monkeypatch, "masks", photos, "--as", "coco", "--out", tmp_path / "coco")
    assert (tmp_path / "coco/all.json").exists()


def test_a_folder_of_masks_needs_its_images_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bao(monkeypatch, "masks", tmp_path, "--images", tmp_path, "--as", "png", "--out", tmp_path / "out")
    assert "name the classes with --classes" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        bao(monkeypatch, "masks", tmp_path, "--classes", "dog", "--as", "png", "--out", tmp_path / "out")
    assert "name its images too, with --images" in capsys.readouterr().err
