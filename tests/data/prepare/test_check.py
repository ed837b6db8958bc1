import shutil
from pathlib import Path

import numpy as np
import pytest
from data.prepare.miniature import jpeg, png

from baoseg.core.errors import DataError
from baoseg.data import Folder
from baoseg.data.prepare import folder

TABLE = ["image,labels", "JPEGImages/a.jpg,cat dog", "JPEGImages/b.jpg,cat dog", "JPEGImages/c.jpg,"]
MASK = [[0, 1, 255], [2, 2, 0]]


def make(root):
    """A folder without fault: c, which has no labels, is to evaluate on."""
    files = {
        "labels.csv": "\n".join(TABLE).encode(),
        "classes.txt": b"cat\ndog\n",
        "ImageSets/Segmentation/train.txt": b"a\nb\n",
        "ImageSets/Segmentation/val.txt": b"c\n",
        "SegmentationClass/a.png": png(MASK),
        "SegmentationClass/c.png": png(MASK),
        **{f"JPEGImages/{name}.jpg": jpeg(3, 2) for name in "abc"},
    }
    for path, content in files.items():
        write(root, path, content)
    return root


def write(root, path, content):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def opens(root):
    """Whether everything can be read by the data set itself."""
    try:
        splits = sorted(path.stem for path in (root / "ImageSets/Segmentation").glob("*.txt")) or ["all"]
        for split in (*splits, "all"):
            data = Folder(root, split, training=split.startswith("train"))
            for index in range(len(data)):
                data[index]
            masks = Folder(root, split)
            for index in range(len(masks)):
                masks.mask(index)
    except DataError:
        return False
    return True


def table(*lines):
    return {"labels.csv": "\n".join(lines).encode()}


FAULTS = {
    "missing picture": ({"JPEGImages/a.jpg": None}, ["a.jpg", "no such image"]),
    "truncated picture": ({"JPEGImages/a.jpg": jpeg(40, 40)[:-100]}, ["a.jpg", "cannot be read"]),
    "not a picture": ({"JPEGImages/a.jpg": b"text"}, ["a.jpg", "not a known kind"]),
    "size of a mask": ({"SegmentationClass/a.png": png([[0, 1]])}, ["a.png", "2x1", "3x2"]),
    "values of a mask": ({"SegmentationClass/a.png": png([[0, 3, 9], [0, 0, 0]])}, ["a.png", "3 and 9", "0..2"]),
    "unreadable mask": ({"SegmentationClass/a.png": png(MASK)[:50]}, ["a.png"]),
    "duplicate line": (table(*TABLE, "JPEGImages/a.jpg,dog"), ["a.jpg", "lines 2 and 5"]),
    "same name": (table(*TABLE, "a.jpg,dog") | {"a.jpg": jpeg(3, 2)}, ["JPEGImages/a.jpg and a.jpg"]),
    "unknown class": (table(*TABLE[:2], "JPEGImages/b.jpg,dogg", TABLE[3]), ["line 3", "dogg"]),
    "malformed line": (table(*TABLE, "x,y,z"), ["line 5", "path,labels"]),
    "no header": (table(*TABLE[1:]), ["labels.csv", "the first line"]),
    "no pictures": (table(TABLE[0]), ["no images"]),
    "empty table": ({"labels.csv": b""}, ["the first line"]),
    "no table": ({"labels.csv": None}, ["labels.csv", "no such file"]),
    "path outside": (table(*TABLE, "../a.jpg,cat"), ["line 5", "outside"]),
    "class twice": ({"classes.txt": b"cat\ndog\ncat\n"}, ["classes.txt", "cat is named more than once"]),
    "background as a class": ({"classes.txt": b"background\ncat\ndog\n"}, ["classes.txt", "background"]),
    "no classes": ({"classes.txt": b""}, ["classes.txt", "empty"]),
    "not text": ({"classes.txt": b"\xff\xfe\xff"}, ["classes.txt", "UTF-8"]),
    "name without line": ({"ImageSets/Segmentation/val.txt": b"c\nghost\n"}, ["val.txt", "ghost"]),
    "name twice": ({"ImageSets/Segmentation/val.txt": b"c\nc.jpg\n"}, ["val.txt", "c is in the split more than once"]),
    "empty split": ({"ImageSets/Segmentation/val.txt": b"\n"}, ["val.txt", "empty"]),
    "split not text": ({"ImageSets/Segmentation/val.txt": b"\xff\xfe"}, ["val.txt", "UTF-8"]),
    "no labels to train on": ({"ImageSets/Segmentation/train.txt": b"c\n"}, ["train.txt", "no image has a label"]),
    "separator that is none": (table(*TABLE[:3], '"JPEGImages/c.jpg","cat,dog"'), ["line 4", "cat; dog"]),
    "quote left open": (table(*TABLE[:2], 'JPEGImages/b.jpg,"dog', TABLE[3]), ["line 3", "a quote is not closed"]),
    "letter case of a label": (table(*TABLE[:3], "JPEGImages/c.jpg,Dog"), ["line 4", "write dog as in classes.txt"]),
    "letter case of a file": (table(*TABLE[:3], "JPEGImages/c.JPG,dog"), ["c.JPG", "there is JPEGImages/c.jpg"]),
    "background by another name": ({"classes.txt": b"_background_\ncat\ndog\n"}, ["line 1", "delete this line"]),
}


