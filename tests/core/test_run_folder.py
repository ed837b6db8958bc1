import errno
import os
import pathlib
import tempfile

import pytest

from baoseg.core import run_folder
from baoseg.core.errors import RunError, TargetError
from baoseg.core.files import atomic, read_json, write_json
from baoseg.core.run_folder import RunFolder


def fail_with(code):
    def fail(*arguments, **settings):
        raise OSError(code, os.strerror(code))

    return fail


def test_the_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("content")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic
        assert temporary.suffix == path.suffix  # savers that look at the suffix pick the right format
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new, in pa")
        assert path.read_text() == "old"
        temporary.write_text("new, in parts")
    assert path.read_text() == "new, in parts"


@pytest.mark.parametrize("crash", [ValueError, KeyboardInterrupt])
def test_a_crash_inside_the_block_leaves_nothing(tmp_path, crash):
    path = tmp_path / "a.txt"
    with pytest.raises(crash), atomic(path) as temporary:
        temporary.write_text("half")
        raise crash
    assert list(tmp_path.iterdir()) == []


def test_a_crash_inside_the_block_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError), atomic(path) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, code):
    path = tmp_path / "a.txt"
    with (
        pytest.raises(RunError, match=r"a\.txt: cannot be written: no space left on the disk; free some") as caught,
        atomic(path) as temporary,
    ):
        temporary.write_text("as much as fits")
        fail_with(code)()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_rename_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(pathlib.Path, "replace", fail_with(errno.ENOSPC))
    with pytest.raises(RunError, match="no space left"), atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize(("module", "function"), [(tempfile, "mkstemp"), (pathlib.Path, "mkdir")])
def test_a_folder_that_cannot_be_written_names_the_option(tmp_path, monkeypatch, code, module, function):
    monkeypatch.setattr(module, function, fail_with(code))
    expected = pytest.raises(RunError, match=r"no permission; choose another folder with --out")
    with expected, atomic(tmp_path / "run" / "a.txt"):
        pytest.fail("the block must not run")  # nothing was computed for a file that cannot be written


def test_a_file_in_the_way_of_the_run_folder_is_said_so(tmp_path):
    (tmp_path / "run").write_text("a file")
    for path in (tmp_path / "run" / "a.txt", tmp_path / "run" / "stage" / "a.txt"):
        with pytest.raises(RunError, match="a file is in the way of a folder"), atomic(path):
            pass
    assert (tmp_path / "run").read_text() == "a file"


@pytest.mark.parametrize("stem", ["n" * 251, "猫" * 83, "n.v2" * 62, f"n.{'s' * 249}"])
def test_a_name_of_255_bytes_can_be_written(tmp_path, stem):
    """The longest name that file systems take; that of the unfinished file is short and hidden."""
    path = tmp_path / (stem if len(os.fsencode(stem)) > 251 else f"{stem}.png")
    with atomic(path) as temporary:
        assert temporary.name.startswith(".") and len(os.fsencode(temporary.name)) <= 40
        temporary.write_text("content")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [(path.name, "content")]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("n" * 252 + ".png", "the name is too long for the file system"), ("folder", "a folder has this name")],
)
def test_a_name_that_no_file_can_have_is_refused_before_any_work(tmp_path, name, problem):
    (tmp_path / "folder").mkdir()
    with pytest.raises(TargetError, match=problem) as caught, atomic(tmp_path / name):
        pytest.fail("the block must not run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_folder_that_takes_the_name_meanwhile_is_one_line(tmp_path):
    with pytest.raises(TargetError, match="a folder has this name"), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("content")
        (tmp_path / "a.txt").mkdir()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_other_failures_keep_the_systems_words(tmp_path):
    with pytest.raises(RunError, match=os.strerror(errno.EIO)), atomic(tmp_path / "a.txt"):
        fail_with(errno.EIO)()


def test_files_get_the_permissions_of_ordinary_files(tmp_path):
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("")
    (tmp_path / "b.txt").write_text("")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_json_survives_the_disk(tmp_path):
    value = {"miou": 58.8, "iou": [1.5, None], "classes": ["background", "Straße"], "nested": {"a": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Straße" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_missing_json_asks_for_the_run_folder(tmp_path):
    with pytest.raises(RunError, match=r"run\.json: no such file; is .* a run folder\?"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\xfa"])
def test_damaged_json_is_one_line_with_a_remedy(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"a\.json: cannot be read .*; delete it and run the step again") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_json_that_may_not_be_read_is_not_to_be_deleted(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json: cannot be read .*; restore it, or begin again in another folder"):
        read_json(tmp_path / "run.json")
    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    with pytest.raises(RunError, match=r"run\.json: cannot be read \(Permission denied\); change its permissions"):
        read_json(tmp_path / "run.json")


def test_the_run_folder_is_laid_out_as_documented(tmp_path):
    """Every path that the module's docstring draws is the path that the classes give."""
    run = RunFolder(tmp_path)
    stage = run.stage("bao")
    paths = {
        run.manifest,
        run.report,
        stage.state,
        stage.network,
        stage.losses,
        stage.epochs,
        stage.costs,
        stage.metrics,
        stage.label("SPLIT", "NAME"),
        stage.maps("SPLIT", "NAME"),
        stage.mask("SPLIT", "NAME"),
        stage.confidence("SPLIT", "NAME"),
    }
    drawn, parents = set(), {0: tmp_path}
    for line in run_folder.__doc__.splitlines():
        if line.startswith(" " * 2):
            depth, name = (len(line) - len(line.lstrip()) - 2) // 2, line.split()[0].replace("METHOD", "bao")
            parents[depth + 1] = parents[depth] / name
            if not name.endswith("/"):
                drawn.add(parents[depth + 1])
    assert paths == drawn
    assert stage.name == "bao"


def test_names_in_folders_keep_their_folders(tmp_path):
    assert RunFolder(tmp_path).stage("cam").maps("val", "a/b.c") == tmp_path / "cam" / "maps" / "val" / "a" / "b.c.npz"
