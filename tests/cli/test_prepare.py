"""The verbs of `bao prepare`: what they hand on, what they print, and that the printed command fits."""

import shlex
import sys
from functools import partial
from pathlib import Path

import pytest
from data.prepare.miniature import jpeg, png

from baoseg import cli, data, recipes
from baoseg.cli import prepare as verbs
from baoseg.data import prepare
from baoseg.data.boxed import Layout
from baoseg.data.prepare.voc import Labels
from baoseg.nets import catalogue

ALL = {
    "voc12": verbs.voc12,
    "coco14": verbs.coco14,
    "cub200": verbs.cub200,
    "ilsvrc": verbs.ilsvrc,
    "openimages": verbs.openimages,
    "folder": verbs.folder,
}


@pytest.fixture
def bao(monkeypatch):
    monkeypatch.setitem(cli.GROUPS, "prepare", ("Data sets.", ALL))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["bao", "prepare", *map(str, words)])
        cli.main()

    return run


@pytest.fixture
def called(monkeypatch):
    """What a verb hands to its function, which does nothing but name the folder."""
    seen = {}

    def stand_in(name, root, **options):
        seen[name] = (root, options)
        return root / name

    for name in ALL:
        monkeypatch.setattr(prepare, name, partial(stand_in, name))
    return seen


def commands(capsys):
    out = capsys.readouterr().out
    return [shlex.split(line) for line in out.partition("Type next:\n")[2].splitlines()]


def options(command):
    return dict(zip(command[3::2], command[4::2], strict=True))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("voc12", {"labels": Labels.OBJECTS, "workers": 2}),
        ("voc12 --labels easy --workers 0", {"labels": Labels.EASY, "workers": 0}),
        ("coco14 --workers 7", {"workers": 7}),
        ("cub200", {"segmentations": False}),
        ("cub200 --segmentations", {"segmentations": True}),
        ("ilsvrc", {}),
        ("openimages", {}),
    ],
)
def test_every_option_reaches_the_function(bao, called, words, expected):
    name, *others = words.split()
    bao(name, "--root", "data", *others)
    bao(name, "--root", "data", "--archives", "packs", *others)
    assert called[name] == (Path("data"), {"archives": Path("packs"), **expected})


@pytest.mark.parametrize("labels", Labels)
def test_all_ways_to_make_labels_can_be_asked_for(bao, called, labels):
    bao("voc12", "--root", "data", "--labels", labels.value)
    assert called["voc12"][1] == {"archives": None, "labels": labels, "workers": 2}


@pytest.mark.parametrize(("name", "recipe"), [("voc12", "bao-voc"), ("coco14", "bao-coco")])
def test_the_next_commands_fetch_what_the_recipe_reads_and_run_it(bao, called, capsys, name, recipe):
    bao(name, "--root", "my data")
    *fetches, run = commands(capsys)
    assert ["bao", "weights", "fetch", "conformer-small"] in fetches
    read = str(recipes.named(recipe))
    assert all(str(catalogue.converted(fetch[3])) in read for fetch in fetches)
    assert run[:3] == ["bao", "run", recipe]
    assert options(run) == {"--data": f"my data/{name}", "--out": f"runs/{recipe}"}


@pytest.mark.parametrize(
    ("name", "layout"),
    [("cub200", Layout.CUB), ("ilsvrc", Layout.ILSVRC), ("openimages", Layout.OPENIMAGES)],
)
def test_the_next_command_after_a_data_set_of_localization(bao, called, capsys, name, layout):
    bao(name, "--root", "data")
    (command,) = commands(capsys)
    assert command[:3] == ["bao", "run", f"bas-{layout}-resnet50"]
    assert recipes.named(command[2]).data.layout == layout
    assert options(command) == {"--data": f"data/{name}", "--out": f"runs/bas-{layout}-resnet50"}


def photos(root, *lines):
    (root / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n")
    for name in "ab":
        (root / f"{name}.jpg").write_bytes(jpeg(8, 8))
    return root


def test_a_folder_without_fault_can_be_run(bao, tmp_path, capsys):
    bao("folder", photos(tmp_path, "a.jpg,cat", "b.jpg,"))
    out = capsys.readouterr().out
    assert out.startswith(
        "all: 2 images, 1 class: cat (1); 1 image without a label, background alone; none with a mask\n"
    )
    assert out.splitlines()[1] == "Type next:"
    bao("folder", photos(tmp_path, "a.jpg,cat", "b.jpg,dog"))
    (command,) = commands(capsys)
    assert command[:3] == ["bao", "run", "photos"]
    recipe = recipes.override(recipes.named("photos"), data=options(command)["--data"])
    assert len(data.Folder(recipe.data.path, training=True)) == 2


def test_what_is_trained_on_and_how_many_have_a_mask(bao, tmp_path, capsys):
    root = photos(tmp_path, "a.jpg,cat", "b.jpg,cat")
    for path, content in {
        "splits/training.txt": b"a\n",
        "splits/val.txt": b"b\n",
        "masks/b.png": png([[1] * 8] * 8),
    }.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content)
    bao("folder", root)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "training: 1 image, 1 class: cat (1); none with a mask"
    assert out[1] == "val: 1 image, 1 class: cat (1); 1 with a mask"
    assert out[2] == "No split is called train: all images are trained on, those of training, val too."
    (root / "splits/training.txt").rename(root / "splits/train.txt")
    bao("folder", root)
    assert "No split" not in capsys.readouterr().out


def test_all_faults_of_a_folder_are_printed(bao, tmp_path, capsys):
    root = photos(tmp_path, "a.jpg,cat", "a.jpg,dog", "c.jpg,cat")
    with pytest.raises(SystemExit) as ended:
        bao("folder", root)
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "a.jpg is on the lines 2 and 3" in told.out and "c.jpg: no such image" in told.out
    assert told.err == f"bao: {root}: problems found: 2; correct them and run the same command again\n"
    assert "Type next" not in told.out


def test_a_login_is_an_error_of_one_line(bao, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        bao("ilsvrc", "--root", tmp_path)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "log in at https://image-net.org" in error


@pytest.mark.parametrize("verb", ["", *ALL])
def test_help_is_narrow_and_hides_none(bao, capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        bao(*([verb] if verb else []), "--help")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "None" not in text and max(map(len, text.splitlines())) <= 110
