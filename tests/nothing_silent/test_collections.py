"""Random collections of images with random faults: each image is labelled as it was meant, or it is named."""

import contextlib
import csv
import io
import json
import posixpath
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from nothing_silent.meant import (
    Draw,
    encoded,
    image_file,
    of_many,
    picture,
    temporary,
    written,
)
from PIL import Image

from baoseg.core.types import ClassSet
from baoseg.data.images import read_image, write_mask
from baoseg.data.walk import ALONE
from baoseg.predict import collection, predict
from baoseg.predict.collection import Job

# ----------------------------------------------------------------------------------------------------- collections

PREDICTED = 200  # what the model says of an image whose labels are not known
NAMES = ("cat", "dining table", "möwe")


class Model:
    """Says in each pixel which labels it was given."""

    classes = ClassSet(NAMES)

    def __call__(self, image: torch.Tensor, labels: Sequence[str] | None = None) -> SimpleNamespace:
        code = PREDICTED if labels is None else coded(labels)
        return SimpleNamespace(mask=torch.full(image.shape[1:], code, dtype=torch.uint8))


def coded(labels: Sequence[str]) -> int:
    return sum(1 << NAMES.index(name) for name in labels)


@dataclass
class Photo:
    """An image of a collection."""

    place: str  # in the source: its path, or SHARD/MEMBER
    pixels: np.ndarray
    labels: tuple[str, ...] | None  # those that came with it

    @property
    def mask(self) -> str:
        return posixpath.splitext(self.place)[0] + ".png"


class Files:
    """A folder of images and shards: the contents by path, links, and what they mean."""

    def __init__(self) -> None:
        self.photos: list[Photo] = []
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}

    def __repr__(self) -> str:
        photos = [(photo.place, photo.labels) for photo in self.photos]
        labels = {path: content for path, content in self.files.items() if not content or len(content) < 40}
        return f"{photos}, {[*self.files]}, {self.links}, {labels}"

    def write(self, root: Path) -> None:
        written(root, self.files)
        for path, to in self.links.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(to)


STEMS_OF_PHOTOS = ("cat", "IMG_1", "a/cat", "a/b c", "é", "x.y", "2024.05.01-p", "deep/er/é", "犬", "-p", "cat.input")
ODD_PHOTOS = ("label", "image", "clash", "shard", "members", "suffix")


@st.composite
def collections(draw: Draw, *, faults: int) -> Files:
    odd = draw(st.sets(st.sampled_from(ODD_PHOTOS), min_size=min(1, faults), max_size=faults))
    return Collector(draw, odd).whole()


