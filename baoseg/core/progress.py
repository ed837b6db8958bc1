"""Progress: bars with rate and remaining time on a terminal, plain lines in a log, nothing with --quiet."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from baoseg.core import ranks

T = TypeVar("T")
LOG_AFTER = 2.0  # seconds of work before the first line in a log
LOG_SECONDS = 30.0  # between two lines about one task


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error again, so that `say` handles it; Rich itself would end with exit code 1."""
        raise  # noqa: PLE0704 - Rich calls this while it handles the error


console = _Console()
if not console.is_terminal:
    console.width = 132  # a log has no width of its own; this is enough for the tables


class RateColumn(ProgressColumn):
    """Items per second, or seconds per item."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate_text(speed) if speed else "")


class Quiet:
    """Whether only errors are printed (`bao --quiet`)."""

    on = False


def track(items: Iterable[T], *, title: str, total: int, done: int = 0, ends: bool = True) -> Iterator[T]:
    """Yield the items and show their progress; `done` of `total` items were finished before.

    On a terminal, the progress is a bar. Elsewhere it is lines: the first after LOG_AFTER seconds, then one every
    LOG_SECONDS. If there was a line, a last line follows at the end, but for `ends=False`.
    """
    if Quiet.on or not ranks.first():
        return iter(items)
    if console.is_terminal:
        return _bar(items, title, total, done)
    return _lines(items, _Log(title, total, done), ends)


def _bar(items: Iterable[T], title: str, total: int, done: int) -> Iterator[T]:
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=total, completed=done)
        for item in items:
            yield item
            bars.advance(task)


def _lines(items: Iterable[T], log: "_Log", ends: bool) -> Iterator[T]:
    try:
        for item in items:
            # after the first item: it starts the worker processes, which must not fork once the log has a thread
            log.start()
            yield item
            log.done += 1
        if ends and log.spoke:
            log.say()
    finally:
        log.stop()


class _Log:
    """Lines about the progress of one task. A thread prints them, because one item may take minutes."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done, self.before = title, total, done, done
        self.begun = time.monotonic()
        self.thread: threading.Thread | None = None
        self.ended = threading.Event()
        self.spoke = False

    def start(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._repeat, daemon=True)
            self.thread.start()

    def stop(self) -> None:
        self.ended.set()
        if self.thread is not None:
            self.thread.join()

    def say(self) -> None:
        self.spoke = True
        say(f"{self.title}: {self.done}/{self.total}{self._times()}")

    def _times(self) -> str:
        """The elapsed seconds, the rate and the remaining time as text."""
        seconds, count = time.monotonic() - self.begun, self.done - self.before
        if not count:
            return f" after {seconds:.0f} s" if seconds >= 1 else ""
        rate = rate_text(count / max(seconds, 1e-3))
        left = timedelta(seconds=round(seconds / count * (self.total - self.done)))
        return f" in {seconds:.1f} s, {rate}" + (f", {left} left" if left else "")

    def _repeat(self) -> None:
        pause = LOG_AFTER
        while not self.ended.wait(pause):
            self.say()
            pause = LOG_SECONDS


def rate_text(speed: float) -> str:
    """Items per second, or seconds per item if the rate is below 1 per second."""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def say(message: object) -> None:
    """Print a line or a table to the terminal or to the log, from the process of rank 0 only.

    If the reader of a pipe has gone (`bao run ... | head -1`), the work goes on without output.
    """
    if ranks.first() and not Quiet.on:
        try:
            console.print(message, highlight=False, markup=False, soft_wrap=isinstance(message, str))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), console.file.fileno())
