import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import baoseg
from baoseg import cli, nets, seeds
from baoseg.cli import localize as verbs
from baoseg.cli.options import Device, Overrides
from baoseg.core.errors import RecipeError, RunError
from baoseg.core.files import read_json
from baoseg.core.run_folder import Run
from baoseg.data import wsol
from baoseg.data.wsol import Layout
from baoseg.methods import bas, cam
from baoseg.pipeline import localize, manifest
from baoseg.recipes import localization as recipes
from baoseg.reproduce import boxes as reproduce_localization
from baoseg.training import train
from baoseg.training.train import Hardware

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
    values = ("--set", "stages.bas.top_k=7", "--set", "stages.bas.schedule.epochs=4", "--set", "ten_crops=false")
    device = ("--accelerator", "cpu", "--workers", "0")
    bao("localize", "bas-cub-vgg16", "--data", "here", "--out", tmp_path, *changes, *values, *device)
    changed = recipes.override(
        recipes.named("bas-cub-vgg16"),
        data="here",
        layout="folder",
        weights=Path("w.pth"),
        epochs=2,
        lr=0.01,
        seed=3,
    )
    cam_stage, bas_stage = changed.stages
    bas_stage = replace(bas_stage, top_k=7, schedule=replace(bas_stage.schedule, epochs=4))
    expected = replace(changed, stages=(cam_stage, bas_stage), ten_crops=False)
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
    assert seen == [(("bas-table-1", expected, tmp_path), {"hardware": HARDWARE, "values": ()})]
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
    bao("compare", "cub20", "--methods", "bas", "--out", tmp_path, "--set", "stages.bas.top_k=3", *device)
    assert seen[-1].stages[-1] == replace(recipes.cub20().stages[-1], top_k=3)
    bao("run", "cub20", "--out", tmp_path, "--set", "side=300", *device)
    assert seen[-1] == replace(recipes.cub20(), side=300)
    with pytest.raises(SystemExit):
        bao("compare", "cub20", "--methods", "cam", "--out", tmp_path, "--set", "stages.bas.top_k=3", *device)
    assert "--set stages.bas.top_k=3: changes nothing of what is to run here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bao("compare", "cub20", "--methods", "bao", "--out", tmp_path, *device)
    assert "cub20: has no method 'bao'; it has cam, bas" in capsys.readouterr().err


# --- the seam between masks and boxes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boxed_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """CAM and BAS on two colours, trained and evaluated."""
    root = tmp_path_factory.mktemp("data")
    labels, boxes = ["image,label"], ["image,x0,y0,x1,y1"]
    for i, colour in enumerate(("red", "blue", "red", "blue")):
        image = Image.new("RGB", (80, 64), (120, 120, 120))
        image.paste((220, 30, 20) if colour == "red" else (30, 40, 220), (10 + i, 10, 41 + i, 41))
        image.save(root / f"p{i}.png")
        labels.append(f"p{i}.png,{colour}")
        boxes.append(f"p{i}.png,{10 + i},10,{40 + i},40")
    (root / "labels.csv").write_text("\n".join(labels) + "\n", encoding="utf-8")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")
    schedule = train.Config(epochs=1, batch_size=4, lr=1e-3)
    config = localize.Config(
        name="two",
        data=wsol.Config(path=str(root)),
        net=nets.Config(backbone="timm:test_efficientnet"),
        stages=(
            localize.Localizer(method=cam.Config(), schedule=schedule, threshold=0.2),
            localize.Localizer(method=bas.Config(), schedule=schedule, threshold=0.1, top_k=2),
        ),
        side=72,
        crop=64,
    )
    return localize.run(config, tmp_path_factory.mktemp("runs") / "run", hardware=HARDWARE)


DEVICE = ("--accelerator", "cpu", "--workers", "0")


def refused(capsys: pytest.CaptureFixture[str], command: Callable[[], None]) -> str:
    with pytest.raises(SystemExit) as ended:
        command()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("bao: ") and error.count("\n") == 1
    return error


