"""Folders of images, and what becomes of images that fail."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from predict.small_collections import (
    CLASSES,
    SHARD,
    SIZE,
    Stub,
    expected,
    failures,
    files,
    job,
    picture,
    seen,
    tar,
    untar,
)

from baoseg import methods, nets
from baoseg.core.errors import RunError
from baoseg.data.images import read_mask
from baoseg.data.transforms import Normalisation
from baoseg.nets.segmentation import SegmentationNetwork
from baoseg.predict import collection as labelling
from baoseg.predict.collection import work
from baoseg.predict.labeler import Labeler
from baoseg.predict.maps import Config as MapsConfig
from baoseg.predict.segment import Inference, Segmenter
from baoseg.seeds import masks

# ---------------------------------------------------------------------------------------- folders


def test_each_image_has_its_mask_in_the_same_tree(source: Path, tmp_path: Path) -> None:
    (source / ".hidden").mkdir()
    (source / ".hidden/a.png").write_bytes(picture(0))
    (source / "x/._b.png").write_bytes(b"what a Mac leaves")
    (source / "notes.md").write_text("no picture")
    tally = labelling.run(job(source, tmp_path / "out"))
    assert (tally.written, tally.skipped, tally.failed) == (13, 0, 0)
    assert set(files(tmp_path / "out")) == {
        *("a.png", "b.png", "x/a.png", "x/b.png", "x/y/a.b.png", "x/y/c.png", "z.png", "s0.tar", "x/s1.tar")
    }
    for path in source.rglob("*"):
        if path.suffix.lower() == ".png" and not any(part.startswith(".") for part in path.parts[1:]):
            mask = read_mask((tmp_path / "out" / path.relative_to(source)).with_suffix(".png"))
            assert np.array_equal(mask, expected(path.read_bytes()))


def test_a_labeler_gives_the_masks_that_it_gives_alone(tmp_path: Path) -> None:
    network = nets.build(tiny.NET, 3, heads=methods.heads_of(methods.transcam.Config()), seed=0)
    method = methods.make(methods.transcam.Config(), network)
    model = Labeler(method, CLASSES, maps=MapsConfig(sizes=(32,)), masks=masks.Config())
    (source := tmp_path / "source").mkdir()
    content = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(content).save(source / "free.png")
    Image.fromarray(content).save(source / "told.png")
    (source / "told.txt").write_text("green")
    labelling.run(job(source, tmp_path / "out", model))
    assert np.array_equal(read_mask(tmp_path / "out/free.png"), model(content).mask)
    assert np.array_equal(read_mask(tmp_path / "out/told.png"), model(content, ["green"]).mask)


@pytest.mark.parametrize(
    ("beside", "labels"),
    [
        ({}, None),
        ({".json": '["red", "dining table"]'}, ("red", "dining table")),
        ({".json": '{"labels": ["green"], "width": 5}'}, ("green",)),
        ({".json": '{"width": 5}'}, None),
        ({".json": '["dining\u00a0 table "]'}, ("dining table",)),
        ({".json": '{"width": 5}', ".cls": "2"}, ("dining table",)),
        ({".txt": "green red\n"}, ("green", "red")),
        ({".txt": "dining table; red"}, ("dining table", "red")),
        ({".txt": "dining table"}, ("dining table",)),
        ({".cls": "0\n"}, ("red",)),
        ({".cls": "0", ".txt": "green"}, ("green",)),
        ({".json": '["red"]', ".txt": "green"}, ("red",)),
    ],
)
@pytest.mark.parametrize("shard", [False, True])
def test_labels_beside_an_image_reach_the_model(
    beside: dict[str, str], labels: tuple[str, ...] | None, shard: bool, tmp_path: Path
) -> None:
    (source := tmp_path / "source").mkdir()
    members = {"k.png": picture(0), **{f"k{suffix}": text.encode() for suffix, text in beside.items()}}
    if shard:
        (source / "s.tar").write_bytes(tar(members.items()))
    else:
        for name, content in members.items():
            (source / name).write_bytes(content)
    labelling.run(job(source, tmp_path / "out", model := Stub()))
    labelling.run(job(source, tmp_path / "free", free := Stub(), read_labels=False))
    assert model.asked == [labels]
    assert free.asked == [None]
    if shard:
        written = json.loads(untar(tmp_path / "out/s.tar")["k.json"])
        assert written == {"labels": list(labels or ("red", "green"))}  # without labels, the classes in the mask


@pytest.mark.parametrize("beside", [{".json": "[]"}, {".json": '{"labels": []}'}, {".txt": " "}])
def test_an_image_labelled_with_nothing_is_all_background(beside: dict[str, str], tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    (source / "k.png").write_bytes(picture(0))
    for suffix, text in beside.items():
        (source / f"k{suffix}").write_text(text)
    labelling.run(job(source, tmp_path / "out", model := Stub()))
    assert model.asked == []
    assert torch.equal(read_mask(tmp_path / "out/k.png"), torch.zeros(SIZE, dtype=torch.uint8))


class Brightest(SegmentationNetwork):
    """The logits of the three classes are the colours of the pixel, that of the background is one half."""

    stride = 1
    normalisation = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def __init__(self) -> None:
        super().__init__()
        self.background = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.background.expand(len(images), 1, *images.shape[-2:]), images], dim=1)


def test_a_segmenter_labels_too_and_keeps_to_the_labels_where_there_are_some(tmp_path: Path) -> None:
    model = Segmenter(Brightest(), CLASSES, inference=Inference(scales=(1.0,), flip=False))
    (source := tmp_path / "source").mkdir()
    pixels = np.array([[[255, 200, 0], [0, 200, 255], [100, 100, 100]]], dtype=np.uint8)
    for name in ("free", "told"):
        Image.fromarray(pixels).save(source / f"{name}.png")
    (source / "told.txt").write_text("green")
    labelling.run(job(source, tmp_path / "out", model))
    assert read_mask(tmp_path / "out/free.png").tolist() == [[1, 3, 0]]
    assert read_mask(tmp_path / "out/told.png").tolist() == [[2, 2, 0]]


# ---------------------------------------------------------------------------------------- failures


def test_an_image_that_fails_is_one_line_and_stops_nothing(source: Path, tmp_path: Path) -> None:
    (source / "cut.png").write_bytes(picture(0)[:60])
    (source / "text.jpg").write_text("hello")
    (source / "two.png").write_bytes(picture(0))
    (source / "two.jpg").write_bytes(picture(0, "jpg"))
    for name, suffix, text in [
        ("unknown", ".txt", "blue"),
        ("number", ".cls", "3"),
        ("letters", ".cls", "red"),
        ("list", ".json", "[1]"),
        ("broken", ".json", "{"),
        ("bytes", ".txt", "\udcff"),
    ]:
        (source / f"{name}.png").write_bytes(picture(0))
        (source / f"{name}{suffix}").write_text(text, errors="surrogateescape")
    (source / "odd\udcff, \n.png").write_text("a name that is no text")
    for name in ("link", "void"):
        (source / f"{name}.png").write_bytes(picture(0))
    (source / "link.txt").symlink_to("nowhere.txt")
    (source / "void.txt").touch()
    with_labels_apart = [("k.png", picture(0)), ("l.png", picture(1)), ("k.txt", b"red")]
    (source / "apart.tar").write_bytes(tar(with_labels_apart))
    tally = labelling.run(job(source, tmp_path / "out"))
    problems = dict(failures(tmp_path / "out"))
    assert tally == labelling.Tally(written=15, failed=14)
    assert len(problems) == 14
    assert all("\n" not in problem and "object at 0x" not in problem for problem in problems.values())
    for name, problem in {
        "cut.png": "cannot be read",
        "text.jpg": "not a known kind of image",
        "two.png": "2 images have this name: two.jpg, two.png",
        "two.jpg": "2 images have this name: two.jpg, two.png",
        "unknown.png": ".txt: unknown class 'blue'; the classes are red, green, dining table",
        "number.png": ".cls: '3' is not a class number; write one of 0..2",
        "letters.png": ".cls: 'red' is not a class number; write one of 0..2",
        "list.png": ".json: not a list of class names",
        "broken.png": ".json: is not JSON (Expecting property name",
        "bytes.png": ".txt: is not UTF-8 text; save it as UTF-8",
        "link.png": ".txt is a link to a missing file; restore",
        "void.png": ".txt: is empty; if the image shows",
        "apart.tar/k": "no image has the name of these labels",
    }.items():
        assert problem in problems[name]
    assert set(untar(tmp_path / "out/apart.tar")) == {"k.png", "k.json", "l.png", "l.json"}
    again = labelling.run(job(source, tmp_path / "out"))
    assert (again.written, again.failed) == (0, 13)  # the shard is done; images without a mask are tried again


@pytest.mark.parametrize(("labels", "count"), [(True, 2), (False, 0)])
def test_json_files_that_say_nothing_of_labels_are_counted(tmp_path: Path, labels: bool, count: int) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.png").write_bytes(picture(0))
    (source / "a.json").write_text('{"label": "red", "shapes": []}')
    (source / "s.tar").write_bytes(tar([("b.png", picture(0)), ("b.json", b"{}"), ("c.png", picture(0))]))
    tally = labelling.run(replace(job(source, tmp_path / "out"), read_labels=labels))
    assert (tally.written, tally.failed) == (3, 0) and tally.complete
    assert tally.ignored['(.json without "labels")'] == count


def test_what_the_machine_lacks_for_one_image_is_of_that_image(tmp_path: Path) -> None:
    def too_large(count: int) -> None:
        if count == 1:
            model.asked.append(None)
            raise torch.OutOfMemoryError("a picture of 100 megapixels")

    (tmp_path / "s.tar").write_bytes(SHARD)
    model = Stub(too_large)
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out", model)) == labelling.Tally(written=2, failed=1)
    assert failures(tmp_path / "out") == [["s.tar/1", "a picture of 100 megapixels"]]


def test_a_device_that_fails_leaves_its_shard_for_a_later_run(tmp_path: Path) -> None:
    def fails(count: int) -> None:
        if count == 2:
            raise RuntimeError("the device is lost")

    (tmp_path / "s.tar").write_bytes(SHARD)
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out", Stub(fails))) == labelling.Tally(failed=1)
    assert failures(tmp_path / "out") == [["s.tar", "the device is lost"]]
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out")) == labelling.Tally(written=3)


@pytest.mark.parametrize("recovers", [True, False])
def test_a_device_that_fails_time_and_again_stops_the_run(
    recovers: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three images in a row; a success ends the row, a damaged image neither ends nor continues it."""
    calls = itertools.count()

    def fails(count: int) -> None:
        if not (recovers and next(calls) % 3 == 2):
            raise RuntimeError("the device is lost")

    monkeypatch.setattr(work, "FAILURES_IN_A_ROW", 3)
    for shard in source.rglob("*.tar"):
        shard.unlink()
    (source / "a.png").write_bytes(b"damaged")
    out = tmp_path / "out"
    if recovers:
        assert labelling.run(job(source, out, Stub(fails))) == labelling.Tally(written=2, failed=5)
    else:
        with pytest.raises(RunError, match=r"3 times in a row.*the device is lost.*run the same command again"):
            labelling.run(job(source, out, Stub(fails)))
        assert [problem for _, problem in failures(out)].count("the device is lost") == 3
    (source / "a.png").write_bytes(picture(0))
    labelling.run(job(source, out))
    assert len([name for name in seen(out) if name.endswith(".png")]) == 7


def test_a_folder_that_cannot_be_read_is_listed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def guarded(path: Path) -> object:
        if path == source / "x/y":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert labelling.run(job(source, tmp_path / "out")) == labelling.Tally(written=11, failed=1)
    problem = "this folder cannot be read (Permission denied); change its permissions"
    assert failures(tmp_path / "out") == [["x/y/", problem]]
