import csv
import errno
import gzip
import io
import itertools
import json
import multiprocessing
import os
import signal
import sys
import tarfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from baoseg import methods, nets
from baoseg.core.errors import BaosegError, CheckpointError, DataError, RecipeError, RunError
from baoseg.core.types import ClassSet
from baoseg.data.images import read_mask
from baoseg.data.transforms import Normalisation
from baoseg.data.walk import ALONE, Walk
from baoseg.nets.segmentation import SegmentationNetwork
from baoseg.predict import collection as labelling
from baoseg.predict.collection import Cluster, Job, Part, work
from baoseg.predict.labeler import Labeler, load
from baoseg.predict.maps import Config as MapsConfig
from baoseg.predict.segment import Inference, Segmenter
from baoseg.seeds import masks

CLASSES = ClassSet(("red", "green", "dining table"))
SIZE = (3, 5)


class Stub:
    """Class 1 where a picture is reddish, class 2 elsewhere; keeps the labels that it was given."""

    classes = CLASSES

    def __init__(self, before: Callable[[int], None] = lambda count: None) -> None:
        self.before = before
        self.asked: list[tuple[str, ...] | None] = []

    def __call__(self, image: torch.Tensor, labels: tuple[str, ...] | None = None) -> SimpleNamespace:
        self.before(len(self.asked))
        self.asked.append(labels)
        return SimpleNamespace(mask=torch.where(image[0] > 99, 1, 2).to(torch.uint8).numpy())


@dataclass
class Waiting:
    """A model that signs with its process at the third picture, and goes on when one of the processes was killed."""

    signs: Path
    classes: ClassSet = CLASSES
    count: int = 0

    def __call__(self, image: torch.Tensor, labels: tuple[str, ...] | None = None) -> SimpleNamespace:
        self.count += 1
        if self.count == 3:
            (self.signs / str(os.getpid())).touch()
            wait_for((self.signs / "killed").exists)
        return Stub()(image, labels)


def wait_for(event: Callable[[], bool], *, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < end
        time.sleep(0.01)


class Deadly(Stub):
    """A model whose process dies of a picture that has labels."""

    def __call__(self, image: torch.Tensor, labels: tuple[str, ...] | None = None) -> SimpleNamespace:
        if labels is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, labels)


