import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.text import folded, tidy, tidy_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("mo\u0308we", "möwe"),
        ("mo\u200b\u0308we", "möwe"),  # composed once what stood between is gone
        ("dining  table", "dining table"),
        ("dining\u00a0table", "dining table"),
        (" \tdining\u3000table\u2028", "dining table"),
        ("cat\u200b", "cat"),
        ("\ufeffc\u200eat\u00ad", "cat"),
        ("cat\u200d", "cat"),
        ("\u200cca\u200dt", "cat"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # a joiner that is part of the spelling
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("❤\ufe0f", "❤"),
        ("\u212bngström", "Ångström"),
        ("\u200b", ""),
        ("a/b;<x> & ''", "a/b;<x> & ''"),
    ],
)
def test_by_hand(written: str, meant: str) -> None:
    assert tidy(written) == meant


@settings(deadline=None)
@given(st.text(max_size=12))
def test_tidy_is_settled_and_the_same_for_all_forms(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once.split() == once.split(" ") or once == ""
    assert tidy(unicodedata.normalize("NFD", once)) == once


@given(st.text(st.characters(categories=["L", "N"], max_codepoint=0x24F), min_size=1))
def test_plain_names_stay_as_they_are(text: str) -> None:
    assert tidy(text) == unicodedata.normalize("NFC", text)


def test_paths_part_by_part() -> None:
    assert tidy_path(" a  b /mo\u0308we .png") == "a b/möwe .png"


def test_folded() -> None:
    assert folded("Dog") == folded("dog") and folded("Straße") == folded("STRASSE")
    assert folded("می\u200cخواهم") == folded("میخواهم")
    assert folded("dog") != folded("god")
