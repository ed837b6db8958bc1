import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

import baoseg
from baoseg import data, nets, pipeline, recipes, refine, report, seeds
from baoseg.core.errors import CheckpointError, DataError, RecipeError, RunError
from baoseg.core.files import read_json
from baoseg.core.run_folder import Run
from baoseg.data import Config as DataConfig
from baoseg.data import open_dataset
from baoseg.data.images import read_mask, write_mask
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.data.synthetic import Synthetic
from baoseg.evaluate import THRESHOLDS
from baoseg.methods import amn, bao, bas, cam, transcam
from baoseg.nets import weights
from baoseg.pipeline import mapping, segmenting, training
from baoseg.predict import segment
from baoseg.recipes import Recipe
from baoseg.seeds import masks
from baoseg.seeds.fusion import fuse
from baoseg.training import train

STAGES = ("transcam", "bao")
VAL = tuple(f"val_{index:05d}" for index in range(5))
# One epoch a stage, for what does not depend on what is learned.
SHORT = replace(
    tiny.RECIPE,
    stages=tuple(replace(stage, schedule=replace(stage.schedule, epochs=1)) for stage in tiny.RECIPE.stages),
)


def run(recipe: Recipe, out: Path) -> Run:
    return pipeline.run(recipe, out, hardware=tiny.HARDWARE)


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def results(folder: Path) -> dict[str, bytes]:
    """All that a run computes: its files but for the report and times, which differ from run to run."""
    found = {}
    for name, path in files(folder).items():
        if name.endswith("losses.csv"):
            rows = [line.split(",") for line in path.read_text().splitlines()]
            found[name] = repr([row[:2] + row[3:] for row in rows]).encode()  # the third column is seconds
        elif name == "run.json":
            manifest = json.loads(path.read_text())
            del manifest["environment"]  # the commit may change while the tests run
            found[name] = json.dumps(manifest).encode()
        elif not name.endswith(("report.html", "costs.json")):
            found[name] = path.read_bytes()
    return found


# ------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_the_files_of_the_layout_and_no_other(tiny_run: Run) -> None:
    expected = {"run.json", "report.html"}
    for stage in STAGES:
        expected |= {f"{stage}/{name}" for name in ("network.safetensors", "losses.csv", "costs.json", "metrics.json")}
        expected |= {f"{stage}/maps/val/{name}.npz" for name in VAL} | {f"{stage}/masks/val/{name}.png" for name in VAL}
    assert set(files(tiny_run.root)) == expected


def test_the_manifest_says_what_was_run_on_what(tiny_run: Run) -> None:
    manifest = read_json(tiny_run.manifest)
    assert pipeline.recipe_of(tiny_run) == tiny.RECIPE
    assert manifest["stages"] == list(STAGES)
    for role, split, count in (("train", "train", 12), ("eval", "val", 5)):
        fingerprint = Synthetic(tiny.RECIPE.data.synthetic, split).fingerprint()
        noted = manifest["data"][role]
        assert (noted["split"], noted["images"], noted["of"]) == (split, count, count)
        assert noted["fingerprint"] == noted["inputs"] == fingerprint
        assert noted["classes"] == list(Synthetic.classes.names)
    assert set(manifest["environment"]) == {"commit", "python", "torch", "system"}


def test_maps_are_of_the_present_classes_in_half_precision_at_a_quarter_of_the_sides(tiny_run: Run) -> None:
    scenes = Synthetic(tiny.RECIPE.data.synthetic, "val")
    for stage in STAGES:
        for index, name in enumerate(VAL):
            path = tiny_run.stage(stage).maps("val", name)
            present = scenes.labels(index).nonzero()[:, 0] + 1
            with np.load(path, allow_pickle=False) as arrays:
                assert set(arrays) == {"classes", "scores", "size"} | ({"background"} if stage == "bao" else set())
                assert arrays["classes"].tolist() == present.tolist()
                assert arrays["scores"].dtype == np.float16
                assert arrays["scores"].shape == (len(present), 16, 16)
            with zipfile.ZipFile(path) as archive:  # uncompressed: reading them is what evaluation waits for
                assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_data_set_of_ten_thousand_stays_small(tmp_path: Path) -> None:
    height, width = 375, 500
    grid = (94, 125)
    seed = seeds.Seed(torch.tensor([1, 2, 3]), torch.rand(3, *grid), torch.rand(grid), (height, width))
    seeds.save(tmp_path / "maps.npz", seed)
    assert 10_000 * (tmp_path / "maps.npz").stat().st_size < 3e9


def test_masks_are_the_label_images_of_the_stored_maps(tiny_run: Run) -> None:
    for stage, threshold in (("transcam", tiny.RECIPE.masks.threshold), ("bao", None)):
        paths = tiny_run.stage(stage)
        for name in VAL:
            seed = seeds.load(paths.maps("val", name))
            assert torch.equal(read_mask(paths.mask("val", name)), masks.label_image(seed, threshold=threshold))


# ------------------------------------------------------------------------------------- evaluation


def slow_scores(pairs: Iterator[tuple[np.ndarray, np.ndarray]], size: int) -> dict[str, object]:
    """SCORES of metrics.json from pairs of truth and prediction, class by class and one picture at a time."""
    right, true, predicted = np.zeros(size), np.zeros(size), np.zeros(size)
    for truth, prediction in pairs:
        known = truth != 255
        for index in range(size):
            right[index] += ((truth == index) & (prediction == index)).sum()
            true[index] += (truth == index).sum()
            predicted[index] += ((prediction == index) & known).sum()
    occur = [index for index in range(size) if true[index] + predicted[index] > 0]
    union = {index: true[index] + predicted[index] - right[index] for index in occur}
    iou = [100 * right[index] / union[index] if index in union else None for index in range(size)]
    return {
        "iou": iou,
        "miou": np.mean([iou[index] for index in occur]),
        "fp": 100 * np.mean([(predicted[index] - right[index]) / union[index] for index in occur]),
        "fn": 100 * np.mean([(true[index] - right[index]) / union[index] for index in occur]),
        "precision": 100 * np.mean([right[index] / predicted[index] for index in occur if predicted[index]]),
        "recall": 100 * np.mean([right[index] / true[index] for index in occur if true[index]]),
    }


