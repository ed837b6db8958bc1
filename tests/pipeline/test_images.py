"""Runs on images of all kinds from disk."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from pipeline.tiny_runs import SHORT, STAGES, check_metrics, run, scene, write_images

from baoseg import pipeline, seeds
from baoseg.core.errors import DataError, RunError
from baoseg.core.files import read_json
from baoseg.data import open_dataset
from baoseg.data.images import read_mask, write_mask
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.data.synthetic import Synthetic
from baoseg.methods import cam
from baoseg.pipeline import mapping

# ------------------------------------------------------------------------------------ files on disk


def write_all_kinds(root: Path) -> dict[str, tuple[int, int]]:
    """A folder with images of many kinds and odd sizes, with masks but for one; their upright sizes [h w].

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


def test_images_of_all_kinds_from_disk(tmp_path: Path) -> None:
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
    write_images(tmp_path / "data", {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
    recipe = tiny.with_data(replace(SHORT, stages=SHORT.stages[:1]), tmp_path / "data")
    folder = run(recipe, tmp_path / "run")
    assert "No ground truth for the 4 images of all" in capsys.readouterr().out
    assert not folder.stage("transcam").metrics.exists()
    assert all(folder.stage("transcam").mask("all", f"p{i}").exists() for i in range(4))
    assert folder.report.exists()


def test_an_unreadable_image_stops_the_run_and_a_restored_one_continues_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_images(data, {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
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
    write_images(data, {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
    write_mask(data / "masks/p1.png", torch.ones(64, 63, dtype=torch.uint8))
    recipe = tiny.with_data(replace(SHORT, stages=SHORT.stages[:1]), data)
    with pytest.raises(DataError, match=r"masks/p1\.png: the mask is 63x64 pixels"):
        run(recipe, tmp_path / "run")


def test_maps_of_a_class_list_that_has_changed_since_training_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_images(data, {f"p{i}": (scene(i), "bee" if i % 2 else "bee frog") for i in range(4)})
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
