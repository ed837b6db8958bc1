"""What we write, read by the formats' own readers, or by slow readers after the description of the format."""

import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import supervision
import yaml
from exchange import drawn_folder
from exchange.drawn_folder import CLASSES, NAMES
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from baoseg import exchange
from baoseg.core.errors import DataError
from baoseg.exchange import label_studio, sources

MASKS = drawn_folder.masks(ignore=False)


def write(form: str, tmp_path: Path, masks: dict[str, np.ndarray] = MASKS, **options: object) -> Path:
    root = drawn_folder.write(tmp_path / "data", masks)
    exchange.FORMATS[form].write(sources.of_folder(root), tmp_path / "out", exchange.Options(**options))
    return tmp_path / "out"


def smooth_masks() -> dict[str, np.ndarray]:
    """Masks of the size and smoothness of those of photographs, with holes."""
    masks = {}
    for seed, (name, (height, width)) in enumerate(zip(NAMES, drawn_folder.SIZES, strict=True)):
        noise = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width)), (0, 0), 5.0)
        masks[name] = np.searchsorted(np.quantile(noise, [0.4, 0.8]), noise).astype(np.uint8)
    return masks


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("outlines", exchange.Outlines)
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools and the copy keyword of NumPy 2
def test_coco_by_pycocotools(outlines: exchange.Outlines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("coco", tmp_path, outlines=outlines) / "all.json"
    coco = COCO(str(path))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.loadImgs(coco.getImgIds()):
        mask = MASKS[image["file_name"].removesuffix(".png")]
        assert (image["height"], image["width"]) == mask.shape
        for label in (1, 2, 3):
            annotations = coco.loadAnns(coco.getAnnIds(image["id"], catIds=[label]))
            drawn = sum((coco.annToMask(one) for one in annotations), np.zeros_like(mask)) > 0
            assert np.array_equal(drawn, mask == label)
            for one in annotations:
                assert one["iscrowd"] == 0
                rows, columns = np.nonzero(coco.annToMask(one))
                assert one["area"] == len(rows)
                left, top = columns.min(), rows.min()
                assert one["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]


def test_coco_by_supervision(tmp_path: Path) -> None:
    out = write("coco", tmp_path)
    dataset = supervision.DetectionDataset.from_coco(
        images_directory_path=str(tmp_path / "data/images"),
        annotations_path=str(out / "all.json"),
        force_masks=True,
    )
    assert dataset.classes == list(CLASSES)
    for path, _, detections in dataset:
        name = Path(path).relative_to(tmp_path / "data/images").with_suffix("").as_posix()
        for label in (1, 2, 3):
            chosen = detections.mask[detections.class_id == label - 1] if len(detections) else np.zeros((0, 1, 1), bool)
            drawn = np.zeros_like(MASKS[name], dtype=bool) | np.any(chosen, axis=0)
            assert np.array_equal(drawn, MASKS[name] == label)


def test_yolo_by_supervision(tmp_path: Path) -> None:
    """Its outlines are filled with their border, as ours are; so the masks are the same but for rounding."""
    masks = smooth_masks()
    out = write("yolo", tmp_path, masks)
    for folder, name in (("a", "one"), ("b", "three"), ("", "two")):
        dataset = supervision.DetectionDataset.from_yolo(
            images_directory_path=str(out / "images/all" / folder),
            annotations_directory_path=str(out / "labels/all" / folder),
            data_yaml_path=str(out / "data.yaml"),
            force_masks=True,
        )
        assert list(dataset.classes) == list(CLASSES)
        detections = next(found for path, _, found in dataset if Path(path).stem == name)
        mask = masks[f"{folder}/{name}".strip("/")]
        for label in (1, 2):
            drawn = np.any(detections.mask[detections.class_id == label - 1], axis=0) if len(detections) else mask > 9
            assert not (mask == label).any() or iou(drawn, mask == label) >= 0.98


def test_yolo_of_single_pixels_and_lines(tmp_path: Path) -> None:
    """Five numbers in a line would be a box. Readers that cut coordinates off find the pixels of those that round."""
    mask = np.zeros((33, 47), dtype=np.uint8)
    mask[4, 7], mask[10, 20:22], mask[20:25, 46], mask[32, 0] = 1, 1, 2, 1
    out = write("yolo", tmp_path, {**MASKS, "two": mask})
    dataset = supervision.DetectionDataset.from_yolo(
        str(out / "images/all"), str(out / "labels/all"), str(out / "data.yaml"), force_masks=True
    )
    (detections,) = (found for path, _, found in dataset if Path(path).stem == "two")
    cut = np.zeros_like(mask)
    for line in (out / "labels/all/two.txt").read_text().splitlines():
        label, *points = line.split()
        assert len(points) >= 6
        corners = (np.array(points, dtype=np.float32).reshape(-1, 2) * (47, 33)).astype(np.int32)
        cv2.fillPoly(cut, [corners], int(label) + 1)
    assert np.array_equal(cut, mask)
    for label in (1, 2):
        assert np.array_equal(np.any(detections.mask[detections.class_id == label - 1], axis=0), mask == label)


def test_boxes_of_yolo_are_no_masks(tmp_path: Path) -> None:
    out = write("yolo", tmp_path)
    (out / "labels/all/two.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"two\.txt: line 1 is no outline of a class \(a box\)"):
        [list(drawn.layers) for drawn in exchange.FORMATS["yolo"].read(out)]


def test_index_masks_are_grey_for_every_reader(tmp_path: Path) -> None:
    masks = drawn_folder.masks()
    out = write("png", tmp_path, masks)
    for name, mask in masks.items():
        path = out / "masks/all" / f"{name}.png"
        with Image.open(path) as image:
            assert image.mode == "L"
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), mask)
    about = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert about["names"] == {0: "background", **dict(enumerate(CLASSES, start=1))}
    assert about["train"] == about["val"] == about["all"] == "images/all" and about["masks_dir"] == "masks"
    assert "path" not in about  # Ultralytics: a relative one is not relative to this file
    lines = (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):  # paths are relative to the folder of this file, and do not leave it
        assert ".." not in line["file_name"] + line["mask_file_name"] and line["split"] == "all"
        image, mask = (out / line[key] for key in ("file_name", "mask_file_name"))
        with Image.open(image) as one, Image.open(mask) as other:
            assert one.size == other.size
    assert len(lines) == len(masks)


def test_index_masks_of_several_splits_share_their_lists(tmp_path: Path) -> None:
    root = drawn_folder.write(tmp_path / "data", MASKS)
    (root / "splits").mkdir()
    for split, name in (("train", "two"), ("val", "a/one")):
        (root / "splits" / f"{split}.txt").write_text(f"{name}\n")
    for split in ("val", "train", "val"):
        exchange.export_masks(sources.of_folder(root, split=split), "png", tmp_path / "out", exchange.Options())
    about = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    assert (about["train"], about["val"]) == ("images/train", "images/val")
    lines = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text().splitlines()]
    assert {(line["split"], line["file_name"]) for line in lines} == {
        ("train", "images/train/two.png"),
        ("val", "images/val/a/one.png"),
    }
    assert len(lines) == 2


