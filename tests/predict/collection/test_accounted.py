"""Each file of a collection is labelled, fails, or is passed over, and that is said."""

import errno
import io
import os
import sys
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from predict.small_collections import SHARD, SIZE, Stub, expected, failures, files, job, picture, tar, untar

from baoseg.core.errors import DataError
from baoseg.data.walk import ALONE
from baoseg.predict import collection as labelling
from baoseg.predict.collection import Part

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
