"""Where the files and folders are today that a run folder names, which may have been moved with it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baoseg.core.run_folder import RunFolder


def absolute(path: str) -> str:
    """A path as it is to be kept: neither the home folder's short form nor the folder one is in matters later."""
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  (links stay: pathlib would resolve them)


@dataclass(frozen=True)
class Places:
    """Where the files and folders are that a manifest names."""

    then: str | None  # the run folder when the manifest was written; None where an earlier version wrote it
    now: str

    @classmethod
    def of(cls, folder: RunFolder, manifest: dict[str, Any]) -> "Places":
        return cls(manifest.get("folder"), absolute(str(folder.root)))

    def candidates(self, path: str) -> list[str]:
        """As noted, and as seen from the run folder. A relative path of an earlier version is taken from here."""
        if self.then in (None, self.now):
            return [absolute(path)]
        try:
            return [absolute(path), absolute(f"{self.now}/{os.path.relpath(path, self.then)}")]
        except ValueError:  # on another drive
            return [absolute(path)]

    def find(self, path: str) -> str:
        there = self.candidates(path)
        return next((place for place in there if Path(place).exists()), there[0])

    def same(self, path: str, given: str) -> bool:
        """Whether a path given today means what was noted: the same file, or one called alike of which one is gone."""
        there = self.candidates(path)
        if any(os.path.realpath(place) == os.path.realpath(given) for place in there):
            return True
        gone = not Path(given).exists() or not any(Path(place).exists() for place in there)
        return gone and Path(path).name == Path(given).name
