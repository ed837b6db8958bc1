"""Shards of images in, shards of masks out."""

import gzip
import io
import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from predict.small_collections import SHARD, Stub, expected, failures, files, job, picture, tar, untar

from baoseg.core.errors import DataError
from baoseg.predict import collection as labelling

# ------------------------------------------------------------------------------------------ shards


def test_a_shard_becomes_a_shard_of_masks_and_labels(tmp_path: Path) -> None:
    """Keys reach to the first dot of the name; other images of a key are passed over; suffixes may be capitals."""
    pictures = {"d.1/a": picture(1), "d.1/b": picture(2, "jpg"), "c": picture(3)}
    members = [
        ("d.1/a.PNG", pictures["d.1/a"]),
        ("d.1/a.txt", b"red"),
        ("d.1/a.seg.png", b"another mask"),
        ("d.1/b.cls", b"1"),
        ("d.1/b.jpg", pictures["d.1/b"]),
        ("d.1/._b.jpg", b"what a Mac leaves"),
        ("c.npy", b"features"),
        ("c.png", pictures["c"]),
    ]
    (tmp_path / "s.tar").write_bytes(tar(members))
    tally = labelling.run(job(tmp_path / "s.tar", tmp_path / "out", Stub()))
    assert tally == labelling.Tally(written=3, ignored=Counter({".seg.png": 1}))
    written = untar(tmp_path / "out/s.tar")
    assert list(written) == ["d.1/a.png", "d.1/a.json", "d.1/b.png", "d.1/b.json", "c.png", "c.json"]
    for key, content in pictures.items():
        mask = Image.open(io.BytesIO(written[f"{key}.png"]))
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), expected(content))
    labels = [json.loads(written[f"{key}.json"]) for key in pictures]
    assert labels == [{"labels": ["red"]}, {"labels": ["green"]}, {"labels": ["red", "green"]}]


def test_a_shard_piped_in_is_the_shard_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tar((f"{key}.png", picture(ord(key))) for key in "abc")
    (tmp_path / "s.tar").write_bytes(content)
    labelling.run(job(tmp_path / "s.tar", tmp_path / "out"))
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
        assert labelling.run(job(labelling.STDIN, tmp_path / "out")).written == 3
    assert (tmp_path / "out/stdin.tar").read_bytes() == (tmp_path / "out/s.tar").read_bytes()
    with pytest.raises(DataError, match="exists already, of this or of another stream"):
        labelling.run(job(labelling.STDIN, tmp_path / "out"))


END = len(SHARD.rstrip(b"\0")) // 512 * 512 + 512  # of the last member: zeros follow


@settings(deadline=None, max_examples=25)
@given(cut=st.one_of(st.integers(0, END + 512), st.sampled_from([0, 512, END, END + 512])))
def test_a_shard_cut_short_is_listed_and_not_done(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "s.tar").write_bytes(SHARD[:cut])
    assert labelling.run(job(folder / "s.tar", folder / "out")) == labelling.Tally(failed=1)
    assert set(files(folder / "out")) == {"failures.csv"}
    ((name, problem),) = failures(folder / "out")
    assert name == "s.tar"
    assert problem.startswith("this shard cannot be read")


@pytest.mark.parametrize(
    "content",
    [
        SHARD + SHARD,
        SHARD[:1024] + b"?" * 512 + SHARD[1536:],  # a header in the middle
        b"no tar at all" * 100,
        (packed := gzip.compress(SHARD, mtime=0))[: len(packed) // 2],
    ],
    ids=["two behind one another", "damaged", "no tar", "the beginning of a gzip file"],
)
def test_a_damaged_shard_is_listed_and_the_others_are_done(content: bytes, tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    (source / "bad.tar").write_bytes(content)
    (source / "good.tar").write_bytes(SHARD)
    assert labelling.run(job(source, tmp_path / "out")) == labelling.Tally(written=3, failed=1)
    assert set(files(tmp_path / "out")) == {"failures.csv", "good.tar"}
    assert [name for name, _ in failures(tmp_path / "out")] == ["bad.tar"]
