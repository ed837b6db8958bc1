"""Localization from begin to page on generated images."""

import csv
import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_boxes import BAS, COLOURS, HARDWARE, NET, SCHEDULE, data_in, settings, write_images

import baoseg
from baoseg import nets, pipeline, recipes, seeds
from baoseg.core.errors import BaosegError, DataError, RecipeError, RunError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import Batch
from baoseg.data import Config as DataConfig
from baoseg.data import boxed, open_boxed, transforms
from baoseg.methods import amn, bas, cam, make
from baoseg.nets import Heads, weights
from baoseg.pipeline import boxes, training
from baoseg.predict import labeler, maps
from baoseg.predict.boxes import BoxConfig, ViewConfig
from baoseg.recipes import Recipe, Stage, Task
from baoseg.reproduce import exploration
from baoseg.seeds import masks
from baoseg.training import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    """A run of all steps; tests read it."""
    root = tmp_path_factory.mktemp("pictures")
    write_images(root)
    return pipeline.run(settings(root), tmp_path_factory.mktemp("runs") / "run", hardware=HARDWARE)


def rows_of(run: RunFolder, name: str) -> list[dict[str, str]]:
    with (run.stage(name).root / "boxes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- training ------------------------------------------------------------------------------------------------------


def single_label_batch(generator) -> Batch:
    labels = torch.eye(3)[[0, 2, 1, 1]]
    images = torch.randn(4, 3, 64, 64, generator=generator)
    return Batch(images, labels, torch.ones(4, 1, 64, 64, dtype=torch.bool))


@pytest.mark.parametrize("relu", bas.Relu)
@torch.no_grad()
def test_with_one_label_bas_has_the_loss_of_equation_8(generator, relu):
    """Eq. 7 for the class, and the label's own map in eq. 3 to 6."""
    config = dataclasses.replace(BAS, relu=relu)
    network = nets.build(NET, 3, heads=Heads(generator_after=3)).eval()
    torch.nn.init.normal_(network.class_head.weight, std=0.3)
    method, batch = bas.BAS(network, config), single_label_batch(generator)
    terms = method.loss(batch)
    targets = batch.labels.argmax(dim=1).tolist()
    lower, upper, _ = network.split()
    features = lower(batch.images)
    predicted = network.prediction_maps(features)

    def class_maps(values):
        found = F.conv2d(upper(values), network.class_head.weight[1:])
        return found.clamp(min=0) if relu is bas.Relu.CONFERENCE else found

    whole = class_maps(features)
    masks = torch.stack([predicted[i, c] for i, c in enumerate(targets)])[:, None]
    background = class_maps(features * (1 - masks)).mean(dim=(2, 3))
    totals = dict.fromkeys(terms, 0.0)
    for i, c in enumerate(targets):
        logits = whole[i].mean(dim=(1, 2))
        totals["classification"] += float(logits.logsumexp(dim=0) - logits[c]) / 4
        pooled = F.interpolate(masks[i : i + 1], size=whole.shape[-2:], mode="area")[0]
        seen = (pooled * whole[i]).mean(dim=(1, 2))
        totals["guidance"] += 0.5 * float(seen.logsumexp(dim=0) - seen[c]) / 4
        totals["area"] += 1.5 * float(masks[i].mean()) / 4
        ratio = max(float(background[i, c]), 0.0) / (max(float(logits[c]), 0.0) + 1e-8)
        totals["suppression"] += min(ratio, 1.0) / 4
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(totals, rel=1e-3, abs=1e-5)


@torch.no_grad()
def test_cam_learns_by_cross_entropy(generator):
    network = nets.build(NET, 3)
    batch = single_label_batch(generator)
    logits = network.class_maps(network(batch.images)).mean(dim=(2, 3)).double()
    expected = sum(float(row.exp().sum().log() - row[c]) for row, c in zip(logits, (0, 2, 1, 1), strict=True))
    found = make(cam.Config(), network, single_label=True).loss(batch)["classification"].item()
    assert found == pytest.approx(expected / 4, rel=1e-4)


def test_training_sees_crops_of_the_whole_image():
    augment = settings("").augment
    assert augment.resize_long == (72, 72)
    assert augment.crop == 64
    assert augment.flip
    assert augment.brightness == augment.contrast == augment.saturation == augment.hue == 0


# --- the run -------------------------------------------------------------------------------------------------------


def test_what_a_run_leaves(finished):
    for name in ("cam", "bas"):
        paths = finished.stage(name)
        metrics, rows = read_json(paths.metrics), rows_of(finished, name)
        assert [row["name"] for row in rows] == [f"{colour}{i}" for colour in COLOURS for i in range(2)]
        ious, ranks = [float(row["iou"]) for row in rows], [int(row["rank"]) for row in rows]
        right = [iou >= 0.5 for iou in ious]
        assert metrics["gt_known"] == pytest.approx(100 * sum(right) / 6)
        assert metrics["top1"] == pytest.approx(
            100 * sum(r and rank < 1 for r, rank in zip(right, ranks, strict=True)) / 6
        )
        assert metrics["oracle"]["peak_iou"] is not None  # of the three images with a mask
        assert metrics["gt_known"] <= metrics["oracle"]["max_box_accuracy"][1] + 1e-9
        assert not paths.state.exists()
        assert read_json(paths.costs)["train"]["epochs"] == 2
    assert read_json(finished.stage("cam").metrics)["image_specific"] is None
    metrics, rows = read_json(finished.stage("bas").metrics), rows_of(finished, "bas")
    own = [float(row["image_iou"]) >= 0.5 for row in rows]
    assert metrics["image_specific"]["gt_known"] == pytest.approx(100 * sum(own) / 6)
    curve = metrics["top_k_curve"]
    assert curve["k"] == [1, 2, 3]
    for key in ("gt_known", "top1", "top5"):
        assert curve[key][1] == pytest.approx(metrics[key])  # of k = 2, as the settings say


def test_the_page_shows_every_image_and_loads_nothing(finished):
    page = finished.report.read_text(encoding="utf-8")
    assert page.count("<rect x=") >= 6 * 3  # the truth and two methods
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script" not in page
    for name in ("cam", "bas", "green1", "MaxBoxAccV2", "oracle"):
        assert name in page


def test_a_second_call_repeats_nothing_and_measures_what_is_missing(finished):
    config = pipeline.recipe_of(finished)
    files = [finished.stage("bas").network, finished.stage("cam").network, finished.stage("cam").metrics]
    before = [path.stat().st_mtime_ns for path in files]
    metrics = finished.stage("bas").metrics
    found = read_json(metrics)
    metrics.unlink()
    pipeline.run(config, finished.root, hardware=HARDWARE)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert read_json(metrics) == found


# --- many processes ------------------------------------------------------------------------------------------------

ON_TWO = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = {tests!r}
import torch, test_boxes
from baoseg import pipeline
torch.set_num_threads(1)
config = test_boxes.plain(sys.argv[1])
pipeline.run(config, Path(sys.argv[2]), hardware=replace(test_boxes.HARDWARE, devices=2))
"""


def plain(root: object) -> Recipe:
    """Without batch statistics and momentum of them, means do not depend on how a batch is divided."""
    schedule = train.Config(epochs=1, batch_size=4, lr=1e-4)
    net = dataclasses.replace(NET, freeze_batch_norm=True)
    stages = tuple(dataclasses.replace(stage, schedule=schedule) for stage in settings(root).stages)
    return settings(root, net=net, stages=stages)


def test_two_processes_localize_as_one_does(tmp_path: Path) -> None:
    """Five images: the last turn is the first process's alone. Its report is the only one."""
    (tmp_path / "data").mkdir()
    write_images(tmp_path / "data")
    labels = tmp_path / "data" / "labels.csv"
    labels.write_text("\n".join(labels.read_text(encoding="utf-8").splitlines()[:-1]) + "\n", encoding="utf-8")
    boxes = tmp_path / "data" / "boxes.csv"
    boxes.write_text("\n".join(boxes.read_text(encoding="utf-8").splitlines()[:-1]) + "\n", encoding="utf-8")
    alone = pipeline.run(plain(tmp_path / "data"), tmp_path / "alone", hardware=HARDWARE)
    script = tmp_path / "script.py"
    script.write_text(ON_TWO.format(tests=[str(folder) for folder in Path(__file__).parents[:2]]), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, str(script), str(tmp_path / "data"), str(tmp_path / "both")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: ") == 1
    both = RunFolder(tmp_path / "both")
    files = [{path.relative_to(run.root) for path in run.root.rglob("*") if path.is_file()} for run in (alone, both)]
    assert files[0] == files[1]
    for name in ("cam", "bas"):
        assert [row["name"] for row in rows_of(both, name)] == [row["name"] for row in rows_of(alone, name)]
        assert read_json(both.stage(name).metrics)["images"] == 5
        ours, theirs = (float(rows_of(run, name)[-1]["iou"]) for run in (alone, both))
        assert ours == pytest.approx(theirs, abs=0.05)  # gradients are added up in another order


def test_findings_of_many_processes_come_in_the_order_of_the_images(finished, monkeypatch) -> None:
    """Both of two processes see what one sees: here each in its turn finds its own, and gets the other's."""
    config = pipeline.recipe_of(finished)
    dataset, stage = open_boxed(config.data, "eval"), config.stages[1]
    model = labeler.load(finished.stage("bas").network)

    def found(index: int | None) -> object:
        if index is None or index >= len(dataset):
            return None
        return boxes._measured(model, dataset, index, recipe=config, stage=stage, top=[1, 2, 3])

    monkeypatch.setattr(boxes.ranks, "world", lambda: 4)
    for rank in (0, 3):  # 6 images: the first has two turns, the last one and a turn without an image
        turns = itertools.count()
        monkeypatch.setattr(boxes.ranks, "rank", lambda rank=rank: rank)

        def gathered(own: object, turns=turns, rank: int = rank) -> list[object]:
            first = 4 * next(turns)
            everyone = [found(first + other) for other in range(4)]
            assert (own is None) == (everyone[rank] is None)
            return [own if other == rank else one for other, one in enumerate(everyone)]

        monkeypatch.setattr(boxes.ranks, "gathered", gathered)
        tally = boxes.Tally()
        pairs = list(boxes._pairs(model, dataset, recipe=config, stage=stage, top=[1, 2, 3], tally=tally))
        assert [prediction.name for prediction, _ in pairs] == [row["name"] for row in rows_of(finished, "bas")]
        assert [str(row["iou"]) for row in tally.rows] == [row["iou"] for row in rows_of(finished, "bas")]


# --- mistakes ------------------------------------------------------------------------------------------------------


def of(method, **options) -> Stage:
    return Stage(method=method, schedule=SCHEDULE, box=BoxConfig(threshold=0.1), **options)


def test_stages_of_one_method_have_names_of_their_own():
    twice = [
        Stage(method=BAS, schedule=SCHEDULE, box=BoxConfig(threshold=0.1), called=name) for name in (None, "other")
    ]
    assert [stage.name for stage in settings("", stages=tuple(twice)).stages] == ["bas", "other"]
    with pytest.raises(RecipeError, match="each once"):
        settings("", stages=(twice[0], twice[0]))


def test_a_run_refuses_what_is_not_its_own(finished, tmp_path):
    config = pipeline.recipe_of(finished)
    with pytest.raises(RunError, match=r"holds a run with another recipe .seed was 0, now 1.; choose another folder"):
        pipeline.begin(dataclasses.replace(config, seed=1), finished.root)
    with pytest.raises(RunError, match=r"holds a run with another recipe .stages.cam.schedule.epochs was 2, now 3."):
        first = dataclasses.replace(config.stages[0], schedule=dataclasses.replace(SCHEDULE, epochs=3))
        pipeline.begin(dataclasses.replace(config, stages=(first, *config.stages[1:])), finished.root)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is no run folder"):
        pipeline.begin(config, tmp_path)
    (tmp_path / "run.json").write_text("{}")
    for refused in (lambda: pipeline.recipe_of(RunFolder(tmp_path)), lambda: pipeline.begin(config, tmp_path)):
        with pytest.raises(RunError, match="is no manifest of a run"):
            refused()


def test_a_trial_of_boxes_takes_four_images_and_one_epoch(tmp_path):
    write_images(tmp_path)
    recipe = recipes.smoke(settings(tmp_path, side=256, crop=224))
    assert recipe.view == ViewConfig(side=72, crop=64)
    run = pipeline.run(recipe, tmp_path / "run", hardware=HARDWARE)
    assert [row["name"] for row in rows_of(run, "bas")] == ["blue0", "blue1", "green1", "red0"]
    assert read_json(run.stage("bas").costs)["train"]["epochs"] == 1


def test_a_box_that_is_corrected_is_measured_anew(tmp_path):
    """Boxes are ground truth: nothing is trained on them, so a correction locks no run."""
    write_images(tmp_path)
    run = pipeline.run(settings(tmp_path, ten_crops=False), tmp_path / "run", hardware=HARDWARE)
    before = rows_of(run, "cam")
    boxes_file, network = tmp_path / "boxes.csv", run.stage("cam").network
    trained = network.stat().st_mtime_ns
    crop = [int(before[0][corner]) + 4 for corner in boxes.CORNERS]  # what was found, in pixels of the square
    other = [-(-crop[0] * 80 // 72), -(-crop[1] * 60 // 72), -(-crop[2] * 80 // 72), -(-crop[3] * 60 // 72)]
    lines = boxes_file.read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith("blue0.png,")
    lines[1] = f"blue0.png,{','.join(map(str, other))}"
    boxes_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pipeline.run(settings(tmp_path, ten_crops=False), run.root, hardware=HARDWARE)
    after = rows_of(run, "cam")
    assert float(before[0]["iou"]) < 0.8 < float(after[0]["iou"]) and after[1:] == before[1:]
    assert network.stat().st_mtime_ns == trained


def test_a_stage_starts_with_the_weights_of_another(tmp_path, finished, monkeypatch):
    config = pipeline.recipe_of(finished)
    first, second = config.stages
    config = dataclasses.replace(config, stages=(first, dataclasses.replace(second, start="cam")))
    run = pipeline.begin(config, tmp_path / "run")
    run.stage("cam").root.mkdir()
    run.stage("cam").network.write_bytes(finished.stage("cam").network.read_bytes())
    monkeypatch.setattr(training, "fit", lambda *args, **options: None)
    pipeline.train_stages(run, hardware=HARDWARE)
    cam_network, bas_network = (labeler.load(run.stage(name).network).method.network for name in ("cam", "bas"))
    found = dict(bas_network.named_parameters())
    assert all(torch.equal(found.pop(name), value) for name, value in cam_network.named_parameters())
    assert list(found) == ["generator.weight"]


def test_the_exploratory_experiment_runs_on_boxed_images(finished):
    """BAS sec. 3.5, on a classifier trained by eq. 7: a curve for each mask whose class is seen."""
    dataset = open_boxed(pipeline.recipe_of(finished).data, "eval")
    model = labeler.load(finished.stage("cam").network)
    torch.nn.init.constant_(model.method.network.class_head.weight, 1.0)  # all classes are seen
    curves = exploration.explore(model, dataset, exploration.Config(steps=2))
    assert len(curves) == 3
    assert all(curve.area[2] == 1 for curve in curves)  # the mask itself is in the middle


def test_boxes_that_evaluation_would_refuse_are_refused_before_training(tmp_path, finished):
    """Also of an image whose file was changed since: then evaluation names it."""
    (tmp_path / "data").mkdir()
    write_images(tmp_path / "data")
    config = dataclasses.replace(pipeline.recipe_of(finished), data=data_in(tmp_path / "data"))
    boxes = tmp_path / "data" / "boxes.csv"
    lines = boxes.read_text(encoding="utf-8")
    boxes.write_text(lines + "blue0.png,200,0,220,9\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test/blue0: the box .* lies outside the image of 80x60 pixels; correct it$"):
        pipeline.begin(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    boxes.write_text(lines, encoding="utf-8")
    run = pipeline.begin(config, tmp_path / "run")
    with pytest.raises(RunError, match="not trained yet"):
        pipeline.evaluate_stages(run, hardware=HARDWARE)
    for name in ("cam", "bas"):
        run.stage(name).root.mkdir()
        run.stage(name).network.write_bytes(finished.stage(name).network.read_bytes())
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "blue0.png", compress_level=0)
    with pytest.raises(RunError, match=r"holds other data than this run was made on .image files changed"):
        pipeline.evaluate_stages(run, hardware=HARDWARE)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (dataclasses.replace(NET, weights="weights/mistyped.safetensors"), "mistyped.safetensors: no such"),
        (dataclasses.replace(NET, backbone="timm:resnet51"), "resnet51"),
        (dataclasses.replace(NET, backbone="conformer_nano"), "no stages|multiple of the backbone's stride"),
        (dataclasses.replace(NET, stride=24), "stride"),
    ],
)
def test_a_mistyped_network_leaves_nothing_and_locks_nothing(tmp_path, finished, net, message):
    config = pipeline.recipe_of(finished)
    with pytest.raises(BaosegError, match=message) as caught:
        pipeline.begin(dataclasses.replace(config, net=net), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    pipeline.begin(dataclasses.replace(config, seed=5), tmp_path / "run")  # a manifest alone holds nothing yet
    run = pipeline.begin(config, tmp_path / "run")
    assert pipeline.recipe_of(run) == config


def test_data_that_were_moved_and_paths_from_elsewhere_continue_the_run(tmp_path, finished, monkeypatch):
    """Data are known by their contents: neither the directory nor the way to write the path matters."""
    (tmp_path / "a").mkdir()
    write_images(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(pipeline.recipe_of(finished), data=data_in("a"))
    run = pipeline.begin(config, tmp_path / "run")
    (run.root / "cam").mkdir()
    for path in ("./a/", str(tmp_path / "a")):
        pipeline.begin(dataclasses.replace(config, data=data_in(path)), run.root)
    monkeypatch.chdir(run.root)
    assert pipeline.recipe_of(run).data.path == str(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    pipeline.begin(dataclasses.replace(config, data=data_in("../b")), run.root)
    assert pipeline.recipe_of(run).data.path == str(tmp_path / "b")
    labels = tmp_path / "b" / "labels.csv"
    labels.write_text(labels.read_text(encoding="utf-8").replace("blue0.png,blue", "blue0.png,red"), encoding="utf-8")
    with pytest.raises(RunError, match=r"holds a run on other data .labels changed."):
        pipeline.begin(dataclasses.replace(config, data=data_in("../b")), run.root)


# --- maps, and networks in the hands of other verbs -----------------------------------------------------------------


@torch.no_grad()
def test_maps_are_those_of_the_whole_image(finished):
    """The true class and the likeliest other one (k = 2), on a quarter of the image's sides, from 0 to 1."""
    pipeline.make_maps(finished, hardware=HARDWARE)
    dataset = open_boxed(pipeline.recipe_of(finished).data, "eval")
    method = labeler.load(finished.stage("bas").network).method
    for index in (0, 5):
        seed = seeds.load(finished.stage("bas").maps("test", dataset.names[index]))
        sample = dataset[index]
        assert seed.size == tuple(sample.image.shape[1:])
        assert seed.classes.tolist() == [dataset.target(index)]
        view = (boxed.squash(sample.image, 72).float() / 255 * 2 - 1)[None]
        known = dataset.target(index) - 1
        logits = method.classify(view)[0].tolist()
        other = max({0, 1, 2} - {known}, key=lambda c: logits[c])
        features = method.network.split().lower(view)
        both = torch.sigmoid(F.conv2d(features, method.network.generator.weight, padding=1))[0, [known, other]]
        grid = tuple(-(-side // 4) for side in seed.size)
        large = F.interpolate(both.mean(dim=0)[None, None], size=grid, mode="bilinear", antialias=True)[0, 0]
        expected = (large - large.min()) / (large.max() - large.min())
        torch.testing.assert_close(seed.scores[0].float(), expected, atol=2e-3, rtol=0)  # kept in half precision
    before = finished.stage("cam").maps("test", "red0").stat().st_mtime_ns
    pipeline.make_maps(finished, hardware=HARDWARE)
    assert finished.stage("cam").maps("test", "red0").stat().st_mtime_ns == before
    assert read_json(finished.stage("bas").costs)["maps"]["images"] == 6


def test_a_localizer_as_a_labeler_names_one_class_and_cuts_where_the_box_is_cut(finished):
    """Cross-entropy does not say where a logit is high enough: the likeliest class is the one."""
    model = baoseg.load(finished.stage("bas").root)
    image = open_boxed(pipeline.recipe_of(finished).data, "eval")[2].image
    logits = model.class_logits(image)
    found = model(image)
    assert found.labels == (model.classes.names[int(logits.argmax())],)
    ((_, scores),) = found.class_maps.items()
    assert ((found.mask > 0) == (scores >= 0.1)).all()


def test_files_of_networks_without_the_word_for_a_bias_still_load(finished, tmp_path):
    """As they were written before generators could have one."""
    path = finished.stage("bas").network
    about = weights.read_metadata(path)
    del about["method"]["generator_bias"]
    old = tmp_path / "network.safetensors"
    network = labeler.load(path).method.network
    weights.save(old, network, about)
    loaded = labeler.load(old).method.network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())
    assert "generator.bias" not in loaded


def test_a_network_with_a_bias_in_its_generator_comes_back(finished, tmp_path):
    config = pipeline.recipe_of(finished)
    stage = dataclasses.replace(config.stages[1], method=dataclasses.replace(BAS, generator_bias=True))
    network = nets.build(NET, 3, heads=Heads(generator_after=3, generator_bias=True))
    torch.nn.init.normal_(network.generator.bias)
    labeler.save(
        tmp_path / "network.safetensors",
        network,
        method=stage.method,
        net=config.net,
        maps=maps.Config(),
        masks=masks.Config(),
        classes=open_boxed(config.data, "eval").classes,
    )
    loaded = labeler.load(tmp_path / "network.safetensors").method.network
    assert torch.equal(loaded.generator.bias, network.generator.bias)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: settings("", stages=(of(amn.Config()),)), "amn does not localize; use cam or bas"),
        (lambda: BoxConfig(threshold=1.0), "a threshold is in"),
        (lambda: BoxConfig(threshold=0.1, top_k=0), "k at least 1"),
        (lambda: settings("", side=60), "do not fit into squares of 60"),
        (lambda: settings("", stages=()), "at least one"),
        (lambda: settings("", stages=(of(BAS, start="cam"),)), "cam"),
        (lambda: settings("", stages=(Stage(method=BAS, schedule=SCHEDULE),)), "bas draws boxes; give it `box`"),
        (lambda: settings("", data=DataConfig(path="here")), "choose the layout"),
        (lambda: dataclasses.replace(settings(""), task=Task.MASKS), "its task is masks"),
        (lambda: dataclasses.replace(settings(""), epoch_curves=True), "no fusions"),
        (lambda: dataclasses.replace(settings(""), augment=transforms.Config(resize_long=(8, 9))), "one side"),
    ],
)
def test_settings_outside_their_range_are_refused(wrong, message):
    with pytest.raises(RecipeError, match=message):
        wrong()
