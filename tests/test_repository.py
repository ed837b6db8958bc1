"""The files around the package agree with one another: pyproject.toml, CI, templates, versions."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = "--constraint constraints.txt"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workflow() -> Any:
    return read(GITHUB / "workflows" / "ci.yml")


def lower_bound(package: str) -> str:
    """The version in `package>=version` of pyproject.toml."""
    (found,) = [
        line.removeprefix(f"{package}>=") for line in PROJECT["dependencies"] if line.startswith(f"{package}>=")
    ]
    return found


# --------------------------------------------------------------------------------------------------- CI


def test_ci_checks_and_then_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make check", "make test"]


def test_linux_has_the_oldest_and_newest_python(workflow: Any) -> None:
    prefix = "Programming Language :: Python :: 3."
    minors = sorted(int(line.removeprefix(prefix)) for line in PROJECT["classifiers"] if line.startswith(prefix))
    assert PROJECT["requires-python"] == f">=3.{minors[0]}"
    assert minors == [*range(minors[0], minors[-1] + 1)]
    jobs = workflow["jobs"]["linux"]["strategy"]["matrix"]["include"]
    assert {job["python"] for job in jobs if job["install"] == PINNED} == {f"3.{minors[0]}", f"3.{minors[-1]}"}


def test_linux_has_the_oldest_torch_beside_the_pinned_version(workflow: Any) -> None:
    jobs = workflow["jobs"]["linux"]["strategy"]["matrix"]["include"]
    (oldest,) = [job["install"] for job in jobs if job["install"] != PINNED]
    assert oldest == f"torch=={lower_bound('torch')}.* torchvision=={lower_bound('torchvision')}.*"


def test_actions_are_pinned_and_may_only_read(workflow: Any) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60 and "permissions" not in job
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert used and all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)


def test_jobs_that_were_never_run_say_so_and_fail_nothing(workflow: Any) -> None:
    for name, job in workflow["jobs"].items():
        unknown = name in {"macos", "windows"}
        assert job.get("continue-on-error", False) == unknown
        assert ("never run" in job["name"]) == unknown


# --------------------------------------------------------------------------------------------- versions


def test_the_version_and_its_date_are_the_same_everywhere() -> None:
    citation = read(ROOT / "CITATION.cff")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert sections[:2] == ["[Unreleased]", f"[{PROJECT['version']}] - {citation['date-released']}"]
    assert citation["version"] == PROJECT["version"]
    dates = [re.fullmatch(r"\[[\d.]+\] - (\d{4}-\d\d-\d\d)", section) for section in sections[1:]]
    days = [date[1] for date in dates if date]
    assert len(days) == len(dates) and days == sorted(days, reverse=True)


# -------------------------------------------------------------------------------- templates and security


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_forms_for_issues_have_what_github_asks_of_them(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part.get("validations", {}).get("required") for part in fields)


SOURCES = sorted((ROOT / "baoseg").rglob("*.py"))
# Calls that run what a file or a string holds, or unpack without a look at the paths.
FORBIDDEN = {
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
    ),
    *("yaml.load", "marshal.loads", "shelve.open", "joblib.load", "shutil.unpack_archive"),
}
# What makes a call harmless.
REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def unsafe(code: str) -> list[str]:
    """The calls in a text of Python that could run what a file holds."""
    found = []
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {option.arg: getattr(option.value, "value", None) for option in call.keywords}
        wanted = REQUIRED.get(name)
        if (
            name in FORBIDDEN
            or name.endswith((".extractall", ".unsafe_load"))
            or (name.startswith("subprocess.") and given.get("shell"))
            or (wanted and given.get(wanted[0]) is not wanted[1])
        ):
            found.append(ast.unparse(call))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_read_in_a_way_that_could_run_it(path: Path) -> None:
    assert not unsafe(path.read_text(encoding="utf-8"))


def test_unsafe_calls_are_found() -> None:
    bad = ["torch.load(a)", "torch.load(a, weights_only=False)", "np.load(b, allow_pickle=c)", "d.extractall()"]
    assert unsafe("\n".join(bad)) == bad
    assert not unsafe("torch.load(a, weights_only=True); np.load(b, allow_pickle=False); model.eval(); re.compile(c)")


def test_security_names_files_that_exist() -> None:
    named = re.findall(r"`((?:baoseg|tests)/[^`]+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) == 6 and all((ROOT / name).is_file() for name in named)
