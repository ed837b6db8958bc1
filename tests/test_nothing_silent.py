"""Random folders with random faults of the kinds that people reported: all is read as it was meant, or it is said.

The generator knows what was meant: it writes the same images, labels and masks in one of many ways. Those among them
that the documentation allows have to be read without a word. Of the others it is enough that something is said.
BAOSEG_EXAMPLES=3000 looks at so many folders, drawn anew each time.
"""

import contextlib
import csv
import io
import json
import os
import posixpath
import struct
import tarfile
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from baoseg.cli.prepare import folder as command
from baoseg.core.errors import DataError
from baoseg.core.types import ClassSet
from baoseg.data import Folder, prepare
from baoseg.data.images import read_image, voc_palette, write_mask
from baoseg.data.walk import ALONE
from baoseg.predict import collection, predict
from baoseg.predict.collection import Job

EXAMPLES = int(os.environ.get("BAOSEG_EXAMPLES", "0"))
VOID = 255
TOLERANCE = 8  # of a JPEG of even squares

Draw = Callable[[st.SearchStrategy], Any]


def of_many(examples: int) -> settings:
    return settings(
        deadline=None,
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],  # to explain a failure takes minutes
    )


# --------------------------------------------------------------------------------------------------- what was meant


@dataclass
class Meant:
    """An image: its name is its path without suffix, below the folder of the images."""

    name: str
    labels: tuple[str, ...]
    pixels: np.ndarray  # upright
    mask: np.ndarray | None = None  # indices by the order of the classes


class Collected:
    """What a folder is to hold, and its files."""

    def __init__(self, classes: Sequence[str], images: Sequence[Meant]) -> None:
        self.classes = classes
        self.images = images
        self.files: dict[str, bytes] = {}
        self.splits: dict[str, list[int]] = {}  # the images of each

    def __repr__(self) -> str:
        """What a person needs to see of a case that failed."""
        texts = {path: content for path, content in self.files.items() if path.endswith((".csv", ".txt", ".TXT"))}
        images = [(image.name, image.labels, None if image.mask is None else "mask") for image in self.images]
        return f"{self.classes}, {images}, {self.splits}, {texts}, {[*self.files.keys() - texts]}"


CLASSES = st.lists(
    st.sampled_from(
        [
            *("cat", "dog", "ant", "möwe", "étoile", "犬", "한글", "नमस्ते", "straße", "ex-cat", "C++", "R+B", "a.b"),
            *("1", "dining table", "traffic light", "black & white", "and/or", "hot dog", "001.Albatross", '5" pipe'),
        ]
    )
    | st.text(st.characters(categories=["L", "N"], max_codepoint=0x2FFF), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
    unique_by=lambda name: unicodedata.normalize("NFKC", name).casefold(),
).filter(lambda names: all(is_name(name) for name in names))
STEMS = ["p0", "p1", "rooms/p0", "rooms/été", "my photo", "a.b", "IMG_1", "犬", "x, y", "deep/er/p-3", "p(1)"]
BACKGROUNDS = ["background", "__background__", "_background_", "__ignore__", "Background", "BG", "None", "unlabeled"]


def plain(text: str) -> str:
    """The one form of a name: an independent reading of what `baoseg.text` is for."""
    kept = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(unicodedata.normalize("NFC", kept).split())


def is_name(name: str) -> bool:
    """Whether a class may have this name; the background may not, and some letters show nothing."""
    hidden = {"\u115f", "\u1160", "\u3164", "\uffa0"}
    return bool(plain(name)) and plain(name) == name and not hidden & {*name} and name.casefold() not in NO_CLASSES


NO_CLASSES = {"background", "bg", "ignore", "none", "nan", "null", "unlabeled", "unlabelled"}


def picture(number: int) -> np.ndarray:
    """An image of four colours that no mirror and no turn makes the same; its size is that of no other number."""
    height, width = 16 + 8 * (number % 3), 40 + 8 * (number // 3)
    colours = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20)]
    colours = [colours[(number + place) % 4] for place in range(4)]
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:8, :8], pixels[:8, 8:], pixels[8:, :8], pixels[8:, 8:] = colours
    return pixels if number % 2 else np.ascontiguousarray(pixels.swapaxes(0, 1))


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The array that a viewer turns into `upright` by an EXIF orientation."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(turned[orientation])


def encoded(image: Image.Image, kind: str, orientation: int = 1, **options: object) -> bytes:
    content = io.BytesIO()
    if orientation > 1 and kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = orientation
        options["tiffinfo"] = tags
    elif orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    if kind == "WEBP":
        options |= {"lossless": True}
    image.save(content, format=kind, **options)
    return content.getvalue()


