import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

from baoseg.core.errors import DataError, RunError
from baoseg.data.images import (
    from_bytes,
    image_size,
    image_suffixes,
    read_image,
    read_mask,
    unread_suffixes,
    voc_palette,
    with_palette,
    write_mask,
)

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def pixels(tensor):
    return [tuple(pixel) for pixel in tensor.flatten(1).T.tolist()]


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_grey_is_the_same_in_all_channels(tmp_path):
    Image.fromarray(np.array([[0, 7, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    assert pixels(read_image(tmp_path / "grey.png")) == [(0, 0, 0), (7, 7, 7), (255, 255, 255)]


def test_black_and_white(tmp_path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bilevel.png")
    assert pixels(read_image(tmp_path / "bilevel.png")) == [(0, 0, 0), WHITE]


@settings(deadline=None, max_examples=20)
@given(values=st.lists(st.integers(0, 65535), min_size=1, max_size=8))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path_factory, suffix, values):
    path = tmp_path_factory.mktemp("deep") / f"grey.{suffix}"
    Image.fromarray(np.array([values], dtype=np.uint16)).save(path)
    expected = [round(value / 65535 * 255) for value in values]
    assert read_image(path)[0, 0].tolist() == expected


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([*RED, *GREEN])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "one_colour.png", transparency=1)
    image.save(tmp_path / "bytes.png", transparency=bytes([255, 0]))
    assert pixels(read_image(tmp_path / "opaque.png")) == [RED, GREEN]
    assert pixels(read_image(tmp_path / "one_colour.png")) == [RED, WHITE]
    assert pixels(read_image(tmp_path / "bytes.png")) == [RED, WHITE]


def test_transparent_pixels_are_shown_over_white(tmp_path):
    colour = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    assert pixels(read_image(tmp_path / "colour.png")) == [RED, WHITE, (204, 204, 204)]
    Image.fromarray(colour[:, :, 2:]).save(tmp_path / "grey.png")  # grey 0 with alpha 255, 0 and 51
    assert pixels(read_image(tmp_path / "grey.png")) == [(0, 0, 0), WHITE, (204, 204, 204)]


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.tif")
    assert set(pixels(read_image(tmp_path / "print.tif"))) == {RED}
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert (read_image(tmp_path / "print.jpg").float() - torch.tensor(RED)[:, None, None]).abs().max() < 8


# Where the three marks of the upright image, 3 wide and 2 high, lie in the file for each EXIF orientation:
#   1 2 3        the numbers are the pixel values
#   4 5 6
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[3, 6], [2, 5], [1, 4]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[4, 1], [5, 2], [6, 3]],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_exif_orientation(tmp_path, orientation, kind):
    scale = 257 if kind is np.uint16 else 1
    stored = Image.fromarray(np.array(STORED[orientation], dtype=kind) * scale)
    stored.save(tmp_path / "turned.png", exif=with_orientation(orientation))
    assert read_image(tmp_path / "turned.png")[0].tolist() == STORED[1]
    assert image_size(tmp_path / "turned.png") == (2, 3)


def test_size_of_a_turned_photograph(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=with_orientation(6))
    assert image_size(tmp_path / "turned.jpg") == (30, 20) == tuple(read_image(tmp_path / "turned.jpg").shape[1:])


def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "early.png", exif=with_orientation(6))
    content = (tmp_path / "early.png").read_bytes()
    start = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[start : start + 4], "big")
    chunk, rest = content[start : start + length], content[:start] + content[start + length :]
    end = rest.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(rest[:end] + chunk + rest[end:])
    assert image_size(tmp_path / "late.png") == (3, 2) == tuple(read_image(tmp_path / "late.png").shape[1:])


