import errno
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tiny
import torch

from baoseg import cli, pipeline, recipes, report, seeds
from baoseg.cli import options
from baoseg.core.errors import BaosegError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.reproduce import published
from baoseg.reproduce import tables as reproduce
from baoseg.seeds.fusion import fuse

DEVICE = ("--accelerator", "cpu", "--workers", "0")


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command, with the recipe `tiny` beside the others."""
    monkeypatch.setitem(recipes.RECIPES, "tiny", lambda: tiny.RECIPE)

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bao", *map(str, words)])
        cli.main()

    return run


def results(folder: Path) -> dict[str, bytes]:
    """All but what holds times."""
    suffixes = (".safetensors", ".npz", ".png", ".json")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in suffixes and path.name != "costs.json"
    }


# --------------------------------------------------------------------------------- the same results


def test_the_verbs_one_by_one_give_what_python_gives(
    bao: Callable[..., None], tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bao("train", "tiny", "--out", tmp_path, *DEVICE)
    bao("maps", tmp_path, *DEVICE)
    bao("masks", tmp_path)
    bao("evaluate", tmp_path)
    bao("report", tmp_path)
    out = capsys.readouterr().out
    assert "transcam" in out
    assert out.endswith(f"Report: {tmp_path / 'report.html'}\n")
    assert results(tmp_path) == results(tiny_run.root)
    assert (tmp_path / "report.html").exists()


def test_run_with_overrides_gives_what_python_gives(bao: Callable[..., None], tmp_path: Path) -> None:
    changes = ("--only", "transcam", "--epochs", "1", "--batch-size", "6", "--lr", "2e-3", "--seed", "7")
    bao("run", "tiny", "--out", tmp_path / "cli", *changes, *DEVICE)
    recipe = recipes.override(tiny.RECIPE, only="transcam", epochs=1, batch_size=6, lr=2e-3, seed=7)
    assert recipe.stages[0].schedule == replace(tiny.RECIPE.stages[0].schedule, epochs=1, batch_size=6, lr=2e-3)
    pipeline.run(recipe, tmp_path / "python", hardware=tiny.HARDWARE)
    assert results(tmp_path / "cli") == results(tmp_path / "python")


def test_demo_is_the_run_of_its_recipe(
    bao: Callable[..., None], tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "demo", lambda: tiny.RECIPE)
    shutil.copytree(tiny_run.root, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    bao("demo", *DEVICE)
    assert results(tmp_path / "demo") == results(tiny_run.root)


def test_smoke_makes_the_demo_a_trial(bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    monkeypatch.setattr(pipeline, "run", calls)
    bao("demo", "--smoke", *DEVICE)
    assert calls.seen == [((recipes.smoke(recipes.demo()), Path("demo")), {"hardware": tiny.HARDWARE})]


def test_set_changes_the_recipe_and_belongs_to_the_run(
    bao: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same --set continues; another one is refused with the first difference. It is the last to be applied."""
    changes = ("--epochs", "2", "--set", "stages.bao.schedule.epochs=1", "--set", "maps.sizes=64")
    bao("train", "tiny", "--out", tmp_path, *changes, *DEVICE)
    recipe = pipeline.recipe_of(RunFolder(tmp_path))
    own = recipes.override(tiny.RECIPE, epochs=2)
    transcam, last = own.stages
    stages = (transcam, replace(last, schedule=replace(last.schedule, epochs=1)))
    assert recipe == replace(own, stages=stages, maps=replace(own.maps, sizes=(64,)))
    trained = results(tmp_path)
    bao("train", "tiny", "--out", tmp_path, *changes, *DEVICE)
    assert results(tmp_path) == trained
    for value in ("stages.bao.schedule.epochs=2", "maps.sizes=96"):
        path, _, now = value.partition("=")
        again = [value if word.startswith(path) else word for word in changes]
        error = fails(bao, capsys, "run", "tiny", "--out", tmp_path, *again)
        was = {"stages.bao.schedule.epochs": "was 1", "maps.sizes": r"[0] was 64"}[path]
        assert f"holds a run with another recipe ({path}{' ' * (was[0] != '[')}{was}, now {now})" in error
    error = fails(bao, capsys, "run", "tiny", "--out", tmp_path, "--set", "stages.boa.schedule.epochs=1")
    assert error.startswith("bao: --set stages.boa.schedule.epochs: no such setting; did you mean stages.bao.sch")


