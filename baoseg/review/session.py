"""What the page shows of a run: its images in an order, their masks and maps, by tiles; and what it gives back."""

import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image

from baoseg import pipeline, seeds
from baoseg.core.errors import DataError, RunError
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import IGNORE
from baoseg.data.images import DAMAGE, read_mask
from baoseg.data.reviewed import FOLDER, Chosen, Decision, Entry, Reviewed
from baoseg.exchange import sources
from baoseg.refine import vote
from baoseg.seeds.seed_maps import resize

TILE = 2048  # pixels of the side of a tile; larger images are shown and corrected tile by tile
BAND = 7  # pixels on both sides of a mask's border, where doubt is measured
BACKGROUND = "background"


@dataclass(frozen=True)
class Tile:
    """A part of an image: rows and columns."""

    rows: slice
    columns: slice

    def of(self, values: np.ndarray) -> np.ndarray:
        return values[self.rows, self.columns]


class Session:
    """The images of one split of a run. All methods may be called from several threads."""

    def __init__(
        self, run: RunFolder, *, split: str | None = None, stage: str | None = None, chosen: Chosen = Chosen.DOUBT
    ) -> None:
        self.run, self.chosen = run, chosen
        self.results = sources.of_run(run, stage=stage, split=split)
        self.dataset = pipeline.open_split(pipeline.recipe_of(run), self.results.split)
        self.classes, self.names = self.results.classes, self.results.names
        self.reviewed = Reviewed(run.root / FOLDER)
        self.recipe = pipeline.recipe_of(run)
        self._indices = {name: index for index, name in enumerate(self.names)}
        shuffled = np.random.default_rng(0).permutation(len(self.names)).tolist()
        self._order = shuffled if chosen is Chosen.RANDOM else list(range(len(self.names)))
        self._doubts: dict[int, float] = {}
        self._writing = threading.Lock()
        self.folder = run.root / FOLDER

    # ------------------------------------------------------------------------------------ the list

    def items(self, start: int, count: int) -> list[dict[str, object]]:
        """Some images in the order of the session."""
        return [self._item(index) for index in self.order()[start : start + count]]

    def order(self) -> list[int]:
        """Indices of the images: a random order, or the doubtful first as far as doubts are known."""
        if self.chosen is Chosen.RANDOM:
            return self._order
        return sorted(self._order, key=lambda index: -self._doubts.get(index, -1.0))

    def rate(self) -> Iterator[int]:
        """Measure the doubt of one image after the other; yields how many are done."""
        for index in self._order:
            self._doubts[index] = self._doubt(index)
            yield len(self._doubts)

    @property
    def rated(self) -> int:
        return len(self._doubts)

    def _doubt(self, index: int) -> float:
        """How doubtful a mask is, in [0, 2]: 1 - the mean margin along its borders, and where stages disagree.

        The second term is the share of pixels on which not all masks of the run agree, of the pixels that any of them
        takes for a class.
        """
        result = self.results.read(index)
        others = [
            read_mask(path).numpy()
            for name in self._masked()
            if (path := self.run.stage(name).mask(self.results.split, result.name)).exists()
        ]
        doubt = 0.0
        if others:
            differ = np.any([other != result.mask for other in others], axis=0)
            shown = np.any([other > 0 for other in others], axis=0)
            doubt += float(differ.sum() / max(shown.sum(), 1))
        if result.margin is not None:
            edge = cv2.morphologyEx(result.mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
            band = cv2.dilate(edge.astype(np.uint8), np.ones((2 * BAND + 1,) * 2, np.uint8)) > 0
            margin = result.margin[band] if band.any() else result.margin
            doubt += 1 - float(margin.mean()) / 255
        return doubt

    def _masked(self) -> list[str]:
        recipe = self.recipe
        last = recipe.names[-1:]
        return [*last, *(one.name for one in recipe.refinements), *(one.name for one in recipe.segmentations)]

    def _item(self, index: int) -> dict[str, object]:
        name = self.names[index]
        entry = self.reviewed.entries.get(name)
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
            if name in self.reviewed.entries:
                counts[self.reviewed.entries[name].decision] += 1
        layers = [BACKGROUND, *self.classes.names]
        return {
            "run": str(self.run.root),
            "split": self.results.split,
            "classes": list(self.classes.names),
            "layers": layers,
            "chosen": self.chosen,
            "images": len(self.names),
            "rated": self.rated,
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
        mask = self.mask(index)
        labels = self.dataset.classes.decode(self.dataset.labels(index))
        return {**self._item(index), "size": list(mask.shape), "tiles": len(tiles(mask.shape)), "labels": labels}

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The reviewed mask where there is one, else that of the stage."""
        name = self.names[index]
        if self.reviewed.usable([name]):
            return read_mask(self.reviewed.mask(name)).numpy()
        return self.results.read(index).mask

    def picture(self, index: int, tile: int) -> bytes:
        """A tile of the image as JPEG."""
        return _encoded(self._tile(index, tile).of(self._pixels(index)), ".jpg")

    def mask_tile(self, index: int, tile: int) -> bytes:
        return _encoded(self._tile(index, tile).of(self.mask(index)), ".png")

    def layer(self, index: int, tile: int, layer: int) -> bytes:
        """A map as grey values: 0 is the background's, from 1 on those of classes. Black where there is no such map."""
        part = self._tile(index, tile)
        size = self.mask(index).shape
        values = np.zeros(size, dtype=np.uint8)
        for name in reversed(self.recipe.names):
            path = self.run.stage(name).maps(self.results.split, self.names[index])
            if path.exists():
                seed = seeds.load(path)
                channels = seed.classes.tolist()
                found = seed.background if layer == 0 else None
                if layer in channels:
                    found = seed.scores[channels.index(layer)]
                if found is not None:
                    values = (255 * resize(found[None], (size[0], size[1]))[0]).round().to(torch.uint8).numpy()
                break
        return _encoded(part.of(values), ".png")

    def regions(self, index: int, tile: int) -> bytes:
        """Superpixels of a tile: their numbers as red + 256 green + 65536 blue."""
        numbers = self._superpixels(index, tile)
        channels = [(numbers >> shift) & 255 for shift in (16, 8, 0)]  # OpenCV's order: blue, green, red
        return _encoded(np.stack(channels, axis=-1).astype(np.uint8), ".png")

    def _superpixels(self, index: int, tile: int) -> Int32[np.ndarray, "h w"]:
        pixels = self._tile(index, tile).of(self._pixels(index))
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        return vote.superpixels(image, vote.Config(scales=(100,)))[0].numpy()

    def _pixels(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return _kept(self, index)

    def _tile(self, index: int, tile: int) -> Tile:
        parts = tiles(self.mask(index).shape)
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
        with self._writing:
            mask, made = self.mask(index), self.results.read(index).mask
            if content is not None:
                part = self._tile(index, tile)
                drawn = decoded(content, part.of(mask).shape, len(self.classes))
                mask = mask.copy()
                mask[part.rows, part.columns] = drawn
            changed = int((mask != made).sum())
            if decision is Decision.ACCEPTED and changed:
                decision = Decision.CORRECTED
            return self.reviewed.decide(
                self.names[index],
                decision,
                torch.from_numpy(mask),
                chosen=self.chosen,
                pixels=0 if decision is Decision.REJECTED else changed,
                version=version,
            )


@lru_cache(maxsize=2)
def _kept(session: Session, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of the image at hand, of which several parts are asked for one after the other."""
    return session.results.read(index).pixels()


def tiles(size: Sequence[int]) -> list[Tile]:
    """Tiles of at most TILE x TILE pixels, row by row."""
    rows, columns = (
        [slice(start, min(start + TILE, side)) for start in range(0, side, TILE)] for side in (size[0], size[1])
    )
    return [Tile(row, column) for row in rows for column in columns]


def decoded(content: bytes, size: Sequence[int], classes: int) -> UInt8[np.ndarray, "h w"]:
    """A mask from the PNG of a browser. Raises DataError if it is none, has another size or unknown classes."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if (image.height, image.width) != tuple(size):
                raise DataError(f"the mask is {image.width}x{image.height} pixels, its image {size[1]}x{size[0]}")
            values = np.asarray(image.convert("RGBA"))[..., 0]
    except DAMAGE as error:
        raise DataError(f"the mask is no PNG file that can be read ({error})") from None
    unknown = set(np.unique(values).tolist()) - {*range(classes + 1), IGNORE}
    if unknown:
        raise DataError(f"the mask has the value {max(unknown)}; there are 0..{classes} and {IGNORE}")
    return values


def _encoded(values: np.ndarray, suffix: str) -> bytes:
    if suffix == ".jpg":
        values = cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(suffix, values)
    if not done:
        raise RunError("the image cannot be encoded")
    return content.tobytes()
