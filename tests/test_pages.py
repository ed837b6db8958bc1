"""The pages say what is true: their Python runs, their commands parse, and the files that they link to exist.

- Blocks of Python run, in the order of their page and with the names of the blocks before them, in a folder that has
  what they open (`world`). A block of declarations, whose functions are all `...`, is compared with the code.
- Of lines for a shell, in blocks marked `sh` and indented by four spaces, each `bao` command is parsed by the real
  command line; what other programs are given must exist.
- Blocks without a language show folders, files and output; they have no commands.
"""

import ast
import functools
import importlib
import inspect
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nets.published import random_state
from PIL import Image
from safetensors.torch import save_file

from baoseg import cli, pipeline, recipes
from baoseg.core.run_folder import RunFolder
from baoseg.recipes import Recipe
from baoseg.training.train import Hardware

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted([*(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"), *(ROOT / "docs").rglob("*.md")])
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def fenced(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block between fences."""
    return re.findall(r"^```(.*)\n((?:(?!```).*\n)*)```$", page.read_text(encoding="utf-8"), re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for given, text in fenced(page) if given == language]


@each_page
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    assert 2 * len(fenced(page)) == page.read_text(encoding="utf-8").count("```")
    assert {language for language, _ in fenced(page)} <= {"", "python", "sh"}
    for text in blocks(page, ""):
        assert not re.search(r"(?:^|[|;&] *)(?:bao|make|python) \w", text, re.MULTILINE), "mark it as sh"


# ----------------------------------------------------------------------------------------------- Python


HARDWARE = Hardware(accelerator="cpu", workers=0)
CODE = [page for page in PAGES if blocks(page, "python")]


def is_declaration(code: str) -> bool:
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    return bool(functions) and all(ast.unparse(function.body[0]) == "..." for function in functions)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages open: images of noise, and networks that learned next to nothing."""
    root = tmp_path_factory.mktemp("world")
    cat = ROOT / "tests" / "photos" / "cat.jpg"
    for name in ("cat", "dog", "couch"):
        shutil.copy(cat, root / f"{name}.jpg")
    noise = np.random.default_rng(0)
    for folder in (root / "my_photos", root / "data" / "VOC2012"):
        folder.mkdir(parents=True)
        labels = ("dog", "sofa", "dog sofa", "")
        for number in range(len(labels)):
            Image.fromarray(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows = [f"{number}.png,{label}\n" for number, label in enumerate(labels)]
        (folder / "labels.csv").write_text("image,labels\n" + "".join(rows))
    voc = root / "data" / "VOC2012"
    (voc / "splits").mkdir()
    (voc / "splits" / "val.txt").write_text("0.png\n1.png\n")
    (voc / "masks").mkdir()
    for number, value in enumerate((1, 2)):
        Image.fromarray(np.full((48, 64), value, np.uint8)).save(voc / "masks" / f"{number}.png")
    torch.save(random_state(ratio=0.5, width=8, depth=3, classes=20, heads="transcam"), root / "transcam.pth")
    save_file(random_state(ratio=0.5, width=8, depth=3, classes=2, heads="bao"), root / "ours.safetensors")
    recipe = recipes.override(recipes.named("photos"), data=str(root / "my_photos"), epochs=8)
    run = pipeline.run(recipes.smoke(recipe), root / "runs" / "mine", hardware=HARDWARE)
    shutil.copytree(run.root / "network", root / "runs" / "bao-voc" / "segment")
    return root


@pytest.fixture
def in_world(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory has what the pages open, and recipes are as small as `--smoke` makes them."""
    run, begin = pipeline.run, pipeline.begin

    def run_small(recipe: Recipe, out: Path, *, hardware: Hardware) -> RunFolder:
        return run(recipes.smoke(recipe), out, hardware=HARDWARE)

    monkeypatch.setattr(pipeline, "run", run_small)
    monkeypatch.setattr(pipeline, "begin", lambda recipe, out: begin(recipes.smoke(recipe), out))
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize("page", CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_of_a_page_runs(page: Path, in_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"images": torch.zeros(1, 3, 64, 64), "labels": torch.ones(1, 2)}  # what a page takes for granted
    names: dict = given.copy()
    for code in blocks(page, "python"):
        if not is_declaration(code):
            small = code.replace('"cuda"', '"cpu"').replace("vit_small", "vit_tiny")
            exec(compile(small, str(page), "exec"), names)


def test_the_first_example_labels_a_photograph(in_world: Path) -> None:
    names: dict = {}
    exec(blocks(README, "python")[0], names)
    result = names["result"]
    mask = result.mask
    assert mask.dtype == np.uint8 and mask.shape == (300, 451)
    assert set(np.unique(mask).tolist()) == {0, 1}
    assert mask[130, 265] == 1 and mask[290, 440] == 0  # between the eyes; the blanket in the lower right corner
    assert 0.2 < (mask == 1).mean() < 0.8
    assert list(result.class_maps) == ["cat"] and result.class_maps["cat"].shape == mask.shape
    with Image.open(in_world / "cat-mask.png") as saved:
        assert np.array_equal(np.asarray(saved), 255 * mask)


DECLARATIONS = [code for page in CODE for code in blocks(page, "python") if is_declaration(code)]


@pytest.mark.parametrize("code", DECLARATIONS)
def test_declarations_are_those_of_the_code(code: str) -> None:
    """Functions have the same arguments, classes the same functions and fields, in a module that a comment names."""
    files = re.findall(r"# ([a-z_/]+)\.py", code)
    modules = [importlib.import_module("baoseg." + file.replace("/", ".").removesuffix(".__init__")) for file in files]
    for node in ast.parse(code).body:
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        (found,) = [vars(module)[node.name] for module in modules if _defines(module, node.name)]
        if isinstance(node, ast.FunctionDef):
            assert _arguments(node) == [*inspect.signature(found).parameters], node.name
            continue
        for part in node.body:
            if isinstance(part, ast.FunctionDef):
                member = inspect.signature(getattr(found, part.name))
                assert _arguments(part) == [*member.parameters], f"{node.name}.{part.name}"
            else:
                assert isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
                field = part.target.id
                assert hasattr(found, field) or field in inspect.get_annotations(found), f"{node.name}.{field}"


def _defines(module: object, name: str) -> bool:
    return getattr(vars(module).get(name), "__module__", None) == vars(module)["__name__"]


def _arguments(function: ast.FunctionDef) -> list[str]:
    given = function.args
    return [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


# --------------------------------------------------------------------------------------------- commands


def inline(page: Path) -> list[str]:
    """What stands between single backquotes."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose)]


TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
LAUNCHERS = ("torchrun", "srun")  # they start the command that follows


def lines(page: Path) -> list[list[str]]:
    """The words of each command in the page's blocks for shells, its indented lines, and within its sentences."""
    indented = re.findall(r"^    ((?:bao|python) .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    scripts = [text for text in inline(page) if text.startswith("python ")]
    text = "\n".join([*blocks(page, "sh"), *indented, *scripts]).replace("\\\n", " ").replace("$(which bao)", "bao")
    found = []
    for line in text.splitlines():
        parts = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        parts.whitespace_split = True
        command: list[str] = []
        for word in (*parts, "|"):
            if word in {"|", "&&", ";"}:
                found.append(command)
                command = []
            else:
                command.append(word)
    return [words[words.index("bao") :] if words[0] in LAUNCHERS else words for words in found if words]


def commands(page: Path) -> list[tuple[str, ...]]:
    """The words behind `bao` of each such line."""
    return [tuple(words[1:]) for words in lines(page) if words[0] == "bao"]


def test_commands_are_found_with_the_lines_that_continue_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shell = (
        "bao run photos \\\n    --out a  # why\nmake demo\nbao recipes | head -1\nsrun -n 4 bao run demo --out 'b c'\n"
    )
    page.write_text(f"```sh\n{shell}```\n\n    bao weights  # so\n\n```python\nbao = 1\n```\n\n```\nbao maps\n```\n")
    run, demo = ("run", "photos", "--out", "a"), ("run", "demo", "--out", "b c")
    assert commands(page) == [run, ("recipes",), demo, ("weights",)]
    assert lines(page)[1:4] == [["make", "demo"], ["bao", "recipes"], ["head", "-1"]]


@each_page
def test_other_programs_are_given_what_exists(page: Path) -> None:
    for words in lines(page):
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]  # noqa: PLW2901  (of the environment)
        match [words[0].removeprefix(".venv/bin/"), *words[1:]]:
            case ["bao" | "cat" | "pre-commit", *_]:
                pass
            case ["make", *targets]:
                assert {*targets} <= {*TARGETS}, words
            case ["pip", "install", *_]:
                assert words[2:] in (["-e", "."], ["-e", ".[dev]"], ["--constraint", "constraints.txt", "-e", "."])
            case ["python", "-m", "pytest", *options]:
                assert all((ROOT / option).exists() for option in options if option.startswith("tests")), words
            case ["python", script, *options]:
                source = (ROOT / script).read_text(encoding="utf-8")
                names = [option[2:].replace("-", "_") for option in options if option.startswith("--")]
                assert all(re.search(rf"\b{name}\b", source) for name in names), words
            case _:
                pytest.fail(f"{' '.join(words)}: a program that this test does not know")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[inspect.BoundArguments]:
    """What the verbs were called with, which do nothing."""
    calls: list[inspect.BoundArguments] = []

    def stand_in(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def keep(*positional: object, **named: object) -> None:
            calls.append(inspect.signature(verb).bind(*positional, **named))

        return keep

    monkeypatch.setattr(cli, "VERBS", {name: stand_in(verb) for name, verb in cli.VERBS.items()})
    groups = {
        group: (about, {name: stand_in(verb) for name, verb in verbs.items()})
        for group, (about, verbs) in cli.GROUPS.items()
    }
    monkeypatch.setattr(cli, "GROUPS", groups)
    return calls


@each_page
def test_every_command_of_a_page_parses_and_names_a_recipe_that_exists(
    page: Path,
    parsed: list[inspect.BoundArguments],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {*recipes.known(), "RECIPE", None}
    for words in commands(page):
        monkeypatch.setattr(sys, "argv", ["bao", *words])
        try:
            cli.main()
        except SystemExit as stop:
            pytest.fail(f"bao {shlex.join(words)}: exit code {stop.code}\n{capsys.readouterr().err}")
        assert parsed[-1].arguments.get("recipe") in known, words
    assert len(parsed) == len(commands(page))


@each_page
def test_commands_within_sentences_have_verbs_and_options_that_exist(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They leave out what the sentence is not about, so they need not parse."""
    for text in inline(page):
        words = text.split()
        if words[0] != "bao" or len(words) == 1:
            continue
        verb = words[1 : 2 + (words[1] in cli.GROUPS and len(words) > 2)]
        monkeypatch.setattr(sys, "argv", ["bao", *verb, "--help"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        known = {cli.QUIET, *re.findall(r"--[a-z-]+", capsys.readouterr().out)}
        assert stop.value.code == 0 and {word for word in words if word.startswith("--")} <= known | {"--help"}, text


def test_a_wrong_option_and_a_wrong_verb_do_not_parse(
    parsed: list[inspect.BoundArguments], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["maps", "runs/mine", "--scale", "2"], ["map", "runs/mine"], ["weights", "get", "conformer-small"]):
        monkeypatch.setattr(sys, "argv", ["bao", *words])
        with pytest.raises(SystemExit):
            cli.main()
    assert not parsed


# ------------------------------------------------------------------------------------------------ links


@each_page
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


# ---------------------------------------------------------------------------------------------- layout


def listed(layout: str) -> dict[Path, set[str]]:
    """For each folder of the layout in docs/architecture.md the files that the lines below it name."""
    found: dict[Path, set[str]] = {}
    folders: list[tuple[int, Path]] = [(-1, ROOT)]
    for line in layout.splitlines():
        depth = len(line) - len(line.lstrip())
        names = re.match(r"(?:[\w.]+(?:\.py|/) ?)*", line.strip())
        assert names
        while folders[-1][0] >= depth and names[0]:
            folders.pop()
        for name in names[0].split():
            if name.endswith("/"):
                folders.append((depth, folders[-1][1] / name))
                found[folders[-1][1]] = set()
            else:
                found[folders[-1][1]].add(name)
    return found


def test_the_layout_names_each_module_and_no_other() -> None:
    """A folder of which no file is named is described as a whole; of the others every file is."""
    (layout,) = [text for text in blocks(ROOT / "docs" / "architecture.md", "") if text.startswith("baoseg/\n")]
    folders = listed(layout)
    assert {path.name for path in (ROOT / "baoseg").iterdir() if any(path.glob("*.py"))} <= {
        path.name for path in folders
    }
    for folder, names in folders.items():
        there = {path.name for path in folder.glob("*.py") if path.stat().st_size or path.name != "__init__.py"}
        assert folder.is_dir() and names <= there, folder
        if names and ROOT / "baoseg" in folder.parents:
            assert there - {"__init__.py"} <= names, folder
