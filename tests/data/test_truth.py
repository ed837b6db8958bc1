import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from baoseg.core.errors import DataError
from baoseg.data.images import MASK_SUFFIXES
from baoseg.data.truth import Agreement, Reader, find, named_by, reader

CLASSES = ("ant", "bee", "cat")


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def found(root, *names):
    """The masks of images of these names, and what is left."""
    result = find(root, names)
    files = [None if path is None else path.relative_to(root).as_posix() for path in result.files]
    return files, sorted(result.unmatched)


# ------------------------------------------------------------------------------------------------ whose mask is it


def test_a_folder_that_may_not_be_listed_is_no_folder_without_masks(tmp_path, monkeypatch):
    touch(tmp_path, "a/p.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"a: cannot be listed \(Permission denied\); change its permissions"):
        find(tmp_path, ["a/p"])
    monkeypatch.undo()
    assert found(tmp_path / "none", "a/p") == ([None], [])


@pytest.mark.parametrize(
    "file",
    ["a/p.PNG", "a/p.bmp", "a/p.tif", "a/p.TIFF", "a/p_mask.png", "a/p.jpg.png", "a/p.JPG.png", "a/p.png.png"],
)
def test_a_mask_is_found_by_the_rule(tmp_path, file):
    touch(tmp_path, file)
    assert found(tmp_path, "a/p") == ([file], [])


def test_the_first_that_fits_is_taken_and_two_that_fit_alike_are_refused(tmp_path):
    touch(tmp_path, "p.png", "p.PNG", "p.bmp", "p_mask.png", "p.jpg.png")
    assert found(tmp_path, "p") == (["p.png"], [])
    (tmp_path / "p.png").unlink()
    with pytest.raises(DataError, match=r"p\.PNG and p\.bmp are both masks of p; keep one"):
        find(tmp_path, ["p"])


def test_a_file_is_the_mask_of_the_image_of_exactly_its_name(tmp_path):
    touch(tmp_path, "p_mask.png", "q.jpg.png")
    assert found(tmp_path, "p", "p_mask", "q", "q.jpg") == ([None, "p_mask.png", None, "q.jpg.png"], [])


def test_names_agree_in_any_form_of_unicode(tmp_path):
    touch(tmp_path, "e\u0301te\u0301.png")
    assert found(tmp_path, "\u00e9t\u00e9") == (["e\u0301te\u0301.png"], [])


def test_what_is_left_is_what_looks_like_a_mask(tmp_path):
    touch(tmp_path, "p.png", "px.png", "p.npy", "sub/q.png", "old.jpg", "p.v2.png")
    touch(tmp_path, "._p.png", ".DS_Store", ".hidden/p.png", "classes.txt", "README.md", "p.json")
    assert found(tmp_path, "p", "q") == (["p.png", None], ["old.jpg", "p.npy", "p.v2.png", "px.png", "sub/q.png"])


def test_one_misspelt_mask_is_said_and_more_masks_than_images_are_not(tmp_path):
    touch(tmp_path, "p.png", "px.png", "q.png")
    line = find(tmp_path, ["p", "q", "r"]).remark()
    assert line is not None and f"{tmp_path}: 1 file matches no image of labels.csv, e.g. px.png; " in line
    assert find(tmp_path, ["p", "q"]).remark() is None
    assert find(tmp_path / "nowhere", ["p"]).remark() is None


def test_folders_that_are_links_are_looked_into(tmp_path):
    touch(tmp_path, "elsewhere/p.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/far").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "masks", "far/p") == (["far/p.png"], [])


names = st.text("abC1_-. é", min_size=1, max_size=5).filter(lambda name: name.strip(" .") == name)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), wanted=st.lists(names, min_size=1, max_size=5, unique=True))
def test_no_file_is_passed_over_in_silence(tmp_path_factory, data, wanted):
    """Every file is the mask of an image, beside a better one, or named among those that match none."""
    root = tmp_path_factory.mktemp("masks")
    endings = st.sampled_from([".png", ".PNG", ".bmp", ".tif", "_mask.png", ".jpg.png", "x.png", ".jpg", "-seg.png"])
    files = data.draw(st.sets(st.tuples(st.sampled_from(wanted), endings).map("".join), min_size=1))
    touch(root, *files)
    try:
        masks, left = found(root, *wanted)
    except DataError as error:
        assert "are both masks of" in str(error)
        return
    assert set(left) <= files and {mask for mask in masks if mask} <= files
    for file in files - set(left) - set(masks):
        owners = [name for name, mask in zip(wanted, masks, strict=True) if mask and file.startswith(name)]
        assert owners and file.lower().endswith(MASK_SUFFIXES)


# ------------------------------------------------------------------------------------------------ what values mean


def write(root, masks):
    """Masks by name; the pairs that `reader` takes, of images that all have labels."""
    for name, rows in masks.items():
        Image.fromarray(np.array(rows, dtype=np.uint8)).save(root / f"{name}.png")
    return [(root / f"{name}.png", True) for name in masks]


def test_255_is_the_one_class_where_no_mask_shows_another_value(tmp_path):
    masks = write(tmp_path, {"a": [[0, 255]], "b": [[0, 0]]})
    read = reader(tmp_path, masks, 1)
    assert read == Reader(1, white=True)
    assert read(masks[0][0]).tolist() == [[0, 1]]
    line = read.remark(tmp_path, ["lesion"])
    assert line is not None and "0 and 255 only; 255 is read as lesion" in line


