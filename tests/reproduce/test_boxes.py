"""Tables about localization on generated images: which number of which stage stands beside a published one."""

import csv
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baoseg import nets
from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data import Config as DataConfig
from baoseg.data.boxed import Layout
from baoseg.methods import bas, cam
from baoseg.recipes import BoxConfig, Recipe, Stage, for_boxes
from baoseg.reproduce import boxes as tables
from baoseg.reproduce import published
from baoseg.reproduce.boxes import EXPERIMENTS, Source, measured
from baoseg.training import train
from baoseg.training.train import Hardware

HARDWARE = Hardware(accelerator="cpu", workers=0)
SCHEDULE = train.Config(epochs=1, batch_size=4, lr=1e-3)


def base(root: object) -> Recipe:
    return for_boxes(
        name="colours",
        data=DataConfig(path=str(root), layout=Layout.FOLDER),
        net=nets.Config(backbone="timm:test_efficientnet", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        stages=(
            Stage(method=cam.Config(), schedule=SCHEDULE, box=BoxConfig(threshold=0.2)),
            Stage(
                method=bas.Config(alpha=0.5, beta=1.5),
                schedule=SCHEDULE,
                box=BoxConfig(threshold=0.1, top_k=2),
                start="cam",
            ),
        ),
        side=72,
        crop=64,
        ten_crops=False,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two images of each of two classes, with boxes and masks, in a folder that is called as CUB."""
    root = tmp_path_factory.mktemp("data") / "CUB_200_2011"
    (root / "masks").mkdir(parents=True)
    labels, boxes = ["image,label"], ["image,x0,y0,x1,y1"]
    for colour, i in itertools.product(("red", "blue"), range(2)):
        pixels = np.full((60, 80, 3), 120, dtype=np.uint8)
        pixels[10:41, 10 * i : 10 * i + 31] = (220, 30, 20) if colour == "red" else (30, 40, 220)
        Image.fromarray(pixels).save(root / f"{colour}{i}.png")
        Image.fromarray((pixels[..., 0] != 120).astype(np.uint8)).save(root / f"masks/{colour}{i}.png")
        labels.append(f"{colour}{i}.png,{colour}")
        boxes.append(f"{colour}{i}.png,{10 * i},10,{10 * i + 30},40")
    (root / "labels.csv").write_text("\n".join(labels) + "\n", encoding="utf-8")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory) -> RunFolder:
    return tables.run("bas-table-1", base(pictures), tmp_path_factory.mktemp("runs") / "run", hardware=HARDWARE)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_stands_beside_published_rows_is_trained_and_published(name: str) -> None:
    experiment, table = EXPERIMENTS[name], published.table(name)
    config = dataclasses.replace(base("x"), net=nets.Config(backbone="timm:resnet50"))
    trained = dataclasses.replace(config, stages=tuple(experiment.stages(config)))  # refuses what starts from nowhere
    sources = experiment.sources(trained if name == "bas-table-1" else config)
    assert {source.stage for source in sources.values()} <= {stage.name for stage in trained.stages}
    if table.rows and name != "bas-figure-13":  # which has no row of CAM
        assert sources.keys() <= {row.key for row in table.rows}
    assert sources or experiment.draw
    assert {column.metric for column in table.columns if "mIoU" not in column.metric} <= tables.METRICS.keys()


def test_each_stage_differs_from_the_recipe_by_what_the_table_is_about() -> None:
    own = base("x").stages[1]

    def changes(name: str) -> dict[str, dict[str, object]]:
        return {
            stage.name: {key: v for key, v in vars(stage.method).items() if v != getattr(own.method, key)}
            for stage in EXPERIMENTS[name].stages(base("x"))
            if isinstance(stage.method, bas.Config)
        }

    assert changes("bas-table-2") == {"bas-without-suppression": {"weight": 0.0}, "bas": {}}
    assert changes("bas-table-3")["bas-layer-1"] == {"generator_after": 1}
    assert changes("bas-table-5") == {"bas-conference": {"relu": bas.Relu.CONFERENCE}, "bas-raw": {}}
    grid = changes("bas-figure-9")
    assert len(grid) == 5 + 5 + 4 - 2  # three lines meet in one point, of which alpha 0.5 is none
    assert all(len(change) <= 1 for change in grid.values())


def test_the_rows_of_another_backbone_stand_by_themselves(finished: RunFolder, pictures: Path) -> None:
    """CAM and BAS of all of the paper's backbones, and ours, of a network that the paper has not, below."""
    found = rows(finished.root / "bas-table-1.csv")
    ours = [row for row in found if row["ours"]]
    assert {row["row"] for row in ours} == {"cam test_efficientnet", "bas test_efficientnet"}
    assert {row["published on"] for row in found} == {"CUB-200-2011 test"}
    for row in ours:
        metrics = read_json(finished.stage(row["ours is"]).metrics)
        key = {"GT-known Loc": "gt_known", "Top-1 Loc": "top1", "Top-5 Loc": "top5"}[row["measured"].split(", ")[1]]
        assert float(row["ours"]) == metrics[key]


def test_rows_of_the_backbone_alone_where_the_paper_has_it(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "backbone_of", lambda config: "resnet50")
    lines = tables.compare(finished, published.table("bas-table-1"), EXPERIMENTS["bas-table-1"])
    assert all(line.row.endswith("ResNet50") for line in lines)
    by_row = {line.row: line for line in lines if line.column == "CUB test, GT-known Loc"}
    assert by_row["BAS, ResNet50"].published == 95.41
    assert by_row["BAS, ResNet50"].ours == read_json(finished.stage("bas").metrics)["gt_known"]
    assert by_row["FAM, ResNet50"].source == "not trained here"


def test_each_metric_is_the_one_of_its_name(finished: RunFolder) -> None:
    metrics = read_json(finished.stage("bas").metrics)
    column = {column.metric: column for name in EXPERIMENTS for column in published.table(name).columns}
    assert measured(finished, Source("bas"), column["MaxBoxAccV2"]) == pytest.approx(
        sum(metrics["oracle"]["max_box_accuracy"]) / 3
    )
    assert measured(finished, Source("bas"), column["PIoU"]) == metrics["oracle"]["peak_iou"]["iou"]
    assert measured(finished, Source("bas"), column["PxAP"]) == metrics["pixel_average_precision"]
    assert measured(finished, Source("bas", 2), column["Top-1 Loc"]) == metrics["top1"]
    assert measured(finished, Source("bas", 1), column["PxAP"]) is None


@pytest.mark.parametrize("name", ["bas-figure-10", "bas-figure-13", "bas-figure-15"])
def test_figures_are_drawn_from_a_finished_run(name: str, finished: RunFolder) -> None:
    figure = EXPERIMENTS[name].draw(finished, HARDWARE)
    (axes,) = figure.axes
    assert len(axes.lines) >= (1 if name == "bas-figure-10" else 2)
    if name == "bas-figure-10":
        assert axes.lines[0].get_ydata().tolist() == read_json(finished.stage("bas").metrics)["top_k_curve"]["gt_known"]


def test_the_curves_of_both_relus_and_of_activation_are_drawn(pictures: Path, tmp_path: Path) -> None:
    folder = tables.run("bas-figure-12", base(pictures), tmp_path / "relu", hardware=HARDWARE)
    assert (folder.root / "bas-figure-12.png").exists()
    with progress.console.capture() as captured:
        folder = tables.run("bas-figure-6", base(pictures), tmp_path / "explore", hardware=HARDWARE)
    assert "CUB-200-2011" in captured.get()
    assert float(rows(folder.root / "activations.csv")[5]["relative area"]) == 1.0


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(pictures: Path, tmp_path: Path) -> None:
    config = base(pictures)
    with pytest.raises(RecipeError, match="not about boxes"):
        tables.run("bnr-table-1", config, tmp_path / "run", hardware=HARDWARE)
    with pytest.raises(RecipeError, match="has 0 stages of bas"):
        tables.run("bas-table-3", dataclasses.replace(config, stages=config.stages[:1]), tmp_path, hardware=HARDWARE)
    bare = tmp_path / "bare"
    bare.mkdir()
    Image.new("RGB", (9, 9)).save(bare / "a.png")
    (bare / "labels.csv").write_text("image,label\na.png,red\n", encoding="utf-8")
    with pytest.raises(DataError, match="no masks for test"):
        tables.run("bas-figure-15", base(bare), tmp_path / "run", hardware=HARDWARE)
    assert not (tmp_path / "run").exists()
