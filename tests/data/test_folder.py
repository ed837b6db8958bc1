import numpy as np
import pytest
import torch
from PIL import Image

from baoseg.core.errors import DataError
from baoseg.data.folder import Folder
from baoseg.data.images import write_mask
from baoseg.data.prepare import folder


def make(root, table, *, classes=None, pictures=None, splits=None, masks=None, voc=False):
    """Write a folder: `table` maps images to labels, `splits` names to names, `masks` names to rows of values."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [f"{path},{labels}" for path, labels in table.items()]
    (root / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n", encoding="utf-8")
    if classes is not None:
        (root / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    for number, path in enumerate(table if pictures is None else pictures):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 3, 3), number, dtype=np.uint8)).save(root / path, lossless=True)
    for split, names in (splits or {}).items():
        path = root / ("ImageSets/Segmentation" if voc else "splits") / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    for name, rows in (masks or {}).items():
        path = root / ("SegmentationClass" if voc else "masks") / f"{name}.png"
        write_mask(path, torch.tensor(rows, dtype=torch.uint8))
    return root


def refused(root, *words, **options):
    with pytest.raises(DataError) as error:
        Folder(root, **options)
    message = str(error.value)
    assert "\n" not in message and ";" in message  # one line: what is wrong; the remedy
    assert str(root) in message
    for word in words:
        assert word in message
    return message


MASK = [[0, 1, 255], [2, 2, 0]]


@pytest.mark.parametrize("voc", [True, False])
def test_both_layouts(tmp_path, voc):
    where = "JPEGImages/" if voc else "images/"
    root = make(
        tmp_path / "data",
        {f"{where}b.png": "dog cat", f"{where}far/a.png": "cat", "c.png": "dog"},
        splits={"train": ["far/a", "b"], "val": ["c.png"]},
        masks={"b": MASK, "far/a": MASK},
        voc=voc,
    )
    train, val = Folder(root, "train"), Folder(root, "val")
    assert train.classes.names == ("cat", "dog")
    assert list(train.names) == ["far/a", "b"] and list(val.names) == ["c"]
    assert len(train) == 2 and train.split == "train"
    assert train.labels(0).tolist() == [1, 0] and train.labels(1).tolist() == [1, 1]
    assert train.has_masks and not val.has_masks
    sample = train[0]
    assert sample.name == "far/a"
    assert torch.equal(sample.image, torch.full((3, 2, 3), 1, dtype=torch.uint8))
    assert sample.labels.tolist() == [1, 0]
    assert sample.mask.tolist() == train.mask(0).tolist() == MASK
    assert val[0].mask is None and val.mask(0) is None
    assert list(Folder(root).names) == ["b", "far/a", "c"]


def test_training_never_looks_at_masks(tmp_path):
    root = make(tmp_path, {"a.png": "cat"}, masks={"a": [[200]]})  # of a wrong size and value
    pictures = Folder(root, training=True)
    assert not pictures.has_masks and pictures[0].mask is None and pictures.mask(0) is None


def test_an_image_may_lack_a_mask(tmp_path):
    root = make(tmp_path, {"a.png": "cat", "b.png": "dog"}, masks={"b": MASK})
    pictures = Folder(root)
    assert pictures.has_masks
    assert pictures.mask(0) is None and pictures[0].mask is None
    assert pictures.mask(1).tolist() == MASK


def test_classes_file_fixes_the_order(tmp_path):
    root = make(tmp_path, {"a.png": "cat dog"}, classes=["dog", "", " bird ", "cat"])
    assert Folder(root).classes.names == ("dog", "bird", "cat")
    assert Folder(root).labels(0).tolist() == [1, 0, 1]


def test_split_lines_may_carry_folder_and_suffix(tmp_path):
    table = {"JPEGImages/a.b.png": "cat", "JPEGImages/a.png": "cat", "JPEGImages/c.png": "cat"}
    root = make(tmp_path, table, splits={"some": ["JPEGImages/c.png", "a.b", "", "a.png"]}, voc=True)
    assert list(Folder(root, "some").names) == ["c", "a.b", "a"]


def test_windows_files(tmp_path):
    make(tmp_path, {"a.png": "cat"}, classes=["cat"], splits={"train": ["a"]})
    for name in ("labels.csv", "classes.txt", "splits/train.txt"):
        text = (tmp_path / name).read_text().replace("\n", "\r\n")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte order mark
    assert list(Folder(tmp_path, "train").names) == ["a"]
    assert Folder(tmp_path).classes.names == ("cat",)


def test_quoted_paths_and_names_in_any_script(tmp_path):
    root = make(tmp_path, {"猫, 犬.png": "chat"})
    (root / "labels.csv").write_text('image,labels\n"猫, 犬.png","chat;été"\n', encoding="utf-8")
    assert list(Folder(root).names) == ["猫, 犬"]
    assert Folder(root).classes.names == ("chat", "été")


# ---------------------------------------------------------------------------------------------- refused at opening


def test_no_labels_file(tmp_path):
    refused(tmp_path, "labels.csv", "no such file", "image,labels")
    refused(tmp_path / "absent", "labels.csv", "no such file")


@pytest.mark.parametrize("header", ["", "a.png,cat", "image;labels", "image,labels,more"])
def test_bad_header(tmp_path, header):
    make(tmp_path, {"a.png": "cat"})
    (tmp_path / "labels.csv").write_text(f"{header}\na.png,cat\n")
    refused(tmp_path, "labels.csv", f"'{header}'", "'image,labels'")


@pytest.mark.parametrize("line", ["b.png,cat,dog", "b.png", ",cat"])
def test_malformed_line(tmp_path, line):
    make(tmp_path, {"a.png": "cat"})
    (tmp_path / "labels.csv").write_text(f"image,labels\na.png,cat\n{line}\n")
    refused(tmp_path, "labels.csv, line 3", "path,labels")


def test_no_images(tmp_path):
    refused(make(tmp_path, {}, classes=["cat"]), "no images")


def test_not_text(tmp_path):
    root = make(tmp_path, {"a.png": "cat"}, classes=["cat"], splits={"train": ["a"]})
    for name, split in (("splits/train.txt", "train"), ("classes.txt", "all"), ("labels.csv", "all")):
        (root / name).write_bytes(b"image,labels\n\xff\xfe\n")
        refused(root, name, "UTF-8", split=split)


def test_missing_image(tmp_path):
    table = {"a.png": "cat", "b/c.png": "cat", "d.png": "cat", "e/f.png": "cat"}
    root = make(tmp_path, table, pictures=["a.png", "e/f.png"], splits={"train": ["a"]})
    assert "more" not in refused(make(tmp_path / "1", {"a.png": "cat"}, pictures=[]), "a.png", "does not exist")
    refused(root, "b/c.png", "does not exist", "(and 1 more)")
    assert len(Folder(root, "train")) == 1  # the images of other splits may be elsewhere


def test_image_with_two_lines(tmp_path):
    make(tmp_path, {"a.png": "cat"})
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat\n./a.png,dog\n")
    refused(tmp_path, "labels.csv", "a.png is on the lines 2 and 3", "may have one")


def test_two_images_of_one_name(tmp_path):
    refused(make(tmp_path / "1", {"a.jpg": "cat", "a.png": "dog"}), "a.jpg and a.png", "same name")
    refused(make(tmp_path / "2", {"images/a.png": "cat", "JPEGImages/a.png": "dog"}), "images/a.png", "same name")


@pytest.mark.parametrize("path", ["/tmp/a.png", "../a.png", "b/../../a.png"])
def test_images_outside_the_folder(tmp_path, path):
    make(tmp_path, {"a.png": "cat"})
    (tmp_path / "labels.csv").write_text(f"image,labels\n{path},cat\n")
    refused(tmp_path, "a.png", "outside the folder")


def test_unknown_class(tmp_path):
    root = make(tmp_path, {"a.png": "cat", "b.png": "cat dgo", "c.png": "brid"}, classes=["dog", "cat", "bird"])
    refused(root, "labels.csv", "dgo", "b.png", "classes.txt", "(and 1 more)")


def test_class_lists_that_cannot_be(tmp_path):
    table = {"a.png": "cat"}
    refused(make(tmp_path / "1", table, classes=["background", "cat"]), "classes.txt", "background", "index 0")
    refused(make(tmp_path / "2", {"a.png": "background"}), "labels.csv", "background")
    refused(make(tmp_path / "3", table, classes=["cat", "cat"]), "classes.txt", "more than once")
    refused(make(tmp_path / "4", table, classes=[]), "classes.txt", "at least one")
    refused(make(tmp_path / "5", {"a.png": ""}), "labels.csv", "at least one")


def test_unlabelled_image(tmp_path):
    table = {"a.png": "cat", "b.png": "", "c.png": " ; "}
    root = make(tmp_path, table, splits={"train": ["a"], "none": ["b", "c"]})
    for training in (False, True):
        assert Folder(root, training=training).labels(1).tolist() == [0]  # the background alone
    assert len(Folder(root, "none")) == 2
    refused(
        root,
        "labels.csv",
        "no image of the split none has a label",
        "training needs images",
        split="none",
        training=True,
    )


def test_unknown_split(tmp_path):
    table = {"a.png": "cat"}
    refused(make(tmp_path / "1", table, splits={"val": ["a"], "train": ["a"]}), "train, val", split="tset")
    refused(make(tmp_path / "2", table), "no such split", "none", split="train")


def test_split_with_other_images(tmp_path):
    root = make(tmp_path, {"a.png": "cat"}, splits={"train": ["x", "a", "y.png"], "double": ["a", "a.png"]})
    refused(root, "train.txt", "x has no line in labels.csv", "(and 1 more)", split="train")
    refused(root, "double.txt", "a is in the split more than once", split="double")


def test_empty_split(tmp_path):
    refused(make(tmp_path, {"a.png": "cat"}, splits={"train": []}), "train.txt", "empty", split="train")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("Masks/a.png", "masks"),
        ("segmentationclass/a.png", "SegmentationClass"),
        ("Splits/train.txt", "splits"),
        ("ImageSets/segmentation/train.txt", "ImageSets/Segmentation"),
        ("imagesets/Segmentation/train.txt", "ImageSets"),
        ("Classes.txt", "classes.txt"),
        ("LABELS.CSV", "labels.csv"),
        ("splits/train.csv", "train.txt, with one name per line"),
        ("ImageSets/Segmentation/Val", "val.txt, with one name per line"),
    ],
)
def test_what_is_called_a_little_different_is_not_passed_over(tmp_path, path, meant):
    root = make(tmp_path, {"a.png": "cat"})
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).touch()
    call = root / path if meant.endswith("line") or "/" not in path else (root / path).parent
    if meant == "ImageSets":
        call = call.parent
    message = refused(root, f"{call}: is not read; rename it to {meant}")
    assert message in folder(root)


def test_other_names_beside_the_lists_of_splits_are_left_alone(tmp_path):
    root = make(tmp_path, {"a.png": "cat"}, splits={"train": ["a"], "val": ["a"]})
    for name in ("train.csv", "notes.md", "val.txt~", ".train", "masks.zip"):
        (root / "splits" / name).touch()
    assert Folder(root, "train").names == ("a",) and folder(root) == []


# ----------------------------------------------------------------------------------------------- refused at access


def wrong_mask(folder, *words):
    for access in (lambda: folder[0], lambda: folder.mask(0)):
        with pytest.raises(DataError) as error:
            access()
        assert "\n" not in str(error.value) and ";" in str(error.value)
        for word in words:
            assert word in str(error.value)


def test_mask_of_another_size(tmp_path):
    root = make(tmp_path, {"a.png": "cat"}, masks={"a": [[0, 1], [1, 0], [0, 0]]})
    wrong_mask(Folder(root), "masks/a.png", "2x3", "3x2", "same size")


def test_mask_is_compared_with_the_upright_image(tmp_path):
    root = make(tmp_path, {"a.jpg": "cat"}, masks={"a": [[0, 1], [1, 0], [0, 0]]})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(root / "a.jpg", exif=exif)
    assert Folder(root).mask(0).shape == Folder(root)[0].image.shape[1:] == (3, 2)


@pytest.mark.parametrize("value", [3, 254])
def test_mask_value_out_of_range(tmp_path, value):
    root = make(tmp_path, {"a.png": "cat dog"}, masks={"a": [[0, 1, 255], [2, value, 0]]})
    wrong_mask(Folder(root), "masks/a.png", f"label {value} is outside 0..2; use 255 for pixels to ignore")


def test_damaged_image_and_mask(tmp_path):
    root = make(tmp_path, {"a.png": "cat"}, masks={"a": MASK})
    (root / "masks/a.png").write_bytes(b"not a mask")
    wrong_mask(Folder(root), "masks/a.png", "not a known kind")
    (root / "a.png").write_bytes(b"not a picture")
    wrong_mask(Folder(root), "a.png", "not a known kind")


# ------------------------------------------------------------------------------------------------- the fingerprint


def test_fingerprint_changes_with_what_it_covers_and_nothing_else(tmp_path):
    def build(name, table, **options):
        return make(tmp_path / name, table, **{"classes": ["cat", "dog"], **options})

    table = {"a.png": "cat", "b.png": "cat dog"}
    prints = {
        "as it is": Folder(build("1", table)).fingerprint(),
        "labels": Folder(build("2", {"a.png": "dog", "b.png": "cat dog"})).fingerprint(),
        "names": Folder(build("3", {"a.png": "cat", "c.png": "cat dog"})).fingerprint(),
        "classes": Folder(build("4", table, classes=["dog", "cat"])).fingerprint(),
        "split": Folder(build("5", table, splits={"s": ["a", "b"]}), "s").fingerprint(),
        "masks": Folder(build("6", table, masks={"a": MASK})).fingerprint(),
    }
    grown = build("7", table)
    with (grown / "a.png").open("ab") as file:
        file.write(b"more")
    prints["file size"] = Folder(grown).fingerprint()
    assert len(set(prints.values())) == len(prints)
    assert Folder(build("elsewhere", table)).fingerprint() == prints["as it is"]
    assert Folder(tmp_path / "6", training=True).fingerprint() == prints["as it is"]  # training sees no masks


def test_fingerprint_of_a_link_that_leads_nowhere(tmp_path):
    root = make(tmp_path, {"a.png": "cat"}, pictures=[])
    (root / "a.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"a\.png: .*; restore"):
        Folder(root).fingerprint()


def test_msrc14(shared):
    root = shared / "data/msrc14"
    train, val = Folder(root, "train", training=True), Folder(root, "val")
    assert (len(train), len(val), len(train.classes)) == (297, 99, 14)
    assert train.classes.names[0] == "person" and train.classes.names[-1] == "boat"
    assert val.has_masks and not train.has_masks
    for index in range(0, 99, 20):
        sample = val[index]
        assert sample.image.shape[1:] == sample.mask.shape
        seen = set(sample.mask.unique().tolist()) - {0, 255}
        assert seen == set((sample.labels.nonzero().flatten() + 1).tolist())
