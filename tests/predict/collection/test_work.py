"""Runs that are stopped, parts of the work, order and memory."""

import io
import itertools
import multiprocessing
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predict.small_collections import Stub, collection, files, job, picture, seen, wait_for

from baoseg.core.errors import BaosegError, RecipeError, RunError
from baoseg.data.walk import Walk
from baoseg.predict import collection as labelling
from baoseg.predict.collection import Cluster, Part, work

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
    assert 0 <= lost <= 2  # labelled twice: what the shard at hand had, and no image of a folder


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
    """A shard that is made while it is read: `count` copies of one image."""

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


def test_memory_does_not_grow_with_the_images_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(count: int) -> int:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Endless(count)))
        tracemalloc.start()
        assert labelling.run(job(labelling.STDIN, tmp_path / str(count), Forgetful())).written == count
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(50)  # what is made once
    few = peak(60)
    assert peak(660) < few + 300_000  # bytes; what tarfile remembers of 600 images and masks is a million


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
