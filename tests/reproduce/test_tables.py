import csv
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from baoseg import nets, pipeline, seeds
from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.evaluate import Confusion
from baoseg.methods import bas
from baoseg.predict import labeler, maps, segment
from baoseg.recipes import Recipe, Segmentation, override, papers
from baoseg.reproduce import boxes as box_tables
from baoseg.reproduce import published
from baoseg.reproduce import tables as reproduce
from baoseg.reproduce.experiments import EXPERIMENTS
from baoseg.reproduce.figures import VOC
from baoseg.reproduce.lines import Line, Measure, Source, called_alike
from baoseg.reproduce.published import Column
from baoseg.seeds import SeedMaps, masks
from baoseg.training import train

SHORT = replace(
    tiny.RECIPE,
    data=replace(tiny.RECIPE.data, synthetic=SyntheticConfig(size=64, train_images=4, eval_images=3)),
    stages=tuple(replace(stage, schedule=replace(stage.schedule, epochs=1)) for stage in tiny.RECIPE.stages),
    maps=maps.Config(sizes=(64,)),
)
CNN = replace(SHORT, net=nets.Config(backbone="timm:resnet10t"))


def base(name: str) -> Recipe:
    return CNN if name.startswith("bas-") else SHORT


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shows_colours(path: Path) -> bool:
    with Image.open(path) as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=picture.width * picture.height)
    return any(max(colour) - min(colour) > 60 for _, colour in colours)  # lines that are neither white nor grey


# --------------------------------------------------------------------------------------- the entries


def test_every_published_table_and_figure_has_an_entry() -> None:
    known = published.tables()
    boxes = box_tables.EXPERIMENTS
    assert EXPERIMENTS.keys() | boxes.keys() == known.keys()
    for entries in (EXPERIMENTS, boxes):
        assert list(entries) == [name for name in known if name in entries]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_keys_are_published_and_stages_are_trained(name: str) -> None:
    table, experiment = published.table(name), EXPERIMENTS[name]
    recipe, sources = experiment.recipe(base(name)), experiment.sources(base(name))
    if table.rows:
        summands = {"bas"} if experiment.others else set()  # shown by itself where the paper has its sums alone
        assert {*sources, *experiment.reasons} - summands <= {row.key for row in table.rows}
    assert {source.stage for source in sources.values()} <= set(recipe.names)
    assert not set(sources) & set(experiment.reasons)
    assert sources or experiment.draw
    assert experiment.judge is None or experiment.judge in recipe.names


def test_schedules_are_the_base_recipes_own() -> None:
    for name, experiment in EXPERIMENTS.items():
        first, last = base(name).stages[0].schedule, base(name).stages[-1].schedule
        for stage in experiment.recipe(base(name)).stages:
            schedule = replace(stage.schedule, epochs=1)
            assert schedule == replace(first if stage.start is None else last, epochs=1)


def test_the_weights_of_bas_are_those_that_the_rows_name() -> None:
    experiment = EXPERIMENTS["bas-table-7"]
    stages = {stage.name: stage.method for stage in experiment.recipe(CNN).stages}
    sources = experiment.sources(CNN)
    assert len(sources) == len(stages) == 5
    for key, source in sources.items():
        method = stages[source.stage]
        assert isinstance(method, bas.Config)
        assert key == f"bas alpha={method.alpha} beta={method.beta} lambda={method.weight}"