def apply(root, changes):
    for path, content in changes.items():
        if content is None:
            (root / path).unlink()
        else:
            write(root, path, content)


def test_nothing_is_wrong(tmp_path):
    root = make(tmp_path)
    assert folder(root) == [] and opens(root)
    (root / "classes.txt").unlink()  # then the classes are those of the labels
    assert folder(root) == [] and opens(root)


def test_the_plain_layout(tmp_path):
    root = make(tmp_path)
    shutil.move(root / "ImageSets/Segmentation", root / "splits")
    shutil.rmtree(root / "ImageSets")
    shutil.move(root / "SegmentationClass", root / "masks")
    shutil.move(root / "JPEGImages", root / "images")
    write(root, "labels.csv", (root / "labels.csv").read_bytes().replace(b"JPEGImages", b"images"))
    assert folder(root) == [] and opens(root)
    write(root, "masks/c.png", png(np.zeros((5, 5))))
    write(root, "splits/val.txt", b"images/c.jpg\nd\n")
    problems = folder(root)
    assert len(problems) == 2 and "d has no line" in problems[0] and "masks/c.png" in problems[1]


@pytest.mark.parametrize("name", FAULTS)
def test_each_problem_is_named_where_the_data_set_refuses(tmp_path, name):
    changes, words = FAULTS[name]
    root = make(tmp_path)
    apply(root, changes)
    problems = folder(root)
    assert not opens(root)
    assert any(all(word in problem for word in words) for problem in problems), problems
    assert all(str(root) in problem and ";" in problem and "\n" not in problem for problem in problems)


def test_images_without_labels_are_no_problem_as_long_as_there_are_others(tmp_path):
    root = make(tmp_path)
    shutil.rmtree(root / "ImageSets")
    assert folder(root) == [] and opens(root)
    write(root, "labels.csv", "\n".join([TABLE[0], *(line.split(",")[0] + "," for line in TABLE[1:])]).encode())
    assert folder(root) == [f"{root}/labels.csv: no image has a label; training needs images with labels"]