def test_masks_of_cvat_have_the_colours_of_its_list(tmp_path: Path) -> None:
    out = write("cvat", tmp_path)
    with zipfile.ZipFile(out / "all.zip") as archive:
        colours = {}
        for line in archive.read("labelmap.txt").decode().splitlines()[1:]:
            name, colour, parts, actions = line.split(":")
            colours[tuple(int(value) for value in colour.split(","))] = name
            assert parts == actions == ""
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == sorted(NAMES, key=NAMES.index)
        for name, mask in MASKS.items():
            with archive.open(f"SegmentationClass/{name}.png") as stream, Image.open(stream) as image:
                assert image.mode == "RGB"
                drawn = np.array([[colours[tuple(pixel)] for pixel in row] for row in np.asarray(image).tolist()])
            assert np.array_equal(drawn, np.array(["background", *CLASSES])[mask])


def test_objects_of_cvat_are_the_instances_and_no_background(tmp_path: Path) -> None:
    """CVAT makes an annotation of each pair of colours of both files, but where the object is black."""
    masks = drawn_folder.masks()
    masks["two"] = np.eye(33, 47, dtype=np.uint8)
    masks["b/three"] = np.tile(np.array([[1, 0], [0, 0]], dtype=np.uint8), (32, 15))  # 480 instances
    out = write("cvat", tmp_path, masks)
    parts = {result.name: [*result.instances(), *result.ignored()] for result in sources.of_folder(tmp_path / "data")}
    with zipfile.ZipFile(out / "all.zip") as archive:
        assert "ignore:224,224,192::" in archive.read("labelmap.txt").decode().splitlines()
        for name, mask in masks.items():
            with archive.open(f"SegmentationObject/{name}.png") as stream, Image.open(stream) as image:
                objects = np.asarray(image.convert("RGB")).astype(int) @ [1 << 16, 1 << 8, 1]
            assert np.array_equal(objects > 0, mask > 0)
            pairs = {*zip(objects[mask > 0].tolist(), mask[mask > 0].tolist(), strict=True)}
            assert len(pairs) == (len(parts[name]) if name != "b/three" else 1)