class Collector:
    """Writes a collection in ways that are drawn."""

    def __init__(self, draw: Draw, odd: set[str]) -> None:
        self.draw = draw
        self.odd = odd
        self.result = Files()
        self.count = 0

    def one(self, *ways: Any) -> Any:
        return self.draw(st.sampled_from(ways))

    def whole(self) -> Files:
        shards = self.one(0, 0, 1, 2) if "shard" not in self.odd and "members" not in self.odd else self.one(1, 2)
        stems = self.draw(st.permutations(STEMS_OF_PHOTOS))[: self.draw(st.integers(0 if shards else 1, 4))]
        for stem in stems:
            for path, content in self.sample(stem, in_shard=False):
                self.result.files[path] = content
        for number in range(shards):
            name = self.one("s{}.tar", "a/s{}.tar", "S{}.TAR").format(number)
            self.shard(name)
        return self.result

    def sample(self, stem: str, *, in_shard: bool, shard: str = "") -> list[tuple[str, bytes]]:
        """The files of an image and its labels."""
        pixels = picture(self.count)
        self.count += 1
        suffix, content = image_file(self.draw, pixels)
        labels, beside = self.labels(stem, suffix)
        files = [(stem + suffix, content), *beside]
        self.result.photos.append(Photo(f"{shard}{stem}{suffix}", pixels, labels))
        if "image" in self.odd and self.one(True, False):
            way = self.one("cut", "text", "empty", "bytes")
            event(f"odd image: {way}")
            bad = {"cut": content[: len(content) // 2], "text": b"an image", "empty": b"", "bytes": b"\xff\xd8\xff" * 9}
            files[0] = (files[0][0], bad[way])
        if "suffix" in self.odd and self.one(True, False):
            way = self.one(".heic", ".HEIC", ".dng", ".svg", ".jp2", ".pdf", ".CR2", ".jxl")
            event(f"odd suffix: {way}")
            files[0] = (stem + way, content)
            self.result.photos[-1].place = f"{shard}{stem}{way}"
        if "clash" in self.odd and self.one(True, False):
            other, content = image_file(self.draw, pixels)
            if other != suffix:
                files.append((stem + other, content))
                self.result.photos.append(Photo(f"{shard}{stem}{other}", pixels, labels))
        return self.draw(st.permutations(files)) if in_shard else files

    def labels(self, stem: str, suffix: str) -> tuple[tuple[str, ...] | None, list[tuple[str, bytes]]]:
        """Labels, and the files that say so."""
        labels = tuple(self.draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3)))
        spelt = [self.one(name, unicodedata.normalize("NFD", name), name.replace(" ", "  ")) for name in labels]
        kind = self.one("none", "list", "object", "text", "number", "other")
        if "label" in self.odd and self.one(True, False):
            return labels, self.odd_labels(stem, suffix, labels)
        if kind == "none":
            return None, []
        if kind == "other":
            return None, [(f"{stem}.json", b'{"width": 9}')]
        if kind == "number" and len(labels) == 1:
            return labels, [(stem + self.one(".cls", ".CLS"), b"%d" % NAMES.index(labels[0]) + self.one(b"", b"\n"))]
        if kind == "text":
            text = "; ".join(spelt) + self.one(";", "\n", "\r\n", ";\n") if spelt else self.one(" ", "\n", ";")
            return labels, [(stem + self.one(".txt", ".TXT", ".Txt"), (self.one("", "\ufeff") + text).encode())]
        content = spelt if kind == "list" else {"labels": spelt, "width": 9}
        text = json.dumps(content, ensure_ascii=self.one(True, False))
        return labels, [(stem + self.one(".json", ".JSON"), text.encode())]

    def odd_labels(self, stem: str, suffix: str, labels: tuple[str, ...]) -> list[tuple[str, bytes]]:
        good = json.dumps(labels).encode()
        text = "; ".join(labels).encode() or b" "
        folder, slash, file = stem.rpartition("/")
        swapped = f"{folder}{slash}{file.swapcase()}"
        cases = {
            "unknown": [(f"{stem}.txt", "; ".join((*labels, "dog")).encode())],
            "case": [(f"{stem}.txt", "; ".join((*labels, "CAT")).encode())],
            "empty": [(f"{stem}{self.one('.txt', '.json', '.cls')}", b"")],
            "two": [(f"{stem}.txt", text), (f"{stem}.TXT", self.one(text, b"cat", b" "))],
            "broken": [(f"{stem}.json", good[:-1])],
            "number": [(f"{stem}.json", b"3"), (f"{stem}.cls", b"3")],
            "range": [(f"{stem}.cls", self.one(b"3", b"-1", b"cat", b"1.0"))],
            "comma": [(f"{stem}.txt", ",".join(labels).encode() or b",")],
            "name": [(f"{stem}{suffix}.json", good)],
            "stem": [(f"{swapped}.json", good)],
            "code": [(f"{stem}.txt", "möwe".encode("cp1252"))],
            "string": [(f"{stem}.json", json.dumps("; ".join(labels)).encode())],
            "NFD": [(f"{unicodedata.normalize('NFD', stem)}.json", good)],
            "wide": [(f"{stem}.txt", text.decode().encode("utf-16"))],
        }
        way = self.one(*cases)
        event(f"odd label: {way}")
        return cases[way]

    def shard(self, name: str) -> None:
        """A shard of some samples. A key reaches to the first dot, so those with more dots are written without."""
        stems = [stem for stem in STEMS_OF_PHOTOS if "." not in stem or "members" in self.odd]
        stems = self.draw(st.permutations(stems))[: self.draw(st.integers(1, 3))]
        members: list[tuple[str, bytes | str]] = []
        for stem in stems:
            members += self.sample(stem, in_shard=True, shard=f"{name}/")
        if "members" in self.odd:
            self.odd_members(name, members)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode=self.one("w", "w", "w:gz")) as tar:
            for path, data in members:
                entry = tarfile.TarInfo(path)
                if isinstance(data, str):
                    entry.type, entry.linkname = self.one(tarfile.LNKTYPE, tarfile.SYMTYPE), data
                    tar.addfile(entry)
                else:
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        self.result.files[name] = content.getvalue()
        if "shard" in self.odd:
            self.odd_shard(name)

    def odd_members(self, name: str, members: list[tuple[str, bytes | str]]) -> None:
        place = self.draw(st.integers(0, len(members) - 1))
        path, data = members[place]
        way = self.one("link", "link too", "twice", "apart", "segments", "again", "folder")
        event(f"odd members: {way}")
        if way == "link":
            members[place] = (path, members[0][0] if place else "elsewhere")
        elif way == "link too":
            members.insert(place, (f"z{path}" if "/" not in path else f"a/z{path.rpartition('/')[2]}", path))
            if posixpath.splitext(path)[1].lower() not in (".json", ".txt", ".cls"):
                self.result.photos.append(Photo(f"{name}/{members[place][0]}", picture(0), None))
        elif way == "twice":
            members.append((path, data))
        elif way == "apart":
            members.append(members.pop(place))
        elif way == "segments":
            members.insert(
                place + 1, (f"{posixpath.splitext(path)[0]}.seg.png", encoded(Image.new("L", (5, 5)), "PNG"))
            )
        elif way == "again":
            members += members[: place + 1]
        else:
            members[place] = (f"./{path}", data)

    def odd_shard(self, name: str) -> None:
        content = self.result.files[name]
        way = self.one("cut", "half", "two", "empty", "zeros", "text", "packed", "zip", "link")
        event(f"odd shard: {way}")
        changed = {
            "cut": content[:-1024],
            "half": content[: len(content) // 2],
            "two": content + content,
            "empty": b"",
            "zeros": bytes(10240),
            "text": b"a shard",
        }
        if way in changed:
            self.result.files[name] = changed[way]
        elif way == "link":
            self.result.links[name] = "nowhere"
            del self.result.files[name]
        else:
            self.result.files[f"{name}.gz" if way == "packed" else f"{name[:-4]}.zip"] = self.result.files.pop(name)


def masks_in(out: Path) -> dict[str, np.ndarray]:
    """All masks that were written, those in a shard under SHARD/MEMBER."""
    found: dict[str, np.ndarray] = {}
    for path in (path for path in out.rglob("*") if path.is_file() and path.suffix != ".csv"):
        name = path.relative_to(out).as_posix()
        if path.suffix.lower() != ".tar":
            found[name] = np.array(Image.open(path))
            continue
        with tarfile.open(path) as shard:
            contents = {member.name: shard.extractfile(member).read() for member in shard}  # type: ignore[union-attr]
        found |= {
            posixpath.normpath(f"{name}/{key}"): np.array(Image.open(io.BytesIO(content)))
            for key, content in contents.items()
            if key.endswith(".png")
        }
    return found


def failures_in(out: Path) -> list[tuple[str, str]]:
    if not (out / "failures.csv").exists():
        return []
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        return [(name, problem) for name, problem in list(csv.reader(file))[1:]]


def is_named(photo: Photo, failed: Sequence[tuple[str, str]], passed: Counter[str]) -> bool:
    """Whether it is said that something is the matter with an image or its labels."""
    place = photo.place.casefold()  # what is said of labels names their file, whose name may be what is the matter
    key = posixpath.splitext(place)[0]
    shard = place[: place.find(".tar/") + 4] if ".tar/" in place else None
    names = {unicodedata.normalize("NFC", posixpath.normpath(name)).casefold() for name, _ in failed}
    if {place, key, shard} & names or any(posixpath.splitext(name)[0] == key for name in names):
        return True
    if photo.labels is not None and any(kind == ALONE or kind.endswith((".json", ".txt", ".cls")) for kind in passed):
        return True
    return any(place.endswith(kind) or kind in {".tar.gz", ".zip", ".seg.png"} for kind in passed)


some_collections = st.integers(0, 2).flatmap(
    lambda faults: collections(faults=faults).map(lambda files: (faults, files))
)


@of_many(50)
@given(some_collections)
def test_each_image_of_a_collection_is_labelled_as_meant_or_named(given: tuple[int, Files]) -> None:
    faults, files = given
    with temporary() as root, contextlib.redirect_stdout(io.StringIO()):
        files.write(root / "in")
        out = root / "out"
        tally = collection.run(Job(source=root / "in", out=out, make=Model, threads=1))
        masks, failed = masks_in(out), failures_in(out)
        assert len(masks) == tally.written and len(failed) == tally.failed
        assert all("\n" not in name + problem and problem for name, problem in failed)
        for photo in files.photos:
            mask = masks.get(photo.mask)
            code = PREDICTED if photo.labels is None else coded(photo.labels)
            right = mask is not None and np.array_equal(mask, np.full(photo.pixels.shape[:2], code))
            assert right or is_named(photo, failed, tally.ignored), (photo.place, photo.labels, failed, tally)
        told = {'(.json without "labels")'}  # it may be about something else, which is no fault
        assert faults or (not failed and set(tally.ignored) <= told), (failed, tally)
        assert tally.complete == (not failed and not (tally.ignored and not masks))
        again = collection.run(Job(source=root / "in", out=out, make=Model, threads=1))
        assert again.written == 0 and masks_in(out).keys() == masks.keys() and tally.complete <= (again.skipped > 0), (
            again
        )


@of_many(30)
@given(some_collections)
def test_each_image_that_is_predicted_is_written_or_named(given: tuple[int, Files]) -> None:
    faults, files = given
    with temporary() as root, contextlib.redirect_stderr(io.StringIO()) as said:
        files.write(root / "in")
        out = root / "out"
        lines = io.StringIO()
        with contextlib.redirect_stdout(lines):
            failed = predict.each_image([root / "in"], out, background, overlays=None)
        masks = masks_in(out)
        problems = said.getvalue().splitlines()
        assert lines.getvalue().startswith(f"{out}: {len(masks)} written, {len(problems)} failed")
        for photo in (photo for photo in files.photos if ".tar/" not in photo.place.lower()):
            mask = masks.get(photo.mask)
            right = mask is not None and np.array_equal(mask, np.zeros(photo.pixels.shape[:2]))
            named = any(f"{root / 'in' / photo.place}: " in problem for problem in problems)
            passed = posixpath.splitext(photo.place)[1].lower() in lines.getvalue()
            assert right or named or passed, (photo.place, problems, lines.getvalue())
        assert bool(failed) == bool(problems or not masks) and (faults or not problems)


def background(source: Path, mask: Path, _: Path) -> None:
    write_mask(mask, torch.zeros(read_image(source).shape[1:], dtype=torch.uint8))