def test_evaluate_and_report_work_on_a_run_for_localization(
    bao: Callable[..., None], boxed_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = boxed_run.stage("bas").metrics
    found = read_json(metrics)
    metrics.unlink()
    assert "bao evaluate" in refused(capsys, lambda: bao("report", boxed_run.root))
    bao("evaluate", boxed_run.root)
    assert read_json(metrics) == found
    assert "GT-known" in capsys.readouterr().out
    boxed_run.report.unlink()
    bao("report", boxed_run.root)
    assert "MaxBoxAccV2" in boxed_run.report.read_text(encoding="utf-8")


def test_maps_of_a_run_for_localization_go_on_as_seeds_of_any_run(bao: Callable[..., None], boxed_run: Run) -> None:
    bao("maps", boxed_run.root, *DEVICE)
    for name, label in (("p0", 2), ("p3", 1)):  # red is the second class
        for stage in ("cam", "bas"):
            seed = seeds.load(boxed_run.stage(stage).maps("test", name))
            assert (seed.classes.tolist(), tuple(seed.scores.shape), seed.size) == ([label], (1, 16, 20), (64, 80))
            assert (seed.scores.min(), seed.scores.max()) == (0, 1)


def test_a_run_for_localization_can_be_moved_with_its_data(
    bao: Callable[..., None], boxed_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(localize.config_of(boxed_run).data.path)
    below = os.path.commonpath([data, boxed_run.root])
    for path in (data, boxed_run.root):
        shutil.copytree(path, tmp_path / "new" / path.relative_to(below))
    moved = Run(tmp_path / "new" / boxed_run.root.relative_to(below))
    away = data.with_name("away")
    data.rename(away)
    try:
        assert Path(localize.config_of(moved).data.path) == tmp_path / "new" / data.relative_to(below)
        for verb in ("evaluate", "report"):
            bao(verb, moved.root)
        bao("maps", moved.root, *DEVICE)
        error = refused(capsys, lambda: bao("report", boxed_run.root))  # which was not moved, and its data were
        assert f"run.json: its data are not in {data}; run the command that made this run again with --data" in error
        boxes = Path(localize.config_of(moved).data.path) / "boxes.csv"
        boxes.write_text(boxes.read_text(encoding="utf-8") + "p0.png,1,1,9,9\n", encoding="utf-8")
        error = refused(capsys, lambda: bao("evaluate", moved.root))
        assert "holds other data than this run was made on (labels, boxes or files changed); restore the data" in error
    finally:
        away.rename(data)


def test_a_second_process_that_localizes_is_refused(boxed_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def held(root: Path) -> Iterator[None]:
        raise RunError(f"{root}: another process works in this run folder")
        yield

    monkeypatch.setattr(manifest, "alone", held)
    with pytest.raises(RunError, match="another process"):
        localize.train_stages(boxed_run, hardware=HARDWARE)


def test_seeds_of_a_run_for_localization_can_be_fused(bao: Callable[..., None], boxed_run: Run, tmp_path: Path) -> None:
    bao("maps", boxed_run.root, *DEVICE)
    data = tmp_path / "data"
    shutil.copytree(localize.config_of(boxed_run).data.path, data)
    (data / "boxes.csv").unlink()
    (data / "splits").mkdir()
    (data / "splits/test.txt").write_text("p0\np1\np2\np3\n")
    bao("fuse", boxed_run.root, "--data", data, "--eval-split", "test", "--out", tmp_path / "fused")
    seed = seeds.load(Run(tmp_path / "fused").stage("fused").maps("test", "p0"))
    own = seeds.load(boxed_run.stage("bas").maps("test", "p0"))
    assert torch.allclose(seed.scores, own.scores, atol=2e-3)  # kept in half precision


@pytest.fixture
def in_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, in which the verbs run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("masks",),
        ("refine", "--with", "crf"),
        ("segment",),
        ("export", "voc", "--out", "voc"),
    ],
)
def test_steps_of_masks_refuse_a_run_for_localization_in_one_line(
    bao: Callable[..., None],
    boxed_run: Run,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    in_nowhere: Path,
) -> None:
    verb = 2 if words[0] == "export" else 1
    error = refused(capsys, lambda: bao(*words[:verb], boxed_run.root, *words[verb:]))
    assert "this step is for runs of `bao run`" in error
    assert list(in_nowhere.iterdir()) == []


def test_a_folder_of_one_half_is_no_folder_of_the_other(
    bao: Callable[..., None], boxed_run: Run, tiny_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = boxed_run.manifest.read_text(encoding="utf-8"), tiny_run.manifest.read_text(encoding="utf-8")
    for verb in ("run", "train"):
        error = refused(capsys, lambda verb=verb: bao(verb, "demo", "--out", boxed_run.root, *DEVICE))
        assert str(boxed_run.root) in error and len(error) < 500
    data = localize.config_of(boxed_run).data.path
    words = ("bas-cub-vgg16", "--data", data, "--layout", "folder", "--out", tiny_run.root)
    assert "is a run for segmentation" in refused(capsys, lambda: bao("localize", *words, *DEVICE))
    assert before == (boxed_run.manifest.read_text(encoding="utf-8"), tiny_run.manifest.read_text(encoding="utf-8"))


@pytest.mark.parametrize("verb", ["run", "train", "localize"])
def test_run_and_train_take_every_recipe_that_is_listed(
    verb: str, bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def begin(config: localize.Config, out: Path) -> Run:
        seen.append((config, out))
        return Run(out)

    monkeypatch.setattr(localize, "begin", begin)
    for step in ("train_stages", "evaluate_stages", "make_report"):
        monkeypatch.setattr(localize, step, lambda folder, **options: None)
    for name in recipes.RECIPES:
        bao(verb, name, "--data", "here", "--epochs", "3", "--out", tmp_path, *DEVICE)
        assert seen.pop() == (recipes.override(recipes.named(name), data="here", epochs=3), tmp_path)


def test_a_mistyped_file_of_weights_leaves_no_folder(
    bao: Callable[..., None], boxed_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", localize.config_of(boxed_run).data.path, "--layout", "folder")
    words = ("localize", "bas-cub-vgg16", *data, "--out", tmp_path / "run", "--weights", tmp_path / "mistyped.pth")
    assert "mistyped.pth: no such" in refused(capsys, lambda: bao(*words, *DEVICE))
    assert not (tmp_path / "run").exists()


def test_predict_with_a_localizer_names_one_class(bao: Callable[..., None], boxed_run: Run, tmp_path: Path) -> None:
    """Its mask is the likeliest class's map, cut where the recipe cuts the box."""
    data = Path(localize.config_of(boxed_run).data.path)
    bao("predict", boxed_run.root, data / "p0.png", "--out", tmp_path, "--accelerator", "cpu")
    found = baoseg.load(boxed_run.root)(data / "p0.png")
    with Image.open(tmp_path / "p0.png") as mask:
        assert np.array_equal(np.array(mask), found.mask)
    assert len(found.labels) == 1 and len(np.unique(found.mask)) <= 2


def test_prepare_checks_a_folder_with_boxes_as_one_for_localization(
    bao: Callable[..., None], boxed_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my pictures"
    shutil.copytree(localize.config_of(boxed_run).data.path, root)
    (root / "splits").mkdir()
    (root / "splits/test.txt").write_text("p1\np0\np3\n")
    (root / "splits/._test.txt").write_bytes(b"\0\5\x16\7\xff")  # of a Mac
    bao("prepare", "folder", root)
    out = capsys.readouterr().out
    assert out.startswith("test: 3 images, 2 classes: blue (2), red (1)\nType next:")
    assert f"bao localize bas-cub-resnet50 --data '{root}' --out runs/bas-cub-resnet50 --layout folder" in out
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\np0.png,0.1,0.1,0.5,0.5\np1.png,9,9,3,3\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        bao("prepare", "folder", root)
    streams = capsys.readouterr()
    assert ended.value.code == 2 and "problems found: 2" in streams.err
    assert "line 2: the box 0.1" in streams.out and "line 3: the box 9" in streams.out
