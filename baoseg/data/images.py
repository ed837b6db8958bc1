"""Pictures and masks on disk: common image files become 8-bit RGB, masks are palette PNGs in VOC colours."""

import contextlib
import functools
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from baoseg.errors import DataError
from baoseg.runs import atomic

# What Pillow raises for files that are damaged, cut short, of no known kind, or absurdly large.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

Picture = str | Path | Image.Image | np.ndarray | Tensor  # arrays: uint8 [h w 3], tensors: uint8 [3 h w]
_ORIENTATION = 0x0112  # the EXIF tag
# EXIF orientation -> what turns the stored picture upright; those from 5 on swap the sides.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> UInt8[Tensor, "3 h w"]:
    """A picture as RGB, 8 bit, upright by its EXIF orientation.

    Transparent pixels are shown over white. 16-bit greyscale is scaled to 8 bit (65535 -> 255), not clipped.
    Raises DataError if the file is missing, unreadable, truncated or of a kind whose range is unknown.
    """
    with _opened(path, "image") as file:
        return _upright(file)


def from_pil(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """A picture that Pillow holds, as `read_image` gives that of a file. Raises DataError as `read_image`."""
    try:
        return _upright(image)
    except _DAMAGE as error:
        raise DataError(f"picture {getattr(image, 'filename', '')}: {_what_is_wrong(error, 'image')}") from None


def as_picture(image: Picture) -> UInt8[Tensor, "3 h w"]:
    """A picture in any of its forms. Raises DataError as `read_image`, and for arrays and tensors of another kind."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DataError(f"an array of {image.dtype} {image.shape} is no picture; give uint8 of [h w 3]")
        return torch.from_numpy(image.copy()).permute(2, 0, 1)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise DataError(f"a tensor of {image.dtype} {tuple(image.shape)} is no picture; give uint8 of [3 h w]")
    return image


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright picture, from the header alone. Raises DataError as `read_image`."""
    with _opened(path, "image") as file:
        width, height = file.size
        if isinstance(file, PngImagePlugin.PngImageFile) and not _may_have_exif(path):
            return height, width  # asking Pillow would decode the whole picture to look behind it
        return (width, height) if _orientation(file) >= 5 else (height, width)


def read_mask(path: Path) -> UInt8[Tensor, "h w"]:
    """A mask of class indices: the palette index or the grey value of each pixel.

    Raises DataError if the file is missing or unreadable, or if it holds colours instead of indices.
    """
    with _opened(path, "mask") as file:
        file.load()
        mode, indices = file.mode, np.array(file)
    if mode not in {"P", "L", "1"}:
        raise DataError(
            f"{path}: a mask holds class indices, this file holds {mode} pixels; "
            "save it as a palette or 8-bit greyscale PNG"
        )
    return torch.from_numpy(indices.astype(np.uint8))


def write_mask(path: Path, mask: UInt8[Tensor, "h w"]) -> None:
    """Write class indices as a palette PNG in VOC colours, whole or not at all."""
    image = with_palette(mask)
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")


def with_palette(mask: UInt8[Tensor, "h w"]) -> Image.Image:
    """Class indices as a palette image in VOC colours."""
    image = Image.fromarray(mask.numpy())
    image.putpalette(_palette())
    return image


@functools.cache
def _palette() -> bytes:
    return voc_palette().tobytes()


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC: the bits of an index, in threes, are the high bits of red, green, blue."""
    index = np.arange(256)[:, None]
    channel = np.arange(3)[None]
    colour = np.zeros((256, 3), dtype=np.uint8)
    for step in range(8):
        colour |= (((index >> (3 * step + channel)) & 1) << (7 - step)).astype(np.uint8)
    return colour


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """An image file; what goes wrong with it is a DataError, and what does no harm is not spoken of."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as file:
            yield file
    except _DAMAGE as error:
        raise DataError(f"{path}: {_what_is_wrong(error, kind)}") from None


def _upright(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    image.load()
    orientation = _orientation(image)
    rgb = _rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion would clip it at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("more than 16 bits a pixel")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; a damaged EXIF block counts as none, as in every viewer."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _may_have_exif(path: Path) -> bool:
    content = path.read_bytes()
    return any(word in content for word in (b"eXIf", b"Raw profile type exif", b"adobe.xmp"))


def _what_is_wrong(error: BaseException, kind: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such {kind}; restore the file or correct its path"
    if isinstance(error, PermissionError):
        return f"no permission to read this {kind}; change its permissions"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a known kind of {kind} file; save it as PNG{' or JPEG' if kind == 'image' else ''}"
    reason = " ".join(str(error).split())  # always one line
    return f"this {kind} cannot be read ({reason}); copy it again from its source or save it as 8-bit PNG"
