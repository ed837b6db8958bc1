import errno
import hashlib
import os
import tarfile
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
from data.prepare.miniature import QUICK, pack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baoseg.core.errors import DataError, RunError
from baoseg.data.prepare import archives
from baoseg.data.prepare.archives import Archive

CONTENT = os.urandom(300_000)


def official(server, content=CONTENT):
    return Archive(name="data.tar", md5=hashlib.md5(content).hexdigest(), url=server.url)


def refused(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    for word in words:
        assert word in message


def everything(name):
    return name


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_arrives_whole(server, tmp_path, ranges):
    server.content, server.ranges = CONTENT, ranges
    server.cuts = [100_000, 120_000] if ranges else [100_000]
    path = archives.obtain(official(server), tmp_path / "new", config=QUICK)
    assert path.read_bytes() == CONTENT
    assert server.asked[0] is None
    assert server.asked[1] == "bytes=100000-"
    assert server.asked[2:] == (["bytes=220000-"] if ranges else [])
    assert [file.name for file in path.parent.iterdir()] == ["data.tar"]


def test_another_call_continues_a_download(server, tmp_path):
    server.content, server.cuts = CONTENT, [200_000, *[0] * 4]
    once = archives.Config(attempts=1, pause=0.0)
    refused(lambda: archives.obtain(official(server), tmp_path, config=once), server.url, "it continues")
    assert (tmp_path / "data.tar.part").stat().st_size == 200_000
    server.cuts, server.asked = [], []
    archives.obtain(official(server), tmp_path, config=QUICK)
    assert server.asked == ["bytes=200000-"]
    server.asked = []
    assert archives.obtain(official(server), tmp_path, config=QUICK).read_bytes() == CONTENT
    assert server.asked == []  # it is there


def test_a_part_that_is_already_whole(server, tmp_path):
    server.content = CONTENT
    (tmp_path / "data.tar.part").write_bytes(CONTENT)
    assert archives.obtain(official(server), tmp_path, config=QUICK).read_bytes() == CONTENT


def test_wrong_bytes_are_not_kept(server, tmp_path):
    server.content = b"<html>we have moved</html>"
    refused(lambda: archives.obtain(official(server), tmp_path, config=QUICK), server.url, "MD5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 5), (429, 5)])
def test_a_server_that_refuses(server, tmp_path, status, attempts):
    server.status = status
    refused(lambda: archives.obtain(official(server), tmp_path, config=QUICK), server.url, str(status), str(tmp_path))
    assert len(server.asked) == attempts


def test_nobody_listens(server, tmp_path):
    nowhere = Archive(name="data.tar", md5="", url="http://127.0.0.1:9/data.tar")
    refused(lambda: archives.obtain(nowhere, tmp_path, config=QUICK), "cannot be downloaded", str(tmp_path))


def test_without_a_network_the_answer_comes_within_seconds(tmp_path):
    """A name that nobody knows, a port that nobody listens at, a host that does not answer: in both waits."""
    start = time.monotonic()
    for url in ("http://nowhere.invalid/data.tar", "http://127.0.0.1:9/data.tar"):
        refused(
            lambda url=url: archives.download(url, tmp_path / "data.tar.part", config=archives.Config()),
            url,
            "cannot be downloaded",
            f"put data.tar into {tmp_path} yourself",
        )
    assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_was_met_is_given_time(server, tmp_path, monkeypatch):
    """Once there was a connection, a network that comes and goes is waited for as before."""
    server.content, server.cuts = CONTENT, [100_000]
    calls, real = [], archives._continue

    def shaky(url, path, *, timeout):
        calls.append(url)
        if 1 < len(calls) < 5:
            raise ConnectionRefusedError("gone for a while")
        real(url, path, timeout=timeout)

    monkeypatch.setattr(archives, "_continue", shaky)
    assert archives.obtain(official(server), tmp_path, config=QUICK).read_bytes() == CONTENT
    assert len(calls) == 5


def test_a_proxy_makes_the_connection_itself(server, tmp_path, monkeypatch):
    server.content = CONTENT
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/data.tar"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first request
    archive = Archive(name="data.tar", md5=None, url="http://nowhere.invalid/data.tar")
    assert archives.obtain(archive, tmp_path, config=QUICK).read_bytes() == CONTENT


def test_a_full_disk_while_downloading(server, tmp_path, monkeypatch):
    server.content = CONTENT

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    refused(lambda: archives.download(server.url, tmp_path / "x", config=QUICK), "continues", error=RunError)
    assert len(server.asked) == 1


def test_an_archive_at_hand_is_checked(tmp_path):
    archive = pack(tmp_path / "a.tar", {"x": b"x" * 5000})
    path = tmp_path / "a.tar"
    assert archives.obtain(archive, tmp_path, config=QUICK) == path
    path.write_bytes(path.read_bytes()[:3000])
    refused(lambda: archives.obtain(archive, tmp_path, config=QUICK), str(path), "3000 bytes", "delete it")
    path.unlink()
    login = Archive(name="a.tar", md5="", by_hand="register first")
    refused(lambda: archives.obtain(login, tmp_path, config=QUICK), str(path), "register first")


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_unpacks_what_has_a_place(tmp_path, name):
    pack(tmp_path / name, {"top/x.txt": b"one", "top/in/y.txt": b"two", "else.txt": b"three"})
    out = tmp_path / "out"

    def below_top(path):
        return path.removeprefix("top/") if path.startswith("top/") else None

    archives.unpack(tmp_path / name, out, place=below_top, ratio=1000)
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {"x.txt": b"one", "in/y.txt": b"two"}


def test_a_second_call_mends_what_has_another_size(tmp_path):
    pack(tmp_path / "a.tar", {"whole": b"1234", "part": b"5678"})
    (tmp_path / "whole").write_bytes(b"mine")  # of the same size: left alone
    (tmp_path / "part").write_bytes(b"56")
    archives.unpack(tmp_path / "a.tar", tmp_path, place=everything, ratio=1000)
    assert (tmp_path / "whole").read_bytes() == b"mine" and (tmp_path / "part").read_bytes() == b"5678"


def test_unpacked_archives_are_not_asked_for_again(tmp_path):
    archive = pack(tmp_path / "packs" / "a.tar", {"x": b"x" * 200})
    for _ in range(2):
        archives.unpack_once(archive, tmp_path / "packs", tmp_path / "out", place=everything, config=QUICK)
        (tmp_path / "packs" / "a.tar").unlink(missing_ok=True)
        assert archives.at_hand(archive, tmp_path / "packs", tmp_path / "out")
    assert (tmp_path / "out" / "x").read_bytes() == b"x" * 200


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..\\x", "C:/x", "C:\\x"])
@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_no_path_leads_out(tmp_path, name, kind):
    pack(tmp_path / kind, {"first": b"1", name: b"x"})
    out = tmp_path / "in" / "out"
    refused(
        lambda: archives.unpack(tmp_path / kind, out, place=everything, ratio=1000), kind, "outside the target folder"
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != kind] == ["first"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_links_and_devices(tmp_path, kind):
    entry = tarfile.TarInfo("x")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(entry)
    out = tmp_path / "out"
    refused(lambda: archives.unpack(tmp_path / "a.tar", out, place=everything, ratio=1000), "link or a device")
    assert not out.exists()
    archives.unpack(tmp_path / "a.tar", out, place=lambda _: None, ratio=1000)  # what is not wanted does no harm


def test_no_links_in_zip_files(tmp_path):
    link = zipfile.ZipInfo("x")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    refused(lambda: archives.unpack(tmp_path / "a.zip", tmp_path, place=everything, ratio=1000), "link or a device")


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
@pytest.mark.parametrize("wanted", [True, False])
def test_refuses_a_bomb_before_it_unpacks(tmp_path, name, wanted):
    pack(tmp_path / name, {"small": b"1", "zeros": bytes(5_000_000)})
    ratio = 5_000_000 // (tmp_path / name).stat().st_size - 10
    assert ratio > 100
    out = tmp_path / "out"
    place = everything if wanted else lambda _: None
    refused(lambda: archives.unpack(tmp_path / name, out, place=place, ratio=ratio), name, f"{ratio} times", "zeros")
    assert not (out / "zeros").exists()


@pytest.mark.parametrize("name", ["a.tgz", "a.zip", "a.tar"])
@given(share=st.floats(0.0, 0.9))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_half_archive_is_refused_and_the_whole_continues(tmp_path, name, share):
    files = {f"{number}": os.urandom(3000) for number in range(3)}
    pack(tmp_path / name, files)
    whole = (tmp_path / name).read_bytes()
    out = tmp_path / f"{share}"
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    try:
        archives.unpack(tmp_path / name, out, place=everything, ratio=1000)
    except DataError as error:
        assert "half-downloaded" in str(error) or "times its size" in str(error)
    else:  # a plain tar may end between two members: checksum and counts tell
        assert name == "a.tar"
    (tmp_path / name).write_bytes(whole)
    archives.unpack(tmp_path / name, out, place=everything, ratio=1000)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


def test_a_damaged_member(tmp_path):
    pack(tmp_path / "a.zip", {"x": os.urandom(1000)})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[500] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(lambda: archives.unpack(tmp_path / "a.zip", tmp_path / "out", place=everything, ratio=1000), "damaged")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_while_unpacking(tmp_path, monkeypatch):
    pack(tmp_path / "a.tar", {"x": b"x"})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / "out"
    refused(lambda: archives.unpack(tmp_path / "a.tar", out, place=everything, ratio=1000), "space", error=RunError)
    assert list(out.iterdir()) == []


def test_a_terabyte_is_refused_by_its_header(tmp_path):
    entry = tarfile.TarInfo("zeros")
    entry.size = 2**40
    (tmp_path / "a.tar").write_bytes(entry.tobuf() + bytes(10240))
    refused(lambda: archives.unpack(tmp_path / "a.tar", tmp_path, place=everything, ratio=100), "100 times")


def test_a_tar_in_a_tar_is_a_folder(tmp_path):
    """As ImageNet's training images come: a tar of a tar for each class."""
    out = tmp_path / "in" / "out"

    def unpack(**inner):
        for name, files in inner.items():
            pack(tmp_path / f"{name}.tar", files)
        packed = {f"{name}.tar": (tmp_path / f"{name}.tar").read_bytes() for name in inner}
        pack(tmp_path / "all.tar", {"first": b"0", **packed, "last": b"9"})
        archives.unpack(tmp_path / "all.tar", out, place=everything, ratio=1000)

    refused(lambda: unpack(n01={"../../x": b"x"}), "n01/../../x would be written outside the target folder")
    unpack(n01={"a/b": b"1"}, n02={"n02_1": b"2"})
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {"first": b"0", "n01/a/b": b"1", "n02/n02_1": b"2", "last": b"9"}


def test_half_of_a_tar_in_a_tar_is_refused(tmp_path):
    pack(tmp_path / "in.tar", {"x": b"x" * 5000})
    pack(tmp_path / "all.tar", {"in.tar": (tmp_path / "in.tar").read_bytes()[:3000]})
    refused(lambda: archives.unpack(tmp_path / "all.tar", tmp_path, place=everything, ratio=1000), "half-downloaded")


def test_without_a_public_checksum_an_archive_is_said_to_be_unverified(server, tmp_path, capsys):
    server.content = CONTENT
    archive = Archive(name="data.tar", md5=None, url=server.url)
    for _ in ("downloaded", "at hand"):
        assert archives.obtain(archive, tmp_path, config=QUICK).read_bytes() == CONTENT
        assert "no checksum of data.tar is public: it is unverified" in capsys.readouterr().out


def test_all_that_a_person_has_to_fetch_is_asked_for_at_once(tmp_path):
    by_hand = [Archive(name=f"{name}.tar", md5=None, by_hand=f"open page {name}") for name in "abc"]
    needed = [*by_hand, Archive(name="d.tar", md5=None, url="http://127.0.0.1:9/d.tar")]
    (tmp_path / "a.tar").touch()
    with archives.atomic(archives.marker(by_hand[1], tmp_path / "out")) as temporary:
        temporary.touch()  # b was unpacked
    refused(lambda: archives.require_at_hand(needed, tmp_path, tmp_path / "out"), str(tmp_path), "c.tar: open page c")
    (tmp_path / "c.tar").touch()
    archives.require_at_hand(needed, tmp_path, tmp_path / "out")


def test_unpacking_continues_once_there_is_space(tmp_path, monkeypatch):
    archive = pack(tmp_path / "packs" / "a.tar", {"x": b"x" * 300, "y": b"y" * 300})
    write = Path.write_bytes

    def full(path, content):
        if content.startswith(b"y"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    def call():
        archives.unpack_once(archive, tmp_path / "packs", tmp_path / "out", place=everything, config=QUICK)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        refused(call, "no space left", "continues", error=RunError)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    before = (tmp_path / "out" / "x").stat().st_mtime_ns
    call()
    assert (tmp_path / "out" / "y").read_bytes() == b"y" * 300
    assert (tmp_path / "out" / "x").stat().st_mtime_ns == before
