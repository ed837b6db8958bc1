import os
import unicodedata

import pytest

from baoseg.core.errors import DataError
from baoseg.data.files import Tree

NFC, NFD = (unicodedata.normalize(form, "möwe") for form in ("NFC", "NFD"))


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return Tree(root)


@pytest.mark.parametrize(("there", "wanted"), [(NFC, NFD), (NFD, NFC)])
def test_either_form_of_unicode_finds_the_file_that_is_there(tmp_path, there, wanted):
    files = tree(tmp_path, f"{there}/{there}.png", "a.png")
    assert files.find(f"{wanted}/{wanted}.png") == f"{there}/{there}.png"
    assert files.find(f"{there}/{there}.png") == f"{there}/{there}.png"
    assert files.find("a.png") == "a.png"
    assert files.find(f"{wanted}/other.png") is None and files.find("no/a.png") is None


def test_spaces_and_what_is_invisible(tmp_path):
    files = tree(tmp_path, "a  b.png", " lead.png", "c\u200b.png", "x\u00a0y.png")
    assert files.find("a b.png") == "a  b.png"
    assert files.find("lead.png") == " lead.png"
    assert files.find("c.png") == "c\u200b.png"
    assert files.find("x y.png") == "x\u00a0y.png"


def test_the_exact_name_comes_first_and_two_that_are_alike_are_none(tmp_path):
    files = tree(tmp_path, f"{NFC}.png", f"{NFD}.png", "a  b.png", "a   b.png")
    assert files.find(f"{NFC}.png") == f"{NFC}.png"
    assert files.find(f"{NFD}.png") == f"{NFD}.png"
    assert files.find("a b.png") is None
    assert files.hint("a b.png") == "a   b.png and a  b.png"


def test_letter_case_and_suffix_are_a_hint_and_no_match(tmp_path):
    files = tree(tmp_path, "in/IMG_1.JPG", "in/b.jpeg")
    assert files.find("in/IMG_1.jpg") is None
    assert files.hint("in/IMG_1.jpg") == "in/IMG_1.JPG"
    assert files.hint("in/b.png") == "in/b.jpeg"
    assert files.hint("In/b.png") == files.hint("IN/b.jpeg") == "in/b.jpeg"
    assert files.hint("in/c.png") == files.hint("out/c.png") == files.hint("out/in/b.jpeg") == ""


def test_a_folder_that_may_not_be_listed_is_a_line(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match=r"in: cannot be listed \(Permission denied\); change its permissions"):
        Tree(tmp_path).find("in/a.png")