def test_255_is_void_where_some_mask_shows_the_class(tmp_path):
    masks = write(tmp_path, {"a": [[0, 255]], "b": [[0, 255]], "c": [[1, 255]]})
    for classes in (1, 3):
        read = reader(tmp_path, masks, classes)
        assert read(masks[0][0]).tolist() == [[0, 255]] and read.remark(tmp_path, CLASSES) is None


def test_masks_that_show_no_class_are_refused_where_labels_name_some(tmp_path):
    with pytest.raises(DataError, match=r"the 1 masks hold 0 and 255 only.*labels of 1 of.*index 1\.\.3"):
        reader(tmp_path, write(tmp_path, {"a": [[0, 255]]}), 3)
    for classes in (1, 3):
        with pytest.raises(DataError, match="nothing but background"):
            reader(tmp_path, write(tmp_path, {"a": [[0, 0]]}), classes)


def test_masks_of_images_without_labels_may_show_nothing(tmp_path):
    for rows in ([[0, 0]], [[0, 255]]):
        masks = [(path, False) for path, _ in write(tmp_path, {"a": rows})]
        assert reader(tmp_path, masks, 1) == Reader(1)
        assert reader(tmp_path, masks, 3) == Reader(3)
    assert reader(tmp_path, [], 3) == Reader(3)


def test_masks_are_read_until_one_shows_a_class(tmp_path):
    masks = write(tmp_path, {"a": [[0, 255]], "b": [[2, 0]]})
    assert reader(tmp_path, iter([*masks, None]), 3) == Reader(3)  # the third is never asked for


# ------------------------------------------------------------------------------------------------ labels and masks


def agreement(*pairs, classes=CLASSES):
    """Of pairs of what a mask shows and what the labels name."""
    whole = Agreement(classes)
    for number, (shown, named) in enumerate(pairs):
        whole.add(f"p{number}", torch.tensor([[0, *shown]], dtype=torch.uint8), set(named))
    return whole


def test_labels_by_index():
    assert named_by(torch.tensor([1.0, 0.0, 1.0])) == {1, 3}


def test_masks_that_show_what_labels_name_or_less_pass():
    whole = agreement(([1], [1]), ([2, 255], [2, 3]), ([], []), ([3], [3]))
    assert whole.remarks() == [] and whole.refusal() is None


def test_labels_that_leave_out_a_class_are_said_and_not_refused():
    whole = agreement(([1, 3], [1]), ([2, 3], [2]), ([3, 1], [3]))
    (line,) = whole.remarks()
    assert line.startswith("3 of 3 masks show classes that their labels do not name, e.g. p0: cat; ")
    assert whole.refusal() is None


def test_a_wrong_label_here_and_there_is_said_and_not_refused():
    whole = agreement(*[([1], [1])] * 4, ([2], [3]), ([2], [2]))
    assert "1 of 6 masks show classes" in whole.remarks()[0] and whole.refusal() is None
    assert "1 of 1 mask shows classes" in agreement(([1], [])).remarks()[0]  # without labels it is no contradiction
    assert agreement(([1], [])).refusal() is None


def test_another_class_order_is_refused():
    order = [3, 2, 1]  # the second class has the same place in both
    whole = agreement(*[([order[number % 3]], [number % 3 + 1]) for number in range(6)])
    line = whole.refusal()
    assert line is not None and line.startswith("4 of 6 masks show classes that their labels do not name")
    assert "p0: the mask shows cat, the labels name ant; " in line and "1..3" in line


def test_masks_of_the_foreground_are_refused():
    for labels in ([1, 2], [1, 1, 1, 2], [2, 3]):
        line = agreement(*[([1], [label]) for label in labels]).refusal()
        assert line is not None and "classes that their labels do not name: all show ant alone" in line
    assert agreement(*[([1], [1])] * 20, ([1], [2])).refusal() is None  # one wrong label of many
    assert agreement(([1], [1]), classes=("ant",)).refusal() is None


def test_masks_that_show_nothing_are_said_where_they_are_many():
    whole = agreement(([255], [1]), ([1], [1]))
    assert whole.remarks()[0].startswith("1 of 2 masks show no class although their labels name some, e.g. p0; ")
    assert agreement(([255], [1]), *[([1], [1])] * 9).remarks() == []


def test_a_class_that_no_mask_shows_is_said():
    line, *others = agreement(([1], [1]), ([1], [1, 2]), ([1, 255], [2, 1, 3])).remarks()
    assert line.startswith("no mask shows bee and cat, which labels name, e.g. those of p1; ") and not others
    parts = agreement(([1], [1, 2])) + agreement(([2], [2]))
    assert parts.remarks() == [] and parts.named == {1: "p0", 2: "p0"}
    assert agreement(([255], [1]), *[([2], [2])] * 9).remarks() == []  # perhaps small, and ignored


def test_counts_of_processes_add_up():
    pairs = [([1, 3], [1]), ([2], [3]), ([], [1]), ([3], [3])]
    whole = agreement(*pairs)
    parts = agreement(*pairs[:2]) + agreement(*pairs[2:])
    assert parts == agreement(*pairs[:2]) + agreement(*pairs[2:])
    assert (parts.remarks()[0], parts.shown) == (whole.remarks()[0], whole.shown)
    assert (parts.masks, parts.judged, parts.more, parts.instead, parts.empty) == (4, 3, 2, 1, 1)
