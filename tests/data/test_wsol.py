"""Data sets of localization: what their lists say arrives, and what contradicts itself is one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baoseg.data import Dataset
from baoseg.data.wsol import Boxed, Config, Entry, Layout, open_boxed
from baoseg.errors import DataError
from baoseg.types import ClassSet


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
    return open_boxed(Config(path=str(root), **options), "eval")


def test_folder(folder):
    boxed = opened(folder)
    assert isinstance(boxed, Dataset)
    assert boxed.classes.names == ("dog", "grey cat")  # a label may have spaces: there is one for each picture
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
    assert chosen.boxes(1).tolist() == [[4, 1, 6, 2]]  # boxes stay in pixels of the picture


def test_fingerprint_hears_of_boxes_and_labels(folder):
    first = opened(folder).fingerprint()
    assert first == opened(folder).fingerprint()
    write(folder / "boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,0,1,3,4\n")
    assert opened(folder).fingerprint() != first


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels.csv", "picture,label\n", "first line"),
        ("labels.csv", "image,label\npictures/a.png\n", "columns image,label"),
        ("labels.csv", "image,label\npictures/z.png,dog\n", "no line in labels.csv|no such image"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/z.png,0,0,1,1\n", "no line in labels.csv"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,5,0,1,1\n", "ends before it starts"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,left,0,1,1\n", "is not 4 numbers"),
        ("boxes.csv", "image,x0,y0,x1,y1\npictures/a.png,nan,0,1,1\n", "is not 4 numbers"),
        ("classes.txt", "dog\n", "'grey cat' is no class"),
        ("splits/test.txt", "pictures/y.png\n", "has no line"),
        ("splits/other.txt", "", "test.txt: cannot be read"),
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
    with pytest.raises(DataError, match="no picture in the split 'test' of the classes dog"):
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
    with pytest.raises(DataError, match="the mask is 4x3 pixels and its picture, upright, 8x6"):
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
    write(tmp_path / "image_class_labels.txt", "1 1\n3 2\n")
    with pytest.raises(DataError, match=r"picture 2 .* restore the lists"):
        opened(tmp_path, layout=Layout.CUB)


def annotation(*objects: tuple[str, tuple[int, int, int, int]]) -> str:
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
    with pytest.raises(DataError, match="test: no such folder"):
        opened(tmp_path, layout=Layout.ILSVRC)


def test_openimages(tmp_path):
    """Masks of one picture are joined; a split without localization.txt has none."""
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