def test_the_grid_of_figure_18_varies_one_weight_at_a_time() -> None:
    stages = EXPERIMENTS["bas-figure-18"].recipe(CNN).stages
    assert len(stages) == 13  # three lines of five points that meet in one
    for stage in stages:
        settings = vars(stage.method)
        assert sum(settings[weight] != value for weight, value in VOC.items()) == (stage.name != "bas")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'table-1'; there are bao-table-1, bao-figure-4"):
        reproduce.run("table-1", SHORT, tmp_path, hardware=tiny.HARDWARE)


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("name", "recipe", "seeds", "message"),
    [
        ("bnr-table-5", CNN, {}, "about self-attention, which timm:resnet10t has not"),
        ("bas-table-8", SHORT, {}, "use a convolutional network"),
        ("bas-figure-6", SHORT, {}, "use a convolutional network"),
        ("bao-table-1", override(SHORT, only="bao"), {}, "begins with bao"),
        ("bas-table-5", CNN, {}, "is about boxes; name a recipe for them"),
        ("bao-table-1", SHORT, {"seco": "."}, "no seeds called 'seco'; it takes none"),
        ("bas-table-14", CNN, {"irn": "."}, "no seeds called 'irn'; it takes clims, w-ood"),
        ("bas-table-14", CNN, {"bas": "."}, "no seeds called 'bas'"),
        ("bas-table-14", CNN, {"clims": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_before_anything_is_trained(
    name: str, recipe: Recipe, seeds: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises((RecipeError, DataError), match=message):
        reproduce.run(name, recipe, tmp_path / "run", hardware=tiny.HARDWARE, seeds=seeds)
    assert not (tmp_path / "run").exists()


def test_images_without_ground_truth_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    Image.new("RGB", (64, 64)).save(data / "one.png")
    (data / "labels.csv").write_text("image,labels\none.png,dog\n")
    with pytest.raises(DataError, match="no ground truth"):
        reproduce.run("bao-table-1", tiny.with_data(SHORT, data), tmp_path / "run", hardware=tiny.HARDWARE)


# ------------------------------------------------------------------------------ ours beside published


@pytest.mark.parametrize(
    ("path", "data", "alike"),
    [
        ("data/VOCdevkit/VOC2012", "PASCAL VOC 2012", True),
        ("coco2014", "MS COCO 2014", True),
        ("VOC2007", "PASCAL VOC 2012", False),
        ("synthetic", "PASCAL VOC 2012", False),
        ("msrc14", "MS COCO 2014", False),
        (".", "PASCAL VOC 2012", False),
    ],
)
def test_data_are_the_papers_only_when_called_so(path: str, data: str, alike: bool) -> None:
    assert called_alike(path, data) is alike


def test_lines_take_the_numbers_of_metrics_json(tiny_run: RunFolder) -> None:
    sources = {"transcam": Source("transcam", Measure.ORACLE), "bao": Source("bao", Measure.MASKS)}
    lines = reproduce.compare(tiny_run, published.table("bao-table-1"), EXPERIMENTS["bao-table-1"], sources)
    assert len(lines) == 3 * 4
    found = {(line.row.split()[0], line.column): line for line in lines}
    own = {
        "TransCAM": read_json(tiny_run.stage("transcam").metrics)["oracle"]["miou"],
        "BAO": read_json(tiny_run.stage("bao").metrics)["threshold_free"]["miou"],
    }
    for (row, column), line in found.items():
        if column == "VOC train, seed" and row in own:
            assert line.ours == own[row] and line.difference == own[row] - line.published
        else:
            assert line.ours is None and line.difference is None and line.source not in ("transcam", "bao")
    assert found["BAO", "VOC train, seed"].published == 75.5
    assert found["SeCo", "VOC train, seed"].source == "a method of others"
    assert found["BAO", "VOC val"].source == "the recipe has no segmentation network"
    assert found["BAO", "VOC test"].source == "its ground truth is the server's: `bao export voc`"
    assert found["BAO", "VOC train, mask"].source == "the recipe has no refinement: name a way with --refine"


def test_columns_of_classes_take_the_class_of_that_name(tiny_run: RunFolder) -> None:
    metrics = read_json(tiny_run.stage("bao").metrics)

    def measured(label: str, measure: Measure) -> float | None:
        column = Column(key="voc-train-seed-x", label=label, data="", split="", metric="IoU")
        return reproduce._measured(tiny_run, Source("bao", measure), column)

    for i, label in enumerate(metrics["classes"]):
        assert measured(label, Measure.MASKS) == metrics["threshold_free"]["iou"][i]
        assert measured(label, Measure.ORACLE) == metrics["oracle"]["iou"][i]
    assert measured("unicorn", Measure.ORACLE) is None


def test_data_called_as_one_of_the_papers_stand_beside_that_alone(
    tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.with_data(pipeline.recipe_of(tiny_run), "somewhere/coco2014")
    monkeypatch.setattr(pipeline, "recipe_of", lambda folder: recipe)
    sources = {"transcam": Source("transcam", Measure.ORACLE)}
    lines = reproduce.compare(tiny_run, published.table("bnr-table-1"), EXPERIMENTS["bnr-table-1"], sources)
    measured = [line for line in lines if line.ours is not None]
    assert [(line.row, line.published_on) for line in measured] == [("TransCAM", "MS COCO 2014 train")]
    assert any(line.source == "ours is of somewhere/coco2014" for line in lines)


# --------------------------------------------------------------------------------------- whole runs


def test_a_table_says_what_ours_is_and_is_written_as_csv(tmp_path: Path) -> None:
    with progress.console.capture() as captured:
        folder = reproduce.run("bao-table-1", SHORT, tmp_path / "run", hardware=tiny.HARDWARE)
    text = captured.get()
    assert "Ours: synthetic, val, 3 images, network conformer_nano." in text
    assert "synthetic is not the paper's data" in text
    (line,) = [row for row in rows(folder.root / "bao-table-1.csv") if row["ours is"] == "bao, masks"]
    expected = read_json(folder.stage("bao").metrics)["threshold_free"]["miou"]
    assert float(line["ours"]) == expected
    assert float(line["published"]) == 75.5
    assert float(line["difference"]) == pytest.approx(expected - 75.5)
    assert line["published on"] == "PASCAL VOC 2012 train"
    printed = next(part for part in text.splitlines() if part.strip().endswith("bao, masks"))
    assert f"{expected:.1f}" in printed and f"{expected - 75.5:+.1f}" in printed
    assert folder.report.exists()


NETWORK = Segmentation(
    masks="elsewhere",
    schedule=train.Config(epochs=1, batch_size=2, lr=1e-3),
    net=segment.NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16),
    inference=segment.Inference(scales=(1.0,), flip=False),
)


def test_masks_and_segmentation_networks_are_measured_for_each_trained_row(tmp_path: Path) -> None:
    """Of both stages the masks after a CRF, and a network that learned from these."""
    base = replace(override(SHORT, refine=["crf"]), segmentations=(NETWORK,))
    folder = reproduce.run("bao-table-1", base, tmp_path / "run", hardware=tiny.HARDWARE)
    found = {(row["row"].split()[0], row["measured"]): row for row in rows(folder.root / "bao-table-1.csv")}
    for row, stage in (("TransCAM", "transcam"), ("BAO", "bao")):
        refined = read_json(folder.stage(f"{stage}+crf").metrics)["refined"]["miou"]
        predicted = read_json(folder.stage(f"{stage}+segment").metrics)["predicted"]["miou"]
        assert float(found[row, "VOC train, mask"]["ours"]) == refined
        assert float(found[row, "VOC val"]["ours"]) == predicted
        assert found[row, "VOC train, mask"]["ours is"] == f"{stage}+crf, masks"
        assert found[row, "VOC val"]["ours is"] == f"{stage}+segment, masks"
        assert found[row, "VOC test"]["ours"] == ""
        learned = {one.name: one.masks for one in pipeline.recipe_of(folder).segmentations}
        assert learned[f"{stage}+segment"] == f"{stage}+crf"
    assert found["SeCo", "VOC train, mask"]["ours is"] == "a method of others"


def test_a_network_is_not_measured_on_what_it_learned_from(tmp_path: Path) -> None:
    """And none is trained for a column that only the server of VOC can fill, or that is not there."""
    base = replace(override(SHORT, refine=["crf"]), segmentations=(NETWORK,))
    table = published.table("bao-table-1")
    same = replace(base, data=replace(base.data, eval_split="train"))
    made = reproduce._with_masks(replace(same, refinements=(), segmentations=()), same, table)
    assert [one.name for one in made.refinements] == ["transcam+crf", "bao+crf"] and made.segmentations == ()
    assert "--eval-split" in reproduce._why_not(made, reproduce.Kind.NETWORK)
    for name in ("bnr-table-2-test", "bnr-table-5"):
        made = reproduce._with_masks(replace(base, refinements=(), segmentations=()), base, published.table(name))
        assert made.refinements == made.segmentations == ()


def test_a_chain_of_refinements_is_followed_to_its_end() -> None:
    """PSA and then a CRF, for each stage; in BNR's table 1 masks have lines of their own."""
    base = replace(papers.bnr_voc(), data=SHORT.data)
    recipe = EXPERIMENTS["bnr-table-1"].recipe(base)
    made = reproduce._with_masks(recipe, base, published.table("bnr-table-1"))
    assert [(one.of, one.name) for one in made.refinements] == [
        ("transcam", "transcam+psa"),
        ("transcam+psa", "transcam+psa+crf"),
        ("bnr", "bnr+psa"),
        ("bnr+psa", "bnr+psa+crf"),
    ]
    table, experiment = published.table("bnr-table-1"), EXPERIMENTS["bnr-table-1"]
    column = table.columns[1]

    def beside(key: str) -> Source | None:
        sources = experiment.sources(base)
        return reproduce._beside(key, column, table=table, sources=sources, experiment=experiment, recipe=made)[0]

    assert beside("bnr+psa") == Source("bnr+psa+crf", Measure.MASKS)
    assert beside("bnr") is None


def test_the_figure_of_epochs_is_drawn(tmp_path: Path) -> None:
    folder = reproduce.run("bao-figure-4", SHORT, tmp_path / "run", hardware=tiny.HARDWARE)
    assert shows_colours(folder.root / "bao-figure-4.png")
    found = {row["row"]: row for row in rows(folder.root / "bao-figure-4.csv")}
    assert found["BAO, EMA only"]["published"] == ""
    (epoch,) = rows(folder.stage("ema").epochs)
    assert float(found["BAO, EMA only"]["ours"]) == pytest.approx(float(epoch["miou"]), abs=0.2)  # half precision


def test_the_curves_of_activation_are_drawn(tmp_path: Path) -> None:
    with progress.console.capture() as captured:
        folder = reproduce.run("bas-figure-6", CNN, tmp_path / "run", hardware=tiny.HARDWARE)
    assert "they choose nothing" in captured.get()
    assert shows_colours(folder.root / "bas-figure-6.png")
    assert float(rows(folder.root / "activations.csv")[5]["relative area"]) == 1.0


def test_a_threshold_for_each_image_and_seeds_of_others(tmp_path: Path) -> None:
    save_truth(StageFolder(tmp_path / "cda"))
    out = tmp_path / "run"
    folder = reproduce.run("bas-table-15", CNN, out, hardware=tiny.HARDWARE, seeds={"cda": str(tmp_path / "cda")})
    found = {(row["row"], "each image" in row["measured"]): row for row in rows(out / "bas-table-15.csv")}
    assert [key for key, row in found.items() if row["ours"]] == [
        (row, each) for row in ("CAM", "CDA", "BAS") for each in (False, True)
    ]
    assert found["ReCAM", False]["ours is"] == "needs seeds of others: recam"
    assert [float(found["CDA", each]["ours"]) for each in (False, True)] == [100, 100]  # at any threshold above 0
    assert float(found["BAS", True]["ours"]) == read_json(folder.stage("bas").metrics)["image_specific"]["miou"]
    assert float(found["CAM", True]["ours"]) == pytest.approx(by_hand(folder, "cam"))


def save_truth(stage: StageFolder) -> None:
    """Seeds as good as can be: the ground truth."""
    pictures = pipeline.open_split(CNN, None)
    for i, name in enumerate(pictures.names):
        truth = pictures.mask(i)
        assert truth is not None
        classes = pictures.labels(i).nonzero()[:, 0] + 1
        scores = (truth == classes[:, None, None]).float()
        seeds.save(stage.maps(pictures.split, name), SeedMaps(classes, scores, None, (64, 64)))


def by_hand(folder: RunFolder, name: str) -> float:
    """mIoU of a stage's seeds, each cut where the losses of the trained BAS are least."""
    pictures = pipeline.open_split(CNN, None)
    judge = labeler.load(folder.stage("bas").network)
    normalisation = judge.method.network.normalisation
    confusion = Confusion(len(pictures.classes))
    for i, picture in enumerate(pictures.names):
        seed = seeds.load(folder.stage(name).maps(pictures.split, picture))
        sample, config = pictures[i], bas.Config()
        assert sample.mask is not None
        image = (sample.image.float() / 255 - column(normalisation.mean)) / column(normalisation.std)
        threshold = bas.image_threshold(
            judge.method.network, image[None], sample.labels, seed.scores, config=config, fixed=judge.masks.threshold
        )
        confusion.update(masks.to_mask(seed, threshold=threshold), sample.mask)
    return confusion.scores().miou


def column(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def test_sums_with_seeds_of_others_are_fused(tmp_path: Path) -> None:
    table, experiment = published.table("bas-table-9"), EXPERIMENTS["bas-table-9"]
    given = {"advcam": str(tmp_path), "cda": str(tmp_path)}
    recipe = reproduce._with_others(experiment.recipe(CNN), table, experiment, given, allow_pickle=True)
    fused = {fusion.called: fusion.sources for fusion in recipe.fusions}
    assert fused["advcam"] == (str(tmp_path),) and fused["bas+advcam"] == ("bas", "advcam")
    assert set(fused) == {"advcam", "cda", "bas+cda", "bas+advcam", "advcam+cda", "cda+advcam"}


def test_the_difference_is_none_where_a_number_is_missing() -> None:
    line = Line(row="", column="", published_on="", ours=50.0, published=None, source="")
    assert line.difference is None
    assert replace(line, published=60.0).difference == -10.0


def test_settings_that_are_set_reach_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the recipe before the table is made of it, those of a row afterwards."""
    made = []
    monkeypatch.setattr(pipeline, "run", lambda recipe, *_, **__: made.append(recipe) or 1 / 0)
    values = ["stages.transcam.schedule.epochs=7", "seed=3", "stages.bas-alpha-0.5-beta-1.5.method.weight=0.25"]
    with pytest.raises(ZeroDivisionError):
        reproduce.run("bas-table-7", CNN, tmp_path, hardware=tiny.HARDWARE, values=values)
    (recipe,) = made
    last = CNN.stages[-1].schedule.epochs
    assert recipe.seed == 3
    assert {stage.schedule.epochs for stage in recipe.stages} == {7 + last}  # BAS has the epochs of both
    assert {stage.name for stage in recipe.stages if stage.method.weight == 0.25} == {"bas-alpha-0.5-beta-1.5"}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("stages.bnr.called=first", "a table finds its stages by their names; change no method"),
        ("stages.bao.method.doubt=0.25", "changes nothing of what is to run here"),
        ("stages.amn.schedule.epochs=2", "no such setting; did you mean stages"),
    ],
)
def test_settings_that_a_table_cannot_take_are_refused(value: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=problem):
        reproduce.run("bnr-table-1", SHORT, tmp_path, hardware=tiny.HARDWARE, values=[value])
    assert not [*tmp_path.iterdir()]
