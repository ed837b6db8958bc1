"""Masks that a person has looked at: accepted, corrected or rejected (`bao review`).

    FOLDER/masks/NAME.png    the accepted or corrected mask, class indices
    FOLDER/log.csv           a line for each decision, never changed; the last line of an image counts

The files are the only state: a mask is written before its line, so after a crash there is at most a mask without a
line, which does not count, or an unfinished last line, which is dropped.
"""

import csv
import datetime
import io
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from baoseg.core.errors import DataError, RunError
from baoseg.core.files import make_folder, remedy
from baoseg.data.images import write_mask

FOLDER = "reviewed"  # in a run folder
FIELDS = ("time", "name", "decision", "chosen", "pixels", "version")


class Decision(StrEnum):
    ACCEPTED = "accepted"  # the mask as it was made
    CORRECTED = "corrected"
    REJECTED = "rejected"  # of no use; nothing learns from this image


class Chosen(StrEnum):
    """How the image came before the person's eyes: only a random sample says something about all images."""

    DOUBT = "doubt"
    RANDOM = "random"


@dataclass(frozen=True)
class Entry:
    decision: Decision
    chosen: Chosen
    pixels: int  # that differ from the mask as it was made
    version: int  # how often this image was decided on


class Stale(RunError):
    """The image was decided on by somebody else meanwhile, e.g. in another tab."""


class Reviewed:
    """The reviewed masks of a folder. Raises DataError for a log that is not one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log.csv"
        self.entries = _read(self.log)
        self._lock = threading.Lock()

    def mask(self, name: str) -> Path:
        return self.root / "masks" / f"{name}.png"

    def version(self, name: str) -> int:
        """0 for an image that nobody has decided on."""
        return self.entries[name].version if name in self.entries else 0

    def usable(self, names: Iterable[str]) -> list[str]:
        """Those of the images whose mask was accepted or corrected."""
        return [name for name in names if name in self.entries and self.entries[name].decision != Decision.REJECTED]

    def rejected(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self.entries and self.entries[name].decision == Decision.REJECTED]

    def decide(
        self,
        name: str,
        decision: Decision,
        mask: UInt8[Tensor, "h w"],
        *,
        chosen: Chosen,
        pixels: int,
        version: int,
    ) -> Entry:
        """Write the mask, then the line. Raises Stale unless `version` is the image's, and RunError for a full disk."""
        with self._lock:
            if version != self.version(name):
                raise Stale(f"{name}: was decided on in another window meanwhile; load it again")
            entry = Entry(decision, chosen, pixels, version + 1)
            if decision is not Decision.REJECTED:
                write_mask(self.mask(name), mask)
            self._append(name, entry)
            self.entries[name] = entry
            return entry

    def _append(self, name: str, entry: Entry) -> None:
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        if not self.log.exists():
            writer.writerow(FIELDS)
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        writer.writerow([time, name, entry.decision, entry.chosen, entry.pixels, entry.version])
        make_folder(self.root)
        try:
            _drop_unfinished(self.log)
            with self.log.open("a", encoding="utf-8", newline="") as file:
                file.write(line.getvalue())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.log}: cannot be written: {remedy(error)}") from error


def _read(path: Path) -> dict[str, Entry]:
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it") from None
    entries = {}
    rows = csv.DictReader(content[: content.rfind("\n") + 1].splitlines())
    for row in rows:
        try:
            entries[row["name"]] = Entry(
                Decision(row["decision"]), Chosen(row["chosen"]), int(row["pixels"]), int(row["version"])
            )
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}, line {rows.line_num}: no line of a review ({error}); remove it") from None
    return entries


def _drop_unfinished(path: Path) -> None:
    """Cut off a last line that a crash has left without its end."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
