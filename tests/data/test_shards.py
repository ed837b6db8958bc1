import io
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.errors import DataError
from baoseg.data import shards
from baoseg.data.shards import Member

WANTED = {".png", ".txt"}
MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "d.1/a", "d/.b", ""]),
        st.sampled_from([".png", ".PNG", ".txt", ".Seg.png", ".npy", ""]),
        st.binary(max_size=1100),
    ),
    max_size=8,
)


def write(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            shards.add(shard, name, content)


@settings(deadline=None)
@given(members=MEMBERS)
def test_neighbours_of_one_key_come_together(
    members: list[tuple[str, str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("shard") / "s.tar"
    write(path, [(f"{key}{suffix}", content) for key, suffix, content in members if key + suffix])
    expected: list[tuple[str, list[tuple[str, bytes]]]] = []
    for key, suffix, content in members:
        if key in {"", "d/.b"} or not suffix.lower().endswith((".png", ".txt")):
            continue
        if not expected or expected[-1][0] != key:
            expected.append((key, []))
        expected[-1][1].append((f"{key}{suffix}", content))
    assert list(shards.groups(path, WANTED)) == expected


def test_a_name_is_a_key_and_what_comes_after_its_first_dot() -> None:
    member = Member("d.1/x.Input.JPG", b"")
    assert (member.key, member.whole_suffix, member.suffix, member.stem) == (
        "d.1/x",
        ".input.jpg",
        ".jpg",
        "d.1/x.Input",
    )


def test_the_same_members_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first.tar", "second.tar"):
        write(tmp_path / name, [("a.png", b"picture")])
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()
    with tarfile.open(tmp_path / "first.tar") as shard:
        assert [(member.mtime, member.uid, member.uname) for member in shard] == [(0, 0, "")]


def test_links_have_no_content_and_folders_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, kind in {"a.png": tarfile.SYMTYPE, "b.png": tarfile.DIRTYPE, "c.png": tarfile.LNKTYPE}.items():
            (entry := tarfile.TarInfo(name)).type = kind
            entry.linkname = "/etc/hostname"
            shard.addfile(entry)
    assert list(shards.groups(tmp_path / "s.tar", WANTED)) == [
        ("a", [Member("a.png", None)]),
        ("c", [Member("c.png", None)]),
    ]


def test_a_shard_is_read_from_stdin_while_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s.tar", [(f"{number}.png", bytes(20_000)) for number in range(4)])
    content = (tmp_path / "s.tar").read_bytes()
    pipe = io.BytesIO(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
    first = next(shards.groups(shards.STDIN, WANTED))
    assert first == ("0", [("0.png", bytes(20_000))])
    assert pipe.tell() < len(content)


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 4])
def test_without_its_end_a_shard_is_an_error(blocks: int, tmp_path: Path) -> None:
    """A member of one block is a header and a block; two blocks of zeros end the shard, and more may follow."""
    write(tmp_path / "s.tar", [("a.png", b"x")])
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[: 512 * blocks])
    if blocks == 4:
        assert list(shards.groups(tmp_path / "s.tar", WANTED)) == [("a", [("a.png", b"x")])]
    else:
        with pytest.raises(DataError, match="this shard cannot be read"):
            list(shards.groups(tmp_path / "s.tar", WANTED))
