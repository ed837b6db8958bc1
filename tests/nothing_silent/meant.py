"""What random folders are to hold, and their images and masks as files of many kinds."""

import contextlib
import io
import os
import struct
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from baoseg.data.images import voc_palette

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


def written(root: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
