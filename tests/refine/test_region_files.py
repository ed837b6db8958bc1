"""Regions from files: those of SAM's own programs, and index images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from baoseg.core.errors import DataError
from baoseg.refine import region_files

SIZE = (5, 7)
MASKS = np.zeros((3, *SIZE), dtype=bool)
MASKS[0, 1:4, 1:4] = True
MASKS[1, 2:5, 2:6] = True  # overlaps the first
MASKS[2, 0, 5:] = True  # overlaps none


def layers(regions: torch.Tensor) -> list[list[list[bool]]]:
    """All masks in the layers, in the order of their first pixel."""
    found = [(layer == number).numpy() for layer in regions for number in layer.unique() if number >= 0]
    return sorted((mask.tolist() for mask in found), key=np.argmax)


EXPECTED = sorted(MASKS.tolist(), key=np.argmax)


def test_overlapping_masks_take_as_many_layers_as_they_need() -> None:
    regions = region_files.packed(MASKS, SIZE)
    assert regions.shape == (2, 5, 7)
    assert layers(regions) == EXPECTED


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "counts"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["SA-1B", "amg"])
def test_run_lengths_of_sam(tmp_path: Path, compressed: bool, wrapped: bool) -> None:
    coded = [_compressed(mask) if compressed else _counts(mask) for mask in MASKS]
    listed = [{"segmentation": one, "area": 1, "predicted_iou": 0.9} for one in coded]
    path = tmp_path / "a" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"annotations": listed} if wrapped else listed))
    assert layers(region_files.read(tmp_path, "a/x", SIZE)) == EXPECTED


def _compressed(mask: np.ndarray) -> dict:
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}


def _counts(mask: np.ndarray) -> dict:
    """Lengths of runs, by columns; the first run is outside."""
    flat, counts, inside = mask.ravel(order="F"), [0], False
    for pixel in flat:
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def test_a_file_without_a_mask_is_an_image_without_a_region(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    assert region_files.read(tmp_path, "x", SIZE).shape == (0, *SIZE)
    assert region_files.packed(np.zeros((2, *SIZE), dtype=bool), SIZE).shape == (0, *SIZE)


def test_run_lengths_that_do_not_fill_their_image_are_refused(tmp_path: Path) -> None:
    coded = _compressed(MASKS[0])
    for odd in ({**coded, "counts": coded["counts"][:2]}, {**coded, "size": [7, 5]}, {**coded, "counts": [9, -1, 27]}):
        (tmp_path / "x.json").write_text(json.dumps([{"segmentation": odd}]))
        with pytest.raises(DataError, match="a mask that is no run lengths of COCO"):
            region_files.read(tmp_path, "x", SIZE)


def test_a_folder_of_binary_masks_as_amg_writes_it(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for number, mask in enumerate(MASKS):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "x" / f"{number}.png")
    (tmp_path / "x" / "metadata.csv").write_text("id,area\n")
    assert layers(region_files.read(tmp_path, "x", SIZE)) == EXPECTED


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_index_image_has_no_region_at_zero(tmp_path: Path, kind: type) -> None:
    numbers = np.array([[0, 1, 1], [200, 200, 0]], dtype=kind) * (1 if kind is np.uint8 else 300)
    Image.fromarray(numbers).save(tmp_path / "x.png")
    _, first, second = np.unique(numbers).tolist()
    assert region_files.read(tmp_path, "x", (2, 3))[0].tolist() == [[-1, first, first], [second, second, -1]]


def test_what_is_no_region_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no regions of x; add x.png, x.json or a folder x/ of PNG files"):
        region_files.read(tmp_path, "x", (2, 2))
    (tmp_path / "x.json").write_text('{"masks": []}')
    with pytest.raises(DataError, match="no list of masks with a `segmentation` each"):
        region_files.read(tmp_path, "x", (2, 2))
    (tmp_path / "x.json").write_text('[{"segmentation": {"size": [2], "counts": "1"}}]')
    with pytest.raises(DataError, match="a mask that is no run lengths of COCO"):
        region_files.read(tmp_path, "x", (2, 2))
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(DataError, match="is no JSON"):
        region_files.read(tmp_path, "x", (2, 2))
    Image.new("RGB", (3, 2)).save(tmp_path / "y.png")
    with pytest.raises(DataError, match="a PNG of mode RGB; save it as a PNG of one channel"):
        region_files.read(tmp_path, "y", (2, 3))
    (tmp_path / "z").mkdir()
    for side in (2, 3):
        Image.new("L", (side, side)).save(tmp_path / "z" / f"{side}.png")
    with pytest.raises(DataError, match=r"3\.png: regions of \(3, 3\) for an image of \(2, 2\)"):
        region_files.read(tmp_path, "z", (2, 2))
    with pytest.raises(DataError, match="no such folder of regions"):
        region_files.finder(str(tmp_path / "none"))