def test_demo_takes_set(bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    monkeypatch.setattr(pipeline, "run", calls)
    bao("demo", "--set", "seed=3", *DEVICE)
    assert calls.seen == [((replace(recipes.demo(), seed=3), Path("demo")), {"hardware": tiny.HARDWARE})]


def test_every_override_reaches_the_recipe() -> None:
    """A field that was added to one of the two alone would be an option that does nothing, or an error."""
    overrides = options.Overrides(
        data="here",
        train_split="a",
        eval_split="b",
        backbone="timm:resnet18",
        weights=Path("w.pth"),
        only="bao-plus",
        epochs=3,
        batch_size=5,
        lr=0.1,
        seed=9,
        values=("report.gallery=1",),
    )
    recipe = overrides.apply(recipes.named("photos"))
    (stage,) = recipe.stages
    assert (recipe.data.path, recipe.data.train_split, recipe.data.eval_split) == ("here", "a", "b")
    assert (recipe.net.backbone, recipe.net.weights, recipe.net.pretrained) == ("timm:resnet18", "w.pth", False)
    assert (stage.name, stage.schedule.epochs, stage.schedule.batch_size, stage.schedule.lr) == ("bao-plus", 3, 5, 0.1)
    assert (recipe.seed, recipe.report.gallery) == (9, 1)
    assert options.Overrides().apply(recipes.named("photos")) == recipes.photos()


# ------------------------------------------------------------------------- compare, fuse, reproduce


class Calls:
    """Stands in for a function and keeps what it was called with."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple, dict]] = []

    def __call__(self, *positional: object, **named: object) -> None:
        self.seen.append((positional, named))


def test_compare_hands_on_what_was_asked(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = Calls()
    monkeypatch.setattr(pipeline, "compare", calls)
    words = ("--methods", "cam", "bas", "--seeds", "irn=a=b", f"psa={tmp_path}", "--fuse", "cam+bas", "cam+irn")
    values = ("--set", "seed=4", "--set", "stages.bas.method.alpha=0.7")
    bao("compare", "tiny", "--out", tmp_path, *words, "--allow-pickle", "--epochs", "5", *values, *DEVICE)
    bao("compare", "--methods", "bao", "--out", tmp_path, *DEVICE)
    everything, little = calls.seen
    assert everything == (
        (recipes.override(tiny.RECIPE, epochs=5), tmp_path),
        {
            "methods": ("cam", "bas"),
            "values": ("seed=4", "stages.bas.method.alpha=0.7"),
            "seeds": {"irn": "a=b", "psa": str(tmp_path)},
            "fuse": ("cam+bas", "cam+irn"),
            "refine": (),
            "allow_pickle": True,
            "hardware": tiny.HARDWARE,
        },
    )
    nothing = {"seeds": {}, "fuse": (), "refine": (), "allow_pickle": False, "values": ()}
    assert little == ((recipes.demo(), tmp_path), {"methods": ("bao",), **nothing, "hardware": tiny.HARDWARE})


def test_compare_shows_methods_beside_seeds_and_sums(
    bao: Callable[..., None], tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_run.root / "transcam"
    sums = ("--seeds", f"other={other}", "--fuse", "cam+other")
    bao("compare", "tiny", "--out", tmp_path / "run", "--methods", "cam", *sums, *DEVICE)
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "fixed 0.30" in line] == ["cam", "other", "cam+other"]
    run = RunFolder(tmp_path / "run")
    assert read_json(run.manifest)["stages"] == ["cam", "other", "cam+other"]
    assert {row.method: bool(row.costs.get("train")) for row in report.summary(run, ["cam", "other", "cam+other"])} == {
        "cam": True,
        "other": False,
        "cam+other": False,
    }
    page = run.report.read_text()
    assert all(title in page for title in report.COST_COLUMNS)


def test_fuse_adds_up_what_exists(
    bao: Callable[..., None], tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "demo", lambda: tiny.RECIPE)  # the images of `tiny` are generated
    sources = [tiny_run.root / "transcam", tiny_run.root]
    bao("fuse", *sources, "--data", "synthetic", "--out", tmp_path / "run")
    (name,) = read_json(tmp_path / "run" / "run.json")["stages"]
    stage = RunFolder(tmp_path / "run").stage(name)
    files = sorted(path.stem for path in (stage.root / "maps" / "val").iterdir())
    assert len(files) == 5
    for picture in files:
        parts = [seeds.load(tiny_run.stage(part).maps("val", picture)) for part in ("transcam", "bao")]
        torch.testing.assert_close(
            seeds.load(stage.maps("val", picture)).scores, fuse(parts).scores.half().float(), rtol=0, atol=0
        )
    assert stage.metrics.exists() and (tmp_path / "run" / "report.html").exists()


def test_fuse_hands_on_what_was_asked(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = Calls()
    monkeypatch.setattr(pipeline, "fuse_seeds", calls)
    bao("fuse", "one", "two", "--data", "here", "--out", tmp_path, "--eval-split", "test", "--allow-pickle")
    ((positional, named),) = calls.seen
    base, sources, out = positional
    assert (base.data.path, base.data.eval_split, sources, out) == ("here", "test", ("one", "two"), tmp_path)
    assert named == {"allow_pickle": True}


def test_reproduce_hands_on_what_was_asked(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = Calls()
    monkeypatch.setattr(reproduce, "run", calls)
    bao("reproduce", "bas-table-9", "--recipe", "tiny", "--out", tmp_path, "--seeds", "irn=a", "--seed", "4", *DEVICE)
    bao("reproduce", "bao-figure-4", "--set", "maps.flip=false", *DEVICE)
    everything, little = calls.seen
    assert everything == (
        ("bas-table-9", recipes.override(tiny.RECIPE, seed=4), tmp_path),
        {"seeds": {"irn": "a"}, "allow_pickle": False, "values": (), "hardware": tiny.HARDWARE},
    )
    assert little[0] == ("bao-figure-4", recipes.demo(), Path("bao-figure-4"))
    assert little[1]["values"] == ("maps.flip=false",)


def test_reproduce_alone_lists_the_tables(bao: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    bao("reproduce")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(published.tables())
    assert all(table.title in line for table, line in zip(published.tables().values(), lines, strict=True))


# --------------------------------------------------------------------------------------------- help


def test_help_of_every_verb_appears_without_torch() -> None:
    script = """
import sys
from baoseg import cli
groups = [[group, *more] for group, (_, verbs) in cli.GROUPS.items() for more in [[], *([verb] for verb in verbs)]]
for words in [[], *([verb] for verb in cli.VERBS), *groups]:
    sys.argv = ["bao", *words, "--help"]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0, words
    print("=" * 20)
assert "torch" not in sys.modules
"""
    environment = os.environ | {"COLUMNS": "100", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    pages = done.stdout.split("=" * 20)
    assert "None" not in done.stdout  # how Python writes that an option may be left out
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("usage: bao [-h] {")) <= 110  # the list of all verbs
    # where the code breaks its line is nothing to the help
    assert "network learns from them too), weigh (their pixels count by the margin of the" in done.stdout
    for verb in [*cli.VERBS, *cli.GROUPS]:
        assert f"• {verb} " in pages[0]
    page_of = dict(zip(cli.VERBS, pages[1:], strict=False))
    assert re.search(r"usage: bao run .*RECIPE", page_of["run"])
    assert "--data FOLDER" in page_of["run"]
    for verb in ("maps", "masks", "evaluate", "report"):
        assert re.search(rf"usage: bao {verb} \[-h\].* RUN\b", page_of[verb])
    assert all(
        name in " ".join(page_of["compare"].split())
        for name in (stage.name for stage in recipes.comparable(recipes.demo()))
    )
    assert all(name in page_of["reproduce"] for name in published.tables())
    assert "SOURCE ... --data FOLDER --out RUN" in page_of["fuse"]


def test_the_package_installs_the_command() -> None:
    (command,) = entry_points(group="console_scripts", name="bao")
    assert command.load() is cli.main


# ------------------------------------------------------------------------------------------- errors


def fails(bao: Callable[..., None], capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that the command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        bao(*words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("bao: ")
    assert error.count("\n") == 1
    return error


def test_an_unknown_recipe_lists_all(bao: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(bao, capsys, "run", "voc", "--out", "x")
    assert "unknown recipe 'voc'" in error
    assert all(name in error for name in recipes.RECIPES)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--data", "{tmp}/nowhere"), "nowhere/labels.csv: no such file; write a file with the columns image,labels"),
        (("--weights", "{tmp}/nowhere.pth"), "nowhere.pth: no such weights; check the path"),
        (("--backbone", "conformer_giant"), "unknown backbone 'conformer_giant'; use"),
        (("--only", "cam"), "has no stage 'cam'"),
        (("--epochs", "0"), "0 epochs"),
        (("--batch-size", "-1"), "batches of -1"),
        (("--lr", "nan"), "rates nan"),
        (("--eval-split", "test"), "no split 'test'; the splits are train, val"),
        (("--workers", "-1"), "--workers -1"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing_half_written(
    bao: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    problem: str,
) -> None:
    words = tuple(word.format(tmp=tmp_path) for word in words)
    assert problem in fails(bao, capsys, "run", "tiny", "--out", tmp_path / "run", *words)
    assert {path.name for path in (tmp_path / "run").rglob("*")} <= {"run.json"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_a_device_that_is_not_there_is_named(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = fails(bao, capsys, "run", "tiny", "--out", tmp_path, "--accelerator", "cuda")
    assert error.startswith("bao: --accelerator cuda --devices 1 --precision 32-true: ")


@pytest.mark.parametrize(
    "case",
    [(errno.EACCES, "no permission; choose another folder with --out"), (errno.ENOSPC, "no space left on the disk")],
)
def test_a_folder_that_cannot_be_written(
    bao: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[int, str],
) -> None:
    number, problem = case

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert problem in fails(bao, capsys, "run", "tiny", "--out", tmp_path / "run", *DEVICE)


def test_steps_on_what_is_no_run_folder(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for verb in ("maps", "masks", "evaluate", "report"):
        error = fails(bao, capsys, verb, tmp_path)
        assert error == f"bao: {tmp_path / 'run.json'}: no such file; is {tmp_path} a run folder?\n"


def test_a_run_folder_of_another_recipe(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], tiny_run: RunFolder
) -> None:
    error = fails(bao, capsys, "run", "tiny", "--out", tiny_run.root, "--seed", "3")
    assert "another recipe (seed was 0, now 3)" in error


@pytest.mark.parametrize("words", [("irn",), ("irn=",), ("irn=a", "irn=b")])
def test_seeds_that_are_no_name_and_folder(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    for verb in (("compare", "tiny", "--methods", "cam"), ("reproduce", "bas-table-9")):
        error = fails(bao, capsys, *verb, "--out", tmp_path / "run", "--seeds", *words)
        assert f"--seeds {words[-1]}: write NAME=FOLDER" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("compare", "tiny", "--methods", "cim"), "unknown method 'cim'; there are cam, "),
        (("compare", "tiny", "--methods", "cam", "--seeds", "a/b=c"), "'a/b' cannot name a folder"),
        (("compare", "tiny", "--methods", "cam", "--seeds", "..=c"), "'..' cannot name a folder"),
        (("compare", "tiny", "--methods", "cam", "--fuse", "cam+bas"), "'cam+bas' is no sum"),
        (("reproduce", "bao-table-2"), "no published table 'bao-table-2'; there are bao-table-1, "),
        (("fuse", "nowhere", "--data", "synthetic"), "nowhere: neither a stage"),
        (("fuse", "--data", "synthetic"), "name one source at least"),
    ],
)
def test_mistakes_in_comparisons_end_in_one_line(
    bao: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    problem: str,
) -> None:
    assert problem in fails(bao, capsys, *words, "--out", tmp_path / "run")


def test_a_threshold_outside_the_maps(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], tiny_run: RunFolder
) -> None:
    assert "choose a value in 0..1" in fails(bao, capsys, "masks", tiny_run.root, "--threshold", "2")


@pytest.mark.parametrize("kind", BaosegError.__subclasses__())
def test_every_kind_of_error_is_a_line_on_stderr(
    bao: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaosegError],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("here: this; do that")

    monkeypatch.setattr(pipeline, "run", fail)
    assert fails(bao, capsys, "demo") == "bao: here: this; do that\n"


def test_an_interruption_says_how_to_go_on(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupt)
    with pytest.raises(SystemExit) as end:
        bao("demo")
    assert end.value.code == 130
    assert capsys.readouterr().err.strip() == "bao: stopped; the same command continues where it was"


@pytest.mark.parametrize("words", [(), ("rum",), ("run",), ("run", "tiny"), ("maps",), ("demo", "--no-such", "1")])
def test_words_that_do_not_parse_exit_with_2(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as end:
        bao(*words)
    assert end.value.code == 2
    assert "--help" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ consoles


COMMAND = (sys.executable, "-c", "from baoseg.cli import main; main()")


def photos(root: Path) -> Path:
    root.mkdir()
    (root / "labels.csv").write_text("image,labels\n猫.png,möwe\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"\u732b.png"), ("cp1252", r"\u732b.png"), ("utf-8", "猫.png")]
)
def test_a_console_that_cannot_encode_a_name_gets_an_escape(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str, shown: str
) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    root = photos(tmp_path / "zoë")
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as end:
            bao("prepare", "folder", root)
        bao("weights", "list")  # a table
        bao("recipes", "show", "bao-voc")
        text = {}
        for name, stream in streams.items():
            stream.flush()
            text[name] = stream.buffer.getvalue().decode(encoding)
    assert end.value.code == 2
    assert shown in text["stdout"] and "conformer-small" in text["stdout"]
    assert ("zoë" if encoding != "ascii" else r"zo\xeb") in text["stderr"]


def test_names_of_files_in_a_locale_of_plain_ascii(tmp_path: Path) -> None:
    root = photos(tmp_path / "data")
    (root / "猫.png").write_bytes(b"no picture")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    words = (*COMMAND, "prepare", "folder", str(root))
    done = subprocess.run(words, env={**os.environ, **plain}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith(f"{root}/\\u732b.png: not a known kind")  # it is found
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("recipes", "show", "bao-voc"), ("--help",)])
def test_a_closed_pipe_ends_in_silence(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run((*COMMAND, *words), stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "photos"), "bao: photos: Permission denied; "),
        (OSError(errno.ENOSPC, "No space left on device"), "bao: No space left on device; "),
        (UnicodeEncodeError("latin-1", "猫.png", 0, 1, "ordinal not in range"), "bao: 猫.png: no such name in "),
    ],
)
def test_what_the_system_refuses_is_a_line(
    bao: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    assert fails(bao, capsys, "demo").startswith(line)
