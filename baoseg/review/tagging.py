"""Image-level labels for a folder: thumbnails, tags, suggestions, and a run that starts from them."""

import csv
import io
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import atomic
from baoseg.core.text import tidy
from baoseg.core.types import IGNORE
from baoseg.data.images import read_image
from baoseg.data.table import read as read_table
from baoseg.data.table_checks import refuse
from baoseg.data.walk import Walk

LABELS, CLASSES = "labels.csv", "classes.txt"
SIDE = 256  # pixels of a thumbnail
SUGGESTED = 5
RUN, LOG = "run", "run.log"
MOST_LINES = 12  # of the log that the page shows


class Tagging:
    """A folder of images whose labels are given in the page; labels.csv and classes.txt are written as one goes."""

    def __init__(self, root: Path, *, classes: Sequence[str] = (), suggest: bool = False) -> None:
        self.root, self.folder = root, root / "review"
        failed: list[str] = []
        walk = Walk(root, failed=lambda path, error: failed.append(f"{path}: {error}"), ignored=lambda path, kind: None)
        self.names = sorted(name for name in walk.names() if not name.startswith("review/"))
        if failed or not self.names:
            raise DataError(failed[0] if failed else f"{root}: has no images; name a folder of photographs or a run")
        self.classes, self.tags = self._read()
        self._add(classes)
        self.suggest = suggest
        self._labeler: Any = None
        self._lock = threading.Lock()

    def _read(self) -> tuple[list[str], dict[str, list[str]]]:
        if not (self.root / LABELS).is_file():
            return [], {}
        table = read_table(self.root)
        refuse(table.problems)
        return list(table.classes), {line.path: list(line.labels) for line in table.lines}

    def about(self) -> dict[str, object]:
        return {
            "folder": str(self.root),
            "classes": self.classes,
            "images": len(self.names),
            "tagged": len(self.tags),
            "suggest": self.suggest,
            "running": self._started() and self._log()[-1:] != [DONE],
            "log": self._log(),
            "run": str(self.folder / RUN),
        }

    def items(self, start: int, count: int) -> list[dict[str, object]]:
        return [
            {"index": index, "name": name, "tags": self.tags.get(name)}
            for index, name in enumerate(self.names[start : start + count], start=start)
        ]

    def thumbnail(self, index: int) -> bytes:
        """JPEG of at most SIDE pixels. Raises DataError for an image that cannot be read."""
        image = read_image(self.root / self._name(index)).permute(1, 2, 0).numpy()
        scale = SIDE / max(image.shape[:2])
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        small = cv2.resize(np.ascontiguousarray(image[..., ::-1]), size, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".jpg", small)[1])

    def suggestions(self, index: int) -> list[str]:
        """The likeliest of ImageNet's classes, by the classifier that comes with the installation."""
        if not self.suggest:
            return []
        with self._lock:
            if self._labeler is None:
                from baoseg.predict import imagenet  # noqa: PLC0415  (loads a network)

                self._labeler = imagenet.load(device="cpu")
            found = self._labeler.likeliest(self.root / self._name(index), count=SUGGESTED)
        return [group.name for group, _ in found]

    def tag(self, content: dict[str, Any]) -> None:
        """`{"classes": [...], "tags": {NAME: [class, ...] or null}}`: new classes, and labels of images; null untags.

        Raises RecipeError for anything else, and RunError for a full disk.
        """
        with self._lock:
            tags = content.get("tags", {})
            if not isinstance(tags, dict) or not isinstance(content.get("classes", []), list):
                raise RecipeError('tags: give {"classes": [...], "tags": {...}}')
            self._add(content.get("classes", []))
            for name, labels in tags.items():
                if name not in self.names:
                    raise RecipeError(f"{name}: no image of this folder")
                if unknown := [label for label in labels or [] if label not in self.classes]:
                    raise RecipeError(f"{unknown[0]!r}: no class; the classes are {', '.join(self.classes)}")
            for name, labels in tags.items():
                if labels is None:
                    self.tags.pop(name, None)
                else:
                    self.tags[name] = [label for label in self.classes if label in labels]
            self._write()

    def _add(self, classes: Sequence[Any]) -> None:
        for given in classes:
            name = tidy(str(given))
            if not name or ";" in name:
                raise RecipeError(f"{given!r}: no name of a class; use letters, without semicolons")
            if name not in self.classes:
                self.classes.append(name)
        if len(self.classes) >= IGNORE:
            raise RecipeError(f"{len(self.classes)} classes; at most {IGNORE - 1} fit into a mask")

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "labels"])
        writer.writerows([name, "; ".join(self.tags[name])] for name in self.names if name in self.tags)
        for path, content in ((CLASSES, "".join(f"{name}\n" for name in self.classes)), (LABELS, text.getvalue())):
            with atomic(self.root / path) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def start(self) -> None:
        """Start `bao run photos` on the folder, as a process that the end of this one does not end."""
        with self._lock:
            if not any(self.tags.values()):
                raise RecipeError("tag some images first: nothing to learn from")
            self.folder.mkdir(exist_ok=True)
            command = [sys.executable, "-c", WORKER, json.dumps([str(self.root), str(self.folder / RUN)])]
            with (self.folder / LOG).open("w", encoding="utf-8") as log:
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def _started(self) -> bool:
        return (self.folder / LOG).exists()

    def _log(self) -> list[str]:
        if not self._started():
            return []
        return (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-MOST_LINES:]

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self.names):
            raise DataError(f"image {index}: there are {len(self.names)}")
        return self.names[index]


DONE = "(ended)"
WORKER = f"""
import json, sys
from baoseg import cli
data, out = json.loads(sys.argv[1])
sys.argv = ["bao", "run", "photos", "--data", data, "--out", out]
try:
    cli.main()
finally:
    print({DONE!r}, flush=True)
"""
