"""Ground truth and labels, before a run and in its evaluation: perfect seeds score 100, or a line says why not."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from baoseg import pipeline
from baoseg.core.errors import DataError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import voc_palette
from baoseg.seeds import masks

SIDE = 32


def stripe(value):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[:, 8:24] = value  # kept exactly by seeds of a quarter of the size, at a threshold of one half
    return mask


def save_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def make(root, labels, values, *, save=save_mask, name="masks/{}.png"):
    """A folder of images with one label each, whose masks show a stripe of these values; and perfect seeds of it."""
    root.mkdir(parents=True)
    (root / "seeds").mkdir()
    order = sorted(set(labels))
    for number, (label, value) in enumerate(zip(labels, values, strict=True)):
        Image.new("RGB", (SIDE, SIDE)).save(root / f"p{number}.png")
        save(root / name.format(f"p{number}"), stripe(value))
        seed = {order.index(label): (stripe(1) > 0).astype(np.float32)}
        np.save(root / "seeds" / f"p{number}.npy", seed, allow_pickle=True)
    lines = [f"p{number}.png,{label}" for number, label in enumerate(labels)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n")
    return root


def fused(root):
    out = root.parent / f"{root.name}-run"
    recipe = replace(tiny.with_data(tiny.RECIPE, root), masks=masks.Config(threshold=0.5))
    pipeline.fuse_seeds(recipe, [str(root / "seeds")], out, allow_pickle=True)
    return read_json(RunFolder(out).stage("fused").metrics)["fixed"]["iou"]


LABELS = ["ant", "bee", "ant", "bee"]


def test_masks_of_0_and_255_are_those_of_the_one_class(tmp_path, capsys):
    root = make(tmp_path / "data", ["lesion"] * 3, [255] * 3)
    assert fused(root) == [100, 100]
    assert "0 and 255 only; 255 is read as lesion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        (LABELS, [255] * 4, "0 and 255 only"),
        (LABELS, [0] * 4, "nothing but background"),
        (LABELS, [1] * 4, "ant alone"),
        (LABELS, [2, 1, 2, 1], "4 of 4 masks show classes that their labels do not name"),
        (["person", "car", "apple"], [1, 2, 3], "2 of 3 masks show classes that their labels do not name"),
    ],
)
def test_masks_that_cannot_belong_to_the_labels_are_refused_before_the_run(tmp_path, labels, values, message):
    root = make(tmp_path / "data", labels, values)
    with pytest.raises(DataError, match=message) as error:
        fused(root)
    assert str(root) in str(error.value) and "\n" not in str(error.value) and ";" in str(error.value)
    assert not (tmp_path / "data-run").exists()


def test_the_evaluation_refuses_by_itself(tmp_path):
    root = make(tmp_path / "data", LABELS, [1, 2, 1, 2])
    fused(root)
    for number in range(4):
        save_mask(root / f"masks/p{number}.png", stripe(2 - number % 2))
    run = RunFolder(tmp_path / "data-run")
    before = run.stage("fused").metrics.read_bytes()
    with pytest.raises(DataError, match="4 of 4 masks show classes"):
        pipeline.evaluate_stages(run)
    assert run.stage("fused").metrics.read_bytes() == before


def test_a_mask_of_another_class_is_said_in_the_evaluation(tmp_path, capsys):
    labels, values = LABELS * 2, [1, 2] * 4
    values[3] = 1
    iou = fused(make(tmp_path / "data", labels, values))
    assert "1 of 8 masks show classes that their labels do not name, e.g. p3: ant" in capsys.readouterr().out
    assert iou[1:] == pytest.approx([80, 75])


def test_masks_without_an_image_are_said(tmp_path, capsys):
    root = make(tmp_path / "data", LABELS, [1, 2, 1, 2])
    (root / "masks/p3.png").rename(root / "masks/p3x.png")
    assert fused(root) == [100, 100, 100]
    assert "1 file matches no image of labels.csv, e.g. p3x.png" in capsys.readouterr().out


def test_images_without_ground_truth_are_counted(tmp_path, capsys):
    root = make(tmp_path / "data", LABELS, [1, 2, 1, 2])
    (root / "masks/p3.png").unlink()
    assert fused(root) == [100, 100, 100]
    assert "3 of 4 images of all have ground truth: the others are left out" in capsys.readouterr().out


def save_colours(path, mask):
    save_mask(path, voc_palette()[mask])


def save_resorted(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(voc_palette()[mask]).convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save(path)


@pytest.mark.parametrize("save", [save_colours, save_resorted])
@pytest.mark.parametrize("name", ["masks/{}.PNG", "masks/{}_mask.png", "SegmentationClass/{}.tif"])
def test_perfect_seeds_are_perfect_whatever_the_file_of_the_mask(tmp_path, save, name):
    root = make(tmp_path / "data", LABELS, [1, 2, 1, 2], save=save, name=name)
    assert fused(root) == [100, 100, 100]


def test_an_excerpt_is_looked_at_too(tmp_path):
    root = make(tmp_path / "data", LABELS, [2, 1, 2, 1])
    recipe = tiny.with_data(tiny.RECIPE, root)
    recipe = replace(recipe, data=replace(recipe.data, limit=2, long_side=16))
    with pytest.raises(DataError, match="2 of 2 masks show classes"):
        pipeline.run(recipe, tmp_path / "run", hardware=tiny.HARDWARE)
    assert not (tmp_path / "run").exists()