def picture(number: int, suffix: str = "png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 200, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content := io.BytesIO(), format={"png": "PNG", "jpg": "JPEG"}[suffix])
    return content.getvalue()


def expected(content: bytes) -> np.ndarray:
    return np.where(np.asarray(Image.open(io.BytesIO(content)))[..., 0] > 99, 1, 2)


def tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as shard:
        for name, content in members:
            (member := tarfile.TarInfo(name)).size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return file.getvalue()


def untar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as shard:
        return {member.name: shard.extractfile(member).read() for member in shard}  # type: ignore[union-attr]


def failures(out: Path) -> list[list[str]]:
    with (out / "failures.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["name", "problem"]
    return lines


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seen(folder: Path) -> dict[str, bytes]:
    """Without the hidden file that a killed process may leave."""
    return {name: content for name, content in files(folder).items() if not Path(name).name.startswith(".")}


def collection(root: Path) -> Path:
    """Seven pictures in three folders, and two shards of three pictures each."""
    for number, name in enumerate(["a.png", "b.png", "x/a.png", "x/b.PNG", "x/y/a.b.png", "x/y/c.png", "z.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    for shard in ("s0.tar", "x/s1.tar"):
        (root / shard).write_bytes(tar((f"{key}.png", picture(ord(key))) for key in "klm"))
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return collection(tmp_path / "source")


def job(source: Path, out: Path, model: object = None, **changes: object) -> Job:
    return Job(source=source, out=out, make=lambda: model or Stub(), **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- folders


def test_each_picture_has_its_mask_in_the_same_tree(source: Path, tmp_path: Path) -> None:
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
def test_labels_beside_a_picture_reach_the_model(
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
def test_a_picture_labelled_with_nothing_is_all_background(beside: dict[str, str], tmp_path: Path) -> None:
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


SHARD = tar((f"{number}.png", picture(number)) for number in range(3))
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


# ---------------------------------------------------------------------------------------- failures


def test_a_picture_that_fails_is_one_line_and_stops_nothing(source: Path, tmp_path: Path) -> None:
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
    assert (again.written, again.failed) == (0, 13)  # the shard is done; pictures without a mask are tried again


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


def test_what_the_machine_lacks_for_one_picture_is_of_that_picture(tmp_path: Path) -> None:
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
    """Three pictures in a row; a success ends the row, a damaged picture neither ends nor continues it."""
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


# ------------------------------------------------------------------------- every file is accounted for


def encoded(kind: str, number: int = 0) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 200, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content := io.BytesIO(), format=kind)
    return content.getvalue()


@pytest.mark.parametrize("shard", [False, True])
def test_all_kinds_of_images_are_labelled(shard: bool, tmp_path: Path) -> None:
    kinds = {".webp": "WEBP", ".jpe": "JPEG", ".JFIF": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF"}
    kinds |= {".jp2": "JPEG2000", ".ppm": "PPM", ".tga": "TGA", ".mpo": "MPO"}
    members = {f"d.1/k{number}{suffix}": encoded(kind) for number, (suffix, kind) in enumerate(kinds.items())}
    members |= {"x.input.jpg": encoded("JPEG"), "scan.0001.PNG": encoded("PNG"), "scan.0002.png": encoded("PNG", 1)}
    (source := tmp_path / "source").mkdir()
    if shard:
        (source / "s.tar").write_bytes(tar(members.items()))
    else:
        (source / "d.1").mkdir()
        for name, content in members.items():
            (source / name).write_bytes(content)
    assert labelling.run(job(source, tmp_path / "out")) == labelling.Tally(written=13)
    written = untar(tmp_path / "out/s.tar") if shard else files(tmp_path / "out")
    masks_of = {f"{name.rpartition('.')[0]}.png" for name in members}
    assert {name for name in written if name.endswith(".png")} == masks_of
    mask = np.asarray(Image.open(io.BytesIO(written["scan.0002.png"])))
    assert np.array_equal(mask, expected(members["scan.0002.png"]))


def test_an_image_of_a_shard_takes_the_labels_of_its_name_or_of_its_key(tmp_path: Path) -> None:
    members = [("x.input.png", picture(0)), ("x.cls", b"2"), ("y.a.png", picture(1)), ("y.a.txt", b"red")]
    members += [("y.json", b'["green"]'), ("y.meta.json", b"{}")]
    (tmp_path / "s.tar").write_bytes(tar(members))
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out", model := Stub())) == labelling.Tally(written=2)
    assert model.asked == [("dining table",), ("red",)]
    assert list(untar(tmp_path / "out/s.tar")) == ["x.input.png", "x.input.json", "y.a.png", "y.a.json"]


def test_labels_of_a_shard_that_belong_to_no_image_are_counted(tmp_path: Path) -> None:
    members = [("x.png", picture(0)), ("x.png.json", b'["red"]'), ("y.in.png", picture(1)), ("y.out.TXT", b"red")]
    members += [("z.out.cls", b"0"), ("v.png", picture(2)), ("v.txt", b"red"), ("v.meta.json", b"{}")]
    (tmp_path / "s.tar").write_bytes(tar(members))
    passed = Counter({".png.json": 1, ".out.txt": 1, ".out.cls": 1})
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out")) == labelling.Tally(written=3, ignored=passed)
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "free", read_labels=False)) == labelling.Tally(written=3)


@pytest.mark.parametrize(
    ("members", "problems", "passed"),
    [
        ({}, ["this shard holds no images"], {}),
        ({"k.heic": b"?", "k.txt": b"red", "l.HEIC": b"?"}, ["this shard holds no images"], {".heic": 2}),
        ({"readme.md": b"?"}, ["this shard holds no images"], {}),
        ({"k.png": b"?", "l.png": b"?"}, ["not a known kind of image"] * 2 + ["none of its 2 images has a mask"], {}),
    ],
)
def test_a_shard_without_a_mask_is_not_written_and_tried_again(
    members: dict[str, bytes], problems: list[str], passed: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "s.tar").write_bytes(tar(members.items()))
    for _ in range(2):
        (tmp_path / "out/failures.csv").unlink(missing_ok=True)
        tally = labelling.run(job(tmp_path / "s.tar", tmp_path / "out"))
        assert tally == labelling.Tally(failed=len(problems), ignored=Counter(passed))
        assert not tally.complete
        found = [problem for _, problem in failures(tmp_path / "out")]
        assert all(start in problem for start, problem in zip(problems, found, strict=True))
        assert set(files(tmp_path / "out")) == {"failures.csv"}


@pytest.mark.parametrize("piped", [False, True])
def test_an_empty_shard_or_file_of_an_earlier_version_is_not_done(
    piped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source := tmp_path / "source").mkdir()
    (source / "s.tar").write_bytes(SHARD)
    (source / "a.png").write_bytes(picture(0))
    (tmp_path / "out").mkdir()
    for name in ("s.tar", "stdin.tar"):
        (tmp_path / "out" / name).write_bytes(tar([]))
    (tmp_path / "out/a.png").write_bytes(b"")
    if piped:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(SHARD)))
    for tally in (labelling.Tally(written=3 if piped else 4), labelling.Tally(skipped=2)):
        if not (piped and tally.skipped):
            assert labelling.run(job(labelling.STDIN if piped else source, tmp_path / "out")) == tally
    assert len(untar(tmp_path / f"out/{'stdin' if piped else 's'}.tar")) == 6


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_shard_is_a_failure_and_no_empty_file(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:

        def add(name: str, content: bytes | None) -> None:
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = kind, "a.txt"
            entry.size = len(content or b"")
            shard.addfile(entry, io.BytesIO(content or b""))

        for name in ("a", "b"):
            add(f"{name}.png", picture(ord(name)))
            add(f"{name}.txt", b"red" if name == "a" else None)
        add("c.png", None)
        add("d.png", picture(0))
        add("d.json", b"[]")
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out", model := Stub())) == labelling.Tally(
        written=2, failed=2
    )
    assert model.asked == [("red",)]
    assert list(untar(tmp_path / "out/s.tar")) == ["a.png", "a.json", "d.png", "d.json"]
    (b, labels), (c, image) = sorted(failures(tmp_path / "out"))
    assert (b, c) == ("s.tar/b", "s.tar/c.png")
    assert "this label file is a link" in labels and "this image is a link" in image
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "free", read_labels=False)).written == 3


