"""Files of other tools that are damaged, or made to do harm: one line says what is wrong, and nothing is written."""

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import drawn_folder
from PIL import Image

from baoseg import exchange
from baoseg.core.errors import DataError
from baoseg.core.types import ClassSet
from baoseg.data.folder import Folder
from baoseg.exchange import common

HUGE = 1_000_000  # a side: no memory holds the mask
REGION = {"type": "brushlabels", "original_width": 47, "original_height": 33}
SHAPE = {"label": "cat", "shape_type": "polygon"}


def refusal(form: str, source: Path, tmp_path: Path) -> str:
    root, out = drawn_folder.write(tmp_path / "data", drawn_folder.masks()), tmp_path / "back"
    with pytest.raises(DataError) as caught:
        exchange.import_masks(lambda: exchange.FORMATS[form].read(source), Folder(root), out)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def document(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(segmentation: Any, *, width: int = 47, height: int = 33) -> dict[str, Any]:
    image = {"id": 1, "file_name": "two.png", "width": width, "height": height}
    annotation = {"image_id": 1, "category_id": 1, "segmentation": segmentation}
    return {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": [annotation]}


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ([[1, 1, float("nan"), 5, 5, 9]], "a polygon that is no list"),
        ([[1, 1, 2]], "a polygon that is no list"),
        ([["a", 1, 2, 3, 4, 5]], "could not convert"),
        ({"size": [33, 47], "counts": "ooooo"}, "run lengths that do not fill the image"),
        ({"size": [33, 47], "counts": "1" * 9}, "run lengths that do not fill the image"),
        ({"size": [33, 47], "counts": [1551, -1, 1]}, "run lengths that do not fill the image"),
        ({"size": [HUGE, HUGE], "counts": [HUGE * HUGE]}, "a mask of"),
        ({"size": [33, 47]}, "counts"),
    ],
)
def test_annotations_of_coco(segmentation: Any, problem: str, tmp_path: Path) -> None:
    said = refusal("coco", document(tmp_path / "a.json", coco(segmentation)), tmp_path)
    assert "a.json: an annotation of two.png cannot be read" in said and problem in said


def test_polygons_that_reach_far_beyond_the_image_cost_no_memory(tmp_path: Path) -> None:
    far = [[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]]
    (drawn,) = exchange.FORMATS["coco"].read(document(tmp_path / "a.json", coco(far)))
    ((label, mask),) = drawn.layers
    assert label == "cat" and mask.all() and mask.shape == (33, 47)


@pytest.mark.parametrize("form", ["coco", "label-studio", "labelme"])
def test_sizes_of_no_image_are_not_painted(form: str, tmp_path: Path) -> None:
    tasks = [
        {
            "data": {"image": "two.png"},
            "predictions": [
                {"result": [{**REGION, "original_width": HUGE, "original_height": HUGE, "value": {"rle": []}}]}
            ],
        }
    ]
    shapes = {"imageHeight": HUGE, "imageWidth": HUGE, "shapes": [{**SHAPE, "points": [[0, 0], [9, 0], [9, 9]]}]}
    content = {"coco": coco([[0, 0, 9, 0, 9, 9]], width=HUGE, height=HUGE), "label-studio": tasks, "labelme": shapes}
    path = document(tmp_path / "d/two.json", content[form])
    said = refusal(form, path.parent if form == "labelme" else path, tmp_path)
    assert f"drawn at {HUGE}x{HUGE}, the image has 47x33" in said


@pytest.mark.parametrize(
    ("region", "problem"),
    [
        ({"value": {"format": "rle", "rle": [0, 0, 0], "brushlabels": ["cat"]}}, "a brush that ends early"),
        ({"value": {"format": "rle", "rle": [255] * 64, "brushlabels": ["cat"]}}, "a brush of 4294967295 bytes"),
        ({"value": {"rle": [], "brushlabels": []}}, "a region without a label"),
        ({"type": "ellipselabels", "value": {"ellipselabels": ["cat"]}}, "a region of the kind ellipselabels"),
        ({"type": "bitmasklabels", "value": {"imageDataURL": "data:,%%", "bitmasklabels": ["cat"]}}, "Only base64"),
    ],
)
def test_regions_of_label_studio(region: dict[str, Any], problem: str, tmp_path: Path) -> None:
    tasks = [{"id": 7, "data": {"image": "two.png"}, "annotations": [{"result": [{**REGION, **region}]}]}]
    said = refusal("label-studio", document(tmp_path / "a.json", tasks), tmp_path)
    assert "a.json: task 7 cannot be read" in said and problem in said


