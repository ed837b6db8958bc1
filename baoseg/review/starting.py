"""A run that is started from the page and outlives it: `bao run photos`, and its log."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from baoseg.core.errors import RecipeError, RunError
from baoseg.core.files import MANIFEST, make_folder, remedy

LOG = "run.log"
MOST_LINES = 12  # of the log that the page shows
DONE, FAILED = "(the run has ended)", "(the run has failed)"
WORKER = f"""
import json, sys
from baoseg import cli
data, out = json.loads(sys.argv[1])
sys.argv = ["bao", "run", "photos", "--data", data, "--out", out]
outcome = {FAILED!r}
try:
    cli.main()
    outcome = {DONE!r}
finally:
    print(outcome, flush=True)
"""


class Training:
    """The runs on the labels of a folder, one at a time. The log is locked as long as its run is at work.

    The lock ends with the process, however that ends, so a page that was opened later, or a server that was started
    again, knows whether there is one.
    """

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder, self.log = data, folder, folder / LOG
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def state(self) -> dict[str, object]:
        lines = self._lines()
        running = self.running()
        return {
            "running": running,
            "ended": not running and bool(lines) and lines[-1] == DONE,
            "log": lines[-MOST_LINES:],
            "run": str(self._run()),
        }

    def running(self) -> bool:
        with self._lock:
            if self._child is not None and self._child.poll() is None:
                return True
            try:
                with self.log.open("rb") as log:
                    return not _locked(log)
            except OSError:
                return False

    def start(self) -> None:
        """Start a run: the last one goes on, unless labels were given since. Raises RecipeError if one is at work."""
        if self.running():
            raise RecipeError("a run is at work; wait until it has ended")
        make_folder(self.folder)
        command = [sys.executable, "-c", WORKER, json.dumps([str(self.data), str(self._run(next_=True))])]
        try:
            with self._lock, self.log.open("wb") as log:
                _locked(log)
                self._child = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                )
        except OSError as error:
            raise RunError(f"{self.log}: cannot be written: {remedy(error)}") from error

    def _run(self, *, next_: bool = False) -> Path:
        """The last run folder; with `next_`, another one if labels were given since it was begun."""
        last = max((int(path.name[4:] or 1) for path in self.folder.glob("run*") if _is_run(path)), default=0)
        if next_ and last:
            begun = (self._named(last) / MANIFEST).stat().st_mtime_ns
            last += any((self.data / name).stat().st_mtime_ns > begun for name in ("labels.csv", "classes.txt"))
        return self._named(max(last, 1))

    def _named(self, number: int) -> Path:
        return self.folder / ("run" if number == 1 else f"run-{number}")

    def _lines(self) -> list[str]:
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 2**16))
                text = log.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        return [line.rpartition("\r")[2] for line in text.split("\n") if line.strip()]


def _is_run(path: Path) -> bool:
    return (path.name == "run" or path.name[4:].isdecimal()) and (path / MANIFEST).is_file()


def _locked(log: IO[bytes]) -> bool:
    """Lock a file for this process and those that inherit it. False if another process holds the lock."""
    if sys.platform == "win32":
        return True
    import fcntl  # noqa: PLC0415  (not on Windows)

    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