def check_metrics(folder: Run, recipe: Recipe) -> None:
    """Metrics equal the slow ones of the masks on disk; the sweep those of masks cut at each threshold."""
    dataset = open_dataset(recipe.data, "eval")
    truths = {name: dataset.mask(index) for index, name in enumerate(dataset.names)}
    known = {name: truth.numpy() for name, truth in truths.items() if truth is not None}
    size = len(dataset.classes) + 1
    for stage in recipe.stages:
        paths = folder.stage(stage.name)
        metrics = read_json(paths.metrics)
        assert metrics["classes"] == ["background", *dataset.classes.names]
        assert (metrics["split"], metrics["images"]) == (dataset.split, len(known))
        learned = stage.name == "bao"
        scores, other = metrics["threshold_free"], metrics["fixed"]
        if not learned:
            scores, other = other, scores
            assert scores.pop("threshold") == recipe.masks.threshold
        assert other is None
        written = ((truth, read_mask(paths.mask(dataset.split, name)).numpy()) for name, truth in known.items())
        expected = slow_scores(written, size)
        assert scores.pop("iou") == [None if v is None else pytest.approx(v) for v in expected.pop("iou")]
        assert scores == pytest.approx(expected)

        loaded = {name: seeds.load(paths.maps(dataset.split, name)) for name in known}
        for position in (0, 30, 77, 100):
            cut = THRESHOLDS[position]
            pairs = ((known[name], masks.label_image(seed, threshold=cut).numpy()) for name, seed in loaded.items())
            expected = slow_scores(pairs, size)
            for name in ("miou", "fp", "fn"):
                assert metrics["sweep"][name][position] == pytest.approx(expected[name])
        best = metrics["sweep"]["miou"].index(max(metrics["sweep"]["miou"]))
        assert metrics["oracle"]["threshold"] == metrics["sweep"]["thresholds"][best]
        assert metrics["oracle"]["miou"] == metrics["sweep"]["miou"][best]


def test_metrics_are_those_of_the_masks_on_disk(tiny_run: Run) -> None:
    check_metrics(tiny_run, tiny.RECIPE)


def test_a_threshold_of_the_command_holds_for_every_stage(tiny_run: Run, tmp_path: Path) -> None:
    folder = Run(tmp_path / "run")
    shutil.copytree(tiny_run.root, folder.root)
    pipeline.make_masks(folder, threshold=0.7)
    for stage in STAGES:
        for name in VAL:
            seed = seeds.load(folder.stage(stage).maps("val", name))
            mask = read_mask(folder.stage(stage).mask("val", name))
            assert torch.equal(mask, masks.label_image(seed, threshold=0.7))


# --------------------------------------------------------------------------- again, and interrupted


