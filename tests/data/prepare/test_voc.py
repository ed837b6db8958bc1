import errno
import functools
import io
import os
import shlex
import sys

import numpy as np
import pytest
import torch
from data.prepare.miniature import QUICK, jpeg, pack, png
from scipy.io import savemat

from baoseg import recipes
from baoseg.cli import prepare as verbs
from baoseg.core.errors import DataError, RunError
from baoseg.core.files import atomic
from baoseg.data import Folder, open_dataset
from baoseg.data import prepare as prepare_package
from baoseg.data.prepare import voc, voc12
from baoseg.data.prepare.voc import Config, Labels

WIDTH, HEIGHT = 12, 8
DEVKIT, SBD = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
SETS = f"{DEVKIT}/ImageSets/Segmentation"
LISTS = {"train": ["t1", "t2"], "val": ["v1"], "test": ["x1"]}
SBD_LISTS = {"train": ["t1", "s1"], "val": ["v1", "s2"]}  # with an image of VOC's train and one of its val
OBJECTS = {  # (class, difficult)
    "t1": [("cat", 0), ("sofa", 1)],
    "t2": [("dog", 1)],
    "v1": [("person", 0)],
    "s1": [("bird", 0), ("bird", 1)],
    "s2": [("tvmonitor", 0), ("chair", 1)],
}
CLASS = {name: index for index, name in enumerate(voc.CLASSES, start=1)}

BROKEN = jpeg(WIDTH, HEIGHT)[:-200]


