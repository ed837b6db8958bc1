from pathlib import Path

import pytest
from predict.small_collections import collection


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return collection(tmp_path / "source")
