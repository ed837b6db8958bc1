"""Images and masks on disk: common image files become 8-bit RGB, masks are palette PNGs in VOC colours."""

import contextlib
import functools
import io
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image, ImageFile, PngImagePlugin
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.core.files import atomic
from baoseg.core.types import IGNORE

# The errors that Pillow raises for files that are damaged, truncated, of an unknown kind, or too large.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    AssertionError,  # ICNS
    LookupError,
    MemoryError,
    RuntimeError,  # AVIF; NotImplementedError: BLP, DDS
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# Formats that Pillow knows and that are not read as images: data that need another program (BUFR, GRIB, HDF5),
# vector graphics (EPS, WMF), video (FLI, MPEG), and Kodak's Photo CD, whose suffix .pcd means point clouds today.
_NOT_TAKEN = frozenset({"BUFR", "GRIB", "HDF5", "EPS", "WMF", "FLI", "MPEG", "PCD"})
# Suffixes of common image files, whether or not they can be read here: web, documents, cameras, science.
_OF_IMAGES = frozenset(
    {
        *(".avif", ".avifs", ".heic", ".heics", ".heif", ".hif", ".jp2", ".jxl", ".jxr", ".wdp", ".webp"),
        *(".ai", ".cdr", ".djvu", ".emf", ".eps", ".kra", ".pdf", ".ps", ".psb", ".svg", ".svgz", ".wmf", ".xcf"),
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".ptx", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
        *(".czi", ".dcm", ".exr", ".hdr", ".lif", ".nd2", ".ndpi", ".nii", ".pcd", ".svs", ".vms"),
    }
)

ImageLike = str | Path | Image.Image | np.ndarray | Tensor  # arrays: uint8 [h w 3], tensors: uint8 [3 h w]
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # formats that keep class indices exactly
_MASK_FORMATS = {"PNG", "BMP", "DIB", "TIFF"}  # Pillow's names of these formats
_LOSSY_IN_TIFF = {"jpeg", "tiff_jpeg", "webp"}
# Formats whose header has the size without the orientation. Images of other formats are decoded to find their size.
_SIZE_IN_HEADER = {*_MASK_FORMATS, "GIF", "JPEG", "MPO", "PPM", "WEBP"}
_SIXTEEN_BITS = {"PNG", "PPM"}  # formats whose mode "I" is 16 bits scaled to 0..65535
_ORIENTATION = 0x0112  # the EXIF tag
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
# EXIF orientation -> operation that turns the stored image upright; from 5 on, width and height are exchanged.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_suffixes() -> frozenset[str]:
    """The suffixes (lower case) of files that are read as images: of all formats that the installed Pillow opens.

    The formats in `_NOT_TAKEN` and formats that Pillow only writes (PDF, PALM) are left out. A plugin that is
    registered with Pillow adds its suffixes, e.g. for HEIC.
    """
    Image.init()
    opened = (Image.OPEN.keys() | {"MPO"}) - _NOT_TAKEN  # MPO is opened as JPEG
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in opened)


def unread_suffixes() -> frozenset[str]:
    """The suffixes (lower case) of common image files that cannot be read here."""
    return _OF_IMAGES - image_suffixes()


def read_image(path: Path) -> UInt8[Tensor, "3 h w"]:
    """An image as RGB, 8 bit, upright by its EXIF orientation.

    Transparent pixels are shown over white. 16-bit greyscale is scaled to 8 bit (65535 -> 255), not clipped.
    Raises DataError if the file is missing, unreadable, truncated or of a kind whose range is unknown.
    """
    with _opened(path, "image") as file:
        return _upright(file)