def test_no_two_masks_of_a_shard_have_one_name(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "a.png", "./b.png", "c.png", "c.JPG", "d.png", "d.png", "e.x.png", "e.x.bmp", "f.png"]
    (tmp_path / "s.tar").write_bytes(tar((name, picture(0)) for name in names))
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out")) == labelling.Tally(written=3, failed=8)
    assert [name for name in untar(tmp_path / "out/s.tar") if name.endswith("png")] == ["a.png", "b.png", "f.png"]
    problems = failures(tmp_path / "out")
    assert sorted(name for name, _ in problems) == sorted(f"s.tar/{name}" for name in names[2:4] + names[4:10])
    assert "2 images have this name: c.JPG, c.png; give each image its own name" in dict(problems)["s.tar/c.png"]
    assert "a second image of this name" in dict(problems)["s.tar/./b.png"]


def test_images_of_one_name_in_a_folder_fail_and_go_on_failing(tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    for name in ("cat.jpg", "cat.JPG", "dog.jpg", "dog.PNG", "cow.png", "cow.webp", "ok.jpg", "ok.v2.jpg", "Ok.jpg"):
        (source / name).write_bytes(picture(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/cat.png").write_bytes(picture(0))  # by a version that took the first
    for tally in (labelling.Tally(written=3, failed=6), labelling.Tally(skipped=3, failed=6)):
        assert labelling.run(job(source, tmp_path / "out")) == tally
    assert set(files(tmp_path / "out")) == {"cat.png", "ok.png", "ok.v2.png", "Ok.png", "failures.csv"}
    assert all("2 images have this name" in problem for _, problem in failures(tmp_path / "out"))
    parts = [labelling.run(job(source, tmp_path / "parts", part=Part(index, 3))) for index in range(3)]
    assert sum(part.failed for part in parts) == 6 and sum(part.written for part in parts) == 3


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".Txt", ".tXT"])
def test_labels_beside_an_image_are_found_in_any_case(suffix: str, tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    (source / "IMG_1.PNG").write_bytes(picture(0))
    (source / f"IMG_1{suffix}").write_text("red")
    (source / "IMG_2.png").write_bytes(picture(1))
    labelling.run(job(source, tmp_path / "out", model := Stub()))
    assert Counter(model.asked) == {("red",): 1, None: 1}
    (source / "IMG_1.TxT").write_text("green")
    (tmp_path / "out/IMG_1.png").unlink()
    assert labelling.run(job(source, tmp_path / "out")) == labelling.Tally(skipped=1, failed=1)
    assert failures(tmp_path / "out") == [
        ["IMG_1.PNG", ".txt: there are 2 files of this suffix for one image; keep one"]
    ]


@pytest.mark.parametrize("suffix", [".txt", ".json", ".cls"])
@pytest.mark.parametrize("shard", [False, True])
def test_a_label_file_without_a_byte_is_a_failure(suffix: str, shard: bool, tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    members = [("a.png", picture(0)), (f"a{suffix}", b""), ("b.png", picture(1)), ("b.json", b"[]")]
    if shard:
        (source / "s.tar").write_bytes(tar(members))
    else:
        for name, content in members:
            (source / name).write_bytes(content)
    assert labelling.run(job(source, tmp_path / "out")) == labelling.Tally(written=1, failed=1)
    ((_, problem),) = failures(tmp_path / "out")
    assert problem.startswith(f"{suffix}: is empty; if the image shows background alone, write [] into a .json file")


def test_labels_that_are_nested_beyond_reason_are_of_that_image(tmp_path: Path) -> None:
    members = [("a.png", picture(0)), ("a.json", b"[" * 100_000), ("b.png", picture(1))]
    (tmp_path / "s.tar").write_bytes(tar(members))
    assert labelling.run(job(tmp_path / "s.tar", tmp_path / "out")) == labelling.Tally(written=1, failed=1)


def test_what_is_passed_over_is_said_in_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source := tmp_path / "source").mkdir()
    for name in ("a.heic", "b.HEIC", "c.svg", "d.tar.gz", "notes.txt", "Thumbs.db", "._e.heic", ".f.heic"):
        (source / name).write_bytes(b"?")
    (tmp_path / "elsewhere").mkdir()
    (source / "more").symlink_to(tmp_path / "elsewhere")
    kinds = "6 files were ignored: 2 .heic, 1 (labels without an image), 1 (linked folder), 1 .svg, 1 .tar.gz"
    tally = labelling.run(job(source, tmp_path / "out"))
    assert capsys.readouterr().out == f"0 masks written, 0 done before, 0 failed; {kinds}\n"
    assert not tally.complete
    (source / "g.png").write_bytes(picture(0))
    assert labelling.run(job(source, tmp_path / "out")).complete
    assert labelling.run(job(source, tmp_path / "out")).complete  # done before
    assert capsys.readouterr().out.endswith(f"0 masks written, 1 done before, 0 failed; {kinds}\n")


def test_labels_that_belong_to_no_image_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source := tmp_path / "source/deep").mkdir(parents=True)
    for name in ("Cat.png", "dog.jpg", "\u00e9.png"):
        (source / name).write_bytes(picture(0))
    for name in ("cat.txt", "dog.jpg.json", "e\u0301.CLS", "dog.txt", ".e.txt", "e.xml"):
        (source / name).write_text("red")
    assert labelling.run(job(source.parent, tmp_path / "out")).complete
    line = "3 masks written, 0 done before, 0 failed; 3 files were ignored: 3 (labels without an image)\n"
    assert capsys.readouterr().out == line
    labelling.run(job(source.parent, tmp_path / "free", read_labels=False))
    assert capsys.readouterr().out == "3 masks written, 0 done before, 0 failed\n"
    for path in [path for path in source.iterdir() if path.suffix in (".png", ".jpg")]:
        path.unlink()
    with pytest.raises(DataError, match="holds neither images"):
        labelling.run(job(source.parent, tmp_path / "none"))


def test_what_is_no_file_or_can_have_no_mask_is_of_that_image(tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    for name in ("ok.png", "taken.png", "n" * 252 + ".bw", "猫" * 83 + ".png", "n" * 251 + ".png"):
        (source / name).write_bytes(picture(0))
    (source / "taken.tar").write_bytes(SHARD)
    (source / "nowhere.png").symlink_to("gone.png")
    (source / "itself.png").symlink_to("itself.png")
    os.mkfifo(source / "pipe.png")
    for name in ("taken.png", "taken.tar"):
        (tmp_path / "out" / name).mkdir(parents=True)
    assert labelling.run(job(source, tmp_path / "out")) == labelling.Tally(written=3, failed=6)
    problems = {name[:7]: problem for name, problem in failures(tmp_path / "out")}
    assert "the name is too long" in problems["n" * 7]
    assert "a folder has this name" in problems["taken.p"] and "a folder has this name" in problems["taken.t"]
    assert all("not a file" in problems[name] for name in ("nowhere", "itself.", "pipe.pn"))


def test_an_image_that_is_gone_meanwhile_is_one_line(source: Path, tmp_path: Path) -> None:
    def remove(count: int) -> None:
        for path in source.rglob("*.png"):
            path.unlink()

    tally = labelling.run(job(source, tmp_path / "out", Stub(remove), threads=1))
    problems = {problem for name, problem in failures(tmp_path / "out")}
    assert problems == {"no such image; restore the file or correct its path"}
    assert tally.failed == len(failures(tmp_path / "out")) > 0


def test_a_source_that_may_not_be_read_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"source: this folder cannot be read \(Permission denied\)"):
        labelling.run(job(source, tmp_path / "out"))


STEMS = st.sampled_from(["a", "b", "a.b", "._a", "é", "n" * 248])
SUFFIXES = st.sampled_from([".png", ".PNG", ".jpg", ".JpG", ".input.jpg", ".webp", ".heic", ".svg", ".md", ".bw"])
CONTENTS = st.sampled_from(["image", "image", "image", "", "text", "link"])
LABEL_FILES = st.sampled_from([".txt", ".TXT", ".json", ".cls"])
TEXTS = st.sampled_from(["red", "[]", "0", "", "[", "\xff"])


@dataclass
class Defective:
    """What a folder or a shard holds, by names: images and label files, each with its content; None for a link."""

    images: list[tuple[str, bytes | None]]
    labels: list[tuple[str, bytes]]


@st.composite
def defective(draw: st.DrawFn) -> Defective:
    content = {"image": encoded("PNG"), "": b"", "text": b"<html>", "link": None}
    names = draw(st.lists(st.tuples(STEMS, SUFFIXES, CONTENTS), max_size=7))
    texts = draw(st.lists(st.tuples(STEMS, LABEL_FILES, TEXTS), max_size=4))
    return Defective(
        [(stem + suffix, content[kind]) for stem, suffix, kind in names],
        [(stem + suffix, text.encode("latin-1")) for stem, suffix, text in texts],
    )


def shard_of(content: Defective) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as shard:
        for name, data in [*content.images, *content.labels]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data or b"")
            if data is None:
                entry.type, entry.linkname = tarfile.LNKTYPE, "elsewhere.png"
            shard.addfile(entry, io.BytesIO(data or b""))
    return file.getvalue()


