"""Hooks of the documentation site (mkdocs.yml): the help of every command, and links to files of the repository."""

import contextlib
import io
import os
import re
import sys
from typing import Any

COMMANDS = "<!-- commands -->"
WIDTH = 84
OUTSIDE = re.compile(r"\]\((?:\.\./)+([^)#\s]+)(#[^)]*)?\)")  # links from docs/ to other files of the repository


def on_page_markdown(markdown: str, **_: Any) -> str:
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, _commands())
    return OUTSIDE.sub(lambda link: f"] (`{link[1]}` of the repository)", markdown)


def _commands() -> str:
    from baoseg import cli  # noqa: PLC0415  (the site of another checkout needs another one)

    parts = [_section("bao", [])]
    parts += [_section(f"bao {name}", [name]) for name in cli.VERBS]
    for group, (_, verbs) in cli.GROUPS.items():
        parts += [_section(f"bao {group} {name}", [group, name]) for name in verbs]
    return "\n".join(parts)


def _section(title: str, words: list[str]) -> str:
    return f"## {title}\n\n```text\n{_help(words)}\n```\n"


def _help(words: list[str]) -> str:
    from baoseg import cli  # noqa: PLC0415

    text, arguments = io.StringIO(), sys.argv
    columns, sys.argv = os.environ.get("COLUMNS"), ["bao", *words, "--help"]
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            cli.main()
    finally:
        sys.argv = arguments
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).rstrip()
