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
from baoseg import cli, nets, pipeline, recipes, seeds
from baoseg.cli.options import Overrides
from baoseg.core.errors import RunError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import Config as DataConfig
from baoseg.data.boxed import Layout
from baoseg.methods import bas, cam
from baoseg.pipeline import manifest
from baoseg.recipes import BoxConfig, Recipe, Stage, boxes, for_boxes
from baoseg.reproduce import boxes as box_tables
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
    monkeypatch.setattr(pipeline, "run", lambda *given, **named: seen.append((given, named)))
    changes = ("--layout", "folder", "--weights", "w.pth", "--epochs", "2", "--lr", "0.01", "--seed", "3")
    values = ("--set", "stages.bas.box.top_k=7", "--set", "stages.bas.schedule.epochs=4", "--set", "ten_crops=false")
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
    bas_stage = replace(bas_stage, box=replace(bas_stage.box, top_k=7), schedule=replace(bas_stage.schedule, epochs=4))
    expected = replace(changed, stages=(cam_stage, bas_stage), ten_crops=False)
    assert seen == [((expected, tmp_path), {"hardware": HARDWARE})]


def test_an_unknown_recipe_and_missing_data_are_one_line(
    bao: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe, message in (("cub", "unknown recipe 'cub'; there are"), ("cub20", "cannot be read")):
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
    assert "RECIPE" in page and "--data FOLDER" in page and "--layout" in page and "None" not in page
    assert max(map(len, page.splitlines())) <= 110


def test_the_layouts_are_those_that_can_be_read() -> None:
    annotated = get_type_hints(Overrides)["layout"]
    assert {value for kind in get_args(annotated) for value in get_args(kind)} == {str(layout) for layout in Layout}


def test_reproduce_takes_the_overrides_of_every_recipe(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def noted(*given: object, **named: object) -> RunFolder:
        seen.append((given, named))
        return RunFolder(tmp_path)

    monkeypatch.setattr(box_tables, "run", noted)
    changes = ("--data", "here", "--eval-split", "test", "--epochs", "1", "--seed", "2")
    bao("reproduce", "bas-table-1", "--recipe", "cub20", "--out", tmp_path, *changes, *DEVICE)
    expected = recipes.override(boxes.cub20(), data="here", eval_split="test", epochs=1, seed=2)
    assert seen == [(("bas-table-1", expected, tmp_path), {"hardware": HARDWARE, "values": ()})]


def test_compare_keeps_the_methods_asked_for_and_what_they_start_from(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def noted(recipe: Recipe, out: Path, *, hardware: Hardware) -> RunFolder:
        seen.append(recipe)
        return RunFolder(out)

    monkeypatch.setattr(pipeline, "run", noted)
    device = ("--accelerator", "cpu", "--workers", "0")
    bao("compare", "bas-cub-vgg16", "--methods", "bas", "--data", "here", "--out", tmp_path, *device)
    bao("compare", "cub20", "--methods", "bas", "--data", "here", "--out", tmp_path, *device)
    assert [[stage.name for stage in config.stages] for config in seen] == [["bas"], ["cam", "bas"]]
    assert {config.data.path for config in seen} == {"here"}
    bao("compare", "cub20", "--methods", "bas", "--out", tmp_path, "--set", "stages.bas.box.top_k=3", *device)
    assert seen[-1].stages[-1].box == BoxConfig(threshold=0.1, top_k=3)
    bao("run", "cub20", "--out", tmp_path, "--set", "augment.resize_long=300,300", *device)
    assert seen[-1].view.side == 300
    with pytest.raises(SystemExit):
        bao("compare", "cub20", "--methods", "cam", "--out", tmp_path, "--set", "stages.bas.box.top_k=3", *device)
    assert "--set stages.bas.box.top_k=3: changes nothing of what is to run here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bao("compare", "cub20", "--methods", "bao", "--out", tmp_path, *device)
    assert "cub20: has no method 'bao'; it has cam, bas" in capsys.readouterr().err


# --- the seam between masks and boxes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boxed_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
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
    config = for_boxes(
        name="two",
        data=DataConfig(path=str(root), layout=Layout.FOLDER),
        net=nets.Config(backbone="timm:test_efficientnet"),
        stages=(
            Stage(method=cam.Config(), schedule=schedule, box=BoxConfig(threshold=0.2)),
            Stage(method=bas.Config(), schedule=schedule, box=BoxConfig(threshold=0.1, top_k=2)),
        ),
        side=72,
        crop=64,
    )
    return pipeline.run(config, tmp_path_factory.mktemp("runs") / "run", hardware=HARDWARE)


DEVICE = ("--accelerator", "cpu", "--workers", "0")


def refused(capsys: pytest.CaptureFixture[str], command: Callable[[], None]) -> str:
    with pytest.raises(SystemExit) as ended:
        command()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("bao: ") and error.count("\n") == 1
    return error


def test_evaluate_and_report_work_on_a_run_for_localization(
    bao: Callable[..., None], boxed_run: RunFolder, capsys: pytest.CaptureFixture[str]
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


def test_maps_of_a_run_for_localization_go_on_as_seeds_of_any_run(
    bao: Callable[..., None], boxed_run: RunFolder
) -> None:
    bao("maps", boxed_run.root, *DEVICE)
    for name, label in (("p0", 2), ("p3", 1)):  # red is the second class
        for stage in ("cam", "bas"):
            seed = seeds.load(boxed_run.stage(stage).maps("test", name))
            assert (seed.classes.tolist(), tuple(seed.scores.shape), seed.size) == ([label], (1, 16, 20), (64, 80))
            assert (seed.scores.min(), seed.scores.max()) == (0, 1)


def test_a_run_for_localization_can_be_moved_with_its_data(
    bao: Callable[..., None], boxed_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(pipeline.recipe_of(boxed_run).data.path)
    below = os.path.commonpath([data, boxed_run.root])
    for path in (data, boxed_run.root):
        shutil.copytree(path, tmp_path / "new" / path.relative_to(below))
    moved = RunFolder(tmp_path / "new" / boxed_run.root.relative_to(below))
    away = data.with_name("away")
    data.rename(away)
    try:
        assert Path(pipeline.recipe_of(moved).data.path) == tmp_path / "new" / data.relative_to(below)
        for verb in ("evaluate", "report"):
            bao(verb, moved.root)
        bao("maps", moved.root, *DEVICE)
        error = refused(capsys, lambda: bao("report", boxed_run.root))  # which was not moved, and its data were
        assert f"run.json: its data are not in {data}; run the command that made this run again with --data" in error
        boxes = Path(pipeline.recipe_of(moved).data.path) / "boxes.csv"
        boxes.write_text(boxes.read_text(encoding="utf-8") + "p0.png,1,1,9,9\n", encoding="utf-8")
        bao("evaluate", moved.root)
        assert "The ground truth of test has changed since this run was made" in capsys.readouterr().out
        labels = boxes.with_name("labels.csv")
        labels.write_text(labels.read_text(encoding="utf-8").replace("p0.png,red", "p0.png,blue"), encoding="utf-8")
        error = refused(capsys, lambda: bao("evaluate", moved.root))
        assert "holds other data than this run was made on (labels changed); restore the data" in error
    finally:
        away.rename(data)


def test_a_second_process_that_localizes_is_refused(boxed_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def held(root: Path) -> Iterator[None]:
        raise RunError(f"{root}: another process works in this run folder")
        yield

    monkeypatch.setattr(manifest, "alone", held)
    with pytest.raises(RunError, match="another process"):
        pipeline.train_stages(boxed_run, hardware=HARDWARE)


def test_seeds_of_a_run_for_localization_can_be_fused(
    bao: Callable[..., None], boxed_run: RunFolder, tmp_path: Path
) -> None:
    bao("maps", boxed_run.root, *DEVICE)
    data = tmp_path / "data"
    shutil.copytree(pipeline.recipe_of(boxed_run).data.path, data)
    (data / "boxes.csv").unlink()
    (data / "splits").mkdir()
    (data / "splits/test.txt").write_text("p0\np1\np2\np3\n")
    bao("fuse", boxed_run.root, "--data", data, "--eval-split", "test", "--out", tmp_path / "fused")
    seed = seeds.load(RunFolder(tmp_path / "fused").stage("fused").maps("test", "p0"))
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
    boxed_run: RunFolder,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    in_nowhere: Path,
) -> None:
    verb = 2 if words[0] == "export" else 1
    error = refused(capsys, lambda: bao(*words[:verb], boxed_run.root, *words[verb:]))
    assert "a run for boxes, and this step is for masks" in error
    assert list(in_nowhere.iterdir()) == []


def test_a_folder_of_one_half_is_no_folder_of_the_other(
    bao: Callable[..., None], boxed_run: RunFolder, tiny_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = boxed_run.manifest.read_text(encoding="utf-8"), tiny_run.manifest.read_text(encoding="utf-8")
    for verb in ("run", "train"):
        error = refused(capsys, lambda verb=verb: bao(verb, "demo", "--out", boxed_run.root, *DEVICE))
        assert str(boxed_run.root) in error and len(error) < 500
    data = pipeline.recipe_of(boxed_run).data.path
    words = ("bas-cub-vgg16", "--data", data, "--layout", "folder", "--out", tiny_run.root)
    assert "holds a run with another recipe" in refused(capsys, lambda: bao("localize", *words, *DEVICE))
    assert before == (boxed_run.manifest.read_text(encoding="utf-8"), tiny_run.manifest.read_text(encoding="utf-8"))


@pytest.mark.parametrize("verb", ["run", "train", "localize"])
def test_run_and_train_take_every_recipe_that_is_listed(
    verb: str, bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """--epochs means the same for all of them: those of each stage."""
    seen = []

    def noted(recipe: Recipe, out: Path, **options: object) -> RunFolder:
        seen.append((recipe, out))
        return RunFolder(out)

    monkeypatch.setattr(pipeline, "begin", noted)
    monkeypatch.setattr(pipeline, "run", noted)
    monkeypatch.setattr(pipeline, "train_stages", lambda folder, **options: None)
    for name in boxes.RECIPES if verb == "localize" else recipes.known():
        bao(verb, name, "--data", "here", "--epochs", "3", "--out", tmp_path, *DEVICE)
        assert seen == [(recipes.override(recipes.named(name), data="here", epochs=3), tmp_path)]
        assert {stage.schedule.epochs for stage in seen.pop()[0].stages} == {3}


def test_a_mistyped_file_of_weights_leaves_no_folder(
    bao: Callable[..., None], boxed_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", pipeline.recipe_of(boxed_run).data.path, "--layout", "folder")
    words = ("localize", "bas-cub-vgg16", *data, "--out", tmp_path / "run", "--weights", tmp_path / "mistyped.pth")
    assert "mistyped.pth: no such" in refused(capsys, lambda: bao(*words, *DEVICE))
    assert not (tmp_path / "run").exists()


def test_predict_with_a_localizer_names_one_class(
    bao: Callable[..., None], boxed_run: RunFolder, tmp_path: Path
) -> None:
    """Its mask is the likeliest class's map, cut where the recipe cuts the box."""
    data = Path(pipeline.recipe_of(boxed_run).data.path)
    bao("predict", boxed_run.root, data / "p0.png", "--out", tmp_path, "--accelerator", "cpu")
    found = baoseg.load(boxed_run.root)(data / "p0.png")
    with Image.open(tmp_path / "p0.png") as mask:
        assert np.array_equal(np.array(mask), found.mask)
    assert len(found.labels) == 1 and len(np.unique(found.mask)) <= 2


def test_prepare_checks_a_folder_with_boxes_as_one_for_localization(
    bao: Callable[..., None], boxed_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my pictures"
    shutil.copytree(pipeline.recipe_of(boxed_run).data.path, root)
    (root / "splits").mkdir()
    (root / "splits/test.txt").write_text("p1\np0\np3\n")
    (root / "splits/._test.txt").write_bytes(b"\0\5\x16\7\xff")  # of a Mac
    bao("prepare", "folder", root)
    out = capsys.readouterr().out
    assert out.startswith("test: 3 images, 2 classes: blue (2), red (1)\nType next:")
    assert f"bao run bas-cub-resnet50 --data '{root}' --out runs/bas-cub-resnet50 --layout folder" in out
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\np0.png,0.1,0.1,0.5,0.5\np1.png,9,9,3,3\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        bao("prepare", "folder", root)
    streams = capsys.readouterr()
    assert ended.value.code == 2 and "problems found: 2" in streams.err
    assert "line 2: the box 0.1" in streams.out and "line 3: the box 9" in streams.out
