import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from data.prepare.miniature import QUICK, jpeg, pack
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coder
from pycocotools.coco import COCO

from baoseg.core.errors import DataError
from baoseg.data import Folder
from baoseg.data.prepare import coco, coco14
from baoseg.data.prepare.coco import Config, draw, read_images

SIZE = (24, 32)  # height, width


def box(left, top, width, height):
    """A polygon."""
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def runs(mask):
    """The runs of a mask column by column, beginning with zeros: COCO's uncompressed form, counted by hand."""
    counts, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def rectangle(left, top, width, height):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def compressed(mask):
    code = coder.encode(np.asfortranarray(mask))
    return code | {"counts": code["counts"].decode()}


def annotation(number, image, category, segmentation, *, crowd=False):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": int(crowd),
        "area": 1.0,
        "bbox": [0, 0, 1, 1],
    }


ANNOTATIONS = [
    annotation(1, 7, 90, [box(2, 3, 20, 15), box(26, 1, 4, 4)]),  # a toothbrush in two parts
    annotation(2, 7, 1, compressed(rectangle(4, 4, 5, 5))),  # a person on it
    annotation(3, 7, 3, runs(rectangle(0, 0, 32, 24)), crowd=True),  # cars everywhere
    annotation(4, 9, 13, [[3.5, 2.25, 20.75, 5.5, 9.0, 20.125]]),
    annotation(5, 12, 44, runs(rectangle(1, 1, 9, 9)), crowd=True),  # nothing but a crowd
]


