import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import baoseg
from baoseg import cli
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.predict import collection as labelling


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command; gives its exit code."""

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["bao", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images; one is labelled."""
    (folder := tmp_path / "source").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_masks_are_those_of_the_labeler_of_a_run(
    bao: Callable[..., int], tiny_run: RunFolder, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labeler = baoseg.load(tiny_run.root)
    told = labeler.classes.names[-1]
    (source / "1.txt").write_text(told)
    words = ("label", source, "--model", tiny_run.root, "--accelerator", "cpu")
    assert bao(*words, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out == "3 masks written, 0 done before, 0 failed\n"
    assert bao(*words, "--out", tmp_path / "free", "--no-labels", "--threads", 1) == 0
    for number in range(3):
        free = labeler(source / f"{number}.png").mask
        given = labeler(source / f"{number}.png", [told]).mask if number == 1 else free
        assert np.array_equal(read_mask(tmp_path / f"out/{number}.png"), given)
        assert np.array_equal(read_mask(tmp_path / f"free/{number}.png"), free)


def test_shards_of_the_work_are_together_the_whole(
    bao: Callable[..., int], tiny_run: RunFolder, source: Path, tmp_path: Path
) -> None:
    words = ("label", source, "--model", tiny_run.root, "--out", tmp_path / "out", "--accelerator", "cpu")
    counts = []
    for index in range(2):
        assert bao(*words, "--shard", f"{index}/2") == 0
        counts.append(len(list((tmp_path / "out").iterdir())))
    assert counts[1] == 3
    assert counts[0] == sum(labelling.Part(0, 2).has(f"{number}.png") for number in range(3))


def test_a_failure_is_exit_code_1_and_a_mistake_2(
    bao: Callable[..., int], tiny_run: RunFolder, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "1.png").write_text("no picture")
    words = ("label", source, "--model", tiny_run.root, "--accelerator", "cpu", "--out", tmp_path / "out")
    assert bao(*words) == 1
    assert capsys.readouterr().out.startswith("2 masks written, 0 done before, 1 failed: ")
    assert (tmp_path / "out/failures.csv").read_text().splitlines()[1].startswith("1.png,")
    for mistake, problem in {
        ("--parts", "2"): "--parts 2: is for --engine ray",
        ("--shard", "2/2"): "--shard 2/2: write I/N",
        ("--threads", "0"): "--threads 0: decoding needs at least one",
        ("--model", tmp_path / "none"): "none",
    }.items():
        assert bao(*words, *mistake) == 2
        errors = capsys.readouterr().err
        assert problem in errors
        assert errors.count("\n") == 1


def test_what_is_passed_over_alone_is_exit_code_1(
    bao: Callable[..., int], tiny_run: RunFolder, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("label", source, "--model", tiny_run.root, "--accelerator", "cpu", "--out", tmp_path / "out")
    for path in source.iterdir():
        path.rename(path.with_suffix(".heic"))
    assert bao(*words) == 1
    assert capsys.readouterr().out.endswith(" 0 failed; 3 files were ignored: 3 .heic\n")
    (source / "0.heic").rename(source / "0.png")
    assert bao(*words) == 0
    assert capsys.readouterr().out.endswith(" 0 failed; 2 files were ignored: 2 .heic\n")


def test_a_run_on_ray_asks_for_a_gpu_for_each_part_where_it_is_told_to(
    bao: Callable[..., int], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(labelling, "run", lambda job, cluster: asked.append(cluster) or labelling.Tally())
    words = ("label", source, "--model", tmp_path, "--out", tmp_path / "out")
    bao(*words)
    bao(*words, "--engine", "ray")
    bao(*words, "--engine", "ray", "--parts", 8, "--accelerator", "cuda")
    assert asked == [None, labelling.Cluster(), labelling.Cluster(parts=8, gpus=1.0)]


def test_help_fits_a_terminal(
    bao: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert bao("label", "--help") == 0
    page = capsys.readouterr().out
    assert "None" not in page
    assert max(map(len, page.splitlines())) <= 110


def test_a_shard_on_stdin_has_the_name_of_a_dash(
    bao: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []
    monkeypatch.setattr(labelling, "run", lambda job, cluster: sources.append(job.source) or labelling.Tally())
    bao("label", "-", "--model", tmp_path, "--out", tmp_path / "out")
    assert sources == [labelling.STDIN]
