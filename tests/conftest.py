"""Fixtures that every test may use."""

from pathlib import Path

import pytest
import torch


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