def rows(*names):
    """A mask with a row of each class, a border of 255, and background below."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for row, name in enumerate(names):
        mask[row] = CLASS[name]
        mask[row, -1] = 255
    return mask


def outline(*names):
    """The same as SBD has it: without a border."""
    return rows(*names) % 255


MASKS = {"t1": rows("cat"), "t2": rows("dog"), "v1": rows("person", "car")}
OUTLINES = {
    "t1": outline("bus"),
    "v1": outline("bus"),
    "s1": outline("bird"),
    "s2": outline("tvmonitor"),
}


def xml(objects):
    parts = "<part><name>head</name></part>"  # no class; some persons of VOC have parts
    entries = (f"<object><name>{name}</name><difficult>{d}</difficult>{parts}</object>" for name, d in objects)
    return f"<annotation><filename>x</filename>{''.join(entries)}</annotation>".encode()


def mat(outline):
    file = io.BytesIO()
    savemat(file, {"GTcls": {"Segmentation": outline, "Boundaries": np.zeros(20)}})
    return file.getvalue()


def lines(names):
    return "".join(f"{name}\n" for name in names).encode()


def devkit():
    names = [*OBJECTS]
    return {
        **{f"{DEVKIT}/JPEGImages/{name}.jpg": jpeg(WIDTH, HEIGHT, seed=seed) for seed, name in enumerate(names)},
        **{f"{DEVKIT}/Annotations/{name}.xml": xml(objects) for name, objects in OBJECTS.items()},
        **{f"{DEVKIT}/SegmentationClass/{name}.png": png(mask) for name, mask in MASKS.items()},
        **{f"{SETS}/{split}.txt": lines(LISTS[split]) for split in ("train", "val")},
    }


def sbd():
    return {
        **{f"{SBD}/cls/{name}.mat": mat(outline) for name, outline in OUTLINES.items()},
        **{f"{SBD}/{split}.txt": lines(names) for split, names in SBD_LISTS.items()},
        f"{SBD}/img/s1.jpg": b"not needed",
    }


def config(packs, *, trainval=None, outlines=None, test=None):
    """Writes the archives, with the changes asked for."""
    here = Config(
        trainval=pack(packs / "trainval.tar", devkit() | (trainval or {})),
        sbd=pack(packs / "sbd.tgz", sbd() | (outlines or {})),
        train_images=2,
        train_aug_images=4,
        val_images=1,
        test_images=1,
        unpacking=QUICK,
    )
    return here if test is None else Config(**(vars(here) | {"test": pack(packs / "test.tar", test)}))


def prepare(root, config, **options):
    return voc12(root, archives=root / "packs", workers=0, config=config, **options)


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    for word in words:
        assert word in message


def labels_of(folder, split="train_aug"):
    data = Folder(folder, split)
    return {name: set(data.classes.decode(data.labels(index))) for index, name in enumerate(data.names)}


def test_the_splits_with_labels_and_masks(tmp_path, capsys):
    folder = prepare(tmp_path, config(tmp_path / "packs"))
    assert folder == tmp_path / "VOC2012"
    data = Folder(folder, "train_aug", training=True)
    assert data.classes.names == voc.CLASSES
    assert list(data.names) == ["s1", "s2", "t1", "t2"]  # SBD and train, without val
    assert labels_of(folder) == {
        "s1": {"bird"},
        "s2": {"tvmonitor", "chair"},
        "t1": {"cat", "sofa"},
        "t2": {"dog"},
    }
    assert {split: list(Folder(folder, split).names) for split in ("train", "val")} == {
        "train": ["t1", "t2"],
        "val": ["v1"],
    }
    evaluation = Folder(folder, "train_aug")
    masks = {name: evaluation.mask(index) for index, name in enumerate(evaluation.names)}
    for name in ("t1", "t2"):  # VOC's own, also where SBD has another
        assert torch.equal(masks[name], torch.from_numpy(MASKS[name]))
    for name in ("s1", "s2"):
        assert torch.equal(masks[name], torch.from_numpy(OUTLINES[name]))
    assert torch.equal(Folder(folder, "val").mask(0), torch.from_numpy(MASKS["v1"]))
    assert not (tmp_path / "SBD" / "img").exists()
    cells = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    table = {row[0].strip(): [int(cell) for cell in row[1:]] for row in cells}
    # not in the mask: sofa of t1 and chair of s2, both difficult; no object: car of v1; difficult but in it: dog of t2
    assert table == {"train": [2, 1, 1], "train_aug": [4, 2, 1], "val": [1, 1, 1]}


def test_labels_of_each_source(tmp_path):
    settings = config(tmp_path / "packs")
    easy = prepare(tmp_path, settings, labels=Labels.EASY)
    assert labels_of(easy) == {"s1": {"bird"}, "s2": {"tvmonitor"}, "t1": {"cat"}, "t2": {"dog"}}  # t2 has no other
    masked = prepare(tmp_path, settings, labels=Labels.MASKS)
    assert labels_of(masked, "val") == {"v1": {"person", "car"}}


def test_the_test_split_needs_its_archive(tmp_path, capsys):
    settings = config(tmp_path / "packs")
    folder = prepare(tmp_path, settings)
    assert "register" in capsys.readouterr().out
    assert not (folder / "ImageSets/Segmentation/test.txt").exists()
    files = {f"{DEVKIT}/JPEGImages/x1.jpg": jpeg(3, 2), f"{SETS}/test.txt": lines(["x1"])}
    prepare(tmp_path, config(tmp_path / "packs", test=files))
    test = Folder(folder, "test")
    assert list(test.names) == ["x1"] and not test.has_masks and test.labels(0).sum() == 0


def test_a_second_call_needs_no_archives_and_changes_nothing(tmp_path):
    settings = config(tmp_path / "packs")
    folder = prepare(tmp_path, settings)
    (tmp_path / "packs" / "trainval.tar").unlink()
    (tmp_path / "packs" / "sbd.tgz").unlink()
    before = Folder(folder, "train_aug").fingerprint()
    times = {path: path.stat().st_mtime_ns for path in (folder / "SegmentationClass").iterdir()}
    prepare(tmp_path, settings)
    assert Folder(folder, "train_aug").fingerprint() == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"trainval": {f"{SETS}/train.txt": b"t1\n"}},
            ["1 images in train", "trainval.tar"],
        ),
        (
            {"trainval": {f"{SETS}/val.txt": b"v1\nt1\n"}},
            ["2 images in val", "trainval.tar"],
        ),
        ({"outlines": {f"{SBD}/val.txt": b"v1\n"}}, ["3 images in train_aug", "sbd.tgz"]),
        ({"trainval": {f"{SETS}/val.txt": b"v1\nv1\n"}}, ["val.txt", "v1", "more than one"]),
        (
            {"trainval": {f"{DEVKIT}/Annotations/s1.xml": xml([("unicorn", 0)])}},
            ["s1.xml", "unicorn", "tar.unpacked"],
        ),
        ({"trainval": {f"{DEVKIT}/Annotations/s1.xml": b"<annotation>"}}, ["s1.xml", "cannot be read"]),
        (
            {"trainval": {f"{DEVKIT}/JPEGImages/s1.jpg": jpeg(WIDTH, HEIGHT)[:-200]}},
            ["s1.jpg", ".trainval.tar.unpacked"],
        ),
        ({"trainval": {f"{DEVKIT}/JPEGImages/s1.jpg": jpeg(3, 3)}}, ["s1.png", "size"]),
        ({"outlines": {f"{SBD}/cls/s1.mat": b"no matrix"}}, ["s1.mat", ".sbd.tgz.unpacked"]),
        ({"outlines": {f"{SBD}/cls/s1.mat": mat(np.full((HEIGHT, WIDTH), 21))}}, ["s1.mat", "0..20"]),
        ({"outlines": {f"{SBD}/val.txt": b"v1\nghost\n"}}, ["ghost.jpg", "no such image"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, words):
    settings = config(tmp_path / "packs", **changes)
    refused(lambda: prepare(tmp_path, settings), *words)


def test_a_mask_that_the_devkit_lacks_is_not_taken_from_sbd(tmp_path):
    settings = config(tmp_path / "packs")
    files = devkit()
    del files[f"{DEVKIT}/SegmentationClass/v1.png"]
    lacking = Config(**(vars(settings) | {"trainval": pack(tmp_path / "packs" / "trainval.tar", files)}))
    refused(lambda: prepare(tmp_path, lacking), "v1 is missing", "trainval.tar is incomplete")


def test_the_same_command_goes_on_after_repair(tmp_path):
    """An image that the disk has spoilt: follow the words of the error."""
    settings = config(tmp_path / "packs")
    folder = prepare(tmp_path, settings)
    picture = folder / "JPEGImages" / "s1.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-200])
    refused(lambda: prepare(tmp_path, settings), str(picture), str(folder / ".trainval.tar.unpacked"))
    picture.unlink()
    (folder / ".trainval.tar.unpacked").unlink()
    prepare(tmp_path, settings)
    assert picture.read_bytes() == whole


def test_all_that_can_be_done_is_done_before_the_error(tmp_path):
    broken = {f"{DEVKIT}/JPEGImages/{name}.jpg": b"" for name in ("s1", "t1")}
    settings = config(tmp_path / "packs", trainval=broken)
    refused(lambda: prepare(tmp_path, settings), "s1.jpg", "(and 1 more)")
    assert (tmp_path / "VOC2012" / "SegmentationClass" / "s2.png").exists()


def test_masks_continue_once_there_is_space(tmp_path, monkeypatch):
    settings = config(tmp_path / "packs")
    write = voc.write_mask

    def full(path, mask):
        with atomic(path) as temporary:
            if path.stem == "s2":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), temporary)
        write(path, mask)

    with monkeypatch.context() as patch:
        patch.setattr(voc, "write_mask", full)
        with pytest.raises(RunError, match=r"s2\.png: cannot be written: no space left .* it continues"):
            prepare(tmp_path, settings)
    masks = tmp_path / "VOC2012" / "SegmentationClass"
    before = (masks / "s1.png").stat().st_mtime_ns
    assert not (masks / "s2.png").exists()
    prepare(tmp_path, settings)
    assert (masks / "s2.png").exists() and (masks / "s1.png").stat().st_mtime_ns == before


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    refused(lambda: voc12(tmp_path), "scipy", "pip install 'baoseg[prepare]'")
    assert list(tmp_path.iterdir()) == []  # before anything is downloaded


def test_the_recipe_opens_what_the_verb_has_made(tmp_path, monkeypatch, capsys):
    small = functools.partial(voc12, config=config(tmp_path / "packs"))
    monkeypatch.setattr(prepare_package, "voc12", small)
    verbs.voc12(tmp_path, archives=tmp_path / "packs", workers=0)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:4] == ["bao", "run", "bao-voc", "--data"]
    settings = recipes.override(recipes.named("bao-voc"), data=command[4]).data
    assert len(open_dataset(settings, "train")) == 4 and len(open_dataset(settings, "eval")) == 2


def test_the_published_masks_hold_classes_and_borders(shared):
    from baoseg.data.images import read_mask

    masks = sorted((shared / "data/voc12-val-masks/SegmentationClass").glob("*.png"))
    assert len(masks) == Config().val_images
    values = torch.cat([read_mask(path).unique() for path in masks[:50]]).unique().tolist()
    assert set(values) <= {0, 255, *CLASS.values()}
