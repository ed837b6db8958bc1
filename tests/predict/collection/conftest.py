from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    from predict.small_collections import collection  # here: see tests/conftest.py

    return collection(tmp_path / "source")
