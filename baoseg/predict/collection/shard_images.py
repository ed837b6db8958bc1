"""The images of a WebDataset shard, each with its label files."""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from baoseg.core.errors import DataError
from baoseg.data import shards
from baoseg.data.images import image_suffixes, unread_suffixes
from baoseg.data.shards import Member
from baoseg.data.walk import clash
from baoseg.predict.collection.label_files import LABELS, Beside, link_problem


class ImageOfShard(NamedTuple):
    stem: str  # of the names of the mask and of the labels
    content: bytes
    beside: Beside


class ImagesOfShard:
    """Yields the images of a shard one by one; calls `fail` for each image that cannot be labelled.

    As in WebDataset, all members of one key are a sample, and the image of the sample is KEY.jpg. Other images of the
    sample, such as KEY.seg.png, are ignored and counted in `ignored` by suffix. If there is no KEY.jpg, each of the
    other images is labelled: KEY.input.jpg, or all of KEY.0001.jpg, KEY.0002.jpg.
    """

    def __init__(self, *, read_labels: bool, ignored: Counter[str], fail: Callable[[str, DataError], None]) -> None:
        self.count = 0
        self._read_labels = read_labels
        self._ignored = ignored
        self._fail = fail
        self._images = image_suffixes()
        self._unread = unread_suffixes()
        self._stems: set[bytes] = set()  # hashes

    def read(self, path: Path) -> Iterator[ImageOfShard]:
        for key, members in shards.groups(path, self._images | self._unread | LABELS.keys()):
            images = self._choose(members)
            labels = [member for member in members if member.suffix in LABELS]
            if len(labels) == len(members):
                self._without_image(key, labels)
            by_stem: dict[str, list[Member]] = {}
            for image in images:
                by_stem.setdefault(image.stem, []).append(image)
            self._count_alone(by_stem.keys(), labels)
            for stem, of_stem in by_stem.items():
                yield from self._only(stem, of_stem, labels)

    def _choose(self, members: list[Member]) -> list[Member]:
        """The members of a key that are images to label. Other images are ignored and counted."""
        images = [member for member in members if member.suffix in self._images]
        chosen = [member for member in images if member.whole_suffix == member.suffix] or images
        self._ignored.update(member.whole_suffix for member in images if member not in chosen)
        self._ignored.update(member.suffix for member in members if member.suffix in self._unread)
        self.count += len(chosen)
        return chosen

    def _without_image(self, key: str, labels: list[Member]) -> None:
        if self._read_labels and any(member.whole_suffix in LABELS for member in labels):
            problem = "no image has the name of these labels; in a shard, put the labels next to their image"
            self._fail(key, DataError(problem))

    def _count_alone(self, stems: Set[str], labels: list[Member]) -> None:
        """Count label files whose stem no image of the key has, unless all images have labels: KEY.jpg.json."""
        if self._read_labels and not any(label.whole_suffix == label.suffix for label in labels):
            named = {label.stem for label in labels}
            if not stems or not stems <= named:
                self._ignored.update(label.whole_suffix for label in labels if label.stem not in stems)

    def _only(self, stem: str, images: list[Member], labels: list[Member]) -> Iterator[ImageOfShard]:
        """Yields the image of a stem if it is the only one and can be read; calls `fail` otherwise."""
        stem_hash = hashlib.blake2b(posixpath.normpath(stem).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        second = stem_hash in self._stems
        self._stems.add(stem_hash)
        for image in images:
            if len(images) > 1:
                self._fail(image.name, clash([posixpath.basename(member.name) for member in images]))
            elif second:
                self._fail(
                    image.name, DataError("the shard has a second image of this name; give each image its own name")
                )
            elif image.content is None:
                self._fail(image.name, DataError(link_problem("image")))
            else:
                own = [(member.suffix, member.content) for member in labels if member.stem == stem]
                of_key = [(member.suffix, member.content) for member in labels if member.whole_suffix == member.suffix]
                yield ImageOfShard(stem, image.content, own or of_key)
