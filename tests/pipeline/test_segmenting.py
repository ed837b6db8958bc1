"""Masks of others, looked at before a segmentation network learns from them."""

import numpy as np
import pytest
import torch
from PIL import Image

from baoseg.core.errors import DataError
from baoseg.data import Folder
from baoseg.pipeline.checking import masks_of_others
from baoseg.pipeline.segmenting import _check_masks


def pictures(root, labels):
    root.mkdir(parents=True, exist_ok=True)
    for number in range(len(labels)):
        Image.new("RGB", (2, 2)).save(root / f"p{number}.png")
    lines = [f"p{number}.png,{label}" for number, label in enumerate(labels)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n")
    return Folder(root, training=True)


def masks(root, values, name="p{}.png"):
    root.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(values):
        Image.fromarray(np.array([[0, 0], [0, value]], dtype=np.uint8)).save(root / name.format(number))
    return str(root)


LABELS = ["ant", "bee", "ant", "bee"]


@pytest.mark.parametrize("name", ["p{}.png", "p{}.PNG", "p{}_mask.png", "p{}.png.png", "p{}.tif"])
def test_masks_are_found_by_the_rule_of_ground_truth(tmp_path, capsys, name):
    data = pictures(tmp_path / "data", LABELS)
    kept = masks_of_others(masks(tmp_path / "masks", [1, 2, 1, 2], name), data)
    _check_masks(kept, data)
    assert [int(kept(index)[1, 1]) for index in range(4)] == [1, 2, 1, 2]
    assert capsys.readouterr().out == ""


def test_the_one_class_may_be_255(tmp_path, capsys):
    data = pictures(tmp_path / "data", ["lesion"] * 2)
    kept = masks_of_others(masks(tmp_path / "masks", [255, 255]), data)
    _check_masks(kept, data)
    assert torch.equal(kept(0), torch.tensor([[0, 0], [0, 1]], dtype=torch.uint8))
    assert "255 is read as lesion" in capsys.readouterr().out


def refused(tmp_path, values, labels=LABELS):
    data = pictures(tmp_path / "data", labels)
    with pytest.raises(DataError) as error:
        _check_masks(masks_of_others(masks(tmp_path / "masks", values), data), data)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "masks")) and "\n" not in message and ";" in message
    return message


def test_masks_that_cannot_belong_to_the_labels_are_refused(tmp_path):
    assert "4 of 4 masks show classes that their labels do not name" in refused(tmp_path, [2, 1, 2, 1])
    assert "ant alone" in refused(tmp_path, [1, 1, 1, 1])
    assert "0 and 255 only" in refused(tmp_path, [255] * 4)
    assert "nothing but background" in refused(tmp_path, [0] * 4)


def test_some_masks_that_show_more_are_said(tmp_path, capsys):
    data = pictures(tmp_path / "data", LABELS)
    _check_masks(masks_of_others(masks(tmp_path / "masks", [1, 2, 1, 1]), data), data)
    assert "1 of 4 masks show classes that their labels do not name, e.g. p3: ant" in capsys.readouterr().out


def test_a_missing_mask_is_named_and_what_lies_there_instead(tmp_path):
    masks(tmp_path / "masks", [1], "px{}.png")
    message = refused(tmp_path, [1, 2, 1])
    assert "1 of 4 training images have no mask, e.g. p3 (px0.png is that of none); add" in message