def slow_brush(packed: list[int]) -> list[int]:
    """The bytes of a brush: a stream of bits, word by word."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    total, word, sizes = take(32), take(5) + 1, None
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, size = take(1), sizes[take(2)]
        length = take(size) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return values


@given(st.integers(0, 2**32 - 1))
def test_brushes_by_a_slow_decoder(random: int) -> None:
    draw = np.random.default_rng(random)
    mask = draw.random(tuple(draw.integers(1, 20, 2))) < draw.random()
    packed = label_studio.encode(mask)
    assert slow_brush(packed.tolist()) == np.repeat(np.where(mask, 255, 0).ravel(), 4).tolist()
    assert np.array_equal(label_studio.decode(packed.tolist(), mask.shape), mask)


def test_a_brush_of_long_runs_and_one_with_words_that_do_not_repeat() -> None:
    large = np.zeros((300, 400), dtype=bool)
    large[100:, :] = True
    assert np.array_equal(label_studio.decode(label_studio.encode(large).tolist(), large.shape), large)
    # 8 bytes of two pixels, as words: header 8, 8 bits, sizes 3 4 8 16; flag 0, size 0 (3 bits), 8 - 1, the words
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}0{0:02b}{7:03b}" + "".join(
        f"{v:08b}" for v in [0] * 4 + [255] * 4
    )
    words = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
    assert label_studio.decode(words, (1, 2)).tolist() == [[False, True]]


def test_tasks_of_label_studio_name_what_their_interface_names(tmp_path: Path) -> None:
    out = write("label-studio", tmp_path)
    interface = ElementTree.parse(out / "label_config.xml").getroot()
    image, brushes = interface.find("Image"), interface.find("BrushLabels")
    assert [label.get("value") for label in brushes] == list(CLASSES)
    for task in json.loads((out / "all.json").read_text(encoding="utf-8")):
        assert image.get("value") == "$image" and "image" in task["data"]
        for region in task["predictions"][0]["result"]:
            assert (region["from_name"], region["to_name"]) == (brushes.get("name"), image.get("name"))
            assert region["value"]["brushlabels"][0] in CLASSES


def test_the_newest_annotation_of_a_task_counts(tmp_path: Path) -> None:
    """A bitmask and a polygon, as later versions of Label Studio and people draw them."""
    size, inside = (10, 20), np.zeros((10, 20), dtype=np.uint8)
    inside[2:5, 3:9] = 255
    png = tmp_path / "bitmask.png"
    Image.merge("LA", [Image.new("L", size[::-1]), Image.fromarray(inside)]).save(png)
    import base64

    sides = {"original_width": 20, "original_height": 10}
    bitmask = {"imageDataURL": f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"}
    polygon = {"points": [[50, 50], [75, 50], [75, 80], [50, 80]], "polygonlabels": ["dog"]}
    new = [
        {"type": "bitmasklabels", **sides, "value": {**bitmask, "bitmasklabels": ["cat"]}},
        {"type": "polygonlabels", **sides, "value": polygon},
        {"type": "choices", "value": {"choices": ["sunny"]}},
    ]
    task = {
        "data": {"image": "/data/upload/1/0a1b2c3d-photo.jpg"},
        "annotations": [
            {"updated_at": "2026-11-03", "result": new},
            {"updated_at": "2026-11-04", "was_cancelled": True, "result": []},
            {"updated_at": "2026-11-02", "result": []},
        ],
    }
    (tmp_path / "project.json").write_text(json.dumps([task, {"data": {"image": "x.jpg"}}]), encoding="utf-8")
    (drawn,) = label_studio.read(tmp_path / "project.json")
    (first, cat), (second, dog) = drawn.layers
    assert (drawn.name, drawn.size, first, second) == ("/data/upload/1/photo.jpg", size, "cat", "dog")
    assert np.array_equal(cat, inside > 0)
    assert dog[5:9, 10:16].all() and dog.sum() == 24


def test_masks_and_rectangles_of_labelme(tmp_path: Path) -> None:
    import base64

    part = np.array([[255, 0, 255], [255, 255, 0]], dtype=np.uint8)
    Image.fromarray(part).save(tmp_path / "part.png")
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[5, 4], [2, 1]]},
        {
            **{"label": "dog", "shape_type": "mask", "points": [[6, 2], [8, 3]]},
            "mask": base64.b64encode((tmp_path / "part.png").read_bytes()).decode(),
        },
    ]
    about = {"imagePath": "x.jpg", "imageHeight": 8, "imageWidth": 10}
    (tmp_path / "x.json").write_text(json.dumps({"version": "5.5.0", "shapes": shapes, **about}), encoding="utf-8")
    (drawn,) = exchange.FORMATS["labelme"].read(tmp_path)
    (_, cat), (_, dog) = drawn.layers
    assert cat[1:5, 2:6].all() and cat.sum() == 16
    assert np.array_equal(dog[2:4, 6:9], part > 0) and dog.sum() == 4