def content(split, numbers, annotations):
    height, width = SIZE
    images = [
        {"id": number, "file_name": f"COCO_{split}2014_{number:012}.jpg", "height": height, "width": width}
        for number in numbers
    ]
    categories = [{"id": number, "name": name} for number, name in coco.CATEGORIES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


TRAIN = content("train", [12, 8, 9, 7], ANNOTATIONS)  # 8 has no annotation
VAL = content("val", [3], [annotation(1, 3, 62, [box(0, 0, 6, 6)])])


def config(packs, *, train=TRAIN, pictures=None):
    files = {
        "annotations/instances_train2014.json": json.dumps(train).encode(),
        "annotations/instances_val2014.json": json.dumps(VAL).encode(),
        "annotations/captions_val2014.json": b"{}",
    }
    height, width = SIZE
    images = {
        f"train2014/COCO_train2014_{number:012}.jpg": jpeg(width, height, seed=number) for number in (7, 8, 9, 12)
    }
    return Config(
        annotations=pack(packs / "annotations.zip", files),
        train=pack(packs / "train.zip", images | (pictures or {})),
        val=pack(packs / "val.zip", {f"val2014/COCO_val2014_{3:012}.jpg": jpeg(width, height)}),
        train_images=3,
        val_images=1,
        unpacking=QUICK,
    )


def prepare(root, config, workers=0):
    return coco14(root, archives=root / "packs", workers=workers, config=config)


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    for word in words:
        assert word in message


def slow(tool, image):
    """The mask of an image by pycocotools' own reading of the file, pixel by pixel."""
    entries = tool.loadAnns(tool.getAnnIds(image["id"]))
    order = {category: index for index, category in enumerate(sorted(tool.getCatIds()), start=1)}
    mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
    with warnings.catch_warnings(action="ignore"):  # pycocotools does not know the copy keyword of NumPy 2
        crowds = [tool.annToMask(entry) for entry in entries if entry["iscrowd"]]
        objects = [(tool.annToMask(entry), order[entry["category_id"]]) for entry in entries if not entry["iscrowd"]]
    for layer in crowds:
        mask[layer > 0] = 255
    for layer, index in sorted(objects, key=lambda pair: -int(pair[0].sum())):
        mask[layer > 0] = index
    return mask


def read_by_pycocotools(path, capsys):
    tool = COCO(str(path))
    capsys.readouterr()  # it talks
    return tool


def test_ids_become_the_80_classes():
    assert len(coco.CATEGORIES) == 80 and list(coco.INDEX.values()) == list(range(1, 81))
    assert list(coco.CATEGORIES) == sorted(coco.CATEGORIES)
    assert coco.INDEX[1] == 1 and coco.INDEX[13] == 12 and coco.INDEX[90] == 80
    assert set(range(1, 91)) - set(coco.CATEGORIES) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of stuff, unused


def test_the_table_is_that_of_the_annotations(shared):
    file = json.loads((shared / "data/coco-mini/annotations/instances_val2014.json").read_text())
    assert {entry["id"]: entry["name"] for entry in file["categories"]} == coco.CATEGORIES


def test_the_splits_with_labels_and_masks(tmp_path, capsys):
    folder = prepare(tmp_path, config(tmp_path / "packs"))
    assert folder == tmp_path / "COCO2014"
    train = Folder(folder, "train")
    assert train.classes.names == coco.CLASSES
    assert list(train.names) == [f"COCO_train2014_{number:012}" for number in (7, 9, 12)]
    labels = [set(train.classes.decode(train.labels(index))) for index in range(3)]
    assert labels == [{"toothbrush", "person", "car"}, {"stop sign"}, {"bottle"}]
    assert train.mask(2).unique().tolist() == [0, 255]
    assert len(Folder(folder, "train", training=True)) == 3
    assert list(Folder(folder, "val").names) == [f"COCO_val2014_{3:012}"]
    assert "3 images, 2 of them with an object that is no crowd" in capsys.readouterr().out
    tool = read_by_pycocotools(folder / "annotations/instances_train2014.json", capsys)
    for index, number in enumerate((7, 9, 12)):
        assert np.array_equal(train.mask(index).numpy(), slow(tool, tool.loadImgs(number)[0]))


def test_crowd_below_large_below_small():
    mask = draw(ANNOTATIONS[:3], height=SIZE[0], width=SIZE[1])
    expected = np.full(SIZE, 255)
    expected[3:18, 2:22] = expected[1:5, 26:30] = 80
    expected[4:9, 4:9] = 1
    assert mask.tolist() == expected.tolist()


boxes = st.tuples(st.integers(0, 20), st.integers(0, 14), st.integers(1, 12), st.integers(1, 10))


@given(st.lists(st.tuples(boxes, st.sampled_from(sorted(coco.CATEGORIES)), st.booleans()), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_each_pixel_is_of_the_smallest_object_on_it(entries):
    annotations = [
        annotation(number, 1, category, compressed(rectangle(*where)), crowd=crowd)
        for number, (where, category, crowd) in enumerate(entries)
    ]
    mask = draw(annotations, height=SIZE[0], width=SIZE[1])
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            here = [
                (crowd, width * height, -number, category)
                for number, ((left, top, width, height), category, crowd) in enumerate(entries)
                if left <= x < left + width and top <= y < top + height
            ]
            expected = 0
            if here:
                crowd, _, _, category = min(here)
                expected = 255 if crowd else coco.INDEX[category]
            assert mask[y, x] == expected


@pytest.mark.parametrize("split", ["train", "val"])
def test_equal_to_pycocotools_on_real_annotations(shared, capsys, split):
    path = shared / f"data/coco-mini/annotations/instances_{split}2014.json"
    tool = read_by_pycocotools(path, capsys)
    pictures = read_images(path)
    assert len(pictures) == 60
    for picture, number in zip(pictures, sorted(tool.imgToAnns), strict=True):
        image = tool.loadImgs(number)[0]
        assert Path(image["file_name"]).stem == picture.name
        mask = draw(picture.annotations, height=picture.height, width=picture.width)
        assert np.array_equal(mask, slow(tool, image))
        assert picture.classes() == {tool.cats[entry["category_id"]]["name"] for entry in tool.imgToAnns[number]}


def test_processes_make_the_same_and_existing_masks_are_kept(tmp_path):
    settings = config(tmp_path / "packs")
    folder = prepare(tmp_path, settings)
    masks = sorted((folder / "SegmentationClass").iterdir())
    before = {path.name: path.read_bytes() for path in masks}
    for path in masks[1:]:
        path.unlink()
    kept = masks[0].stat().st_mtime_ns
    (tmp_path / "packs" / "train.zip").unlink()  # it was unpacked
    prepare(tmp_path, settings, workers=1)
    assert {path.name: path.read_bytes() for path in masks} == before
    assert masks[0].stat().st_mtime_ns == kept


def test_a_damaged_image_comes_after_all_others_and_can_be_replaced(tmp_path):
    """As COCO_train2014_000000167126.jpg was in early copies of train2014.zip."""
    height, width = SIZE
    name = f"COCO_train2014_{7:012}"
    settings = config(tmp_path / "packs", pictures={f"train2014/{name}.jpg": jpeg(width, height)[:-300]})
    refused(lambda: prepare(tmp_path, settings), f"http://images.cocodataset.org/train2014/{name}.jpg")
    folder = tmp_path / "COCO2014"
    assert len(list((folder / "SegmentationClass").iterdir())) == 3
    (folder / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg(width, height))
    assert Folder(prepare(tmp_path, settings), "train").mask(0) is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": ANNOTATIONS[:3]}, ["1 images with annotations instead of 3", "annotations.zip"]),
        ({"annotations": [*ANNOTATIONS, annotation(9, 7, 91, [])]}, ["category 91", "instances_train2014.json"]),
        ({"annotations": [*ANNOTATIONS, annotation(9, 70, 1, [])]}, ["image 70", "instances_train2014.json"]),
        ({"images": 3}, ["instances_train2014.json", "not the instances", ".annotations.zip.unpacked"]),
        ({"annotations": [*ANNOTATIONS, annotation(9, 7, 1, {"counts": "!"})]}, ["cannot be decoded"]),
        ({"images": [entry | {"height": 99} for entry in TRAIN["images"]]}, ["size"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    settings = config(tmp_path / "packs", train=TRAIN | change)
    refused(lambda: prepare(tmp_path, settings), *words)


def test_images_that_are_not_in_the_archive(tmp_path):
    settings = config(tmp_path / "packs")
    short = pack(tmp_path / "packs" / "train.zip", {f"train2014/COCO_train2014_{7:012}.jpg": jpeg(*SIZE[::-1])})
    settings = Config(**(vars(settings) | {"train": short}))
    refused(lambda: prepare(tmp_path, settings), f"{9:012} is missing", "(and 1 more)", "train.zip is incomplete")


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    refused(lambda: coco14(tmp_path), "pycocotools", "pip install 'baoseg[prepare]'")
    assert list(tmp_path.iterdir()) == []
