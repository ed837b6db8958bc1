import unicodedata

import pytest

from baoseg.core.errors import DataError
from baoseg.core.types import ClassSet


def test_labels_in_any_form_of_unicode_and_with_any_spaces() -> None:
    classes = ClassSet(("möwe", "dining table", "old  name"))
    written = [unicodedata.normalize("NFD", "möwe"), "dining\u00a0table", "old  name"]
    assert classes.encode(written).tolist() == [1, 1, 1]
    assert classes.encode(["old name"]).tolist() == [0, 0, 1]
    assert classes.encode([]).tolist() == [0, 0, 0]
    assert classes.decode(classes.encode(["dining table"])) == ("dining table",)
    with pytest.raises(DataError, match="unknown class 'table'; the classes are möwe"):
        classes.encode(["table"])
