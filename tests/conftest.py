"""Fixtures that every test may use."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    pass


@pytest.fixture
def shared() -> Path:
    """The folder of data and weights beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the data folder beside the repository")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> "RunFolder":
    """The run of `tiny.RECIPE`, all steps. Tests read it and change nothing in it."""
    import tiny  # here, not above: what is imported before the tests start escapes the check of shapes

    from baoseg import pipeline

    return pipeline.run(tiny.RECIPE, tmp_path_factory.mktemp("tiny") / "run", hardware=tiny.HARDWARE)
