"""Images with boxes as a data set."""

import hashlib
import json
from collections.abc import Sequence

import torch
import torchvision.transforms.v2.functional as TF
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from baoseg.core.errors import DataError
from baoseg.core.types import BACKGROUND, IGNORE, ClassSet, Sample
from baoseg.data import truth
from baoseg.data.boxed.entries import Entry
from baoseg.data.images import read_image, read_mask


class Boxed:
    """The images of one split, as every `Dataset`, and their boxes.

    A mask has the index of the image's class on the object, 0 elsewhere and 255 where nothing counts. With `side`,
    images and masks are given as squares of that side.
    """

    def __init__(self, classes: ClassSet, split: str, entries: Sequence[Entry], *, side: int | None = None) -> None:
        self.classes = classes
        self.split = split
        self.entries = entries
        self.side = side
        self.names: Sequence[str] = tuple(entry.name for entry in entries)
        self.has_masks = any(entry.masks for entry in entries)

    def squares(self, side: int) -> "Boxed":
        """The same images as squares."""
        return Boxed(self.classes, self.split, self.entries, side=side)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Decodes the image, and its mask where there is one."""
        image = read_image(self.entries[index].path)
        mask = self.mask(index)
        if mask is not None and (
            problem := truth.wrong_size(self.entries[index].masks[0], mask.shape, image.shape[1:])
        ):
            raise DataError(problem)
        if self.side is not None:
            image = squash(image, self.side)
            mask = None if mask is None else squash_mask(mask, self.side)
        return Sample(self.entries[index].name, image, self.labels(index), mask)

    def target(self, index: int) -> int:
        """Index 1..K of the image's class."""
        return BACKGROUND + 1 + self.classes.names.index(self.entries[index].label)

    def channels(self) -> list[int]:
        """The class (0..K-1) of each image."""
        of = {name: channel for channel, name in enumerate(self.classes.names)}
        return [of[entry.label] for entry in self.entries]

    def labels(self, index: int) -> Float[Tensor, "K"]:
        """Label vector of an image, without decoding it."""
        return self.classes.encode([self.entries[index].label])

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        """Ground truth of an image, without decoding the image; None if it has none."""
        entry = self.entries[index]
        if not entry.masks:
            return None
        shown = [read_mask(path) for path in (*entry.masks, *([] if entry.ignored is None else [entry.ignored]))]
        if len({values.shape for values in shown}) > 1:
            raise DataError(f"{entry.masks[0]}: the masks of this image differ in size; restore them")
        found = torch.stack(shown[: len(entry.masks)]).amax(dim=0) >= entry.level
        mask = torch.zeros_like(shown[0])
        if entry.ignored is not None:
            mask[shown[-1] > 0] = IGNORE
        mask[found] = self.target(index)
        return mask

    def boxes(self, index: int) -> Int64[Tensor, "m 4"]:
        """The true boxes of an image; without any, the one around all of its mask's object.

        Raises DataError for an image that has neither, and for a mask without object.
        """
        entry = self.entries[index]
        if entry.boxes:
            return torch.tensor(entry.boxes)
        mask = self.mask(index)
        if mask is None:
            raise DataError(f"{entry.path}: has no box; add one, or take the image out of the split {self.split}")
        rows, columns = (mask == self.target(index)).nonzero(as_tuple=True)
        if len(rows) == 0:
            raise DataError(f"{entry.masks[0]}: shows no object; correct it, or take the image out of the split")
        return torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])[None]

    def fingerprint(self, *, masks: bool = True) -> str:
        """SHA-256 of class list, split, names, labels and sizes of the image files; `masks`: that of boxes too."""
        try:
            sizes = [entry.path.stat().st_size for entry in self.entries]
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}; restore the file") from None
        of_images = [
            [entry.name, entry.label, *([entry.boxes] if masks else []), size]
            for entry, size in zip(self.entries, sizes, strict=True)
        ]
        content = [self.classes.names, self.split, of_images]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def squash(image: UInt8[Tensor, "3 h w"], side: int) -> UInt8[Tensor, "3 s s"]:
    """The whole image as a square, bilinear, antialiased."""
    return TF.resize(image, [side, side], antialias=True)


def squash_mask(mask: UInt8[Tensor, "h w"], side: int) -> UInt8[Tensor, "s s"]:
    return TF.resize(mask[None], [side, side], interpolation=InterpolationMode.NEAREST_EXACT)[0]