def test_running_again_trains_nothing_and_prints_the_same_table(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.root, folder)
    kept = [path for name, path in files(folder).items() if path.suffix in (".npz", ".safetensors", ".csv")]
    kept.append(folder / "run.json")
    before = results(folder), [path.stat().st_mtime_ns for path in kept]
    printed = []
    for _ in range(2):
        run(tiny.RECIPE, folder)
        printed.append(capsys.readouterr().out)
    assert (results(folder), [path.stat().st_mtime_ns for path in kept]) == before
    assert printed[0] == printed[1]
    for stage in STAGES:
        metrics = read_json(folder / stage / "metrics.json")
        assert f" {(metrics['threshold_free'] or metrics['fixed'])['miou']:.1f} " in printed[0]
    assert str(folder / "report.html") in printed[0]


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Press Ctrl-C in the middle of the call of that number, counted from 1."""
    original: Callable[..., object] = getattr(owner, name)
    calls = 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


def test_weights_of_a_later_step_are_missed_at_once(tiny_run: Run, tmp_path: Path) -> None:
    late = replace(SEGMENTATION, net=replace(SEGMENTATION.net, weights=str(tmp_path / "none.safetensors")))
    recipe = replace(tiny.RECIPE, segmentations=(late,))
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such weights; check the path$"):
        run(recipe, tmp_path / "run")
    published = replace(tiny.RECIPE, net=replace(tiny.NET, weights=str(tmp_path / "conformer-small.safetensors")))
    with pytest.raises(CheckpointError, match=rf"`bao weights fetch conformer-small --to {tmp_path}`$"):
        run(published, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_not_made_yet_is_left_out_of_the_evaluation_and_of_the_page(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run.root, tmp_path / "run")
    folder = Run(tmp_path / "run")
    pipeline.add_refinements(folder, ["crf"])
    assert pipeline.evaluate_stages(folder)
    pipeline.make_report(folder)
    assert "bao+crf" not in capsys.readouterr().out
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    assert pipeline.evaluate_stages(folder)
    assert "bao+crf" in capsys.readouterr().out


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = (
        (transcam.TransCAM, "loss", 5),  # second epoch of the first stage, three steps each
        (bao.BAO, "after_step", 8),  # third epoch of the second stage
        (seeds, "save", 3),  # maps of the first stage
        (seeds, "save", 5),  # maps of the second stage: three of the first were left
        (mapping, "write_mask", 7),  # masks of the second stage
        (report, "build", 1),
    )
    left = []
    for owner, name, call in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, owner, name, call)
            with pytest.raises(KeyboardInterrupt):
                run(tiny.RECIPE, tmp_path)
        left.append(set(files(tmp_path)))
    assert "transcam/state.safetensors" in left[0]
    assert "transcam/state.safetensors" not in left[1] and "bao/state.safetensors" in left[1]
    assert sum(name.endswith(".npz") for name in left[2]) == 2
    assert sum(name.endswith(".npz") for name in left[3]) == 6
    assert sum(name.endswith(".png") for name in left[4]) == 6
    assert not any(Path(name).name.startswith(".") for names in left for name in names)  # nothing half-written
    run(tiny.RECIPE, tmp_path)
    assert results(tmp_path) == results(tiny_run.root)


# ------------------------------------------------------------------------------- folders that differ


@pytest.mark.parametrize(
    ("recipe", "difference"),
    [
        (replace(tiny.RECIPE, seed=1), r"another recipe \(seed was 0, now 1\)"),
        (replace(tiny.RECIPE, stages=tiny.RECIPE.stages[:1]), r"another recipe \(stages had 2 entries, now 1\)"),
        (
            replace(tiny.RECIPE, net=replace(tiny.NET, options=(("channel_ratio", 0.5), *tiny.NET.options[1:]))),
            r"another recipe \(net\.options\[0\]\[1\] was 0\.25, now 0\.5\)",
        ),
        (
            replace(tiny.RECIPE, data=DataConfig(path="synthetic", synthetic=SyntheticConfig(size=96))),
            r"another recipe \(data\.synthetic\.size was 64, now 96\)",
        ),
    ],
)
def test_the_folder_of_another_recipe_is_refused(tiny_run: Run, recipe: Recipe, difference: str) -> None:
    with pytest.raises(RunError, match=difference):
        run(recipe, tiny_run.root)


def test_the_folder_of_an_earlier_version_without_settings_that_came_later_continues(tmp_path: Path) -> None:
    """What it does not name had the value that is the default now, so it is the same recipe."""
    recipe = replace(
        tiny.RECIPE,
        net=nets.Config(backbone="timm:test_resnet"),
        stages=(recipes.Stage(method=bas.Config(), schedule=train.Config(epochs=1, batch_size=4)),),
    )
    recipe = recipes.refined(recipe, ["irn"])
    folder = pipeline.begin(recipe, tmp_path / "run")
    folder.stage("bas").root.mkdir()
    manifest = json.loads(folder.manifest.read_text())
    del manifest["recipe"]["stages"][0]["method"]["activation"]
    del manifest["recipe"]["stages"][0]["threshold"]
    del manifest["refinements"]["bas+irn"]["by"]["power"]
    folder.manifest.write_text(json.dumps(manifest))
    assert pipeline.begin(recipe, tmp_path / "run").root == folder.root
    assert pipeline.recipe_of(folder) == recipe
    changed = replace(recipe.stages[0], method=bas.Config(activation=bas.Activation.MARGIN))
    with pytest.raises(RunError, match=r"stages\.bas\.method\.activation was raw, now margin"):
        pipeline.begin(replace(recipe, stages=(changed,)), tmp_path / "run")
    (walk,) = recipe.refinements
    powered = replace(walk, by=replace(walk.by, power=1.5))  # type: ignore[call-arg]
    (folder.stage("bas+irn").root / "masks").mkdir(parents=True)  # it made something
    with pytest.raises(RunError, match=r"another bas\+irn \(by\.power was 1\.0, now 1\.5\)"):
        pipeline.begin(replace(recipe, refinements=(powered,)), tmp_path / "run")


def test_a_stage_may_have_a_threshold_of_its_own(tiny_run: Run, tmp_path: Path) -> None:
    """Of the masks and of the evaluation; where it has none, the recipe's."""
    own = tuple(replace(stage, threshold=0.0) for stage in tiny.RECIPE.stages)
    assert tiny.RECIPE.masks_of("transcam") == masks.Config(threshold=0.3)
    folder = pipeline.begin(replace(tiny.RECIPE, stages=own), tmp_path / "run")
    for stage in STAGES:
        shutil.copytree(tiny_run.stage(stage).root, folder.stage(stage).root)
    pipeline.make_masks(folder)
    pipeline.evaluate_stages(folder)
    metrics = read_json(folder.stage("transcam").metrics)
    assert metrics["fixed"]["threshold"] == 0.0
    assert metrics["fixed"]["miou"] == metrics["sweep"]["miou"][THRESHOLDS.index(0.0)]
    for name in VAL:
        seed = seeds.load(folder.stage("transcam").maps("val", name))
        found = read_mask(folder.stage("transcam").mask("val", name))
        assert torch.equal(found, masks.label_image(seed, threshold=0.0))
    assert metrics["fixed"]["miou"] != read_json(tiny_run.stage("transcam").metrics)["fixed"]["miou"]
    assert read_json(folder.stage("bao").metrics) == read_json(tiny_run.stage("bao").metrics)  # learned


def test_the_folder_of_other_data_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", {"one": (scene(0), "bee"), "two": (scene(1), "jay")})
    recipe = tiny.with_data(tiny.RECIPE, tmp_path / "data")
    folder = pipeline.begin(recipe, tmp_path / "run")
    folder.stage("transcam").losses.parent.mkdir()
    assert pipeline.begin(recipe, tmp_path / "run").root == folder.root
    (tmp_path / "data/labels.csv").write_text("image,labels\none.png,bee jay\ntwo.png,jay\n")
    with pytest.raises(RunError, match=r"other data \(labels changed\); choose another folder with --out"):
        pipeline.begin(recipe, tmp_path / "run")


def test_a_first_try_that_did_nothing_leaves_the_folder_free(tmp_path: Path) -> None:
    wrong = replace(tiny.RECIPE, net=replace(tiny.NET, weights=str(tmp_path / "nowhere.pth")))
    with pytest.raises(CheckpointError, match="no such weights"):
        run(wrong, tmp_path / "run")
    folder = pipeline.begin(tiny.RECIPE, tmp_path / "run")
    assert pipeline.recipe_of(folder) == tiny.RECIPE


def test_what_is_no_run_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for out in (tmp_path, file):
        with pytest.raises(RunError, match="no run folder; choose another folder with --out"):
            run(tiny.RECIPE, out)
    for step in (pipeline.make_masks, pipeline.evaluate_stages, pipeline.make_report):
        with pytest.raises(RunError, match=r"run\.json: no such file"):
            step(Run(tmp_path))
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "mine"


