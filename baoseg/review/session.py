"""What the page shows of a run: its images in an order, their masks and maps, by tiles; and what it gives back."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from baoseg import pipeline, seeds
from baoseg.core.errors import BaosegError, DataError
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import image_size, read_mask
from baoseg.data.reviewed import FOLDER, Chosen, Decision, Entry, Reviewed
from baoseg.exchange import sources
from baoseg.pipeline.common import margins_of
from baoseg.refine import vote
from baoseg.review import tiles

SEED = 0  # of the random order, so that the next session goes on with the same sample
SEEN = 1024  # pixels of the long side at which regions are found: seconds instead of half a minute
SCALE = 100  # of the regions, see `vote.Config`
LARGE = 2**24  # pixels of an image above which doubt is where stages disagree, alone: margins would take gigabytes
BAND = 7  # pixels on both sides of a mask's border, where doubt is measured
BACKGROUND = "background"


class Session:
    """The images of one split of a run. All methods may be called from several threads."""

    def __init__(
        self, run: RunFolder, *, split: str | None = None, stage: str | None = None, chosen: Chosen = Chosen.DOUBT
    ) -> None:
        self.run, self.chosen = run, chosen
        self.results = sources.of_run(run, stage=stage, split=split)
        self.stage = self.results.stage
        self.recipe = pipeline.recipe_of(run)
        self.dataset = pipeline.open_split(self.recipe, self.results.split)
        self.classes, self.names = self.results.classes, self.results.names
        self.reviewed = Reviewed(run.root / FOLDER)
        self._margins = margins_of(run, self.recipe, self.stage, self.results.split)
        self._order: list[int] = list(range(len(self.names)))
        if chosen is Chosen.RANDOM:
            self._order = np.random.default_rng(SEED).permutation(len(self.names)).tolist()
        self._doubts: dict[int, float] = {}
        self._writing = threading.Lock()
        self._at_hand = tiles.AtHand()
        self.folder = run.root / FOLDER

    # ------------------------------------------------------------------------------------ the list

    def items(self, start: int, count: int) -> list[dict[str, object]]:
        """Some images in the order of the session, which stays as it is until `sort`."""
        return [self._item(index) for index in self._order[start : start + count]]

    def order(self) -> list[int]:
        """Indices of the images: a random order, or the doubtful first as they were known at the last `sort`."""
        return list(self._order)

    def sort(self) -> None:
        """Put the doubtful images first, and those whose doubt is not known yet last. A random order stays."""
        if self.chosen is Chosen.DOUBT:
            self._order = sorted(range(len(self.names)), key=lambda index: -self._doubts.get(index, -1.0))

    def first(self) -> int:
        """The place of the first image that nobody has decided on; 0 if there is none."""
        places = (place for place, index in enumerate(self._order) if self._entry(self.names[index]) is None)
        return next(places, 0)

    def rate(self) -> Iterator[int]:
        """Measure the doubt of one image after the other; yields how many are done. Unreadable ones stay last."""
        for index in range(len(self.names)):
            with contextlib.suppress(BaosegError):
                self._doubts[index] = self._doubt(index)
            yield index + 1
        self.sort()

    @property
    def rated(self) -> int:
        return len(self._doubts)

    def _entry(self, name: str) -> Entry | None:
        """The decision on an image. A random sample needs one of its own, or else it would lack the doubtful images."""
        entry = self.reviewed.entries.get(name)
        return None if entry is not None and self.chosen is Chosen.RANDOM is not entry.chosen else entry

    def _doubt(self, index: int) -> float:
        """How doubtful a mask is, in [0, 2]: 1 - the mean margin along its borders, and where stages disagree.

        The second term is the share of pixels on which not all masks of the run agree, of the pixels that any of them
        takes for a class.
        """
        name = self.names[index]
        mask = read_mask(self._made(name)).numpy()
        differ, shown = np.zeros_like(mask, dtype=bool), np.zeros_like(mask, dtype=bool)
        for stage in self._masked():
            path = self.run.stage(stage).mask(self.results.split, name)
            if path.exists():
                other = read_mask(path).numpy()
                differ |= other != mask
                shown |= other > 0
        doubt = float(differ.sum() / max(shown.sum(), 1))
        if self._margins is not None and self._margins.file(name).exists() and mask.size <= LARGE:
            margin = self._margins(name).numpy()
            edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
            band = cv2.dilate(edge.astype(np.uint8), np.ones((2 * BAND + 1,) * 2, np.uint8)) > 0
            doubt += 1 - float((margin[band] if band.any() else margin).mean()) / 255
        return doubt

    def _masked(self) -> list[str]:
        """What is asked whether it agrees: the last stage with maps, and all that is made of masks."""
        return self.recipe.masked[max(0, len(self.recipe.names) - 1) :]

    def _item(self, index: int) -> dict[str, object]:
        name = self.names[index]
        entry = self._entry(name)
        doubt = self._doubts.get(index)
        return {
            "index": index,
            "name": name,
            "doubt": None if doubt is None else round(doubt, 3),
            "decision": None if entry is None else entry.decision,
            "version": self.reviewed.version(name),
        }

    def about(self) -> dict[str, object]:
        counts = {decision.value: 0 for decision in Decision}
        for name in self.names:
            if (entry := self._entry(name)) is not None:
                counts[entry.decision] += 1
        layers = [BACKGROUND, *self.classes.names]
        return {
            "run": str(self.run.root),
            "split": self.results.split,
            "classes": list(self.classes.names),
            "layers": layers,
            "chosen": self.chosen,
            "images": len(self.names),
            "rated": self.rated,
            "first": self.first(),
            "tile": tiles.TILE,
            "counts": counts,
        }

    # ------------------------------------------------------------------------------------ an image

    def index(self, number: int) -> int:
        """Raises DataError for an image that the session does not have."""
        if not 0 <= number < len(self.names):
            raise DataError(f"image {number}: there are {len(self.names)}")
        return number

    def image(self, index: int) -> dict[str, object]:
        """What the page must know of an image before it loads its parts."""
        size = self._size(index)
        labels = self.dataset.classes.decode(self.dataset.labels(index))
        return {**self._item(index), "size": list(size), "tiles": len(tiles.tiles(size)), "labels": list(labels)}

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The reviewed mask where there is one, else that of the stage. Not to be written to."""
        key = (index, self.reviewed.version(self.names[index]))
        return self._at_hand.get("mask", key, lambda: read_mask(self._mask_file(index)).numpy())

    def _mask_file(self, index: int) -> Path:
        name = self.names[index]
        return self.reviewed.mask(name) if self.reviewed.usable([name]) else self._made(name)

    def _made(self, name: str) -> Path:
        """The mask file of the stage."""
        return self.run.stage(self.stage).mask(self.results.split, name)

    def _size(self, index: int) -> tuple[int, int]:
        return image_size(self._mask_file(index))

    def picture(self, index: int, tile: int) -> bytes:
        """A tile of the image as JPEG."""
        return tiles.as_jpeg(self._tile(index, tile).of(self._pixels(index)))

    def overview(self, index: int) -> bytes:
        """The whole image, small, as JPEG."""
        return tiles.as_jpeg(tiles.small(self._pixels(index), tiles.OVERVIEW))

    def mask_tile(self, index: int, tile: int) -> bytes:
        return tiles.as_png(self._tile(index, tile).of(self.mask(index)))

    def layer(self, index: int, tile: int, layer: int) -> bytes:
        """A map as grey values: 0 is the background's, from 1 on those of classes. Black where there is no such map."""
        part, size = self._tile(index, tile), self._size(index)
        values = np.zeros((1, 1), dtype=np.float32)
        for name in reversed(self.recipe.names):
            path = self.run.stage(name).maps(self.results.split, self.names[index])
            if path.exists():
                seed = seeds.load(path)
                channels = seed.classes.tolist()
                if layer == 0 and seed.background is not None:
                    values = seed.background.numpy()
                elif layer in channels:
                    values = seed.scores[channels.index(layer)].numpy()
                break
        return tiles.as_png(tiles.enlarged(values, size, part))

    def regions(self, index: int, tile: int) -> bytes:
        """Superpixels of a tile: their numbers as red + 256 green + 65536 blue. Those of a large tile are coarser."""
        pixels = self._tile(index, tile).of(self._pixels(index))
        seen = torch.from_numpy(tiles.small(pixels, SEEN)).permute(2, 0, 1)
        found = vote.superpixels(seen, vote.Config(scales=(SCALE,)))[0].numpy()
        size = pixels.shape[1::-1]
        return tiles.numbers_as_png(cv2.resize(found, size, interpolation=cv2.INTER_NEAREST_EXACT))

    def _pixels(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._at_hand.get("image", index, lambda: self.dataset[index].image.permute(1, 2, 0).numpy())

    def _tile(self, index: int, tile: int) -> tiles.Tile:
        parts = tiles.tiles(self._size(index))
        if not 0 <= tile < len(parts):
            raise DataError(f"{self.names[index]}: has no tile {tile}, but {len(parts)}")
        return parts[tile]

    # ------------------------------------------------------------------------------------ decisions

    def decide(
        self, index: int, decision: Decision, *, version: int, tile: int = 0, content: bytes | None = None
    ) -> Entry:
        """Note a decision. `content` is a PNG of the corrected tile: the class of each pixel in its first channel.

        Raises data.reviewed.Stale for another version, DataError for a mask that does not fit, and RunError for a full
        disk; then nothing has changed.
        """
        name = self.names[index]
        with self._writing:
            mask, made = self.mask(index), read_mask(self._made(name)).numpy()
            if content is not None:
                part = self._tile(index, tile)
                drawn = tiles.decoded(content, part.of(mask).shape, len(self.classes))
                mask = mask.copy()
                mask[part.rows, part.columns] = drawn
            changed = int((mask != made).sum())
            if decision is Decision.ACCEPTED and changed:
                decision = Decision.CORRECTED
            before = self.reviewed.entries.get(name)
            sampled = self.chosen is Chosen.RANDOM or (before is not None and before.chosen is Chosen.RANDOM)
            return self.reviewed.decide(
                name,
                decision,
                torch.from_numpy(mask),
                chosen=Chosen.RANDOM if sampled else Chosen.DOUBT,  # corrected later, it still is of the sample
                pixels=0 if decision is Decision.REJECTED else changed,
                version=version,
            )
