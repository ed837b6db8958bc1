"""Miniatures of the three archives, opened by the data set that training and evaluation use."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from data.prepare.miniature import QUICK, jpeg, pack, png

from baoseg.core.errors import DataError
from baoseg.data import Config, open_boxed
from baoseg.data.boxed import Layout
from baoseg.data.prepare import cub200, ilsvrc, openimages
from baoseg.data.prepare.wsol import Cub, Ilsvrc, OpenImages

WIDTH, HEIGHT = 6, 4
SHAPE = [[0, 0, 0, 0, 0, 0], [0, 0, 255, 255, 0, 0], [0, 0, 255, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def lines(*rows):
    return "".join(f"{row}\n" for row in rows).encode()


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    for word in words:
        assert word in message


def without(files, name):
    return {key: content for key, content in files.items() if key != name}


# ------------------------------------------------------------------------------------------- CUB-200-2011

BIRDS = ["001.Auk/Auk_1.jpg", "001.Auk/Auk_2.jpg", "002.Jay/Jay_1.jpg"]
CUB = {
    "attributes.txt": b"not needed",
    "CUB_200_2011/parts/parts.txt": b"not needed",
    "CUB_200_2011/images.txt": lines(*(f"{number} {bird}" for number, bird in enumerate(BIRDS, start=1))),
    "CUB_200_2011/image_class_labels.txt": lines("1 1", "2 1", "3 2"),
    "CUB_200_2011/train_test_split.txt": lines("1 1", "2 0", "3 1"),
    "CUB_200_2011/bounding_boxes.txt": lines("1 1.0 0.0 3.0 2.0", "2 2.0 1.0 2.0 2.0", "3 0.0 0.0 5.0 3.0"),
    "CUB_200_2011/classes.txt": lines("1 001.Auk", "2 002.Jay"),
    **{f"CUB_200_2011/images/{bird}": jpeg(WIDTH, HEIGHT) for bird in BIRDS},
}
BIRD_MASKS = {f"segmentations/{bird.removesuffix('.jpg')}.png": png(SHAPE) for bird in BIRDS}


def birds(packs, *, files=CUB, masks=BIRD_MASKS):
    return Cub(
        images=pack(packs / "birds.tgz", files),
        segmentations=pack(packs / "outlines.tgz", masks),
        train_images=2,
        test_images=1,
        unpacking=QUICK,
    )


def test_cub(tmp_path, capsys):
    folder = cub200(tmp_path, archives=tmp_path / "packs", config=birds(tmp_path / "packs"))
    assert folder == tmp_path / "CUB_200_2011"
    config = Config(path=str(folder), layout=Layout.CUB)
    train, test = open_boxed(config, "train"), open_boxed(config, "eval")
    assert [entry.label for entry in train.entries] == ["001.Auk", "002.Jay"]
    assert test.boxes(0).tolist() == [[2, 1, 4, 3]] and not test.has_masks
    assert not (folder / "parts").exists() and not (tmp_path / "attributes.txt").exists()
    cells = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in cells] == [["train", "2", "2", "0"], ["test", "1", "1", "0"]]


def test_cub_with_segmentations(tmp_path):
    folder = cub200(tmp_path, archives=tmp_path / "packs", segmentations=True, config=birds(tmp_path / "packs"))
    test = open_boxed(Config(path=str(folder), layout=Layout.CUB), "eval")
    assert torch.equal(test.mask(0), (torch.tensor(SHAPE) > 0).to(torch.uint8))


@pytest.mark.parametrize(
    ("files", "masks", "words"),
    [
        (CUB | {"CUB_200_2011/train_test_split.txt": lines("1 1", "2 0", "3 0")}, BIRD_MASKS, ["1 images in train"]),
        (without(CUB, f"CUB_200_2011/images/{BIRDS[1]}"), BIRD_MASKS, ["Auk_2.jpg", ".birds.tgz.unpacked"]),
        (without(CUB, "CUB_200_2011/classes.txt"), BIRD_MASKS, ["classes.txt", ".birds.tgz.unpacked"]),
        (CUB, without(BIRD_MASKS, "segmentations/002.Jay/Jay_1.png"), ["Jay_1", "outlines.tgz is incomplete"]),
    ],
)
def test_what_cub_lacks_is_named(tmp_path, files, masks, words):
    config = birds(tmp_path / "packs", files=files, masks=masks)
    refused(lambda: cub200(tmp_path, archives=tmp_path / "packs", segmentations=True, config=config), *words)


def test_the_same_command_goes_on_after_repair(tmp_path):
    prepare = partial(cub200, tmp_path, archives=tmp_path / "packs", config=birds(tmp_path / "packs"))
    folder = prepare()
    picture = folder / "images" / BIRDS[0]
    whole = picture.read_bytes()
    picture.unlink()
    marker = folder / ".birds.tgz.unpacked"
    refused(prepare, str(picture), str(marker))
    marker.unlink()
    prepare()
    assert picture.read_bytes() == whole


# ------------------------------------------------------------------------------------------------- ILSVRC


def xml(synset, *boxes):
    names = ("xmin", "ymin", "xmax", "ymax")
    corners = ["".join(f"<{name}>{value}</{name}>" for name, value in zip(names, box, strict=True)) for box in boxes]
    objects = "".join(f"<object><name>{synset}</name><bndbox>{box}</bndbox></object>" for box in corners)
    return f"<annotation>{objects}</annotation>".encode()


VAL = {f"ILSVRC2012_val_{number:08}.JPEG": jpeg(WIDTH, HEIGHT, seed=number) for number in (1, 2)}
BOXES = {
    "val/ILSVRC2012_val_00000001.xml": xml("n02", (0, 0, 3, 2), (1, 1, 5, 3)),
    "val/ILSVRC2012_val_00000002.xml": xml("n01", (2, 0, 4, 3)),
}


def nested(folder, synsets):
    """A tar of tars: one for each synset, of so many images."""
    files = {}
    for seed, (synset, count) in enumerate(synsets.items()):
        pictures = {f"{synset}_{number}.JPEG": jpeg(WIDTH, HEIGHT, seed=seed + number) for number in range(count)}
        pack(folder / f"{synset}.tar", pictures)
        files[f"{synset}.tar"] = (folder / f"{synset}.tar").read_bytes()
    return files


def imagenet(packs, *, boxes=BOXES, synsets=None):
    """The archives of val and, if there are synsets, that of train."""
    config = Ilsvrc(
        val=pack(packs / "val.tar", VAL),
        boxes=pack(packs / "boxes.tgz", boxes),
        train_images=3,
        val_images=2,
        unpacking=QUICK,
    )
    if synsets is None:
        return config
    return replace(config, train=pack(packs / "train.tar", nested(packs / "inner", synsets)))


def test_ilsvrc(tmp_path):
    config = imagenet(tmp_path / "packs", synsets={"n01": 2, "n02": 1})
    folder = ilsvrc(tmp_path, archives=tmp_path / "packs", config=config)
    assert folder == tmp_path / "ILSVRC"
    opened = Config(path=str(folder), layout=Layout.ILSVRC, eval_split="val")
    train, val = open_boxed(opened, "train"), open_boxed(opened, "eval")
    assert [entry.name for entry in train.entries] == ["n01/n01_0", "n01/n01_1", "n02/n02_0"]
    assert (folder / "Data/CLS-LOC/train/n02/n02_0.JPEG").read_bytes() == jpeg(WIDTH, HEIGHT, seed=1)
    assert [val.target(index) for index in range(2)] == [2, 1]
    assert val.boxes(0).tolist() == [[0, 0, 3, 2], [1, 1, 5, 3]]


def test_ilsvrc_says_what_a_person_has_to_do(tmp_path, capsys):
    with pytest.raises(DataError) as caught:
        ilsvrc(tmp_path)
    for words in ("ILSVRC2012_img_val.tar", "ILSVRC2012_bbox_val_v3.tgz", "log in at https://image-net.org"):
        assert words in str(caught.value)  # both at once
    folder = ilsvrc(tmp_path, archives=tmp_path / "packs", config=imagenet(tmp_path / "packs"))
    assert "no split train: log in at" in capsys.readouterr().out
    config = imagenet(tmp_path / "packs", synsets={"n01": 2, "n02": 1})
    shutil.rmtree(tmp_path / "packs" / "inner")
    (tmp_path / "packs" / "val.tar").unlink()  # it was unpacked
    assert ilsvrc(tmp_path, archives=tmp_path / "packs", config=config) == folder
    assert (folder / "Data/CLS-LOC/train/n01/n01_1.JPEG").is_file()


@pytest.mark.parametrize(
    ("boxes", "synsets", "words"),
    [
        (without(BOXES, "val/ILSVRC2012_val_00000002.xml"), None, ["00000002.xml", ".boxes.tgz.unpacked"]),
        (BOXES | {"val/ILSVRC2012_val_00000002.xml": b"<annotation>"}, None, ["00000002.xml", ".boxes.tgz.unpacked"]),
        (BOXES, {"n01": 2}, ["2 images in train instead of 3", "train.tar is incomplete"]),
    ],
)
def test_what_ilsvrc_lacks_is_named(tmp_path, boxes, synsets, words):
    config = imagenet(tmp_path / "packs", boxes=boxes, synsets=synsets)
    refused(lambda: ilsvrc(tmp_path, archives=tmp_path / "packs", config=config), *words)


# --------------------------------------------------------------------------------------------- OpenImages

LISTS = {
    "repository-1/metadata/CUB/train/class_labels.txt": b"not needed",
    "repository-1/metadata/OpenImages/train/image_ids.txt": b"not needed",
    "repository-1/metadata/OpenImages/train/class_labels.txt": lines("train/0a/1.jpg,0", "train/0b_c/2.jpg,1"),
    "repository-1/metadata/OpenImages/val/class_labels.txt": lines("val/0a/3.jpg,0"),
    "repository-1/metadata/OpenImages/val/localization.txt": lines("val/0a/3.jpg,val/0a/3_m0a_f.png,"),
    "repository-1/metadata/OpenImages/test/class_labels.txt": lines("test/0b_c/4.jpg,1"),
    "repository-1/metadata/OpenImages/test/localization.txt": lines(
        "test/0b_c/4.jpg,test/0b_c/4_m0b_c_d.png,test/0b_c/4_ignore.png", "test/0b_c/4.jpg,test/0b_c/4_m0b_c_e.png,"
    ),
}
IMAGES = {f"{name}.jpg": jpeg(WIDTH, HEIGHT) for name in ("train/0a/1", "train/0b_c/2", "val/0a/3", "test/0b_c/4")}
IGNORED = [[255] * WIDTH, *[[0] * WIDTH] * 3]
MASKS = {
    "val/0a/3_m0a_f.png": png(SHAPE),
    "test/0b_c/4_m0b_c_d.png": png(SHAPE),
    "test/0b_c/4_m0b_c_e.png": png([*[[0] * WIDTH] * 3, [255] * WIDTH]),
    "test/0b_c/4_ignore.png": png(IGNORED),
}


def things(packs, *, lists=LISTS, images=IMAGES, masks=MASKS):
    unverified = {"lists.zip": lists, "images.zip": images, "masks.zip": masks}
    made = [replace(pack(packs / name, files), md5=None) for name, files in unverified.items()]
    names = ("lists", "images", "masks")
    counts = {"train_images": 2, "val_images": 1, "test_images": 1}
    return OpenImages(**dict(zip(names, made, strict=True)), **counts, unpacking=QUICK)


@pytest.mark.parametrize("top", ["", "OpenImages/"])
def test_openimages(tmp_path, capsys, top):
    images = {f"{top}{name}": content for name, content in IMAGES.items()}
    config = things(tmp_path / "packs", images=images)
    folder = openimages(tmp_path, archives=tmp_path / "packs", config=config)
    assert folder == tmp_path / "OpenImages"
    opened = Config(path=str(folder), layout=Layout.OPENIMAGES)
    assert open_boxed(opened, "train").classes.names == ("0", "1")
    expected = (torch.tensor(SHAPE) > 0) * 1  # of the one class of this test split
    expected[3], expected[0] = 1, 255
    assert open_boxed(opened, "eval").mask(0).tolist() == expected.tolist()
    out = capsys.readouterr().out
    assert all(f"no checksum of {name}.zip is public: it is unverified" in out for name in ("lists", "masks"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": without(IMAGES, "val/0a/3.jpg")}, ["val/0a/3.jpg", ".images.zip.unpacked"]),
        ({"masks": without(MASKS, "test/0b_c/4_m0b_c_e.png")}, ["test/0b_c/4", "masks.zip is incomplete"]),
        (
            {"lists": without(LISTS, "repository-1/metadata/OpenImages/val/localization.txt")},
            ["val/0a/3", "lack a mask"],
        ),
        (
            {"lists": LISTS | {"repository-1/metadata/OpenImages/train/class_labels.txt": lines("train/0a/1.jpg,0")}},
            ["1 images in train instead of 2", "lists.zip is incomplete"],
        ),
    ],
)
def test_what_openimages_lacks_is_named(tmp_path, changes, words):
    config = things(tmp_path / "packs", **changes)
    refused(lambda: openimages(tmp_path, archives=tmp_path / "packs", config=config), *words)


def test_openimages_says_what_a_person_has_to_do(tmp_path):
    with pytest.raises(DataError) as caught:
        openimages(tmp_path)
    for words in ("OpenImages_images.zip: open https://", "OpenImages_annotations.zip: open https://", str(tmp_path)):
        assert words in str(caught.value)


def test_the_published_numbers():
    """CUB-200-2011 (Wah et al. 2011), ILSVRC 2012, and OpenImages30k as its authors state it."""
    assert Cub().train_images + Cub().test_images == 11_788
    assert (Ilsvrc().train_images, Ilsvrc().val_images) == (1_281_167, 50_000)
    assert OpenImages().train_images + OpenImages().val_images + OpenImages().test_images == 37_319