def test_a_step_before_its_turn_names_the_one_to_run_first(tiny_run: Run, tmp_path: Path) -> None:
    folder = pipeline.begin(tiny.RECIPE, tmp_path / "run")
    with pytest.raises(RunError, match="not trained yet; run `bao train`"):
        pipeline.make_maps(folder, hardware=tiny.HARDWARE)
    for stage in STAGES:
        folder.stage(stage).root.mkdir()
        shutil.copy(tiny_run.stage(stage).network, folder.stage(stage).network)
    for step in (pipeline.make_masks, pipeline.evaluate_stages):
        with pytest.raises(DataError, match="no such maps; run `bao maps`"):
            step(folder)


def test_crops_that_mix_picture_and_padding_in_a_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="crops of 60 pixels"):
        run(replace(tiny.RECIPE, augment=replace(tiny.RECIPE.augment, crop=60)), tmp_path)


# ------------------------------------------------------------------------------------ files on disk


def scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """ImageLike [64 64 3] and mask [64 64]."""
    sample = Synthetic(SyntheticConfig(size=64))[index]
    assert sample.mask is not None
    return sample.image.permute(1, 2, 0).numpy(), sample.mask.numpy()


def write_pictures(root: Path, pictures: dict[str, tuple[tuple[np.ndarray, np.ndarray], str]]) -> None:
    """PNGs and labels.csv, without masks."""
    root.mkdir()
    lines = ["image,labels"]
    for name, ((image, _), labels) in pictures.items():
        Image.fromarray(image).save(root / f"{name}.png")
        lines.append(f"{name}.png,{labels}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def write_all_kinds(root: Path) -> dict[str, tuple[int, int]]:
    """A folder with pictures of many kinds and odd sizes, with masks but for one; their upright sizes [h w].

    Splits: `train` has all with labels, `val` all.
    """
    crops = {
        "plain.png": (64, 64),
        "grey.png": (37, 50),
        "cmyk.jpg": (64, 41),
        "turned.jpg": (60, 40),
        "small.png": (16, 16),
        "narrow.png": (64, 17),
        "deep/odd.png": (53, 37),
        "empty.png": (31, 64),
        "unknown.png": (64, 64),  # without a mask
    }
    (root / "images/deep").mkdir(parents=True)
    (root / "splits").mkdir()
    lines = ["image,labels"]
    for index, (name, (height, width)) in enumerate(crops.items()):
        image, mask = scene(index)
        top, left = (64 - height) // 2, (64 - width) // 2
        picture = Image.fromarray(image[top : top + height, left : left + width])
        path = root / "images" / name
        match name:
            case "grey.png":
                picture.convert("L").save(path)
            case "cmyk.jpg":
                picture.convert("CMYK").save(path)
            case "turned.jpg":
                exif = Image.Exif()
                exif[0x0112] = 6  # to be turned a quarter clockwise
                picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
            case _:
                picture.save(path)
        truth = torch.from_numpy(mask[top : top + height, left : left + width].copy())
        if name == "empty.png":
            truth.zero_()
        if name != "unknown.png":
            write_mask(root / "masks" / f"{Path(name).with_suffix('')}.png", truth)
        labels = Synthetic(SyntheticConfig(size=64)).labels(index)
        words = () if name == "empty.png" else Synthetic.classes.decode(labels)
        lines.append(f"images/{name},{' '.join(words)}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("\n".join(Synthetic.classes.names) + "\n")
    names = [Path(name).with_suffix("").as_posix() for name in crops]
    (root / "splits/val.txt").write_text("\n".join(names) + "\n")
    (root / "splits/train.txt").write_text("\n".join(name for name in names if name != "empty") + "\n")
    return dict(zip(names, crops.values(), strict=True))


def test_pictures_of_all_kinds_from_disk(tmp_path: Path) -> None:
    sizes = write_all_kinds(tmp_path / "data")
    recipe = tiny.with_data(SHORT, tmp_path / "data")
    folder = run(recipe, tmp_path / "run")
    for stage in STAGES:
        paths = folder.stage(stage)
        for name, size in sizes.items():
            assert tuple(read_mask(paths.mask("val", name)).shape) == size
            assert seeds.load(paths.maps("val", name)).size == size
        empty = seeds.load(paths.maps("val", "empty"))
        assert len(empty.classes) == 0
        assert not read_mask(paths.mask("val", "empty")).any()
        assert (empty.background is not None) == (stage == "bao")
    check_metrics(folder, recipe)
    assert read_json(folder.stage("bao").metrics)["images"] == len(sizes) - 1
    page = folder.report.read_text(encoding="utf-8")
    assert all(name in page for name in sizes)

    pipeline.make_maps(folder, hardware=tiny.HARDWARE, split="train")
    pipeline.make_masks(folder, split="train")
    assert folder.stage("bao").mask("train", "deep/odd").exists()
    assert not folder.stage("bao").mask("train", "empty").exists()


def test_without_ground_truth_there_are_masks_and_a_report_but_no_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "data", {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
    recipe = tiny.with_data(replace(SHORT, stages=SHORT.stages[:1]), tmp_path / "data")
    folder = run(recipe, tmp_path / "run")
    assert "No ground truth for the 4 pictures of all" in capsys.readouterr().out
    assert not folder.stage("transcam").metrics.exists()
    assert all(folder.stage("transcam").mask("all", f"p{i}").exists() for i in range(4))
    assert folder.report.exists()


def test_an_unreadable_picture_stops_the_run_and_a_restored_one_continues_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_pictures(data, {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
    method = replace(SHORT.stages[0], method=cam.Config())
    folder = pipeline.begin(tiny.with_data(replace(SHORT, stages=(method,)), data), tmp_path / "run")
    pipeline.train_stages(folder, hardware=tiny.HARDWARE)
    whole = (data / "p2.png").read_bytes()
    (data / "p2.png").write_bytes(whole[:500])
    with pytest.raises(RunError, match=r"other data .*\(1 of 4 image files changed, as that of p2\); restore the data"):
        pipeline.make_maps(folder, hardware=tiny.HARDWARE)
    (data / "p2.png").write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match=r"p2\.png: not a known kind of image file"):
        pipeline.make_maps(folder, hardware=tiny.HARDWARE)
    assert sorted(path.stem for path in (folder.stage("cam").root / "maps/all").iterdir()) == ["p0", "p1"]
    (data / "p2.png").write_bytes(whole)
    pipeline.make_maps(folder, hardware=tiny.HARDWARE)
    assert len(list((folder.stage("cam").root / "maps/all").iterdir())) == 4


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_pictures(data, {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
    write_mask(data / "masks/p1.png", torch.ones(64, 63, dtype=torch.uint8))
    recipe = tiny.with_data(replace(SHORT, stages=SHORT.stages[:1]), data)
    with pytest.raises(DataError, match=r"masks/p1\.png: the mask is 63x64 pixels"):
        run(recipe, tmp_path / "run")


def test_maps_of_a_class_list_that_has_changed_since_training_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_pictures(data, {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
    recipe = tiny.with_data(replace(SHORT, stages=SHORT.stages[:1]), data)
    folder = pipeline.begin(recipe, tmp_path / "run")
    pipeline.train_stages(folder, hardware=tiny.HARDWARE)
    (data / "classes.txt").write_text("frog\nbee\n")  # as many, in another order
    for step in (pipeline.train_stages, pipeline.make_maps):
        with pytest.raises(RunError, match=r"other data .*\(classes bee, frog, now frog, bee\); restore the data"):
            step(folder, hardware=tiny.HARDWARE)
    dataset = open_dataset(recipe.data, "eval")
    with pytest.raises(DataError, match=r"the classes of the images are frog, bee, but .* was trained for bee, frog"):
        mapping._make_maps(folder.stage("transcam"), dataset, hardware=tiny.HARDWARE)


# ------------------------------------------------------------------------------- several methods side by side


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """BNR, AMN on TransCAM's seeds, the seeds of another tool, and a sum."""
    folder = tmp_path_factory.mktemp("comparison")
    scenes = open_dataset(tiny.RECIPE.data, "eval")
    (folder / "other").mkdir()
    for index, name in enumerate(VAL):  # as the IRN family saves them: classes from 0, without the background
        keys = scenes.labels(index).nonzero()[:, 0].numpy()
        truth = scenes[index].mask
        assert truth is not None
        maps = np.stack([(truth == key + 1).float().numpy() for key in keys])
        np.save(folder / "other" / f"{name}.npy", {"keys": keys, "high_res": maps}, allow_pickle=True)
    return pipeline.compare(
        SHORT,
        folder / "run",
        methods=["bnr", "transcam+amn"],
        seeds={"other": str(folder / "other")},
        fuse=["bnr+other"],
        allow_pickle=True,
        hardware=tiny.HARDWARE,
    )


def test_a_comparison_evaluates_methods_foreign_seeds_and_sums(comparison: Run) -> None:
    names = ["transcam", "bnr", "transcam+amn", "other", "bnr+other"]
    assert read_json(comparison.manifest)["stages"] == names
    metrics = {name: read_json(comparison.stage(name).metrics) for name in names}
    assert all(result["fixed"] is not None for result in metrics.values())
    # the other tool's maps are the ground truth at a quarter of its sides: as good as that resolution allows
    assert metrics["other"]["oracle"]["miou"] > 80
    assert metrics["bnr+other"]["oracle"]["miou"] > metrics["bnr"]["oracle"]["miou"]


def test_a_sum_is_that_of_the_maps_on_disk(comparison: Run) -> None:
    paths = [comparison.stage(name).maps("val", VAL[0]) for name in ("bnr", "other", "bnr+other")]
    first, second, total = (seeds.load(path) for path in paths)
    expected = fuse([first, second])
    torch.testing.assert_close(total.scores, expected.scores, atol=1e-3, rtol=0.0)
    assert total.classes.equal(expected.classes)


def test_amn_learns_from_confident_seeds_of_the_training_pictures(comparison: Run) -> None:
    scenes = open_dataset(SHORT.data, "train")
    method = pipeline.recipe_of(comparison).stages[-1].method
    assert isinstance(method, amn.Config)
    name, thresholds = scenes.names[3], (method.background_below, method.foreground_above)
    seed = seeds.load(comparison.stage("transcam").maps("train", name))
    low, high = (refine.by_crf(scenes[3].image, masks.label_image(seed, threshold=cut)) for cut in thresholds)
    labels = read_mask(comparison.stage("transcam+amn").label("train", name))
    assert torch.equal(labels == 0, (low == 0) & (high == 0))
    assert torch.equal(labels[high > 0], high[high > 0])
    assert (labels[(low > 0) & (high == 0)] == 255).all()


def test_amn_learns_without_a_crf_where_its_settings_say_so(comparison: Run, tmp_path: Path) -> None:
    scenes, recipe = open_dataset(SHORT.data, "train"), pipeline.recipe_of(comparison)
    stage = replace(recipe.stages[-1], method=amn.Config(crf=False))
    shutil.copytree(comparison.stage("transcam").root, tmp_path / "transcam")
    label = training._pixel_labels(Run(tmp_path), recipe, stage, scenes, hardware=tiny.HARDWARE)
    assert label is not None
    seed = seeds.load(comparison.stage("transcam").maps("train", scenes.names[3]))
    assert torch.equal(label(3), masks.confident_labels(seed, background=0.05, foreground=0.30))


def test_costs_are_noted(comparison: Run) -> None:
    costs = read_json(comparison.stage("bnr").costs)
    assert costs["train"]["seconds"] > 0
    assert costs["train"]["epochs"] == 1
    assert costs["maps"]["pictures"] == len(VAL)
    assert not comparison.stage("other").costs.exists()


def test_transcam_on_a_cnn_is_cam_and_left_out(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr(pipeline, "run", lambda recipe, out, *, hardware: asked.append(recipe) or Run(out))
    base = replace(SHORT, net=nets.Config(backbone="timm:test_resnet"))
    pipeline.compare(base, Path("nowhere"), methods=["transcam", "cam", "bnr"], hardware=tiny.HARDWARE)
    assert asked[0].names == ["cam", "bnr"]
    assert "transcam: the same as cam" in capsys.readouterr().out


def test_what_a_network_cannot_be_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no stages to put a generator between"):
        pipeline.compare(SHORT, tmp_path / "run", methods=["transcam", "bas"], hardware=tiny.HARDWARE)
    assert not (tmp_path / "run").exists()


def test_seeds_of_a_run_can_be_fused_in_a_run_of_their_own(tiny_run: Run, tmp_path: Path) -> None:
    alone = pipeline.fuse_seeds(tiny.RECIPE, [str(tiny_run.root)], tmp_path / "alone")
    own, again = (read_json(folder.metrics) for folder in (tiny_run.stage("bao"), alone.stage("fused")))
    assert again["threshold_free"]["miou"] == pytest.approx(own["threshold_free"]["miou"], abs=0.2)  # halves, twice
    both = pipeline.fuse_seeds(tiny.RECIPE, [str(tiny_run.root / stage) for stage in STAGES], tmp_path / "both")
    assert read_json(both.stage("fused").metrics)["fixed"] is not None
    assert (both.root / "report.html").exists()


def test_seeds_that_are_nowhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: neither a stage of this run nor a folder"):
        pipeline.fuse_seeds(tiny.RECIPE, [str(tmp_path / "nowhere")], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sources_are_looked_at_before_anything_is_made(tiny_run: Run, tmp_path: Path) -> None:
    """Seeds of other classes, of too few images, and maps of a run with another class list."""
    folder, scenes = tmp_path / "other", open_dataset(tiny.RECIPE.data, "eval")
    folder.mkdir()
    for index, name in enumerate(VAL[:-1]):
        keys = {key: np.ones((64, 64), np.float32) for key in scenes.labels(index).nonzero()[:, 0].tolist()}
        np.save(folder / f"{name}.npy", keys, allow_pickle=True)

    def refused(source: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            pipeline.fuse_seeds(tiny.RECIPE, [str(source)], tmp_path / "run", allow_pickle=True)
        assert not (tmp_path / "run").exists()

    refused(folder, rf"other: 1 of {len(VAL)} images have no seed, {VAL[-1]} for one")
    np.save(folder / f"{VAL[-1]}.npy", {len(scenes.classes): np.ones((64, 64))}, allow_pickle=True)
    refused(folder, rf"{VAL[-1]}.npy: class index {len(scenes.classes)} is outside")

    copied = Run(shutil.copytree(tiny_run.root, tmp_path / "copied"))
    path = copied.stage("bao").network
    about = weights.read_metadata(path)
    assert about is not None
    names = about["classes"][::-1]
    weights.save(path, baoseg.load(path).method.network, {**about, "classes": names})
    refused(copied.root, f"bao: maps of the classes {', '.join(names)}, the data has ")
    shutil.copy(tiny_run.stage("bao").network, copied.stage("bao").network)
    copied.stage("bao").maps("val", VAL[0]).unlink()
    refused(copied.root, rf"bao: 1 of {len(VAL)} images have no maps, .*{VAL[0]}.npz; run `bao maps \S+ --split val`")


def test_seeds_that_were_made_anew_are_read_anew(tmp_path: Path) -> None:
    """The same command measures what lies in the folder now; where the seeds are gone, what it measured stays."""
    folder, scenes = tmp_path / "other", open_dataset(tiny.RECIPE.data, "eval")
    folder.mkdir()

    def score(turned: bool) -> float:
        for index, name in enumerate(VAL):
            mask = scenes.mask(index)
            assert mask is not None
            maps = {k: (mask == k + 1).float().numpy() for k in scenes.labels(index).nonzero()[:, 0].tolist()}
            np.save(folder / f"{name}.npy", {k: 1 - v if turned else v for k, v in maps.items()}, allow_pickle=True)
        return measured()

    def measured() -> float:
        run = pipeline.fuse_seeds(tiny.RECIPE, [str(folder)], tmp_path / "run", allow_pickle=True)
        return float(read_json(run.stage("fused").metrics)["fixed"]["miou"])

    wrong, right = score(turned=True), score(turned=False)
    assert wrong < 20 and right > 80
    files = [Run(tmp_path / "run").stage("fused").maps("val", name) for name in VAL]
    before = [path.stat().st_mtime_ns for path in files]
    shutil.rmtree(folder)
    assert measured() == right
    assert [path.stat().st_mtime_ns for path in files] == before


def test_the_network_in_training_is_evaluated_after_each_epoch(tmp_path: Path) -> None:
    """The last row is the network that is kept, since figure 4 keeps the online one."""
    recipe = replace(SHORT, stages=(replace(SHORT.stages[0], schedule=tiny.RECIPE.stages[0].schedule),))
    folder = run(replace(recipe, epoch_curves=True), tmp_path / "run")
    stage = folder.stage("transcam")
    rows = [line.split(",") for line in stage.epochs.read_text().splitlines()]
    assert rows[0] == ["epoch", "miou", "oracle_miou", "oracle_threshold"]
    assert [row[0] for row in rows[1:]] == ["1", "2"]
    metrics = read_json(stage.metrics)
    assert float(rows[-1][1]) == pytest.approx(metrics["fixed"]["miou"], abs=0.3)  # maps on disk are halves
    without = run(recipe, tmp_path / "without")
    assert results(without.root)["transcam/network.safetensors"] == results(folder.root)["transcam/network.safetensors"]


# ------------------------------------------------------------------------------------- refinement

CNN = nets.Config(backbone="timm:test_resnet")  # stages at 4, 8, 16, 16 pixels a cell


@pytest.fixture(scope="module")
def refined(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny run with its last stage refined in all ways, and one of these refined again."""
    root = tmp_path_factory.mktemp("refined") / "run"
    shutil.copytree(tiny_run.root, root)
    once = recipes.refined(replace(tiny.RECIPE, net=CNN), ["crf", "psa", "irn"])
    twice = recipes.refined(once, ["crf"], of=["bao+irn", "transcam"])
    short = {"epochs": 1, "batch_size": 4, "lr": 0.01, "head_lr": 0.1}
    wanted = tuple(
        replace(one, net=CNN, schedule=replace(one.schedule, **short)) if one.schedule else one
        for one in twice.refinements
    )
    return run(replace(tiny.RECIPE, refinements=wanted), root)


REFINED = ("bao+crf", "bao+psa", "bao+irn", "bao+irn+crf", "transcam+crf")


def test_refinements_leave_masks_metrics_and_rows_of_their_own(refined: Run) -> None:
    assert [one.name for one in pipeline.recipe_of(refined).refinements] == list(REFINED)
    truth = open_dataset(tiny.RECIPE.data, "eval")
    for name in REFINED:
        stage = refined.stage(name)
        metrics = read_json(stage.metrics)
        pairs = ((truth.mask(i).numpy(), read_mask(stage.mask("val", VAL[i])).numpy()) for i in range(len(VAL)))
        scores = slow_scores(pairs, 1 + len(truth.classes))
        assert metrics["refined"]["miou"] == pytest.approx(scores["miou"])
        assert metrics["fixed"] is metrics["sweep"] is metrics["oracle"] is None
        assert read_json(stage.costs)["masks"]["pictures"] == len(VAL)
        assert name in refined.report.read_text()
        assert stage.network.exists() == stage.losses.exists() == (not name.endswith("crf"))


def test_a_crf_refines_the_mask_of_its_stage(refined: Run) -> None:
    scenes = open_dataset(tiny.RECIPE.data, "eval")
    for of, name in (("bao", "bao+crf"), ("bao+irn", "bao+irn+crf"), ("transcam", "transcam+crf")):
        mask = read_mask(refined.stage(of).mask("val", VAL[2]))
        assert torch.equal(read_mask(refined.stage(name).mask("val", VAL[2])), refine.by_crf(scenes[2].image, mask))


@pytest.mark.parametrize("name", ["bao+psa", "bao+irn"])
def test_affinities_are_learned_from_where_mask_and_crf_agree(refined: Run, name: str) -> None:
    """BAO's background is learned, so there is neither a threshold nor an alpha."""
    scenes = open_dataset(tiny.RECIPE.data, "train")
    seed = seeds.load(refined.stage("bao").maps("train", scenes.names[1]))
    mask = masks.label_image(seed)
    labels = read_mask(refined.stage(name).label("train", scenes.names[1]))
    assert torch.equal(labels, mask.masked_fill(refine.by_crf(scenes[1].image, mask) != mask, 255))


def test_refining_again_does_what_is_due_alone(refined: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(refined.root, root)  # with the times of the files
    folder = Run(root)
    before = results(root)
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    times = {name: path.stat().st_mtime_ns for name, path in files(root).items()}
    assert times == {name: path.stat().st_mtime_ns for name, path in files(refined.root).items()}
    pipeline.make_masks(folder)  # the same masks: nothing is younger
    (root / "bao" / "masks" / "val" / f"{VAL[0]}.png").touch()
    (root / "bao+irn" / "masks" / "val" / f"{VAL[1]}.png").unlink()
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    assert results(root) == before
    again = {name for name, path in files(root).items() if path.stat().st_mtime_ns != times[name]}
    masks_again = {f"bao+crf/masks/val/{VAL[0]}.png", f"bao+irn/masks/val/{VAL[1]}.png"}
    masks_again |= {f"bao+irn+crf/masks/val/{VAL[1]}.png", f"bao/masks/val/{VAL[0]}.png"}
    assert again == masks_again | {f"{stage}/costs.json" for stage in ("bao+crf", "bao+irn", "bao+irn+crf")}


def test_a_refinement_can_be_added_to_a_run_and_the_recipe_run_again(tiny_run: Run, tmp_path: Path) -> None:
    folder = Run(shutil.copytree(tiny_run.root, tmp_path / "run"))
    pipeline.add_refinements(folder, ["crf"])
    pipeline.refine_masks(folder, hardware=tiny.HARDWARE)
    assert folder.stage("bao+crf").mask("val", VAL[0]).exists()
    run(tiny.RECIPE, folder.root)  # not another recipe
    assert "refined" in read_json(folder.stage("bao+crf").metrics)
    other = replace(recipes.refined(tiny.RECIPE, ["crf"]).refinements[0], by=refine.crf.PROBABILITIES)
    with pytest.raises(RunError, match=r"holds another bao\+crf \(by.bilateral_sxy was 50.0, now 80.0\)"):
        run(replace(tiny.RECIPE, refinements=(other,)), folder.root)
    with pytest.raises(RecipeError, match=r"cannot refine amn to amn\+crf; there are masks of bao, bao\+crf, transcam"):
        pipeline.add_refinements(folder, ["crf"], of=["amn"])
    with pytest.raises(RecipeError, match="unknown refinement 'rcf'; there are crf, psa, irn"):
        pipeline.add_refinements(folder, ["rcf"])
    with pytest.raises(RecipeError, match=r"irn works on maps, and bao\+crf has none"):
        pipeline.add_refinements(folder, ["irn"], of=["bao+crf"])


def test_refining_before_there_are_masks_names_what_is_missing(tmp_path: Path) -> None:
    folder = pipeline.begin(recipes.refined(tiny.RECIPE, ["crf"]), tmp_path / "run")
    with pytest.raises(RunError, match=r"val_00000.png: no such file; run `bao maps` and `bao masks`"):
        pipeline.refine_masks(folder, hardware=tiny.HARDWARE)


# ----------------------------------------------------------------------------------- segmentation

SEGMENTATION = recipes.Segmentation(
    masks="bao+crf",
    schedule=train.Config(epochs=2, batch_size=4, lr=1e-3),
    net=segment.NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16),
    inference=segment.Inference(scales=(1.0,)),
)


@pytest.fixture(scope="module")
def segmented(refined: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The refined run with segmentation networks: on its masks, on their own predictions, on a folder of masks."""
    root = tmp_path_factory.mktemp("segmented") / "run"
    shutil.copytree(refined.root, root)
    scenes = open_dataset(tiny.RECIPE.data, "train")
    for name, sample in ((name, scenes[index]) for index, name in enumerate(scenes.names)):
        mask = torch.full(sample.image.shape[1:], 255, dtype=torch.uint8)
        mask[20:40] = 1 + int(sample.labels.argmax())
        write_mask(root.parent / "masks" / f"{name}.png", mask)
    own = recipes.segmented(
        replace(pipeline.recipe_of(refined), segmentations=(replace(SEGMENTATION, reweight=True),)),
        masks="bao+crf",
        rounds=2,
        reweight=True,
    )
    others = replace(SEGMENTATION, masks=str(root.parent / "masks"), called="others")
    return run(replace(own, segmentations=(*own.segmentations, others)), root)


def test_segmentation_networks_leave_masks_metrics_and_rows_of_their_own(segmented: Run) -> None:
    truth = open_dataset(tiny.RECIPE.data, "eval")
    for name in ("segment", "segment-2", "others"):
        stage = segmented.stage(name)
        metrics = read_json(stage.metrics)
        pairs = ((truth.mask(i).numpy(), read_mask(stage.mask("val", VAL[i])).numpy()) for i in range(len(VAL)))
        assert metrics["predicted"]["miou"] == pytest.approx(slow_scores(pairs, 1 + len(truth.classes))["miou"])
        assert stage.epochs.read_text().splitlines()[0] == "epoch,miou"
        assert len(stage.epochs.read_text().splitlines()) == 3
        assert name in segmented.report.read_text()
        assert not stage.state.exists()


def test_a_network_predicts_without_labels_and_further_rounds_learn_within_them(segmented: Run) -> None:
    scenes = open_dataset(tiny.RECIPE.data, "train")
    model = baoseg.load(segmented.stage("segment").root)
    assert isinstance(model, baoseg.Segmenter)
    picture = open_dataset(tiny.RECIPE.data, "eval")[1].image
    assert torch.equal(model.mask(picture), read_mask(segmented.stage("segment").mask("val", VAL[1])))
    for index in (0, 5):
        names = scenes.classes.decode(scenes.labels(index))
        labels = read_mask(segmented.stage("segment-2").label("train", scenes.names[index]))
        assert torch.equal(labels, model.mask(scenes[index].image, names))
        assert set(labels.unique().tolist()) <= {0, *(scenes.labels(index).nonzero()[:, 0] + 1).tolist()}
    assert baoseg.load(segmented.root).classes == scenes.classes


def test_a_run_that_was_killed_trains_the_same_network(segmented: Run, tmp_path: Path) -> None:
    """From the state after its first epoch on."""
    root = tmp_path / "run"
    shutil.copytree(segmented.root, root)
    whole = segmented.stage("others").network.read_bytes()
    shutil.rmtree(root / "others")
    half = replace(pipeline.recipe_of(segmented).segmentations[-1])
    folder = Run(root)
    calls = 0

    class Killed(Exception):
        pass

    def kill(curve: Any, epoch: int) -> None:
        nonlocal calls
        calls += 1
        if epoch == 2:
            raise Killed

    recipe = pipeline.recipe_of(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenting._SegmentationCurve, "__call__", kill)
        with pytest.raises(Killed):
            segmenting._train_segmentation(folder, recipe, half, hardware=tiny.HARDWARE)
    assert folder.stage("others").state.exists()
    segmenting._train_segmentation(folder, recipe, half, hardware=tiny.HARDWARE)
    assert calls == 2
    assert folder.stage("others").network.read_bytes() == whole


def test_masks_that_cannot_be_learned_from_are_named(
    segmented: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = open_dataset(tiny.RECIPE.data, "train")
    recipe = tiny.RECIPE

    def masks_of(source: object) -> Any:
        wanted = replace(SEGMENTATION, masks=str(source))
        return segmenting._training_masks(segmented, recipe, wanted, pictures, hardware=tiny.HARDWARE)

    (tmp_path / "empty").mkdir()
    for source in ("nowhere", tmp_path / "empty"):
        with pytest.raises(DataError, match="neither a stage of this run nor a folder with masks"):
            masks_of(source)
    shutil.copytree(segmented.root.parent / "masks", tmp_path / "masks")
    last = len(pictures.classes)
    for path in sorted((tmp_path / "masks").iterdir()):
        mask = read_mask(path)
        write_mask(path, mask.where(mask != last, torch.tensor(0, dtype=torch.uint8)))
    segmenting._check_masks(masks_of(tmp_path / "masks"), pictures)
    assert f"No mask shows {pictures.classes.names[-1]}: the network will not learn it." in capsys.readouterr().out
    write_mask(tmp_path / "masks" / f"{pictures.names[3]}.png", torch.full((64, 64), 99, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"label 99 is outside 0\.\.\d+; use 255"):
        segmenting._check_masks(masks_of(tmp_path / "masks"), pictures)
    with pytest.raises(RecipeError, match="only masks of this run have maps"):
        segmenting._margins(segmented, recipe, replace(SEGMENTATION, masks=str(tmp_path)), pictures)


def test_a_mask_of_another_size_than_its_picture_is_named() -> None:
    pictures = open_dataset(tiny.RECIPE.data, "train")
    samples = data.TrainSet(
        pictures,
        tiny.RECIPE.augment,
        data.transforms.Normalisation(),
        seed=0,
        pixel_labels=lambda index: torch.zeros(64, 63, dtype=torch.uint8),
    )
    with pytest.raises(DataError, match="train_00002: an image of 64 x 64 pixels and a mask of 64 x 63"):
        samples[0, 2]


def test_processes_that_load_pictures_change_nothing(tiny_run: Run, tmp_path: Path) -> None:
    """Also not which paths are dropped, which the state of the main process decides."""
    stages = tiny.RECIPE.stages[:1]
    assert stages[0].schedule.epochs > 1 and ("drop_path", 0.2) in tiny.NET.options
    folder = pipeline.begin(replace(tiny.RECIPE, stages=stages), tmp_path / "run")
    pipeline.train_stages(folder, hardware=replace(tiny.HARDWARE, workers=1))
    weights = [load_file(run.stage("transcam").network) for run in (folder, tiny_run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
