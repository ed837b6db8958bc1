"""The documentation builds as a site: every link is there, and nothing comes from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from baoseg import cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make site` does; warnings, which dead links are, end it with an error."""
    out = tmp_path_factory.mktemp("site")
    build = ["build", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", *build]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return out


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//", text), page
        assert not re.search(r"<link[^>]+rel=\"(?:stylesheet|preconnect|icon)\"[^>]+href=\"(?:https?:)?//", text), page


def test_every_command_is_on_its_page(site: Path) -> None:
    text = (site / "cli/index.html").read_text(encoding="utf-8")
    names = [*cli.VERBS, *(f"{group} {verb}" for group, (_, verbs) in cli.GROUPS.items() for verb in verbs)]
    for name in names:
        assert f"usage: bao {name} " in text, name


def test_the_reference_has_docstrings_and_shapes(site: Path) -> None:
    text = (site / "api/index.html").read_text(encoding="utf-8")
    for said in ("Load a labeler, or a segmenter", "The maps of one image on one grid", "k h w", "threshold"):
        assert said in text, said
