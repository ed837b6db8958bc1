import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from baoseg.data.images import image_size, read_image, read_mask, voc_palette, write_mask
from baoseg.errors import DataError, RunError

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


# Where the three marks of the upright picture, 3 wide and 2 high, lie in the file for each EXIF orientation:
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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_a_mask_of_colours_is_an_error(tmp_path, mode):
    Image.new(mode, (2, 2)).save(tmp_path / "mask.png", pnginfo=PngImagePlugin.PngInfo())
    with pytest.raises(DataError) as error:
        read_mask(tmp_path / "mask.png")
    one_line(error, "mask.png", mode, "palette")