def test_an_annotation_without_a_region_is_background_and_a_task_without_one_is_left_out(tmp_path: Path) -> None:
    tasks = [{"data": {"image": "two.png"}, "annotations": [{"result": []}]}, {"data": {"image": "a/one.png"}}]
    source, root = document(tmp_path / "a.json", tasks), drawn_folder.write(tmp_path / "data", drawn_folder.masks())
    read = exchange.FORMATS["label-studio"].read
    assert exchange.import_masks(lambda: read(source), Folder(root), tmp_path / "back") == 1
    with Image.open(tmp_path / "back/two.png") as mask:
        assert mask.size == (47, 33) and not np.asarray(mask).any()


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"points": [[0, 0], [1e400, 1], [2, 2]]}, "three finite ones"),
        ({"points": [[0, 0], [1, 1]]}, "three finite ones"),
        ({"points": [[0, 0]], "shape_type": "circle"}, "its type is circle"),
        ({"points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": "AAAA"}, "cannot identify image"),
    ],
)
def test_shapes_of_labelme(shape: dict[str, Any], problem: str, tmp_path: Path) -> None:
    content = {"imageHeight": 33, "imageWidth": 47, "shapes": [{**SHAPE, **shape}]}
    said = refusal("labelme", document(tmp_path / "d/two.json", content).parent, tmp_path)
    assert "two.json: a shape cannot be read" in said and problem in said


def test_a_png_of_too_many_pixels_within_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("L", (60, 60), 255).save(content, format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 33 * 47)
    shape = {"points": [[0, 0], [9, 9]], "shape_type": "mask", "mask": base64.b64encode(content.getvalue()).decode()}
    shapes = {"imageHeight": 33, "imageWidth": 47, "shapes": [{**SHAPE, **shape}]}
    assert "exceeds limit" in refusal("labelme", document(tmp_path / "d/two.json", shapes).parent, tmp_path)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({}, "There is no item named 'labelmap.txt'"),
        ({"labelmap.txt": b" " * 2_000_000}, "labelmap.txt is larger than 1048576 bytes"),
        ({"labelmap.txt": b"cat:1,2::\n"}, "export it from CVAT"),
        (
            {"labelmap.txt": b"cat:1,2,3::\n", "SegmentationClass/two.png": b"GIF89a"},
            "two.png: not a known kind of mask",
        ),
    ],
)
def test_zips_of_cvat(members: dict[str, bytes], problem: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert problem in refusal("cvat", tmp_path / "a.zip", tmp_path)


def test_a_mask_of_too_many_pixels_in_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (60, 60)).save(content, format="PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\n")
        archive.writestr("SegmentationClass/two.png", content.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "two.png: this mask has more than 2,000 pixels" in refusal("cvat", tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("form", ["coco", "label-studio", "labelme"])
def test_documents_that_nest_without_end(form: str, tmp_path: Path) -> None:
    path = tmp_path / "d/two.json"
    path.parent.mkdir()
    path.write_text("[" * 100_000, encoding="utf-8")
    assert "two.json: is no JSON" in refusal(form, path.parent if form == "labelme" else path, tmp_path)
    assert "no.json: cannot be read" in refusal("coco", tmp_path / "no.json", tmp_path)


def test_all_that_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    root = drawn_folder.write(tmp_path / "data", drawn_folder.masks())
    for name in ("two", "a/one"):
        (root / "masks" / f"{name}.png").write_bytes((root / "masks" / f"{name}.png").read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        exchange.import_masks(lambda: exchange.FORMATS["png"].read(root), Folder(root), tmp_path / "back")
    assert "one.png: this mask" in str(caught.value) and "two.png: this mask" in str(caught.value)


def test_names_of_pixels_to_ignore_are_no_names_of_classes() -> None:
    assert common.ignore_name(ClassSet(("cat", "dog"))) == "ignore"
    assert common.ignore_name(ClassSet(("Ignore", "void"))) == "__ignore__"