def from_pil(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """A Pillow image as RGB, 8 bit, upright, as by `read_image`. Raises DataError as `read_image`."""
    try:
        return _upright(image)
    except DAMAGE as error:
        raise DataError(f"image {getattr(image, 'filename', '')}: {what_is_wrong(error, 'image')}") from None


def as_image(image: ImageLike) -> UInt8[Tensor, "3 h w"]:
    """An image from a path, a Pillow image, an array [h w 3] or a tensor [3 h w], both uint8.

    Raises DataError as `read_image`, and for arrays and tensors of another type or shape.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DataError(f"an array of {image.dtype} {image.shape} is not an image; give uint8 of shape [h w 3]")
        return torch.from_numpy(image.copy()).permute(2, 0, 1)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise DataError(f"a tensor of {image.dtype} {tuple(image.shape)} is not an image; give uint8 of shape [3 h w]")
    return image


def from_bytes(content: bytes) -> UInt8[Tensor, "3 h w"]:
    """Decode the content of an image file. Raises DataError as `read_image`, without the name of the file.

    The caller silences Pillow's warnings, because warning filters belong to the process and threads may call this.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _upright(image)
    except DAMAGE as error:
        raise DataError(what_is_wrong(error, "image")) from None


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright image, as `read_image` returns it, if possible from the header alone.

    Raises DataError as `read_image`.
    """
    with _opened(path, "image") as file:
        if file.format not in _SIZE_IN_HEADER:
            file.load()
        width, height = file.size
        if (
            file.format == "TIFF"
        ):  # Pillow itself turns TIFF files, when it opens or when it loads them, depending on its version
            tags = getattr(file, "tag_v2")  # noqa: B009 - of this kind of file alone
            width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
        if isinstance(file, PngImagePlugin.PngImageFile) and not _may_have_exif(path):
            return height, width  # Pillow would decode the whole image to search for EXIF data behind it
        return (width, height) if _orientation(file) >= 5 else (height, width)


def read_mask(path: Path, *, classes: int = IGNORE - 1) -> UInt8[Tensor, "h w"]:
    """Read a mask of class indices [h w]: the stored palette index or grey value (up to 8 bits) of each pixel.

    If a palette has only the VOC colours of 0..`classes` and 255 but at other indices, the colours determine the class
    indices; likewise in an RGB file of these colours. With any other palette, the palette indices are the class
    indices.

    Raises DataError if the file is missing or unreadable, if its format does not keep values exactly (JPEG), or if it
    has other colours or values above 255.
    """
    with _opened(path, "mask") as file:
        lossy = file.format == "TIFF" and file.info.get("compression") in _LOSSY_IN_TIFF
        if lossy or file.format not in _MASK_FORMATS:
            raise DataError(
                f"{path}: is a {'JPEG or WebP' if lossy else file.format} image, which does not keep class "
                "indices exactly; make the mask again from its source, as a palette or 8-bit greyscale PNG"
            )
        step = _scaled_by(file)
        file.load()
        mode, values = file.mode, np.array(file)
        if mode == "P":
            values = _by_palette(values, file.getpalette() or [], classes)
        orientation = _orientation(file)
    if mode == "RGB":
        indices = _by_colour(values, classes)
    elif mode.startswith("I"):
        indices = _of_many_bits(path, values)
    else:
        indices = values.astype(np.uint8) // step if mode in {"P", "L", "1"} else None
    if indices is None:
        raise DataError(
            f"{path}: a mask must hold class indices, but this file has {mode} pixels"
            f"{f' of other colours than those of VOC for 0..{classes} and {IGNORE}' if mode == 'RGB' else ''}; "
            "save it as a palette or 8-bit greyscale PNG"
        )
    if orientation in _UPRIGHT:
        indices = np.array(Image.fromarray(indices).transpose(_UPRIGHT[orientation]))
    return torch.from_numpy(indices)


def _scaled_by(file: Image.Image) -> int:
    """The factor by which Pillow scales greyscale values of less than 8 bits when it loads the file."""
    layout = str(file.tile[0][3]) if isinstance(file, ImageFile.ImageFile) and file.tile else ""
    bits = re.search(r"\bL;([24])", layout)
    return 255 // (2 ** int(bits[1]) - 1) if bits else 1


def read_numbers(path: Path) -> Int32[np.ndarray, "h w"]:
    """The numbers in a PNG of one channel: palette indices, or grey of up to 16 bits. Raises DataError."""
    with _opened(path, "map of regions") as file:
        if file.format != "PNG" or not (file.mode in {"P", "L", "1"} or file.mode.startswith("I")):
            raise DataError(f"{path}: a {file.format} of mode {file.mode}; save it as a PNG of one channel")
        return np.array(file).astype(np.int32)


def _of_many_bits(path: Path, values: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    if values.min() < 0 or values.max() > IGNORE:
        raise DataError(
            f"{path}: the mask holds the value {max(values.max(), values.min(), key=abs)}, but class indices are "
            f"0..{IGNORE}; save it as a palette or 8-bit greyscale PNG of class indices"
        )
    return values.astype(np.uint8)


def _by_palette(values: UInt8[np.ndarray, "h w"], palette: list[int], classes: int) -> UInt8[np.ndarray, "h w"]:
    """The class indices of a palette image: its values, or the classes of its colours (see `read_mask`).

    Grey colours whose grey values are class indices count as class indices too: programs that compress greyscale files
    make such palettes. Other palettes of greys from dark to light are only for display.
    """
    if bytes(palette) == _palette()[: len(palette)]:
        return values
    colours = np.array(palette, dtype=np.uint8).reshape(-1, 3)
    used = np.unique(values)
    if used.max(initial=0) >= len(colours):
        return values
    grey = (colours == colours[:, :1]).all()
    lookup = _in_order_of(_greys(), colours, used, classes) if grey else None
    if lookup is not None and not np.isin(lookup[used], np.arange(1, classes + 1)).any():
        lookup = None
    if lookup is None and not (grey and (np.diff(colours[:, 0].astype(int)) >= 0).all()):
        lookup = _in_order_of(voc_palette(), colours, used, classes)
    return values if lookup is None else lookup[values]


def _in_order_of(
    own: UInt8[np.ndarray, "256 3"], colours: UInt8[np.ndarray, "n 3"], used: UInt8[np.ndarray, "u"], classes: int
) -> UInt8[np.ndarray, "256"] | None:
    """A table from the index of a colour in `colours` to its index in `own`; None if the colours do not determine it.

    They do if each colour is at its own index or is the colour of a class, the background or 255, and if no colour in
    `used` has two indices.
    """
    meant, codes = _meaning(own.tobytes(), classes), _codes(colours).tolist()
    lookup = np.arange(IGNORE + 1, dtype=np.uint8)
    for index, at_home in enumerate((colours == own[: len(colours)]).all(axis=1)):
        if not at_home and codes[index] not in meant:
            return None
        if index in used and codes.index(codes[index]) != index:
            return None
        lookup[index] = index if at_home else meant[codes[index]]
    return lookup


def _by_colour(values: UInt8[np.ndarray, "h w 3"], classes: int) -> UInt8[np.ndarray, "h w"] | None:
    """The class indices of an RGB mask in VOC colours; None if it has other colours."""
    meant = _meaning(_palette(), classes)
    codes, position = np.unique(_codes(values), return_inverse=True)
    if any(code not in meant for code in codes.tolist()):
        return None
    return np.array([meant[code] for code in codes.tolist()], dtype=np.uint8)[position].reshape(values.shape[:2])


def _codes(colours: UInt8[np.ndarray, "*shape 3"]) -> np.ndarray:
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return (red << 16) + (green << 8) + blue


@functools.cache
def _meaning(palette: bytes, classes: int) -> dict[int, int]:
    """A table from the code of a colour to its index, for 0..`classes` and 255 of a palette of 256."""
    codes = _codes(np.frombuffer(palette, dtype=np.uint8).reshape(-1, 3)).tolist()
    return {codes[index]: index for index in (*range(classes + 1), IGNORE)}


def _greys() -> UInt8[np.ndarray, "256 3"]:
    return np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)


def write_mask(path: Path, mask: UInt8[Tensor, "h w"]) -> None:
    """Write class indices as a palette PNG in VOC colours, atomically. Raises RunError as `core.files.atomic`."""
    image = with_palette(mask)
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")


def write_grey(path: Path, values: UInt8[Tensor, "h w"]) -> None:
    """Write a grey PNG, atomically. Raises RunError as `core.files.atomic`."""
    with atomic(path) as temporary:
        Image.fromarray(values.numpy()).save(temporary, format="PNG")


def with_palette(mask: UInt8[Tensor, "h w"]) -> Image.Image:
    """Class indices as a palette image in VOC colours."""
    image = Image.fromarray(mask.numpy())
    image.putpalette(_palette())
    return image


@functools.cache
def _palette() -> bytes:
    return voc_palette().tobytes()


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The palette of PASCAL VOC: each three bits of an index are high bits of red, green and blue."""
    index = np.arange(256)[:, None]
    channel = np.arange(3)[None]
    colour = np.zeros((256, 3), dtype=np.uint8)
    for step in range(8):
        colour |= (((index >> (3 * step + channel)) & 1) << (7 - step)).astype(np.uint8)
    return colour


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """Open an image file: errors become DataError, and warnings are silenced."""
    try:
        # A stream, not a path: Pillow maps an uncompressed file that it opens by its path into memory, and reads the
        # rows of a rotated TIFF with the row length of the upright image.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as stream, Image.open(stream) as file:
            yield file
    except DAMAGE as error:
        raise DataError(f"{path}: {what_is_wrong(error, kind)}") from None


def _upright(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    image.load()
    orientation = _orientation(image)
    rgb = _rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


class _UnknownRange(ValueError):
    """Pixel values whose black and white are unknown."""


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" and image.format not in _SIXTEEN_BITS:
        raise _UnknownRange("32-bit greyscale")
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion would clip it at 255
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise _UnknownRange("floating-point")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; a damaged EXIF block is ignored, as in every viewer."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _may_have_exif(path: Path) -> bool:
    content = path.read_bytes()
    return any(word in content for word in (b"eXIf", b"Raw profile type exif", b"adobe.xmp"))


def most_pixels() -> int:
    """The pixels of the largest image that is read: twice Pillow's own number, which is where Pillow refuses."""
    return 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)


def what_is_wrong(error: BaseException, kind: str) -> str:
    """What is wrong with a file and how to fix it, in one line without the name of the file."""
    if isinstance(error, FileNotFoundError):
        return f"no such {kind}; restore the file or correct its path"
    if isinstance(error, PermissionError):
        return f"no permission to read this {kind}; change its permissions"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a known kind of {kind} file; save it as PNG{' or JPEG' if kind == 'image' else ''}"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"this {kind} has more than {most_pixels():,} pixels, the most that are read; make it "
            "smaller, or cut it into tiles"
        )
    if isinstance(error, _UnknownRange):
        return f"this {kind} has {error} pixels, whose range is unknown; save it as 8-bit PNG"
    reason = " ".join(str(error).split())  # always one line
    return f"this {kind} cannot be read ({reason}); copy it again from its source or save it as 8-bit PNG"