def test_damaged_exif_counts_as_none(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert image_size(tmp_path / "odd.jpg") == (2, 3) == tuple(read_image(tmp_path / "odd.jpg").shape[1:])


def test_size_needs_the_header_alone(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(64, 48, 3)).astype(np.uint8)
    for suffix in ("png", "jpg"):
        whole, part = tmp_path / f"whole.{suffix}", tmp_path / f"part.{suffix}"
        Image.fromarray(noise).save(whole)
        part.write_bytes(whole.read_bytes()[:1000])
        assert image_size(part) == (64, 48)


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    assert ";" in message  # what is wrong; the remedy
    for word in words:
        assert word in message


@pytest.mark.parametrize("read", [read_image, image_size, read_mask])
def test_missing_and_unknown_files(tmp_path, read):
    with pytest.raises(DataError) as error:
        read(tmp_path / "absent.png")
    one_line(error, str(tmp_path / "absent.png"), "no such")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError) as error:
        read(tmp_path / "text.png")
    one_line(error, str(tmp_path / "text.png"), "not a known kind")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError) as error:
        read(tmp_path / "folder.png")
    one_line(error, str(tmp_path / "folder.png"))


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 0.9), suffix=st.sampled_from(["png", "jpg", "gif", "bmp", "webp", "tif"]))
def test_a_file_cut_anywhere_is_an_error(tmp_path_factory, share, suffix):
    path = tmp_path_factory.mktemp("cut") / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 40)).astype(np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError) as error:
        read_image(path)
    one_line(error, str(path))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(tmp_path, kind):
    Image.fromarray(np.array([[1, 70000]], dtype=kind)).save(tmp_path / "depth.tif")
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "depth.tif")
    one_line(error, "depth.tif", "8-bit")


def test_voc_colours():
    palette = voc_palette()
    assert palette[:6].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert palette[20].tolist() == [0, 64, 128]  # tv/monitor
    assert palette[255].tolist() == [224, 224, 192]  # void
    assert len({tuple(colour) for colour in palette.tolist()}) == 256


def test_our_palette_is_that_of_voc_files(shared):
    path = next((shared / "data/voc12-val-masks/SegmentationClass").glob("*.png"))
    with Image.open(path) as file:
        assert file.getpalette()[: 21 * 3] == voc_palette()[:21].flatten().tolist()