TURNABLE = ("PNG", "JPEG", "TIFF", "WEBP")
SUFFIXES = {
    "PNG": (".png", ".PNG"),
    "JPEG": (".jpg", ".JPG", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".TIFF"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm",),
}


def image_file(draw: Draw, pixels: np.ndarray) -> tuple[str, bytes]:
    """A suffix and the content of an image."""
    kind = draw(st.sampled_from(sorted(SUFFIXES)))
    orientation = draw(st.integers(1, 8)) if kind in TURNABLE else 1
    content = encoded(Image.fromarray(stored(pixels, orientation)), kind, orientation)
    return draw(st.sampled_from(SUFFIXES[kind])), content


# ----------------------------------------------------------------------------------------------------------- masks


def mask_of(draw: Draw, shape: Sequence[int], shown: Sequence[int]) -> np.ndarray:
    """A mask that shows these classes, and perhaps pixels to ignore."""
    mask = np.zeros(shape, dtype=np.uint8)
    for row, index in enumerate(shown):
        mask[2 * row + 1, 3 : 9 + row] = index
    if draw(st.booleans()):
        mask[-1, :3] = VOID
    return mask


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A greyscale PNG of 1, 2 or 4 bits a pixel, by the specification."""
    height, width = values.shape
    places = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in places)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_palette(values: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


def in_colours(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(voc_palette()[mask])


def reordered(draw: Draw, mask: np.ndarray) -> Image.Image:
    """The colours of VOC at other indices, as editors leave them."""
    used = np.unique(mask).tolist()
    order = draw(st.permutations(used))
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[order] = range(len(order))
    return with_palette(lookup[mask], voc_palette()[order])


GREYS = {top: np.minimum(np.arange(256) * (255 // top), 255).repeat(3).reshape(-1, 3) for top in (1, 2, 3)}
OWN_COLOURS = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0), (0, 0, 250), *[(7, 7, index) for index in range(252)]])


def mask_file(draw: Draw, mask: np.ndarray) -> bytes:
    """A mask in one of the ways in which its values are kept."""
    kind = draw(st.sampled_from(["PNG", "PNG", "TIFF", "BMP"]))
    orientation = draw(st.integers(1, 8)) if kind in TURNABLE else 1
    turned, top = stored(mask, orientation), int(mask.max())
    bits = draw(st.sampled_from([bits for bits in (1, 2, 4, 8) if top < 2**bits]))
    cases: dict[str, Callable[[], bytes]] = {
        "voc": lambda: encoded(with_palette(turned, voc_palette()), kind, orientation),
        "grey": lambda: encoded(Image.fromarray(turned), kind, orientation),
        "bits": lambda: grey_png(mask, bits),
        "bits of a palette": lambda: encoded(with_palette(mask, voc_palette()[: 2**bits]), "PNG", bits=bits),
        "colours": lambda: encoded(in_colours(turned), kind, orientation),
        "reordered": lambda: encoded(reordered(draw, turned), kind, orientation),
        "own colours": lambda: encoded(with_palette(turned, OWN_COLOURS), kind, orientation),
        "16 bits": lambda: encoded(Image.fromarray(turned.astype(np.uint16)), kind, orientation),
        "32 bits": lambda: encoded(Image.fromarray(turned.astype(np.int32)), kind, orientation),
        "1 bit": lambda: encoded(Image.fromarray(turned > 0), kind, orientation),
    }
    ways = (
        {*cases}
        - ({"1 bit"} if top > 1 else set())
        - {"PNG": {"32 bits"}, "BMP": {"16 bits", "32 bits"}}.get(kind, set())
    )
    way = draw(st.sampled_from(sorted(ways)))
    event(f"mask: {way}")
    return cases[way]()


def odd_mask_file(draw: Draw, mask: np.ndarray, classes: int) -> bytes:
    """A mask in a way that may not keep what it says."""
    image = with_palette(mask, voc_palette())
    cases: dict[str, Callable[[], bytes]] = {
        "white": lambda: encoded(Image.fromarray(np.where(mask > 0, VOID, 0).astype(np.uint8)), "PNG"),
        "spread": lambda: encoded(
            Image.fromarray(np.where(mask == VOID, 0, mask * (VOID // classes)).astype(np.uint8)), "PNG"
        ),
        "web": lambda: encoded(in_colours(mask).convert("P"), "PNG"),
        "quantised": lambda: encoded(in_colours(mask).quantize(len(np.unique(mask))), "PNG"),
        "greyed": lambda: encoded(in_colours(mask).convert("L"), "PNG"),
        "rgb": lambda: encoded(Image.fromarray(mask).convert("RGB"), "PNG"),
        "rgba": lambda: encoded(in_colours(mask).convert("RGBA"), "PNG"),
        "la": lambda: encoded(Image.fromarray(mask).convert("LA"), "PNG"),
        "jpeg": lambda: encoded(draw(st.sampled_from([Image.fromarray(mask), in_colours(mask)])), "JPEG"),
        "jpeg in tiff": lambda: encoded(Image.fromarray(mask), "TIFF", compression="jpeg"),
        "gif": lambda: encoded(image, "GIF"),
        "webp": lambda: encoded(in_colours(mask), "WEBP"),
        "size": lambda: encoded(image.resize((2 * mask.shape[1], 2 * mask.shape[0]), Image.Resampling.NEAREST), "PNG"),
        "cut": lambda: encoded(image, "PNG")[:-40],
        "turned": lambda: encoded(Image.fromarray(stored(mask, 6)), "PNG"),
        "wide": lambda: encoded(Image.fromarray(mask.astype(np.uint16) * 257), "PNG"),
        "text": lambda: b"a mask",
        "greys": lambda: encoded(with_palette(mask, GREYS[classes]), "PNG"),
    }
    way = draw(st.sampled_from(sorted(cases)))
    event(f"odd mask: {way}")
    return cases[way]()


# ---------------------------------------------------------------------------------------------------- the written

ODD = ("cells", "spelling", "table", "paths", "classes", "mask values", "class order", "mask names", "splits")


class Writer:
    """Writes what was meant, in ways that are drawn; those of the kinds in `odd` need not be understood."""

    def __init__(self, draw: Draw, odd: set[str]) -> None:
        self.draw = draw
        self.odd = odd

    def one(self, *ways: Any) -> Any:
        return self.draw(st.sampled_from(ways))

    def often(self) -> bool:
        return bool(self.draw(st.booleans()))

    def whole(self) -> Collected:
        classes = tuple(self.draw(CLASSES))
        count = self.draw(st.integers(3, 6))
        stems = self.draw(st.permutations(STEMS))[:count]
        sets = st.lists(st.sampled_from(classes), max_size=len(classes), unique=True)
        labels = [self.draw(sets) for _ in stems]
        labels[0] = labels[0] or [classes[0]]
        self.listed = self.often() or "class order" in self.odd
        if not self.listed:  # then the classes are those that occur, in their order
            classes = tuple(sorted({name for row in labels for name in row}))
        self.masks = self.often() or bool({"mask values", "class order", "mask names"} & self.odd)
        images = [
            Meant(stem, tuple(sorted(row, key=classes.index)), picture(number))
            for number, (stem, row) in enumerate(zip(stems, labels, strict=True))
        ]
        for image in images if self.masks else []:
            shown = [classes.index(name) + 1 for name in image.labels]
            image.mask = mask_of(self.draw, image.pixels.shape[:2], shown)
        data = Collected(classes, images)
        self.write_images(data)
        self.write_labels(data)
        self.write_classes(data)
        self.write_masks(data)
        self.write_splits(data)
        return data

    # names, as they are spelt ------------------------------------------------------------------------------------

    def spelt(self, name: str) -> str:
        """A name in other letters for the same."""
        way = self.one("as it is", "as it is", "NFD", "space", "inside", "zero width", "around")
        if way == "NFD":
            return unicodedata.normalize("NFD", name)
        if way == "space":
            return name.replace(" ", self.one("  ", "\u00a0", "\u3000", " \u00a0"))
        if way == "zero width":
            place = self.draw(st.integers(0, len(name)))
            return name[:place] + self.one("\u200b", "\ufeff", "\u200e", "\u2060", "\u00ad") + name[place:]
        return f"{self.one(' ', '')}{name} " if way == "around" else name

    def odd_name(self, name: str) -> str:
        way = self.one("upper", "title", "swap", "quoted", "dash", "plural", "joiner", "kc", "wide")
        event(f"odd name: {way}")
        return {
            "upper": name.upper(),
            "title": name.title(),
            "swap": name.swapcase(),
            "quoted": f"'{name}'",
            "dash": name.replace(" ", "_"),
            "plural": name,
            "joiner": f"{name[:1]}\u200d{name[1:]}",
            "kc": unicodedata.normalize("NFKC", name),
            "wide": "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in name),
        }[way]

    # labels.csv --------------------------------------------------------------------------------------------------

    def write_images(self, data: Collected) -> None:
        self.below = self.one("", "images/", "JPEGImages/")
        self.paths = []
        for image in data.images:
            suffix, content = image_file(self.draw, image.pixels)
            path = f"{self.below}{image.name}{suffix}"
            self.paths.append(path)
            data.files[self.spelt_path(path)] = content

    def spelt_path(self, path: str) -> str:
        """On disk or in the table: the same file."""
        way = self.one("as it is", "as it is", "NFD", "space")
        if way == "NFD":
            return unicodedata.normalize("NFD", path)
        return path.replace(" ", self.one("  ", "\u00a0")) if way == "space" else path

    def odd_path(self, path: str) -> str:
        way = self.one("upper", "lower", "suffix", "none", "absolute", "escaped", "drive", "up", "title", "stem")
        event(f"odd path: {way}")
        stem, suffix = posixpath.splitext(path)
        return {
            "upper": path.upper(),
            "lower": path.lower(),
            "suffix": stem + (suffix.upper() if suffix.islower() else suffix.lower()),
            "none": stem,
            "absolute": f"/{path}",
            "escaped": path.replace(" ", "%20"),
            "drive": f"C:\\data\\{path}".replace("/", "\\"),
            "up": f"../{path}",
            "title": path.title(),
            "stem": f"{stem}x{suffix}",
        }[way]

    def write_labels(self, data: Collected) -> None:
        separators = (";", "; ", ";\u00a0") if any(" " in name for name in data.classes) else (";", " ", "\t")
        self.separator = self.one(*separators)
        strange = self.draw(st.sets(st.integers(0, len(data.images) - 1), min_size=1, max_size=2))
        whole = [image.labels for image in data.images]
        rows = []
        for number, (image, path) in enumerate(zip(data.images, self.paths, strict=True)):
            names = [self.spelt(name) for name in self.draw(st.permutations(image.labels))]
            if "spelling" in self.odd and number in strange:
                names = [self.odd_name(name) for name in names]
            cell = self.odd_cell(names, whole) if "cells" in self.odd and number in strange else None
            if cell is None:
                cell = self.cell(names)
            written = self.spelt_path(path)
            if "paths" in self.odd and number in strange:
                written = self.odd_path(path)
            elif self.often():
                written = self.one(f"./{written}", written.replace("/", "\\"), f" {written} ")
            rows.append((written, cell))
        data.files["labels.csv"] = self.table(rows)

    def cell(self, names: Sequence[str]) -> str:
        """Labels with the separator of the whole table. With semicolons, a name that is alone has one, too."""
        separator = self.separator
        if "cells" in self.odd and self.often():
            separator = self.one(";", " ")
        if separator.isspace():
            return separator.join(names)
        return "".join(name + separator for name in names) if len(names) == 1 else separator.join(names)

    def odd_cell(self, names: Sequence[str], whole: Sequence[Sequence[str]]) -> str | None:
        """Several labels or one in a way of other programs. None where that cannot be told from a name.

        `cat,dog` is a name unless one of its parts is a class: classes.txt has it, or it stands alone elsewhere.
        """
        known = self.listed or any(len(row) == 1 and plain(row[0]) in map(plain, names) for row in whole)
        if len(names) > 1 and known:
            way = self.one(",", ", ", "|", " | ", "/", "+", " & ", "，", "\n", "\\", "、")
            event(f"odd cell: {way!r}")
            return way.join(names)
        way = self.one("['{}']", '["{}"]', "[{}]", "('{}',)", "{{'{}'}}", '"{}"', "'{}'", "{},", ",{}", "{}|", "“{}”")
        event(f"odd cell: {way}")
        return way.format("', '".join(names)) if names else self.one("[]", "None", "nan", "background", "-", ",", '""')

    def table(self, rows: list[tuple[str, str]]) -> bytes:
        def quoted(text: str) -> str:
            needed = any(mark in text for mark in ',"\n') or text != text.strip()
            return '"' + text.replace('"', '""') + '"' if needed or self.often() else text

        header = self.one("image,labels", '"image","labels"', "Image, LABELS ")
        lines = [header, *(f"{quoted(path)},{quoted(cell)}" for path, cell in rows)]
        ways = ("unclosed", "NUL", "twice", "column", "semicolons", "utf-16", "latin", "no header")
        way = self.one(*ways) if "table" in self.odd else "none"
        event(f"table: {way}")
        place = self.draw(st.integers(1, len(rows)))
        if way == "unclosed":
            lines[place] = self.one(lines[place].replace(",", ',"', 1), f'"{lines[place]}', lines[place] + '"')
        if way == "NUL":
            lines[place] = lines[place][:-1] + self.one("\0", "\x07", "\x1b") + lines[place][-1:]
        if way == "twice":
            lines.append(lines[place])
        if way == "column":
            lines[place] += self.one(",", ",cat", ",1")
        if way == "no header":
            del lines[0]
        end = self.one("\n", "\r\n", "\r")
        text = self.one("", "\ufeff") + end.join(lines) + self.one("", end, end + end, f"{end},{end}")
        if way == "semicolons":
            text = text.replace(",", ";")
        coding = {"utf-16": "utf-16", "latin": "cp1252"}.get(way, "utf-8")
        return text.encode(coding, errors="replace" if coding == "cp1252" else "strict")

    # classes.txt -------------------------------------------------------------------------------------------------

    def write_classes(self, data: Collected) -> None:
        if not self.listed:
            return
        lines = [self.spelt(name) for name in data.classes]
        file = "classes.txt"
        if "classes" in self.odd:
            place = self.draw(st.integers(0, len(lines)))
            way = self.one("background", "numbers", "line", "case", "twice", "less", "file", "comma", "from 0", "lower")
            event(f"odd classes: {way}")
            if way == "background":
                lines.insert(place, self.one(*BACKGROUNDS))
            elif way == "numbers":
                lines = [f"{number}{self.one(': ', ' ', ',', '. ')}{name}" for number, name in enumerate(lines, 1)]
            elif way == "from 0":
                lines = [f"{number}: {name}" for number, name in enumerate(["background", *lines])]
            elif way == "line":
                lines = [self.one(", ", " ", ";").join(lines)]
            elif way == "case":
                lines[place - 1] = lines[place - 1].swapcase()
            elif way == "twice":
                lines.insert(place, lines[place - 1])
            elif way == "less":
                del lines[place - 1]
            elif way == "comma":
                lines = [f"{name}," for name in lines]
            elif way == "file":
                file = self.one("Classes.txt", "CLASSES.TXT", "classes.TXT")
            else:
                lines = [name.lower() for name in lines]
        end = self.one("\n", "\r\n", "\n\n")
        data.files[file] = (self.one("", "\ufeff") + end.join(lines) + self.one("", end)).encode()

    # masks -------------------------------------------------------------------------------------------------------

    def write_masks(self, data: Collected) -> None:
        if not self.masks:
            return
        folder = self.one("masks/", "SegmentationClass/")
        if "mask names" in self.odd and self.one(*range(6)) == 0:
            folder = self.one("Masks/", "MASKS/", "segmentationclass/")
        strange = self.draw(st.sets(st.integers(0, len(data.images) - 1), min_size=1))
        order = self.order(data) if "class order" in self.odd else None
        for number, (image, path) in enumerate(zip(data.images, self.paths, strict=True)):
            mask = image.mask if order is None else order[image.mask]
            if "mask values" in self.odd and number in strange:
                content = odd_mask_file(self.draw, mask, len(data.classes))
            else:
                content = mask_file(self.draw, mask)
            if "mask names" in self.odd and number in strange:
                name = self.odd_mask_name(image.name)
            else:
                file = path.removeprefix(self.below)
                name = self.one(
                    *(image.name + suffix for suffix in (".png", ".png", ".PNG", ".bmp", ".tif", ".TIFF")),
                    *(f"{file}.png", f"{image.name}_mask.png"),
                )
            data.files[folder + self.spelt_path(name)] = content

    def order(self, data: Collected) -> np.ndarray | None:
        """By index, that of another class list; None where nothing could tell: the masks show what labels name."""
        count = len(data.classes)
        order = np.arange(256, dtype=np.uint8)
        way = self.one("classes", "classes", "from 0", "from 0 and the background last", "from 2", "all one")
        event(f"order: {way}")
        indices = {
            "classes": [0, *self.draw(st.permutations(range(1, count + 1)))],
            "from 0": [VOID, *range(count)],
            "from 0 and the background last": [count, *range(count)],
            "from 2": range(1, count + 2),
            "all one": [0] + [1] * count,
        }
        order[: count + 1] = indices[way]
        named = [{data.classes.index(name) + 1 for name in image.labels} for image in data.images]
        shown = [{int(order[index]) for index in (0, *of_image)} - {0, VOID} for of_image in named]
        judged = [of_image for of_image, seen in zip(named, shown, strict=True) if seen and of_image]
        more = any(of_image and seen - of_image for of_image, seen in zip(named, shown, strict=True))
        return order if more or set().union(*judged) - set().union(*shown) else None

    def odd_mask_name(self, name: str) -> str:
        folder, slash, file = name.rpartition("/")
        way = self.one("letter", "end", "case", "suffix", "flat", "word", "folder", "space")
        event(f"odd mask name: {way}")
        return {
            "letter": f"{folder}{slash}{file[:-1]}{'y' if len(file) > 1 else 'yy'}.png",
            "end": f"{name}x.png",
            "case": f"{folder}{slash}{file.swapcase()}.png",
            "suffix": name + self.one(".gif", ".jpg", ".webp", ".npy", ".jp2", ".jpeg", ".mat"),
            "flat": f"{file}.png",
            "word": name + self.one("_seg.png", "-mask.png", "_labels.png", "_Mask.png", "_MASK.PNG", "_gt.png"),
            "folder": f"{name}/mask.png",
            "space": f"{folder}{slash}{file} (1).png",
        }[way]

    # splits ------------------------------------------------------------------------------------------------------

    def write_splits(self, data: Collected) -> None:
        data.splits["all"] = list(range(len(data.images)))
        if not self.often() and "splits" not in self.odd:
            return
        folder = self.one("splits/", "ImageSets/Segmentation/")
        labelled = next(number for number, image in enumerate(data.images) if image.labels)
        train = [labelled, *(number for number in range(len(data.images)) if number != labelled and self.often())]
        val = [number for number in range(len(data.images)) if number not in train] or [0]
        for split, numbers in (("train", train), ("val", val)):
            lines = []
            for number in numbers:
                path = self.paths[number]
                lines.append(self.spelt_path(self.one(data.images[number].name, path, path.replace("/", "\\"))))
            file = f"{folder}{self.one(split, split, split.title(), split.upper())}{self.one('.txt', '.txt', '.TXT')}"
            if "splits" in self.odd:
                way = self.one("misspelt", "twice", "empty", "number", "folder", "suffix", "case", "stem")
                event(f"odd splits: {way}")
                if way == "misspelt":
                    lines[0] += "x"
                elif way == "twice":
                    lines.append(lines[0])
                elif way == "empty":
                    lines = []
                elif way == "number":
                    lines = [f"{line} 1" for line in lines]
                elif way == "case":
                    lines = [line.swapcase() for line in lines]
                elif way == "folder":
                    file = self.one("Splits/", "SPLITS/", "imagesets/segmentation/") + f"{split}.txt"
                elif way == "stem":
                    lines[0] = lines[0].rpartition("/")[2]
                else:
                    file = f"{folder}{split}{self.one('', '.csv', '.lst')}"
            data.files[file] = self.one("\n", "\r\n").join([*lines, ""]).encode()
            data.splits[split] = numbers


# -------------------------------------------------------------------------------------------------------- what is read


def check(root: Path) -> list[str]:
    """The problems of a folder, each in one line that says where it is."""
    with contextlib.redirect_stdout(io.StringIO()):
        problems = prepare.folder(root)
    assert all(str(root) in line and ";" in line and "\n" not in line for line in problems), problems
    return problems


def differs(data: Collected, root: Path, *, training: bool) -> Iterator[str]:
    """What is not read as it was meant. Raises DataError for what is refused."""
    for split, numbers in data.splits.items():
        if training and not any(data.images[number].labels for number in numbers):
            continue
        found = Folder(root, split, training=training)
        meant = [data.images[number] for number in numbers]
        names = {plain(name).casefold(): name for name in found.classes.names}
        in_order = [*names] == [name.casefold() for name in data.classes]
        if len(names) != len(found.classes) or {*names} != {name.casefold() for name in data.classes}:
            yield f"{split}: classes {found.classes.names}"
            return
        if not in_order and any(image.mask is not None for image in data.images):
            yield f"{split}: order of classes {found.classes.names}"
            return
        if [*found.names] != [image.name for image in meant]:
            yield f"{split}: names {found.names}"
            return
        for index, image in enumerate(meant):
            shown = {plain(name).casefold() for name in found.classes.decode(found.labels(index))}
            if shown != {name.casefold() for name in image.labels}:
                yield f"{image.name}: labels {shown}, not {image.labels}"
            sample = found[index]
            pixels = sample.image.permute(1, 2, 0).numpy().astype(int)
            if pixels.shape != image.pixels.shape or np.abs(pixels - image.pixels).max() > TOLERANCE:
                yield f"{image.name}: pixels {pixels.shape}, not {image.pixels.shape}"
            for mask in () if training else (sample.mask, found.mask(index)):
                if (mask is None) != (image.mask is None):
                    yield f"{image.name}: mask {mask if mask is None else mask.shape}"
                elif mask is not None and not np.array_equal(mask.numpy(), image.mask):
                    yield f"{image.name}: mask {np.unique(mask)}, not {np.unique(image.mask)}"


def written(root: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@st.composite
def folders(draw: Draw, *, faults: int) -> Collected:
    odd = draw(st.sets(st.sampled_from(ODD), min_size=min(1, faults), max_size=faults))
    return Writer(draw, odd).whole()


@of_many(50)
@given(folders(faults=0))
def test_a_folder_without_fault_is_read_without_a_word(meant: Collected) -> None:
    with temporary() as root:
        written(root, meant.files)
        assert (problems := check(root)) == [], problems
        with contextlib.redirect_stdout(io.StringIO()):
            command(root)
        for training in (True, False):
            assert (wrong := list(differs(meant, root, training=training))) == [], wrong


@of_many(30)
@given(folders(faults=2))
def test_a_folder_with_faults_is_read_as_meant_or_it_is_said(meant: Collected) -> None:
    right_or_said(meant)


@pytest.mark.parametrize("kind", ODD)
@of_many(10)
@given(data=st.data())
def test_a_fault_of_each_kind_is_read_as_meant_or_it_is_said(kind: str, data: st.DataObject) -> None:
    right_or_said(Writer(data.draw, {kind}).whole())


def right_or_said(meant: Collected) -> None:
    """Training relies on what it is told when it opens the folder, not on what `bao prepare folder` says."""
    with temporary() as root:
        written(root, meant.files)
        problems = check(root)
        for training in (True, False):
            try:
                wrong = list(differs(meant, root, training=training))
            except DataError as error:
                assert problems, str(error)
                assert str(root) in str(error) and "\n" not in str(error)
            else:
                assert not wrong or (problems and not training), wrong


# ----------------------------------------------------------------------------------------------------- collections

PREDICTED = 200  # what the model says of an image whose labels are not known
NAMES = ("cat", "dining table", "möwe")


class Model:
    """Says in each pixel which labels it was given."""

    classes = ClassSet(NAMES)

    def __call__(self, image: torch.Tensor, labels: Sequence[str] | None = None) -> SimpleNamespace:
        code = PREDICTED if labels is None else coded(labels)
        return SimpleNamespace(mask=torch.full(image.shape[1:], code, dtype=torch.uint8))


def coded(labels: Sequence[str]) -> int:
    return sum(1 << NAMES.index(name) for name in labels)


@dataclass
class Photo:
    """An image of a collection."""

    place: str  # in the source: its path, or SHARD/MEMBER
    pixels: np.ndarray
    labels: tuple[str, ...] | None  # those that came with it

    @property
    def mask(self) -> str:
        return posixpath.splitext(self.place)[0] + ".png"


class Files:
    """A folder of images and shards: the contents by path, links, and what they mean."""

    def __init__(self) -> None:
        self.photos: list[Photo] = []
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}

    def __repr__(self) -> str:
        photos = [(photo.place, photo.labels) for photo in self.photos]
        labels = {path: content for path, content in self.files.items() if not content or len(content) < 40}
        return f"{photos}, {[*self.files]}, {self.links}, {labels}"

    def write(self, root: Path) -> None:
        written(root, self.files)
        for path, to in self.links.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(to)


STEMS_OF_PHOTOS = ("cat", "IMG_1", "a/cat", "a/b c", "é", "x.y", "2024.05.01-p", "deep/er/é", "犬", "-p", "cat.input")
ODD_PHOTOS = ("label", "image", "clash", "shard", "members", "suffix")


@st.composite
def collections(draw: Draw, *, faults: int) -> Files:
    odd = draw(st.sets(st.sampled_from(ODD_PHOTOS), min_size=min(1, faults), max_size=faults))
    return Collector(draw, odd).whole()


class Collector:
    """Writes a collection in ways that are drawn."""

    def __init__(self, draw: Draw, odd: set[str]) -> None:
        self.draw = draw
        self.odd = odd
        self.result = Files()
        self.count = 0

    def one(self, *ways: Any) -> Any:
        return self.draw(st.sampled_from(ways))

    def whole(self) -> Files:
        shards = self.one(0, 0, 1, 2) if "shard" not in self.odd and "members" not in self.odd else self.one(1, 2)
        stems = self.draw(st.permutations(STEMS_OF_PHOTOS))[: self.draw(st.integers(0 if shards else 1, 4))]
        for stem in stems:
            for path, content in self.sample(stem, in_shard=False):
                self.result.files[path] = content
        for number in range(shards):
            name = self.one("s{}.tar", "a/s{}.tar", "S{}.TAR").format(number)
            self.shard(name)
        return self.result

    def sample(self, stem: str, *, in_shard: bool, shard: str = "") -> list[tuple[str, bytes]]:
        """The files of an image and its labels."""
        pixels = picture(self.count)
        self.count += 1
        suffix, content = image_file(self.draw, pixels)
        labels, beside = self.labels(stem, suffix)
        files = [(stem + suffix, content), *beside]
        self.result.photos.append(Photo(f"{shard}{stem}{suffix}", pixels, labels))
        if "image" in self.odd and self.one(True, False):
            way = self.one("cut", "text", "empty", "bytes")
            event(f"odd image: {way}")
            bad = {"cut": content[: len(content) // 2], "text": b"an image", "empty": b"", "bytes": b"\xff\xd8\xff" * 9}
            files[0] = (files[0][0], bad[way])
        if "suffix" in self.odd and self.one(True, False):
            way = self.one(".heic", ".HEIC", ".dng", ".svg", ".jp2", ".pdf", ".CR2", ".jxl")
            event(f"odd suffix: {way}")
            files[0] = (stem + way, content)
            self.result.photos[-1].place = f"{shard}{stem}{way}"
        if "clash" in self.odd and self.one(True, False):
            other, content = image_file(self.draw, pixels)
            if other != suffix:
                files.append((stem + other, content))
                self.result.photos.append(Photo(f"{shard}{stem}{other}", pixels, labels))
        return self.draw(st.permutations(files)) if in_shard else files

    def labels(self, stem: str, suffix: str) -> tuple[tuple[str, ...] | None, list[tuple[str, bytes]]]:
        """Labels, and the files that say so."""
        labels = tuple(self.draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3)))
        spelt = [self.one(name, unicodedata.normalize("NFD", name), name.replace(" ", "  ")) for name in labels]
        kind = self.one("none", "list", "object", "text", "number", "other")
        if "label" in self.odd and self.one(True, False):
            return labels, self.odd_labels(stem, suffix, labels)
        if kind == "none":
            return None, []
        if kind == "other":
            return None, [(f"{stem}.json", b'{"width": 9}')]
        if kind == "number" and len(labels) == 1:
            return labels, [(stem + self.one(".cls", ".CLS"), b"%d" % NAMES.index(labels[0]) + self.one(b"", b"\n"))]
        if kind == "text":
            text = "; ".join(spelt) + self.one(";", "\n", "\r\n", ";\n") if spelt else self.one(" ", "\n", ";")
            return labels, [(stem + self.one(".txt", ".TXT", ".Txt"), (self.one("", "\ufeff") + text).encode())]
        content = spelt if kind == "list" else {"labels": spelt, "width": 9}
        text = json.dumps(content, ensure_ascii=self.one(True, False))
        return labels, [(stem + self.one(".json", ".JSON"), text.encode())]

    def odd_labels(self, stem: str, suffix: str, labels: tuple[str, ...]) -> list[tuple[str, bytes]]:
        good = json.dumps(labels).encode()
        text = "; ".join(labels).encode() or b" "
        folder, slash, file = stem.rpartition("/")
        swapped = f"{folder}{slash}{file.swapcase()}"
        cases = {
            "unknown": [(f"{stem}.txt", "; ".join((*labels, "dog")).encode())],
            "case": [(f"{stem}.txt", "; ".join((*labels, "CAT")).encode())],
            "empty": [(f"{stem}{self.one('.txt', '.json', '.cls')}", b"")],
            "two": [(f"{stem}.txt", text), (f"{stem}.TXT", self.one(text, b"cat", b" "))],
            "broken": [(f"{stem}.json", good[:-1])],
            "number": [(f"{stem}.json", b"3"), (f"{stem}.cls", b"3")],
            "range": [(f"{stem}.cls", self.one(b"3", b"-1", b"cat", b"1.0"))],
            "comma": [(f"{stem}.txt", ",".join(labels).encode() or b",")],
            "name": [(f"{stem}{suffix}.json", good)],
            "stem": [(f"{swapped}.json", good)],
            "code": [(f"{stem}.txt", "möwe".encode("cp1252"))],
            "string": [(f"{stem}.json", json.dumps("; ".join(labels)).encode())],
            "NFD": [(f"{unicodedata.normalize('NFD', stem)}.json", good)],
            "wide": [(f"{stem}.txt", text.decode().encode("utf-16"))],
        }
        way = self.one(*cases)
        event(f"odd label: {way}")
        return cases[way]

    def shard(self, name: str) -> None:
        """A shard of some samples. A key reaches to the first dot, so those with more dots are written without."""
        stems = [stem for stem in STEMS_OF_PHOTOS if "." not in stem or "members" in self.odd]
        stems = self.draw(st.permutations(stems))[: self.draw(st.integers(1, 3))]
        members: list[tuple[str, bytes | str]] = []
        for stem in stems:
            members += self.sample(stem, in_shard=True, shard=f"{name}/")
        if "members" in self.odd:
            self.odd_members(name, members)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode=self.one("w", "w", "w:gz")) as tar:
            for path, data in members:
                entry = tarfile.TarInfo(path)
                if isinstance(data, str):
                    entry.type, entry.linkname = self.one(tarfile.LNKTYPE, tarfile.SYMTYPE), data
                    tar.addfile(entry)
                else:
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        self.result.files[name] = content.getvalue()
        if "shard" in self.odd:
            self.odd_shard(name)

    def odd_members(self, name: str, members: list[tuple[str, bytes | str]]) -> None:
        place = self.draw(st.integers(0, len(members) - 1))
        path, data = members[place]
        way = self.one("link", "link too", "twice", "apart", "segments", "again", "folder")
        event(f"odd members: {way}")
        if way == "link":
            members[place] = (path, members[0][0] if place else "elsewhere")
        elif way == "link too":
            members.insert(place, (f"z{path}" if "/" not in path else f"a/z{path.rpartition('/')[2]}", path))
            if posixpath.splitext(path)[1].lower() not in (".json", ".txt", ".cls"):
                self.result.photos.append(Photo(f"{name}/{members[place][0]}", picture(0), None))
        elif way == "twice":
            members.append((path, data))
        elif way == "apart":
            members.append(members.pop(place))
        elif way == "segments":
            members.insert(
                place + 1, (f"{posixpath.splitext(path)[0]}.seg.png", encoded(Image.new("L", (5, 5)), "PNG"))
            )
        elif way == "again":
            members += members[: place + 1]
        else:
            members[place] = (f"./{path}", data)

    def odd_shard(self, name: str) -> None:
        content = self.result.files[name]
        way = self.one("cut", "half", "two", "empty", "zeros", "text", "packed", "zip", "link")
        event(f"odd shard: {way}")
        changed = {
            "cut": content[:-1024],
            "half": content[: len(content) // 2],
            "two": content + content,
            "empty": b"",
            "zeros": bytes(10240),
            "text": b"a shard",
        }
        if way in changed:
            self.result.files[name] = changed[way]
        elif way == "link":
            self.result.links[name] = "nowhere"
            del self.result.files[name]
        else:
            self.result.files[f"{name}.gz" if way == "packed" else f"{name[:-4]}.zip"] = self.result.files.pop(name)


def masks_in(out: Path) -> dict[str, np.ndarray]:
    """All masks that were written, those in a shard under SHARD/MEMBER."""
    found: dict[str, np.ndarray] = {}
    for path in (path for path in out.rglob("*") if path.is_file() and path.suffix != ".csv"):
        name = path.relative_to(out).as_posix()
        if path.suffix.lower() != ".tar":
            found[name] = np.array(Image.open(path))
            continue
        with tarfile.open(path) as shard:
            contents = {member.name: shard.extractfile(member).read() for member in shard}  # type: ignore[union-attr]
        found |= {
            posixpath.normpath(f"{name}/{key}"): np.array(Image.open(io.BytesIO(content)))
            for key, content in contents.items()
            if key.endswith(".png")
        }
    return found


def failures_in(out: Path) -> list[tuple[str, str]]:
    if not (out / "failures.csv").exists():
        return []
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        return [(name, problem) for name, problem in list(csv.reader(file))[1:]]


def is_named(photo: Photo, failed: Sequence[tuple[str, str]], passed: Counter[str]) -> bool:
    """Whether it is said that something is the matter with an image or its labels."""
    place = photo.place.casefold()  # what is said of labels names their file, whose name may be what is the matter
    key = posixpath.splitext(place)[0]
    shard = place[: place.find(".tar/") + 4] if ".tar/" in place else None
    names = {unicodedata.normalize("NFC", posixpath.normpath(name)).casefold() for name, _ in failed}
    if {place, key, shard} & names or any(posixpath.splitext(name)[0] == key for name in names):
        return True
    if photo.labels is not None and any(kind == ALONE or kind.endswith((".json", ".txt", ".cls")) for kind in passed):
        return True
    return any(place.endswith(kind) or kind in {".tar.gz", ".zip", ".seg.png"} for kind in passed)


some_collections = st.integers(0, 2).flatmap(
    lambda faults: collections(faults=faults).map(lambda files: (faults, files))
)


@of_many(50)
@given(some_collections)
def test_each_image_of_a_collection_is_labelled_as_meant_or_named(given: tuple[int, Files]) -> None:
    faults, files = given
    with temporary() as root, contextlib.redirect_stdout(io.StringIO()):
        files.write(root / "in")
        out = root / "out"
        tally = collection.run(Job(source=root / "in", out=out, make=Model, threads=1))
        masks, failed = masks_in(out), failures_in(out)
        assert len(masks) == tally.written and len(failed) == tally.failed
        assert all("\n" not in name + problem and problem for name, problem in failed)
        for photo in files.photos:
            mask = masks.get(photo.mask)
            code = PREDICTED if photo.labels is None else coded(photo.labels)
            right = mask is not None and np.array_equal(mask, np.full(photo.pixels.shape[:2], code))
            assert right or is_named(photo, failed, tally.ignored), (photo.place, photo.labels, failed, tally)
        told = {'(.json without "labels")'}  # it may be about something else, which is no fault
        assert faults or (not failed and set(tally.ignored) <= told), (failed, tally)
        assert tally.complete == (not failed and not (tally.ignored and not masks))
        again = collection.run(Job(source=root / "in", out=out, make=Model, threads=1))
        assert again.written == 0 and masks_in(out).keys() == masks.keys() and tally.complete <= (again.skipped > 0), (
            again
        )


@of_many(30)
@given(some_collections)
def test_each_image_that_is_predicted_is_written_or_named(given: tuple[int, Files]) -> None:
    faults, files = given
    with temporary() as root, contextlib.redirect_stderr(io.StringIO()) as said:
        files.write(root / "in")
        out = root / "out"
        lines = io.StringIO()
        with contextlib.redirect_stdout(lines):
            failed = predict.each_image([root / "in"], out, background, overlays=None)
        masks = masks_in(out)
        problems = said.getvalue().splitlines()
        assert lines.getvalue().startswith(f"{out}: {len(masks)} written, {len(problems)} failed")
        for photo in (photo for photo in files.photos if ".tar/" not in photo.place.lower()):
            mask = masks.get(photo.mask)
            right = mask is not None and np.array_equal(mask, np.zeros(photo.pixels.shape[:2]))
            named = any(f"{root / 'in' / photo.place}: " in problem for problem in problems)
            passed = posixpath.splitext(photo.place)[1].lower() in lines.getvalue()
            assert right or named or passed, (photo.place, problems, lines.getvalue())
        assert bool(failed) == bool(problems or not masks) and (faults or not problems)


def background(source: Path, mask: Path, _: Path) -> None:
    write_mask(mask, torch.zeros(read_image(source).shape[1:], dtype=torch.uint8))
