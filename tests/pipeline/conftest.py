import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a finished run on them, which tests copy."""
    import tiny  # here, not above: what is imported before the tests start escapes the check of shapes
    from pipeline.project import RECIPE, write_data

    from baoseg import pipeline

    root = tmp_path_factory.mktemp("project")
    pipeline.run(tiny.with_data(RECIPE, write_data(root / "data")), root / "run", hardware=tiny.HARDWARE)
    return root


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The run in a copy of the project, from which the original cannot be reached; the current folder."""
    copied = Path(shutil.copytree(project, tmp_path / "copy"))
    hidden = project.with_name("hidden")
    project.rename(hidden)
    monkeypatch.chdir(copied)
    yield copied
    hidden.rename(project)