@settings(deadline=None, max_examples=20)
@given(data=st.data(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_masks_come_back_as_written(tmp_path_factory, data, height, width):
    path = tmp_path_factory.mktemp("masks") / "deep/er/mask.png"
    values = data.draw(st.lists(st.integers(0, 255), min_size=height * width, max_size=height * width))
    mask = torch.tensor(values, dtype=torch.uint8).reshape(height, width)
    write_mask(path, mask)
    assert torch.equal(read_mask(path), mask)
    with Image.open(path) as file:
        assert file.mode == "P"
        assert np.array_equal(np.asarray(file.convert("RGB")), voc_palette()[mask.numpy()])
    assert [entry.name for entry in path.parent.iterdir()] == ["mask.png"]  # no temporary file is left


def test_masks_are_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError):
        write_mask(tmp_path / "file/mask.png", torch.zeros(2, 2, dtype=torch.uint8))


def test_a_grey_mask_holds_its_values(tmp_path):
    Image.fromarray(np.array([[0, 3, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    assert read_mask(tmp_path / "grey.png").tolist() == [[0, 3, 255]]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bilevel.png")
    assert read_mask(tmp_path / "bilevel.png").tolist() == [[0, 1]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_a_mask_of_colours_is_an_error(tmp_path, mode):
    name = "mask.tif" if mode == "F" else "mask.png"
    Image.new(mode, (2, 2), 7 if mode == "F" else (255,) * len(mode)).save(tmp_path / name)
    with pytest.raises(DataError) as error:
        read_mask(tmp_path / name)
    one_line(error, name, mode, "palette")


def raw_png(rows, *, bits, kind, palette=b""):
    """A PNG written by hand: `kind` is 0 for greyscale, 3 for a palette."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    def packed(row):
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + packed(row) for row in rows))
    chunks = [(b"IHDR", header), *([(b"PLTE", palette)] if palette else []), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), bits=st.sampled_from([1, 2, 4, 8, 16]), kind=st.sampled_from([0, 3]))
def test_masks_are_the_samples_of_the_file_at_any_number_of_bits(tmp_path_factory, data, bits, kind):
    if kind == 3 and bits == 16:
        return
    path = tmp_path_factory.mktemp("bits") / "mask.png"
    row = st.lists(st.integers(0, min(2**bits, 256) - 1), min_size=5, max_size=5)
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    palette = np.random.default_rng(0).integers(1, 256, 3 * min(2**bits, 256)).astype(np.uint8).tobytes()
    path.write_bytes(raw_png(rows, bits=bits, kind=kind, palette=palette if kind == 3 else b""))
    assert read_mask(path).tolist() == rows


@pytest.mark.parametrize(("bits", "layout"), [(2, "L;2"), (4, "L;4")])
def test_a_tiff_mask_of_few_bits(tmp_path, bits, layout):
    values = [[0, 1, 2, 3]]
    packed = bytes([0b00011011]) if bits == 2 else bytes([0x01, 0x23])
    entries = [(256, 4, 4), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, 1), (279, 4, len(packed))]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(4)
    (tmp_path / "mask.tif").write_bytes(b"II*\0" + struct.pack("<I", 10) + packed.ljust(2, b"\0") + directory)
    with Image.open(tmp_path / "mask.tif") as file:
        assert layout in str(file.tile)
    assert read_mask(tmp_path / "mask.tif").tolist() == values


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_a_mask_of_more_bits_is_read_if_its_values_are_indices(tmp_path, kind):
    Image.fromarray(np.array([[0, 3, 255]], dtype=kind)).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif").tolist() == [[0, 3, 255]]
    Image.fromarray(np.array([[0, 3, 256]], dtype=kind)).save(tmp_path / "mask.tif")
    with pytest.raises(DataError) as error:
        read_mask(tmp_path / "mask.tif")
    one_line(error, "mask.tif", "256", "0..255")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_masks_in_formats_that_keep_indices(tmp_path, suffix):
    mask = np.array([[0, 3, 20], [255, 1, 0]], dtype=np.uint8)
    for image in (Image.fromarray(mask), with_palette(torch.from_numpy(mask))):
        image.save(tmp_path / f"mask.{suffix}")
        assert read_mask(tmp_path / f"mask.{suffix}").tolist() == mask.tolist()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("WEBP", {}), ("GIF", {}), ("TIFF", {"compression": "jpeg"}), ("JPEG2000", {})],
)
def test_a_mask_that_is_lossy_inside_is_refused_whatever_it_is_called(tmp_path, kind, options):
    Image.fromarray(np.zeros((16, 16), dtype=np.uint8)).save(tmp_path / "mask.png", format=kind, **options)
    with pytest.raises(DataError) as error:
        read_mask(tmp_path / "mask.png")
    one_line(error, "mask.png", kind if kind != "TIFF" else "JPEG", "exactly")


def in_palette(values, colours):
    image = Image.fromarray(np.array(values, dtype=np.uint8))
    image.putpalette(np.array(colours, dtype=np.uint8).tobytes())
    return image


def test_voc_colours_in_another_order_count_as_colours(tmp_path):
    path, mask = tmp_path / "mask.png", np.array([[0, 1, 2, 3, 255]], dtype=np.uint8)
    colours = voc_palette()[mask]
    for image in (
        Image.fromarray(colours),  # RGB
        Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE, colors=5),
        in_palette([[4, 3, 2, 1, 0]], voc_palette()[[255, 3, 2, 1, 0]]),
        in_palette([[3, 2, 1, 0, 255]], [*voc_palette()[[3, 2, 1, 0]], *voc_palette()[4:]]),  # the rest in its place
    ):
        image.save(path)
        assert read_mask(path, classes=3).tolist() == mask.tolist()


def test_greys_that_are_indices_count_where_a_palette_was_made_of_them(tmp_path):
    in_palette([[0, 1, 2, 3]], [[grey] * 3 for grey in (0, 3, 20, 255)]).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", classes=20).tolist() == [[0, 3, 20, 255]]
    assert read_mask(tmp_path / "mask.png", classes=3).tolist() == [[0, 1, 2, 3]]  # 20 is no class


@pytest.mark.parametrize(
    "colours",
    [
        [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)],
        [(0, 0, 0), (128, 0, 0), (0, 0, 128), (1, 2, 3)],  # one colour is not VOC's
        [(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128)],  # CamVid's: VOC has them far above class 3
        [(0, 0, 0)] * 4,
        [(0, 0, 0), (85, 85, 85), (170, 170, 170), (255, 255, 255)],
        [(0, 0, 0), (64, 64, 64), (128, 128, 128), (192, 192, 192)],  # greys that VOC has too
        [(192, 192, 192), (10, 10, 10), (0, 0, 0), (255, 255, 255)],
        voc_palette()[:4],
    ],
)
def test_other_palettes_are_indices(tmp_path, colours):
    in_palette([[0, 1, 2, 3]], colours).save(tmp_path / "mask.png")
    for classes in (3, 80):
        if classes == 3 or tuple(colours[0]) != (128, 128, 128):
            assert read_mask(tmp_path / "mask.png", classes=classes).tolist() == [[0, 1, 2, 3]]


def test_a_scan_that_is_too_large_is_told_the_limit(tmp_path):
    path = tmp_path / "scan.png"
    content = bytearray(raw_png([[0]], bits=8, kind=0))
    content[16:24] = struct.pack(">II", 20_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)
    for read in (read_image, image_size, read_mask, lambda path: from_bytes(path.read_bytes())):
        with pytest.raises(DataError) as error:
            read(path)
        one_line(error, "more than 178,956,970 pixels", "tiles")
        assert "copy it again" not in str(error.value)


def test_32_bit_greyscale_has_no_known_range(tmp_path):
    for values in ([[0, 90, 255]], [[0, 4000, 65535]]):
        Image.fromarray(np.array(values, dtype=np.int32)).save(tmp_path / "deep.tif")
        with pytest.raises(DataError) as error:
            read_image(tmp_path / "deep.tif")
        one_line(error, "deep.tif", "32-bit", "8-bit")
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(tmp_path / "g16.pgm")  # 16 bits, mode I inside
    assert read_image(tmp_path / "g16.pgm")[0].tolist() == [[0, 1, 255]]
    assert image_size(tmp_path / "g16.pgm") == (1, 3)


def xmp(orientation):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    )


def metadata(kind, where, orientation):
    """What Pillow's save takes to write an orientation there."""
    options = {}
    if kind == "TIFF":
        tags = {"exif": {0x0112: orientation}, "xmp": {700: xmp(orientation).encode()}}
        return {"tiffinfo": {**tags["exif"], **tags["xmp"]} if where == "both" else tags[where]}
    if where != "xmp":
        options["exif"] = with_orientation(orientation)
    if where != "exif" and kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp(orientation), zip=True)
    elif where != "exif":
        options["xmp"] = xmp(orientation).encode()
    return options


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["TIFF", "JPEG", "PNG", "WEBP", "MPO", "AVIF"]),
    where=st.sampled_from(["exif", "xmp", "both"]),
    orientation=st.sampled_from(sorted(STORED)),
)
def test_size_and_pixels_agree_for_every_format_and_orientation(tmp_path_factory, kind, where, orientation):
    if kind == "AVIF" and not features.check("avif"):
        return
    grey = {1: 0, 2: 50, 3: 100, 4: 150, 5: 200, 6: 250}
    stored = np.kron([[grey[mark] for mark in row] for row in STORED[orientation]], np.ones((16, 16)))
    path = tmp_path_factory.mktemp("turned") / f"image.{kind.lower()}"
    options = {"quality": 95} if kind in {"JPEG", "WEBP", "MPO", "AVIF"} else {}
    image = Image.fromarray(stored.astype(np.uint8)).convert("RGB")
    if kind == "MPO":
        options |= {"save_all": True, "append_images": [image]}
    image.save(path, format=kind, **options, **metadata(kind, where, orientation))
    upright = read_image(path)
    assert image_size(path) == tuple(upright.shape[1:]) == (32, 48)
    centres = upright[0, 8::16, 8::16].int()
    assert (centres - torch.tensor([[0, 50, 100], [150, 200, 250]])).abs().max() < 12


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_orientation_of_tiff_of_every_kind(tmp_path, mode, orientation, compression):
    """Pillow scrambles some that are not compressed, if it opens them by their path."""
    image = Image.fromarray(np.array(STORED[orientation], dtype=np.uint8))
    if mode == "1":
        image = image.point(lambda value: 255 * (value > 3)).convert("1")
    elif mode == "P":
        image.putpalette([channel for index in range(256) for channel in (index,) * 3])
    elif mode == "CMYK":
        empty = Image.new("L", image.size)
        image = Image.merge("CMYK", (image.point(lambda value: 255 - value), empty, empty, empty))
    elif mode == "I;16":
        image = Image.fromarray(np.array(STORED[orientation], dtype=np.uint16))
    else:
        image = image.convert(mode)
    path = tmp_path / "turned.tif"
    image.save(path, tiffinfo={0x0112: orientation}, compression=compression)
    upright = {"1": [[0, 0, 0], [255, 255, 255]], "I;16": [[0, 0, 0], [0, 0, 0]]}.get(mode, STORED[1])
    assert read_image(path)[0].tolist() == upright and image_size(path) == (2, 3)
    if mode in {"1", "L", "P", "I;16"}:
        assert read_mask(path).tolist() == ([[0, 0, 0], [1, 1, 1]] if mode == "1" else STORED[1])


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "JPEG2000", "TGA", "PCX", "ICO", "SGI"])
def test_size_of_formats_without_orientation(tmp_path, kind):
    Image.new("RGB", (30, 20)).save(tmp_path / "image", format=kind)
    assert image_size(tmp_path / "image") == tuple(read_image(tmp_path / "image").shape[1:])


# ---------------------------------------------------------------------------------------- suffixes


@pytest.mark.filterwarnings("ignore::DeprecationWarning:PIL")  # IM
def test_every_suffix_of_a_raster_image_that_pillow_writes_is_taken_and_read(tmp_path):
    """Each is written, and read with the colours that were written; lossy formats may change them a little."""
    Image.init()
    written = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    no_images = {".pdf", ".palm", ".eps", ".ps", ".wmf", ".emf", ".bufr", ".grib", ".h5", ".hdf"}
    assert written - image_suffixes() == no_images
    for number, suffix in enumerate(sorted(written - no_images)):
        path = tmp_path / f"{number}{suffix}"
        image = Image.new({".blp": "P", ".msp": "1", ".xbm": "1", ".pfm": "F"}.get(suffix, "RGB"), (32, 16))
        if suffix == ".pfm":
            continue  # floating-point pixels, whose range nobody knows: refused elsewhere
        if image.mode == "RGB":
            image.paste((250, 10, 10), (0, 0, 32, 16))
        image.save(path)
        assert from_bytes(path.read_bytes()).equal(read_image(path))
        if image.mode == "RGB":
            red, green, blue = read_image(path).float().mean(dim=(1, 2)).tolist()
            assert red > 230 and green < 30 and blue < 30, suffix


def test_an_icon_that_is_damaged_is_an_error_of_one_line():
    with pytest.raises(DataError, match="this image cannot be read"):
        from_bytes(b"icns" + (24).to_bytes(4, "big") + b"ic07" + (16).to_bytes(4, "big") + bytes(8))


def test_what_people_call_an_image_and_is_not_read_has_a_suffix_too():
    assert {".heic", ".dng", ".cr2", ".nef"} <= unread_suffixes() | image_suffixes()
    assert {".pdf", ".eps", ".svg", ".pcd"} <= unread_suffixes()
    assert not unread_suffixes() & image_suffixes()
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in unread_suffixes() | image_suffixes())


