"""Progress: bars with rate and time left on a terminal, plain lines elsewhere, nothing where that is asked for."""

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
LOG_AFTER = 2.0  # seconds of work without a line in a log
LOG_SECONDS = 30.0  # between two lines about one task


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `say`; Rich's own would end with exit code 1."""
        raise  # noqa: PLE0704 - Rich calls this while it handles the error


console = _Console()
if not console.is_terminal:
    console.width = 132  # a log has no width of its own: room for a table as it wants to be


class RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate_text(speed) if speed else "")


class Quiet:
    """Whether nothing is printed but errors (`bao --quiet`)."""

    on = False


def track(items: Iterable[T], *, title: str, total: int, done: int = 0, ends: bool = True) -> Iterator[T]:
    """Hand the items through and show a bar meanwhile; `done` of `total` were finished before.

    Where there is no terminal, lines say what is done so far: after LOG_AFTER seconds, then every LOG_SECONDS, and at
    the end of what took so long, unless the caller has something better to say there (`ends=False`).
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
        for item in items:  # the first one starts the processes that load images, which must not fork with a thread
            log.start()
            yield item
            log.done += 1
        if ends and log.spoke:
            log.say()
    finally:
        log.stop()


class _Log:
    """Lines about the progress of one task; they come from a thread, as one item may take minutes."""

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
        """Seconds so far, the rate, and the time left while there is some."""
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
    """Items a second, or seconds an item where that is the larger number."""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def say(message: object) -> None:
    """Print a line or a table for the person at the terminal (or for the log).

    Where nobody reads on (`bao run ... | head -1`), the work of hours goes on in silence.
    """
    if ranks.first() and not Quiet.on:
        try:
            console.print(message, highlight=False, markup=False, soft_wrap=isinstance(message, str))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), console.file.fileno())