def looks_like_an_image(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".md")


@settings(deadline=None, max_examples=60)
@given(content=defective(), in_shard=st.booleans())
def test_every_image_is_written_or_failed_or_passed_over(
    content: Defective, in_shard: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In a folder a name occurs once; in a shard it may come again, and its masks have names of their own still."""
    folder = tmp_path_factory.mktemp("defective")
    (source := folder / "source").mkdir()
    if in_shard:
        (source / "s.tar").write_bytes(shard_of(content))
        names = [name for name, _ in content.images if looks_like_an_image(name)]
    else:
        names = []
        for name, data in [*content.images, *content.labels]:
            if len(name.encode()) > 255 or os.path.lexists(source / name):
                continue
            if looks_like_an_image(name) and (name, data) in content.images:
                names.append(name)
            if data is None:
                (source / name).symlink_to("nowhere.png")
            else:
                (source / name).write_bytes(data)
    try:
        tally = labelling.run(job(source, folder / "out"))
    except DataError as error:
        assert not names and "holds neither images" in str(error)
        return
    listed = [name for name, _ in failures(folder / "out")] if tally.failed else []
    done = files(folder / "out")
    if in_shard:
        entries = []
        if "s.tar" in done:
            with tarfile.open(folder / "out/s.tar") as shard:
                entries = shard.getnames()
        assert len(entries) == len(set(entries)) == 2 * tally.written
        assert ("s.tar" in listed) == (tally.written == 0) == ("s.tar" not in done)
        alone = [name for name in listed if name != "s.tar" and "/" in name]
        stray = [problem for _, problem in failures(folder / "out") if "labels" in problem] if listed else []
        stray = [problem for problem in stray if problem.startswith("no image has")]
        assert tally.failed == len(listed)
        units = sum(count for kind, count in tally.ignored.items() if not kind.endswith((".txt", ".json", ".cls")))
        assert tally.written + len(alone) - len(stray) + units == len(names)
    else:
        assert tally.written == len([name for name in done if name.endswith(".png")])
        units = tally.ignored.total() - tally.ignored[ALONE]
        assert tally.written + tally.failed + units == len(names)
        assert tally.complete == (not tally.failed and (tally.written > 0 or not units))
        assert set(listed) <= set(names)
    again = labelling.run(job(source, folder / "out"))
    assert (again.written, again.complete) == (0, tally.complete or (in_shard and tally.written > 0))


# ----------------------------------------------------------------------------------------- crashes


@settings(deadline=None, max_examples=15)
@given(crash=st.integers(0, 12))
def test_a_run_that_is_stopped_continues_and_ends_the_same(
    crash: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("crash")
    source = collection(folder / "source")
    labelling.run(job(source, folder / "whole"))

    def stop(count: int) -> None:
        if count == crash:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labelling.run(job(source, folder / "out", first := Stub(stop)))
    whole, part = files(folder / "whole"), files(folder / "out") if (folder / "out").exists() else {}
    assert part.items() <= whole.items()  # whole files or none
    tally = labelling.run(job(source, folder / "out", second := Stub()))
    assert files(folder / "out") == whole
    assert tally.skipped == len(part)
    lost = len(first.asked) + len(second.asked) - 13
    assert 0 <= lost <= 2  # labelled twice: what the shard at hand had, and no picture of a folder


def test_a_process_that_is_killed_leaves_nothing_that_a_later_run_does_not_mend(source: Path, tmp_path: Path) -> None:
    labelling.run(job(source, tmp_path / "whole"))
    process = multiprocessing.get_context("spawn").Process(target=_label_slowly, args=(source, tmp_path / "out"))
    process.start()
    wait_for(lambda: any((tmp_path / "out").rglob("[!.]*.png")) or not process.is_alive())
    process.kill()
    process.join()
    labelling.run(job(source, tmp_path / "out"))
    assert seen(tmp_path / "out") == files(tmp_path / "whole")


def _label_slowly(source: Path, out: Path) -> None:
    labelling.run(job(source, out, Stub(lambda count: time.sleep(0.02))))


# ------------------------------------------------------------------------------------------- parts


@settings(deadline=None)
@given(count=st.integers(1, 9), names=st.sets(st.text(st.characters(codec="utf-8"), min_size=1), max_size=30))
def test_each_unit_is_in_one_part(count: int, names: set[str]) -> None:
    for name in names:
        assert sum(Part(index, count).has(name) for index in range(count)) == 1


def test_parts_are_of_one_size_and_the_same_on_every_machine() -> None:
    sizes = [sum(Part(index, 4).has(f"{number:06d}.tar") for number in range(4000)) for index in range(4)]
    assert max(abs(size - 1000) for size in sizes) < 5 * (4000 * 0.25 * 0.75) ** 0.5  # five deviations of a binomial
    assert [next(i for i in range(7) if Part(i, 7).has(name)) for name in ("a.png", "x/b.tar", "\udcff")] == [2, 3, 0]


def test_the_parts_are_together_the_whole(source: Path, tmp_path: Path) -> None:
    labelling.run(job(source, tmp_path / "whole"))
    tallies = [labelling.run(job(source, tmp_path / "out", part=Part.parse(f"{index}/3"))) for index in range(3)]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert sum(tally.written for tally in tallies) == 13
    assert sum(tally.skipped for tally in tallies) == 0


def test_parts_list_failures_in_files_of_their_own(tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    for number in range(9):
        (source / f"{number}.png").write_text("no picture")
    for index in range(2):
        labelling.run(job(source, tmp_path / "out", part=Part(index, 2)))
    lists = [(tmp_path / f"out/failures-{index}-of-2.csv").read_text().splitlines() for index in range(2)]
    assert sorted(line[:5] for lines in lists for line in lines[1:]) == [f"{number}.png" for number in range(9)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2/2", "the last is N-1/N"),
        ("1", "write I/N"),
        ("-1/2", "write I/N"),
        ("a/b", "write I/N"),
        ("0/0", "write I/N"),
    ],
)
def test_a_part_that_is_none_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Part.parse(text)


@pytest.mark.parametrize(
    ("source", "changes", "problem"),
    [
        ("nowhere", {}, "neither a folder nor a .tar file"),
        ("source/a.png", {}, "neither a folder nor a .tar file"),
        ("source", {"out": "source/masks"}, "contain each other"),
        ("source", {"out": "."}, "contain each other"),
        ("source/s0.tar", {"out": "source"}, "contain each other"),
        ("empty", {}, "holds neither images"),
        ("-", {"part": Part(0, 2)}, "a stream cannot be divided"),
    ],
)
def test_what_cannot_be_labelled_is_an_error_of_one_line(
    source: Path, changes: dict[str, object], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    wanted = job(Path(source), Path(str(changes.pop("out", "out"))), **changes)
    with pytest.raises(BaosegError, match=problem) as caught:
        labelling.run(wanted)
    assert "\n" not in str(caught.value)


def test_settings_that_make_no_sense_are_errors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least one thread"):
        job(source, tmp_path / "out", threads=0)
    with pytest.raises(RecipeError, match="Ray divides the collection itself"):
        labelling.run(job(source, tmp_path / "out", part=Part(0, 2)), cluster=Cluster(parts=2))
    with pytest.raises(RecipeError, match="give at least 1"):
        Cluster(parts=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="a file is in the way"):
        labelling.run(job(source, tmp_path / "file/out"))


# -------------------------------------------------------------------------- order, memory, progress


@settings(deadline=None, max_examples=20)
@given(delays=st.lists(st.integers(0, 3), max_size=12), threads=st.integers(1, 5))
def test_what_is_decoded_ahead_comes_in_order_and_not_too_far_ahead(delays: list[int], threads: int) -> None:
    taken = 0

    def items() -> Iterator[tuple[int, int]]:
        nonlocal taken
        for item in enumerate(delays):
            taken += 1
            yield item

    def decode(item: tuple[int, int]) -> work.DecodedImage:
        time.sleep(item[1] / 1000)
        return work.DecodedImage(torch.full((3, 1, 1), item[0], dtype=torch.uint8), None)

    for number, ((index, _), decoded) in enumerate(work.ahead(decode, items(), threads)):
        assert number == index == int(decoded.result().image[0, 0, 0])
        assert taken <= number + threads + 1


class Endless(io.RawIOBase):
    """A shard that is made while it is read: `count` copies of one picture."""

    def __init__(self, count: int) -> None:
        content = picture(0)
        self.blocks = itertools.chain((self._member(number, content) for number in range(count)), [bytes(1024)])
        self.rest = b""

    @staticmethod
    def _member(number: int, content: bytes) -> bytes:
        (member := tarfile.TarInfo(f"{number:08d}.png")).size = len(content)
        return member.tobuf() + content + bytes(-len(content) % 512)

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < size and (block := next(self.blocks, b"")):
            self.rest += block
        part, self.rest = self.rest[:size], self.rest[size:]
        return part


class Forgetful(Stub):
    def __call__(self, image: torch.Tensor, labels: tuple[str, ...] | None = None) -> SimpleNamespace:
        self.asked.clear()
        return super().__call__(image, labels)


def test_memory_does_not_grow_with_the_pictures_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(count: int) -> int:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Endless(count)))
        tracemalloc.start()
        assert labelling.run(job(labelling.STDIN, tmp_path / str(count), Forgetful())).written == count
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(50)  # what is made once
    few = peak(60)
    assert peak(660) < few + 300_000  # bytes; what tarfile remembers of 600 pictures and masks is a million


def test_memory_grows_by_a_hash_for_each_name_of_a_folder(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        (folder := tmp_path / str(count)).mkdir()
        for number in range(count):
            (folder / f"{number}.jpg").touch()
        tracemalloc.start()
        walk = Walk(folder, failed=pytest.fail, ignored=pytest.fail, shards=True, beside=work.LABELS)
        assert sum(Part(0, 1).has(name) for name in walk.names()) == count
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)
    few = min(peak(200), peak(201))
    assert min(peak(10_000), peak(10_001)) < few + 9_800 * 12  # the names are 600,000 bytes; other threads allocate too


def test_a_long_run_says_how_it_goes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work, "LOG_SECONDS", 0.0)
    labelling.run(job(source, tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14
    assert lines[-2].startswith("part 0/1: 13 masks, ")
    assert lines[-1] == "13 masks written, 0 done before, 0 failed"


# --------------------------------------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """A local cluster of two workers; its processes know this file by its content, not by its name."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_ray_worker_that_is_killed_midway_costs_nothing(ray: object, source: Path, tmp_path: Path) -> None:
    labelling.run(job(source, tmp_path / "whole"))
    (signs := tmp_path / "signs").mkdir()

    def kill() -> None:
        wait_for(lambda: len(list(signs.iterdir())) == 2)  # both workers are in the middle of their parts
        os.kill(int(next(signs.iterdir()).name), signal.SIGKILL)
        (signs / "killed").touch()

    (killer := threading.Thread(target=kill)).start()
    tally = labelling.run(replace(job(source, tmp_path / "out"), make=partial(Waiting, signs)), cluster=Cluster())
    killer.join()
    assert (signs / "killed").exists()
    assert tally.failed == 0
    assert seen(tmp_path / "out") == files(tmp_path / "whole")


def test_a_part_that_dies_time_and_again_is_listed_and_the_others_are_done(ray: object, tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    parts = {
        name: next(index for index in range(2) if Part(index, 2).has(name)) for name in ("a.png", "b.png", "z.png")
    }
    for number, name in enumerate(parts):
        (source / name).write_bytes(picture(number))
    deadly = next(name for name, part in parts.items() if part == 0)
    (source / deadly).with_suffix(".txt").write_text("red")
    tally = labelling.run(replace(job(source, tmp_path / "out"), make=Deadly), cluster=Cluster(parts=2, retries=0))
    assert tally == labelling.Tally(written=sum(parts.values()), failed=1)
    _, line = (tmp_path / "out/failures-0-of-2.csv").read_text().splitlines()
    assert line.startswith("part 0/2,")


def test_a_cluster_without_what_a_part_takes_is_an_error(ray: object, source: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no machine has 1 CPU and 99 GPU free for a part"):
        labelling.run(job(source, tmp_path / "out"), cluster=Cluster(gpus=99.0))


def test_an_error_on_a_worker_is_the_error_of_the_run(ray: object, source: Path, tmp_path: Path) -> None:
    wanted = replace(job(source, tmp_path / "out"), make=partial(load, tmp_path / "none.safetensors"))
    with pytest.raises(CheckpointError, match=r"none\.safetensors") as caught:
        labelling.run(wanted, cluster=Cluster(parts=2))
    assert "\n" not in str(caught.value)


def test_without_ray_its_engine_is_an_error_of_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"pip install 'baoseg\[ray\]'"):
        labelling.run(job(source, tmp_path / "out"), cluster=Cluster(parts=2))
