"""Data sets of localization: what their lists say arrives, and what contradicts itself is one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baoseg.core.errors import DataError
from baoseg.core.types import ClassSet
from baoseg.data import Config, Dataset, Folder, open_boxed
from baoseg.data.boxed import Boxed, Entry, Layout, folder_problems, truth_problems


def picture(path: Path, width: int = 8, height: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8)).save(path)


def mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"pictures/{name}.png")
    labels = "image,label\npictures/a.png,grey cat\npictures/b.png,dog\npictures/c.png,dog\n"
    write(tmp_path / "labels.csv", labels)
    write(tmp_path / "boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,0,1,3,5\npictures/a.png,2.9,0,7,5\n")
    shown = np.zeros((6, 8))
    shown[1:3, 4:7] = 1
    mask(tmp_path / "masks/pictures/b.png", shown)
    unsure = np.zeros((6, 8))
    unsure[2:5, 6:] = 255
    mask(tmp_path / "ignored/pictures/b.png", unsure)
    return tmp_path


def opened(root: Path, **options) -> Boxed:
    return open_boxed(Config(path=str(root), **{"layout": Layout.FOLDER, **options}), "eval")


def test_folder(folder):
    boxed = opened(folder)
    assert isinstance(boxed, Dataset)
    assert boxed.classes.names == ("dog", "grey cat")  # a label may have spaces: there is one for each image
    assert boxed.names == ("pictures/a", "pictures/b", "pictures/c")
    assert [boxed.target(i) for i in range(3)] == [2, 1, 1]
    assert boxed.labels(0).tolist() == [0, 1]
    assert boxed.boxes(0).tolist() == [[0, 1, 3, 5], [2, 0, 7, 5]]
    assert boxed[0].mask is None
    assert tuple(boxed[0].image.shape) == (3, 6, 8)


def test_a_mask_gives_the_box_where_there_is_none(folder):
    """The object beats what is ignored; elsewhere that is 255."""
    boxed = opened(folder)
    assert boxed.boxes(1).tolist() == [[4, 1, 6, 2]]
    expected = torch.zeros(6, 8, dtype=torch.uint8)
    expected[2:5, 6:] = 255
    expected[1:3, 4:7] = 1
    assert torch.equal(boxed.mask(1), expected)
    with pytest.raises(DataError, match=r"c\.png: has no box"):
        boxed.boxes(2)


def test_splits_classes_and_squares(folder):
    write(folder / "splits/test.txt", "pictures/c.png\npictures/b.png\n")
    assert opened(folder).names == ("pictures/c", "pictures/b")
    chosen = opened(folder, classes=("dog",))
    assert chosen.classes.names == ("dog",)
    assert len(chosen) == 2
    square = chosen.squares(4)[1]
    assert tuple(square.image.shape) == (3, 4, 4)
    assert tuple(square.mask.shape) == (4, 4)
    assert chosen.boxes(1).tolist() == [[4, 1, 6, 2]]  # boxes stay in pixels of the image


def test_fingerprint_hears_of_boxes_and_labels(folder):
    first = opened(folder).fingerprint()
    assert first == opened(folder).fingerprint()
    write(folder / "boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,0,1,3,4\n")
    assert opened(folder).fingerprint() != first


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels.csv", "picture,label\n", "first line"),
        ("labels.csv", "image,label\npictures/a.png\n", "line 2: is not of the form"),
        ("labels.csv", "image,label\npictures/z.png,dog\n", "no line in labels.csv|no such image"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/z.png,0,0,1,1\n", "no line in labels.csv"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,5,0,1,1\n", "ends before it starts"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,left,0,1,1\n", "is not 4 numbers"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,nan,0,1,1\n", "is not 4 numbers"),
        ("classes.txt", "dog\n", "line 2: grey cat .* is not a class of classes.txt"),
        ("splits/test.txt", "pictures/y.png\n", "has no line"),
        ("splits/other.txt", "", r"test\.txt: no such split; the splits of .* are: other"),
        ("Boxes.csv", "", r"Boxes\.csv: is not read; rename it to boxes\.csv"),
        ("Splits/test.txt", "a", r"Splits: is not read; rename it to splits"),
        ("splits/test.csv", "a", r"test\.txt: no such split"),
    ],
)
def test_contradictions_are_one_line(folder, file, text, message):
    write(folder / file, text)
    with pytest.raises(DataError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value)


def test_unknown_class_and_empty_split(folder):
    with pytest.raises(DataError, match="no class 'horse'; its classes are dog, grey cat"):
        opened(folder, classes=("horse",))
    write(folder / "splits/test.txt", "pictures/a.png\n")
    with pytest.raises(DataError, match="no image in the split 'test' of the classes dog"):
        opened(folder, classes=("dog",))


def test_masks_that_cannot_be_used(tmp_path):
    picture(tmp_path / "a.png")
    mask(tmp_path / "empty.png", np.zeros((6, 8)))
    mask(tmp_path / "small.png", np.ones((3, 4)))

    def boxed(*masks: str) -> Boxed:
        paths = tuple(tmp_path / name for name in masks)
        return Boxed(ClassSet(("x",)), "test", [Entry(name="a", path=tmp_path / "a.png", label="x", masks=paths)])

    with pytest.raises(DataError, match=r"empty\.png: shows no object"):
        boxed("empty.png").boxes(0)
    with pytest.raises(DataError, match="the mask is 4x3 pixels and its image, upright, 8x6"):
        boxed("small.png")[0]
    with pytest.raises(DataError, match="differ in size"):
        boxed("empty.png", "small.png").mask(0)


def cub(root: Path) -> None:
    names = ("001.Auk/Auk_1.jpg", "001.Auk/Auk_2.jpg", "002.Owl/Owl_1.jpg")
    write(root / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    write(root / "image_class_labels.txt", "1 1\n2 1\n3 2\n")
    write(root / "train_test_split.txt", "1 1\n2 0\n3 0\n")
    write(root / "bounding_boxes.txt", "1 0 0 2 2\n2 1.5 2.0 3.2 3.9\n3 0.0 0.0 8.0 6.0\n")
    write(root / "classes.txt", "1 001.Auk\n2 002.Owl\n")
    for name in names:
        picture(root / "images" / name)


def test_cub(tmp_path):
    cub(tmp_path)
    shares = np.zeros((6, 8))
    shares[2:5, 2:5], shares[0, 0] = 153, 102  # three and two of five annotators
    mask(tmp_path / "segmentations/001.Auk/Auk_2.png", shares)
    train = open_boxed(Config(path=str(tmp_path), layout=Layout.CUB), "train")
    test = opened(tmp_path, layout=Layout.CUB)
    assert train.names == ("001.Auk/Auk_1",)
    assert test.names == ("001.Auk/Auk_2", "002.Owl/Owl_1")
    assert test.classes.names == train.classes.names == ("001.Auk", "002.Owl")
    assert test.boxes(0).tolist() == [[1, 2, 4, 5]]  # floors of 1.5, 2, 1.5 + 3.2, 2 + 3.9
    assert test.mask(0).nonzero().amin(dim=0).tolist() == [2, 2]
    with pytest.raises(DataError, match="no split 'val'; use train or test"):
        opened(tmp_path, layout=Layout.CUB, eval_split="val")
    boxes = (tmp_path / "bounding_boxes.txt").read_text()
    write(tmp_path / "bounding_boxes.txt", boxes.replace("2 1.5 2.0 3.2 3.9", "2 0.1 0.2 0.5 0.75"))
    with pytest.raises(
        DataError, match=r"bounding_boxes\.txt, image 2: the box 0\.1, 0\.2, 0\.6, 0\.95 lies in 0\.\.1"
    ):
        opened(tmp_path, layout=Layout.CUB)
    write(tmp_path / "bounding_boxes.txt", boxes)
    write(tmp_path / "image_class_labels.txt", "1 1\n3 2\n")
    with pytest.raises(DataError, match=r"image 2 .* restore the lists"):
        opened(tmp_path, layout=Layout.CUB)


def annotation(*objects: tuple[str, tuple[float, float, float, float]]) -> str:
    found = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    return f"<annotation>{found}</annotation>"


def test_ilsvrc(tmp_path):
    for path in ("train/n01/n01_1", "train/n02/n02_1", "train/n03/n03_1", "val/v1", "val/v2"):
        picture(tmp_path / f"Data/CLS-LOC/{path}.JPEG")
    boxes = annotation(("n02", (1, 1, 4, 4)), ("n02", (0, 0, 7, 5)))
    write(tmp_path / "Annotations/CLS-LOC/val/v1.xml", boxes)
    write(tmp_path / "Annotations/CLS-LOC/val/v2.xml", annotation(("n01", (2, 2, 3, 3))))
    config = Config(path=str(tmp_path), layout=Layout.ILSVRC, eval_split="val", classes=("n03", "n02"))
    train, val = open_boxed(config, "train"), open_boxed(config, "eval")
    assert train.names == ("n02/n02_1", "n03/n03_1")
    assert [train.target(i) for i in range(2)] == [2, 1]
    assert val.names == ("v1",)
    assert val.boxes(0).tolist() == [[1, 1, 4, 4], [0, 0, 7, 5]]
    assert opened(tmp_path, layout=Layout.ILSVRC, eval_split="val").classes.names == ("n01", "n02", "n03")
    write(tmp_path / "Annotations/CLS-LOC/val/v2.xml", annotation(("n01", (2, 2, 3, 3)), ("n02", (2, 2, 3, 3))))
    with pytest.raises(DataError, match=r"v2\.xml: names 2 classes"):
        open_boxed(config, "eval")
    write(tmp_path / "Annotations/CLS-LOC/val/v2.xml", annotation(("n01", (0.25, 0, 1, 1))))
    with pytest.raises(DataError, match=r"v2\.xml: the box 0\.25, 0, 1, 1 lies in 0\.\.1; write it in pixels"):
        open_boxed(config, "eval")
    with pytest.raises(DataError, match="test: no such folder"):
        opened(tmp_path, layout=Layout.ILSVRC)


def test_openimages(tmp_path):
    """Masks of one image are joined; a split without localization.txt has none."""
    picture(tmp_path / "test/0a/x.jpg")
    picture(tmp_path / "train/0a/y.jpg")
    write(tmp_path / "metadata/train/class_labels.txt", "train/0a/y.jpg,10\n")
    write(tmp_path / "metadata/test/class_labels.txt", "test/0a/x.jpg,9\n")
    one, two, unsure = np.zeros((6, 8), bool), np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    one[1, 1], two[4, 5], unsure[4:, :] = True, True, True
    for name, values in (("1", one), ("2", two), ("ignore", unsure)):
        (tmp_path / "test/0a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"test/0a/{name}.png")  # one bit a pixel, as there
    lines = [f"test/0a/x.jpg,test/0a/{name}.png,test/0a/ignore.png\n" for name in "12"]
    write(tmp_path / "metadata/test/localization.txt", "".join(lines))
    test = opened(tmp_path, layout=Layout.OPENIMAGES)
    assert test.boxes(0).tolist() == [[1, 1, 5, 4]]
    assert test.mask(0).unique(return_counts=True)[1].tolist() == [31, 2, 15]
    train = open_boxed(Config(path=str(tmp_path), layout=Layout.OPENIMAGES), "train")
    assert not train.has_masks
    write(tmp_path / "metadata/test/localization.txt", "test/0a/x.jpg,test/0a/1.png\n")
    with pytest.raises(DataError, match="does not have 3 fields"):
        opened(tmp_path, layout=Layout.OPENIMAGES)


def test_cub20(shared):
    root = shared / "data/cub20/CUB_200_2011"
    config = Config(path=str(root), layout=Layout.CUB)
    train, test = open_boxed(config, "train"), open_boxed(config, "eval")
    assert (len(train), len(test), len(test.classes)) == (600, 515, 20)
    for i in range(0, 515, 100):
        height, width = test[i].image.shape[1:]
        ((x0, y0, x1, y1),) = test.boxes(i).tolist()
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


# --- what people write into their lists ----------------------------------------------------------------------------


def several(root: Path, count: int = 3, width: int = 40, height: int = 30) -> Path:
    """Images of 40 x 30 pixels of cats and dogs, each with a box."""
    labels, boxes = ["image,label"], ["image,x0,y0,x1,y1"]
    for i in range(count):
        picture(root / f"p{i}.png", width, height)
        labels.append(f"p{i}.png,{('cat', 'dog')[i % 2]}")
        boxes.append(f"p{i}.png,{2 + i},3,20,25")
    write(root / "labels.csv", "\n".join(labels) + "\n")
    write(root / "boxes.csv", "\n".join(boxes) + "\n")
    return root


def boxes_of(root: Path, *lines: str) -> None:
    write(root / "boxes.csv", "\n".join(["image,x0,y0,x1,y1", *lines]) + "\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("p1.png,0.1,0.2,0.5,0.9", "boxes.csv, line 3: the box 0.1, 0.2, 0.5, 0.9 lies in 0..1; write it in pixels"),
        ("p1.png,0,0,0.5,1", "line 3: the box 0, 0, 0.5, 1 lies in 0..1"),
        ("p1.png,20,15,10,12", "line 3: the box 20, 15, 10, 12 ends before it starts.*not x, y, width, height"),
        ("p1.png,5,5,5,9", "line 3: the box 5, 5, 5, 9 ends before it starts, or at once"),
        ("p1.png,nan,5,5,9", "line 3: a box is not 4 numbers"),
        ("p1.png,1e400,5,5,9", "line 3: a box is not 4 numbers"),
        ("p1.png,-inf,5,5,9", "line 3: a box is not 4 numbers"),
        ("p1.png,1,2,,9", "line 3: 'p1.png,1,2,,9' does not have the columns"),
        ("p9.png,1,2,8,9", "line 3: p9.png has no line in labels.csv"),
        ('"p1.png,1,2,8,9', "line 3: a quote is not closed"),
    ],
)
def test_a_box_that_cannot_be_right_is_refused_with_its_line(tmp_path, line, message):
    boxes_of(several(tmp_path), "p0.png,2,3,20,25", line, "p2.png,2,3,20,25")
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_whole_images_as_shares_are_refused_and_whole_images_in_pixels_are_not(tmp_path):
    """0,0,1,1 for each image is the frame in shares of its sides: a box of 2 x 2 pixels in each is no object."""
    boxes_of(several(tmp_path), *(f"p{i}.png,0,0,1,1" for i in range(3)))
    with pytest.raises(DataError, match=r"boxes\.csv: all boxes lie in 0\.\.1"):
        opened(tmp_path)
    boxes_of(tmp_path, "p0.png,0,0,1,1", *(f"p{i}.png,0,0,39,29" for i in range(1, 3)))
    assert opened(tmp_path).boxes(0).tolist() == [[0, 0, 1, 1]]
    boxes_of(tmp_path, "p0.png,0.5,0.9,1.5,12.7", "", ",,,,", "  ", "p1.png,1,2,3,4", "p2.png,1,2,3,4")
    assert opened(tmp_path).boxes(0).tolist() == [[0, 0, 1, 12]]  # a part of a pixel is not in it


def problems(root: Path, *, strict: bool = True) -> list[str]:
    return truth_problems(opened(root), strict=strict)


def test_boxes_are_held_against_the_sizes_of_images(tmp_path, capsys):
    """40 x 30 pixels: ends at 40 and 30 are those of a list whose ends are outside, and 10 % are drawn too far."""
    boxes_of(several(tmp_path), "p0.png,0,0,40,30", "p1.png,-4,-3,44,33", "p2.png,39,29,43,30")
    assert problems(tmp_path) == []
    assert "2 boxes of test reach beyond their images" in capsys.readouterr().out
    boxes_of(tmp_path, "p0.png,-5,0,40,30", "p1.png,5,5,100,80", "p2.png,40,0,50,9", "p2.png,0,30,9,31")
    found = problems(tmp_path)
    assert [message.partition(" the image")[0] for message in found] == [
        "test/p0: the box [-5, 0, 40, 30] reaches far beyond",
        "test/p1: the box [5, 5, 100, 80] reaches far beyond",
        "test/p2: the box [40, 0, 50, 9] lies outside",
        "test/p2: the box [0, 30, 9, 31] lies outside",
    ]
    assert all(message.endswith("of 40x30 pixels; correct it") for message in found)
    assert problems(tmp_path, strict=False) == found[2:]  # published boxes are cut off at the sides, as released


def test_turned_images_have_the_size_that_training_sees(tmp_path):
    several(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 40 x 30 stored is 30 x 40 upright
    Image.new("RGB", (40, 30)).save(tmp_path / "p0.png", exif=exif)
    boxes_of(tmp_path, "p0.png,1,1,29,39", "p1.png,1,1,29,39", "p2.png,1,1,29,29")
    assert problems(tmp_path) == [
        "test/p1: the box [1, 1, 29, 39] reaches far beyond the image of 40x30 pixels; correct it"
    ]


def test_images_without_truth_and_masks_that_do_not_fit_are_found_early(tmp_path):
    boxes_of(several(tmp_path, 4), "p0.png,1,1,9,9")
    mask(tmp_path / "masks/p1.png", np.ones((3, 4)))
    mask(tmp_path / "masks/p2.png", np.zeros((30, 40)))
    found = problems(tmp_path)
    assert [message.partition("; ")[0].removeprefix(f"{tmp_path}/") for message in found] == [
        "masks/p1.png: the mask is 4x3 pixels and its image, upright, 40x30",
        "masks/p2.png: shows no object",
        "p3.png: has no box",
    ]
    entry = Entry(name="a", path=tmp_path / "p0.png", label="cat", masks=(tmp_path / "gone.png",))
    (gone,) = truth_problems(Boxed(ClassSet(("cat",)), "test", [entry]), strict=False)
    assert "gone.png: no such" in gone


def test_an_image_twice(tmp_path):
    """In labels.csv, under two suffixes, or in a split."""
    several(tmp_path)
    lines = ["image,label", "p0.png,cat", "./p1.png,dog", "p2.png,cat"]
    write(tmp_path / "labels.csv", "\n".join([*lines, "p1.png,cat"]))
    with pytest.raises(DataError, match=r"p1\.png is on the lines 3 and 5 but may have one line; keep one"):
        opened(tmp_path)
    write(tmp_path / "labels.csv", "\n".join([*lines, "p1.jpg,dog"]))
    with pytest.raises(DataError, match=r"p1\.png and p1\.jpg differ only in suffix or folder"):
        opened(tmp_path)
    several(tmp_path)
    write(tmp_path / "splits/test.txt", "p0.png\np2\np0.png\n")
    with pytest.raises(DataError, match=r"test\.txt: p0 is in the split more than once"):
        opened(tmp_path)
    write(tmp_path / "splits/test.txt", "p2\np0.png\n")  # with and without the suffix
    assert opened(tmp_path).names == ("p2", "p0")


def test_lists_of_data_sets_that_name_an_image_twice(tmp_path):
    cub(tmp_path / "cub")
    write(tmp_path / "cub/image_class_labels.txt", "1 1\n2 1\n3 2\n2 2\n")
    with pytest.raises(DataError, match="2 has more than one line"):
        opened(tmp_path / "cub", layout=Layout.CUB)
    cub(tmp_path / "cub")
    write(tmp_path / "cub/images.txt", "1 001.Auk/Auk_1.jpg\n2 001.Auk/Auk_2.jpg\n3 001.Auk/Auk_2.jpg\n")
    with pytest.raises(DataError, match=r"Auk_2 is in the lists more than once, as '001\.Auk' and as '002\.Owl'"):
        opened(tmp_path / "cub", layout=Layout.CUB)
    picture(tmp_path / "open/test/x.jpg")
    write(tmp_path / "open/metadata/test/class_labels.txt", "test/x.jpg,9\ntest/x.jpg,3\n")
    with pytest.raises(DataError, match=r"gives test/x\.jpg '9' and '3'"):
        opened(tmp_path / "open", layout=Layout.OPENIMAGES)


def test_the_header_of_segmentation_is_read_as_there(tmp_path):
    """Under `labels`, cells are those of a folder for segmentation: of those with one label each."""
    several(tmp_path)
    lines = ["image,labels", "p0.png,cat", "p1.png,dog", "p2.png,dog"]
    write(tmp_path / "labels.csv", "\n".join(lines))
    assert [entry.label for entry in opened(tmp_path).entries] == ["cat", "dog", "dog"]
    write(tmp_path / "labels.csv", "\n".join([*lines[:-1], "p2.png,cat dog"]))
    with pytest.raises(DataError, match=r"line 4: p2\.png has 2 labels; for localization an image has one"):
        opened(tmp_path)
    write(tmp_path / "labels.csv", "\n".join([*lines[:-1], "p2.png,grey  cat;"]))
    assert opened(tmp_path).entries[2].label == "grey  cat".replace("  ", " ")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('"cat,dog"', "line 4: cat,dog has a separator that is not used here"),
        ("cat|dog", r"line 4: cat\|dog has a separator that is not used here"),
        ("dog; cat", r"line 4: p2\.png has 2 labels; for localization an image has one"),
    ],
)
def test_two_classes_in_one_cell_are_two_classes(tmp_path, cell, message):
    several(tmp_path)
    write(tmp_path / "labels.csv", f"image,label\np0.png,cat\np1.png,dog\np2.png,{cell}\n")
    with pytest.raises(DataError, match=message):
        opened(tmp_path)
    write(tmp_path / "labels.csv", "image,label\np0.png,cat\np1.png,dog\np2.png,grey cat\n")
    assert opened(tmp_path).classes.names == ("cat", "dog", "grey cat")


def test_a_mask_that_is_called_almost_right_is_not_passed_over(tmp_path):
    several(tmp_path)
    mask(tmp_path / "masks/p1.PNG", np.ones((30, 40)))
    with pytest.raises(DataError, match=r"p1\.png: no such mask, but there is masks/p1\.PNG"):
        opened(tmp_path)


def test_one_name_in_many_spellings_is_one_class(tmp_path):
    several(tmp_path)
    write(
        tmp_path / "labels.csv",
        "image,label\np0.png,caf\u00e9 cat\np1.png,cafe\u0301  cat\np2.png,caf\u00e9\u00a0cat\n",
    )
    assert opened(tmp_path).classes.names == ("caf\u00e9 cat",)


def test_the_file_that_is_there_is_named(tmp_path):
    several(tmp_path)
    (tmp_path / "p0.png").rename(tmp_path / "p0.PNG")
    with pytest.raises(DataError, match=r"p0\.png: no such image; there is p0\.PNG, write that"):
        opened(tmp_path)
    write(tmp_path / "labels.csv", "image,label\np0.PNG,cat\nsub\\\\p1.png,dog\n".replace("\\\\", "\\"))
    picture(tmp_path / "sub/p1.png")
    boxes_of(tmp_path, "sub\\p1.png,1,2,5,5")
    assert opened(tmp_path).boxes(1).tolist() == [[1, 2, 5, 5]]


def test_all_problems_of_a_folder(tmp_path):
    assert folder_problems(several(tmp_path / "good")) == []
    root = several(tmp_path / "bad", 5)
    boxes_of(root, "p0.png,0.1,0.1,0.5,0.5", "p1.png,9,9,3,3", "p2.png,1,1,9,9", "p8.png,1,1,2,2", "p3.png,1,1,9,9")
    (root / "p3.png").write_bytes(b"no image")
    write(root / "splits/train.txt", "p0.png\np7.png\n")
    write(root / "splits/test.txt", "p2.png\np3.png\n")
    found = "\n".join(folder_problems(root))
    for words in (
        "line 2: the box 0.1",
        "line 3: the box 9",
        "line 5: p8.png",
        "p7 has no line",
        "p3.png: not a known",
    ):
        assert found.count(words) == 1, found
    assert found.count("\n") == 4
    boxes_of(root, "p2.png,1,1,90,90")
    write(root / "splits/train.txt", "p0.png\np1.png\n")
    found = folder_problems(root)
    assert len(found) == 2
    assert "test/p2: the box [1, 1, 90, 90] reaches far beyond" in found[0]
    assert "p3.png: not a known" in found[1]


@pytest.mark.parametrize("header", ["image,label", "image,labels", "Image, Labels", "\ufeffimage,labels"])
def test_the_column_of_labels_has_the_names_that_it_has_for_masks(tmp_path, header):
    """One list serves `bao run photos` and recipes for boxes: with either column the data are the same."""
    root = several(tmp_path)
    before = opened(root)
    lines = (root / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,label"
    write(root / "labels.csv", "\n".join([header, *lines[1:]]) + "\n")
    boxed = opened(root)
    assert boxed.names == before.names == ("p0", "p1", "p2")
    assert boxed.classes.names == ("cat", "dog") and boxed.channels() == [0, 1, 0]
    assert boxed.fingerprint() == before.fingerprint()
    folder = Folder(root)
    assert folder.names == boxed.names
    assert [folder.labels(i).tolist() for i in range(3)] == [boxed.labels(i).tolist() for i in range(3)]


def test_an_image_with_two_labels_is_for_masks_alone(tmp_path):
    root = several(tmp_path)
    write(root / "labels.csv", "image,labels\np0.png,cat;dog\np1.png,dog\np2.png,cat\n")
    assert Folder(root).labels(0).tolist() == [1, 1]
    with pytest.raises(DataError, match=r"line 2: p0\.png has 2 labels; for localization an image has one"):
        opened(root)
