"""The log of a review: what counts after decisions, crashes and two windows."""

import csv
from pathlib import Path

import pytest
import torch

from baoseg.core import files
from baoseg.core.errors import DataError, RunError
from baoseg.data.images import read_mask
from baoseg.data.reviewed import Chosen, Decision, Entry, Reviewed, Stale

MASK = torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8)
DOUBT, RANDOM = Chosen.DOUBT, Chosen.RANDOM


def decide(reviewed: Reviewed, name: str, decision: Decision, version: int, *, pixels: int = 0, mask=MASK) -> Entry:
    return reviewed.decide(name, decision, mask, chosen=DOUBT, pixels=pixels, version=version)


def test_the_last_decision_counts_and_all_are_kept(tmp_path: Path) -> None:
    reviewed = Reviewed(tmp_path / "reviewed")
    assert reviewed.version("a/x") == 0
    decide(reviewed, "a/x", Decision.CORRECTED, 0, pixels=3)
    decide(reviewed, "y, z", Decision.REJECTED, 0)
    decide(reviewed, "a/x", Decision.ACCEPTED, 1, mask=MASK.flip(0))
    again = Reviewed(tmp_path / "reviewed")
    assert again.entries == reviewed.entries
    assert again.entries["a/x"] == Entry(Decision.ACCEPTED, DOUBT, 0, 2)
    assert again.usable(["y, z", "a/x", "w"]) == ["a/x"] and again.rejected(["y, z", "a/x", "w"]) == ["y, z"]
    assert torch.equal(read_mask(again.mask("a/x")), MASK.flip(0))
    assert not again.mask("y, z").exists()
    with again.log.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["decision"], row["pixels"], row["version"]) for row in rows] == [
        ("a/x", "corrected", "3", "1"),
        ("y, z", "rejected", "0", "1"),
        ("a/x", "accepted", "0", "2"),
    ]


def test_a_second_window_cannot_overwrite_the_first(tmp_path: Path) -> None:
    reviewed = Reviewed(tmp_path)
    decide(reviewed, "x", Decision.CORRECTED, 0)
    with pytest.raises(Stale, match="x: was decided on in another window meanwhile"):
        decide(reviewed, "x", Decision.CORRECTED, 0, mask=MASK.flip(1))
    assert torch.equal(read_mask(reviewed.mask("x")), MASK)
    assert len(reviewed.log.read_text(encoding="utf-8").splitlines()) == 2


def test_a_line_that_a_crash_left_unfinished_is_dropped(tmp_path: Path) -> None:
    reviewed = Reviewed(tmp_path)
    decide(reviewed, "x", Decision.ACCEPTED, 0)
    whole = reviewed.log.read_text(encoding="utf-8")
    with reviewed.log.open("a", encoding="utf-8") as file:
        file.write("2026-12-01T10:00:00+00:00,y,corr")
    again = Reviewed(tmp_path)
    assert again.entries.keys() == {"x"}
    decide(again, "z", Decision.ACCEPTED, 0)
    text = reviewed.log.read_text(encoding="utf-8")
    assert text.startswith(whole) and "corr" not in text
    assert Reviewed(tmp_path).entries.keys() == {"x", "z"}


def test_a_full_disk_leaves_the_old_mask_and_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviewed = Reviewed(tmp_path)
    decide(reviewed, "x", Decision.CORRECTED, 0)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.tempfile, "mkstemp", full)
        with pytest.raises(RunError, match="no space left on the disk"):
            decide(reviewed, "x", Decision.CORRECTED, 1, mask=MASK.flip(1))
    assert reviewed.version("x") == Reviewed(tmp_path).version("x") == 1
    assert torch.equal(read_mask(reviewed.mask("x")), MASK)


@pytest.mark.parametrize("line", ["t,x,maybe,doubt,0,1", "t,x,accepted,doubt,few,1", "t,x"])
def test_a_log_of_something_else_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.csv").write_text(f"time,name,decision,chosen,pixels,version\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"log\.csv, line 2: no line of a review"):
        Reviewed(tmp_path)