def test_a_plugin_of_pillow_adds_its_suffix(monkeypatch):
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))
    assert ".heic" in image_suffixes() - unread_suffixes()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None, max_examples=40)
@given(share=st.floats(0, 1))
@pytest.mark.parametrize("kind", ["AVIF", "BLP", "DDS", "JPEG2000", "PNG", "QOI", "TGA", "TIFF", "WEBP"])
def test_a_cut_file_of_any_format_is_read_or_an_error_of_one_line(kind, share):
    pixels = Image.fromarray(np.arange(32 * 32, dtype=np.uint32).astype(np.uint8).reshape(32, 32))
    pixels.convert("P" if kind == "BLP" else "RGB").save(file := io.BytesIO(), format=kind)
    content = file.getvalue()
    try:
        assert from_bytes(content[: int(share * len(content))]).shape == (3, 32, 32)
    except DataError as error:
        assert "\n" not in str(error) and "object at 0x" not in str(error)


def test_a_kind_of_compression_that_pillow_does_not_know_is_an_error_of_one_line():
    Image.new("P", (32, 32)).save(file := io.BytesIO(), format="BLP")
    content = bytearray(file.getvalue())
    content[4] = 99
    with pytest.raises(DataError, match="Unknown BLP compression"):
        from_bytes(bytes(content))
