"""Progress bars with rate and time left on a terminal; silence elsewhere."""

from collections.abc import Iterable, Iterator
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

from baoseg import ranks

T = TypeVar("T")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, where one of Rich's would end with exit code 1."""
        raise  # noqa: PLE0704 - Rich calls this while it handles the error


console = _Console()
if not console.is_terminal:
    console.width = 132  # a log has no width of its own: room for a table as it wants to be


class RateColumn(ProgressColumn):
    """Items a second, or seconds an item where that is the larger number."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def track(items: Iterable[T], *, title: str, total: int, done: int = 0) -> Iterator[T]:
    """Hand the items through and show a bar meanwhile; `done` of `total` were finished before."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (console.is_terminal and ranks.first())) as bars:
        task = bars.add_task(title, total=total, completed=done)
        for item in items:
            yield item
            bars.advance(task)


def say(message: object) -> None:
    """Print a line or a table for the person at the terminal (or for the log)."""
    if ranks.first():
        console.print(message, highlight=False, markup=False, soft_wrap=isinstance(message, str))
