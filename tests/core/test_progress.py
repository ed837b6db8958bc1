import io
import os
import re
import time

import pytest
from rich.console import Console
from rich.progress import Task, TaskID
from rich.table import Table

from baoseg.core import progress

SHOW_CURSOR = "\x1b[?25h"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, force_terminal=True, width=100, _environ={}))
    return text


def test_a_log_has_no_lines_about_what_takes_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(iter("abc"), title="letters", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def _slowly(monkeypatch: pytest.MonkeyPatch, *, ends: bool) -> None:
    """One of two items, which takes 0.5 s, in a log with a line after 0.02 s and then every 0.1 s."""
    monkeypatch.setattr(progress, "LOG_AFTER", 0.02)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.1)
    for _ in progress.track("a", title="letters", total=4, done=2, ends=ends):
        time.sleep(0.5)


def test_a_log_has_lines_though_one_item_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _slowly(monkeypatch, ends=True)
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and set(lines) == {"letters: 2/4"}
    assert re.fullmatch(r"letters: 3/4 in 0\.\d s, \d\.\d/s(, 0:00:0\d left)?", last)


def test_the_last_line_can_be_left_to_the_caller(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _slowly(monkeypatch, ends=False)
    assert set(capsys.readouterr().out.splitlines()) == {"letters: 2/4"}


def test_quiet_is_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.Quiet, "on", True)
    assert list(progress.track("abc", title="letters", total=3)) == ["a", "b", "c"]
    progress.say("a line")
    assert capsys.readouterr() == ("", "")


def test_a_bar_counts_on_from_what_was_done_before(terminal: io.StringIO) -> None:
    assert list(progress.track("abc", title="letters", total=5, done=2)) == ["a", "b", "c"]
    assert "letters" in terminal.getvalue()
    assert "5/5" in terminal.getvalue()


def test_a_bar_closes_when_the_work_fails(terminal: io.StringIO) -> None:
    with pytest.raises(KeyboardInterrupt):
        for _ in progress.track("abc", title="letters", total=3):
            raise KeyboardInterrupt
    assert SHOW_CURSOR in terminal.getvalue()
    assert list(progress.track("ab", title="another", total=2)) == ["a", "b"]  # there can be one bar at a time


def test_a_bar_closes_when_the_items_fail(terminal: io.StringIO) -> None:
    def items():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(progress.track(items(), title="numbers", total=2))
    assert SHOW_CURSOR in terminal.getvalue()


@pytest.mark.parametrize(("speed", "text"), [(None, ""), (12.34, "12.3/s"), (0.25, "4.0 s each")])
def test_rate_is_the_larger_of_both_ways_to_say_it(speed: float | None, text: str) -> None:
    task = Task(TaskID(0), "numbers", 10, 5, time.monotonic, finished_speed=speed)
    assert progress.RateColumn().render(task).plain == text


def test_words_and_tables_are_whole_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    line = "a path of [many] words: " + "long/" * 60
    progress.say(line)
    table = Table(*(f"a wide heading {number}" for number in range(6)))
    progress.say(table)
    out = capsys.readouterr().out
    assert out.startswith(line + "\n")
    assert all(f"a wide heading {number}" in out for number in range(6))


def test_nobody_reads_on_and_the_work_does(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(progress, "console", progress._Console(file=stream))
        for _ in progress.track(range(3), title="images", total=3):
            progress.say("a line")
        stream.write("more")  # and what others write goes nowhere as well