def test_hidden_files_are_no_splits(tmp_path):
    root = make(tmp_path)
    for name in ("._train.txt", ".DS_Store"):
        write(root, f"ImageSets/Segmentation/{name}", b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert folder(root) == []
    with pytest.raises(DataError, match=r"the splits of .* are: train, val$"):
        Folder(root, "test")


def test_all_problems_at_once(tmp_path):
    root = make(tmp_path)
    together = ["truncated picture", "values of a mask", "name without line", "class twice"]
    for name in together:
        apply(root, FAULTS[name][0])
    problems = folder(root)
    for name in together:
        if name != "values of a mask":  # of an image that cannot be read, but the mask can
            assert any(all(word in problem for word in FAULTS[name][1]) for problem in problems)


def test_masks_of_other_classes_than_the_labels_name(tmp_path):
    root = make(tmp_path)
    write(root, "labels.csv", "\n".join(["image,labels", "JPEGImages/a.jpg,cat", *TABLE[2:]]).encode())
    (problem,) = folder(root)
    assert problem.startswith(
        f"{root / 'SegmentationClass'}: 1 of 1 mask shows classes that their labels do not name, e.g. a: dog; "
    )
    write(root, "SegmentationClass/b.png", png([[1, 0, 0], [2, 0, 0]]))
    assert "1 of 2 masks show classes that their labels do not name, e.g. a: dog" in folder(root)[0]
    for name, label in (("a", 2), ("b", 1)):
        write(root, f"SegmentationClass/{name}.png", png([[label, 0, 0], [0, 0, 0]]))
    write(root, "labels.csv", b"image,labels\nJPEGImages/a.jpg,cat\nJPEGImages/b.jpg,dog\nJPEGImages/c.jpg,\n")
    (problem,) = folder(root)
    assert "2 of 2 masks show classes that their labels do not name, and none that they name" in problem
    assert "a: the mask shows dog, the labels name cat" in problem


def test_masks_of_0_and_255(tmp_path, capsys):
    root = make(tmp_path)
    for name in "ac":
        write(root, f"SegmentationClass/{name}.png", png([[0, 255, 255], [0, 0, 0]]))
    (problem,) = folder(root)
    assert "the 2 masks hold 0 and 255 only" in problem and not opens(root)
    (root / "classes.txt").unlink()
    write(root, "labels.csv", b"image,labels\nJPEGImages/a.jpg,cat\nJPEGImages/b.jpg,cat\nJPEGImages/c.jpg,cat\n")
    capsys.readouterr()
    assert folder(root) == [] and opens(root)
    assert "255 is read as cat" in capsys.readouterr().out
    assert Folder(root, "val").mask(0).tolist() == [[0, 1, 1], [0, 0, 0]]


def test_masks_that_match_no_image(tmp_path):
    root = make(tmp_path)
    (root / "SegmentationClass/c.png").rename(root / "SegmentationClass/cc.png")
    write(root, "SegmentationClass/._a.png", b"not an image")
    (problem,) = folder(root)
    assert "1 file matches no image of labels.csv, e.g. cc.png" in problem
    (root / "SegmentationClass/cc.png").rename(root / "SegmentationClass/c.TIF")
    assert folder(root) == [] and Folder(root, "val").mask(0).tolist() == MASK


def test_images_that_no_line_names_are_counted(tmp_path, capsys):
    root = make(tmp_path)
    write(root, "more/x.webp", b"")
    write(root, "mask/a.PNG", png(MASK))  # not read either
    write(root, "notes.txt", b"")
    write(root, ".hidden/a.png", b"")
    assert folder(root) == []
    assert "2 images have no line in labels.csv and will not be used, e.g. mask/a.PNG" in capsys.readouterr().out
    shutil.rmtree(root / "more")
    shutil.rmtree(root / "mask")
    assert folder(root) == [] and capsys.readouterr().out == ""


def test_two_masks_of_one_image(tmp_path):
    root = make(tmp_path)
    (root / "SegmentationClass/c.png").rename(root / "SegmentationClass/c_mask.png")
    write(root, "SegmentationClass/c_mask.bmp", b"")
    assert "are both masks of c; keep one" in folder(root)[0] and not opens(root)


def test_a_mask_that_is_a_jpeg_inside(tmp_path):
    root = make(tmp_path)
    write(root, "SegmentationClass/c.png", jpeg(3, 2))
    (problem,) = folder(root)
    assert "c.png: is a JPEG image" in problem and not opens(root)


def test_a_folder_that_may_not_be_listed_hides_no_other_problem(tmp_path, monkeypatch):
    root = make(tmp_path)
    apply(root, FAULTS["class twice"][0])
    listed = Path.iterdir

    def refuse(path):
        if path.name == "Segmentation":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    first, second = folder(root)
    assert "cat is named more than once" in first
    assert second == f"{root}/ImageSets/Segmentation: cannot be listed (Permission denied); change its permissions"
    with pytest.raises(DataError, match="named more than once"):
        Folder(root, "train")
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match="cannot be listed"):
        Folder(root, "train")
