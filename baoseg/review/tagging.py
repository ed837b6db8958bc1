"""Image-level labels for a folder: thumbnails, tags, suggestions, and a run that starts from them."""

import csv
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baoseg.core.errors import BaosegError, DataError, RecipeError
from baoseg.core.files import atomic
from baoseg.core.text import folded, tidy, tidy_path
from baoseg.core.types import IGNORE
from baoseg.data.images import read_image
from baoseg.data.table import read as read_table
from baoseg.data.table_checks import refuse
from baoseg.data.walk import Walk
from baoseg.review import tiles
from baoseg.review.starting import Training

LABELS, CLASSES = "labels.csv", "classes.txt"
OURS = "review/"  # the folder of the log and the runs that are started from the page
NO_IMAGES = (OURS, "SegmentationClass/", "masks/")  # folders whose images are not for labels
SIDE = 256  # pixels of a thumbnail
SUGGESTED = 5


class Tagging:
    """A folder of images whose labels are given in the page; labels.csv and classes.txt are written as one goes.

    Lines of labels.csv about images that are not there are kept.
    """

    def __init__(self, root: Path, *, classes: Sequence[str] = (), suggest: bool = False) -> None:
        self.root, self.folder = root, root / OURS
        failed: list[str] = []
        walk = Walk(root, failed=lambda path, error: failed.append(f"{path}: {error}"), ignored=lambda path, kind: None)
        self.names = sorted(name for name in walk.names() if not name.startswith(NO_IMAGES))
        failed = [line for line in failed if not line.startswith(NO_IMAGES)]
        if failed or not self.names:
            raise DataError(failed[0] if failed else f"{root}: has no images; name a folder of photographs or a run")
        self._known = frozenset(self.names)
        self.classes, self.tags = self._read()
        self._add(classes)
        self.suggest = suggest
        self.training = Training(root, self.folder)
        self._labeler: Any = None
        self._looking = threading.Lock()
        self._writing = threading.Lock()

    def _read(self) -> tuple[list[str], dict[str, list[str]]]:
        if not (self.root / LABELS).is_file():
            return [], {}
        table = read_table(self.root)
        refuse(table.problems)
        tidied = {tidy_path(name): name for name in self.names}
        paths = [line.path if line.path in self._known else tidied.get(line.image, line.path) for line in table.lines]
        return list(table.classes), {path: list(line.labels) for path, line in zip(paths, table.lines, strict=True)}

    def about(self) -> dict[str, object]:
        return {
            "folder": str(self.root),
            "classes": self.classes,
            "images": len(self.names),
            "tagged": sum(name in self._known for name in self.tags),
            "suggest": self.suggest,
            **self.training.state(),
        }

    def items(self, start: int, count: int) -> list[dict[str, object]]:
        return [
            {"index": index, "name": name, "tags": self.tags.get(name)}
            for index, name in enumerate(self.names[start : start + count], start=start)
        ]

    def thumbnail(self, index: int) -> bytes:
        """JPEG of at most SIDE pixels. Raises DataError for an image that cannot be read."""
        image = read_image(self.root / self._name(index)).permute(1, 2, 0).numpy()
        return tiles.as_jpeg(tiles.small(image, SIDE))

    def suggestions(self, index: int) -> list[str]:
        """The likeliest of ImageNet's classes, by the classifier that comes with the installation."""
        if not self.suggest:
            return []
        with self._looking:
            if self._labeler is None:
                from baoseg.predict import imagenet  # noqa: PLC0415  (loads a network)

                self._labeler = imagenet.load(device="cpu")
            found = self._labeler.likeliest(self.root / self._name(index), count=SUGGESTED)
        return [group.name for group, _ in found]

    def tag(self, content: dict[str, Any]) -> None:
        """`{"classes": [...], "tags": {NAME: [class, ...] or null}}`: new classes, and labels of images; null untags.

        Raises RecipeError for anything else, and RunError for a full disk.
        """
        tags, classes = content.get("tags", {}), content.get("classes", [])
        if not isinstance(tags, dict) or not isinstance(classes, list):
            raise RecipeError('tags: give {"classes": [...], "tags": {...}}')
        with self._writing:
            before = list(self.classes), dict(self.tags)
            try:
                self._add(classes)
                for name, labels in tags.items():
                    self._give(name, labels)
                self._write()
            except BaosegError:
                self.classes, self.tags = before
                raise

    def _give(self, name: str, labels: Any) -> None:
        if name not in self._known:
            raise RecipeError(f"{name}: no image of this folder")
        if labels is None:
            self.tags.pop(name, None)
            return
        if not isinstance(labels, list) or (unknown := [label for label in labels if label not in self.classes]):
            shown = unknown[0] if isinstance(labels, list) else labels
            raise RecipeError(f"{shown!r}: no class; the classes are {', '.join(self.classes) or 'none yet'}")
        self.tags[name] = [label for label in self.classes if label in labels]

    def _add(self, classes: Sequence[Any]) -> None:
        for given in classes:
            name = tidy(str(given))
            if not name or not name.isprintable() or set(name) & set(';"'):
                raise RecipeError(f"{given!r}: no name of a class; use letters, without semicolons and quotes")
            alike = [known for known in self.classes if folded(known) == folded(name)]
            if alike and name not in alike:
                raise RecipeError(f"{given!r}: there is the class {alike[0]}; choose a name that differs from it")
            if not alike:
                self.classes.append(name)
        if len(self.classes) >= IGNORE:
            raise RecipeError(f"{len(self.classes)} classes; at most {IGNORE - 1} fit into a mask")

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "labels"])
        order = [*(name for name in self.names if name in self.tags), *(self.tags.keys() - self._known)]
        writer.writerows([name, "; ".join(self.tags[name])] for name in order)
        for path, content in ((CLASSES, "".join(f"{name}\n" for name in self.classes)), (LABELS, text.getvalue())):
            with atomic(self.root / path) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def start(self) -> None:
        """Start a run on the labels. Raises RecipeError if there are none, or if a run is at work."""
        with self._writing:
            if not any(self.tags.values()):
                raise RecipeError("give labels to some images first: there is nothing to learn from")
            self.training.start()

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self.names):
            raise DataError(f"image {index}: there are {len(self.names)}")
        return self.names[index]
