"""Every format there and back, pixel for pixel; what does not fit is said at once."""

import json
import tempfile
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exchange import drawn_folder
from exchange.drawn_folder import CLASSES, NAMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from baoseg import exchange
from baoseg.core.errors import BaosegError, DataError, RunError
from baoseg.core.types import ClassSet
from baoseg.data.folder import Folder
from baoseg.data.images import read_mask
from baoseg.exchange import sources
from baoseg.exchange.result import ImageResult

WRITTEN = {  # what each format writes that its reader takes
    **{"png": "", "yolo": "", "labelme": ""},
    **{"coco": "all.json", "label-studio": "all.json", "cvat": "all.zip"},
}


def write(root: Path, form: str, out: Path, **options: object) -> Path:
    exchange.export_masks(sources.of_folder(root), form, out, exchange.Options(**options))
    return out / WRITTEN[form]


def read_back(source: Path, form: str, root: Path, out: Path) -> dict[str, np.ndarray]:
    exchange.import_masks(lambda: exchange.FORMATS[form].read(source), Folder(root), out)
    return {path.relative_to(out).with_suffix("").as_posix(): read_mask(path).numpy() for path in out.rglob("*.png")}


@pytest.mark.parametrize("form", exchange.FORMATS)
def test_masks_come_back_pixel_for_pixel(form: str, tmp_path: Path) -> None:
    masks = drawn_folder.masks()
    root = drawn_folder.write(tmp_path / "data", masks)
    source = write(root, form, tmp_path / "out")
    back = read_back(source, form, drawn_folder.write(tmp_path / "bare"), tmp_path / "back")
    kept = {name: np.where(mask == 255, 0, mask) for name, mask in masks.items()} if form == "yolo" else masks
    assert back.keys() == kept.keys()
    assert all(np.array_equal(back[name], kept[name]) for name in kept)


@pytest.mark.parametrize("form", exchange.FORMATS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(random=st.integers(0, 2**32 - 1), share=st.sampled_from([0.2, 0.5, 0.8]))
def test_random_masks_come_back_pixel_for_pixel(form: str, random: int, share: float, tmp_path: Path) -> None:
    """Three classes and pixels to ignore, in one another's holes; one image is all background, one of one pixel."""
    draw, masks = np.random.default_rng(random), {}
    for name, size in zip(NAMES, drawn_folder.SIZES, strict=True):
        masks[name] = np.where(draw.random(size) < share, draw.choice([1, 2, 3, 255], size), 0).astype(np.uint8)
        if form == "yolo":
            masks[name][masks[name] == 255] = 0
    masks[NAMES[1]][:] = 0
    masks[NAMES[2]][:], masks[NAMES[2]][63, 29] = 0, 2
    with tempfile.TemporaryDirectory(dir=tmp_path) as place:
        root = drawn_folder.write(Path(place) / "data", masks)
        back = read_back(write(root, form, Path(place) / "out"), form, root, Path(place) / "back")
    assert back.keys() == masks.keys() and all(np.array_equal(back[name], masks[name]) for name in masks)


def test_outlines_of_coco_come_back_too(tmp_path: Path) -> None:
    masks = drawn_folder.masks()
    root = drawn_folder.write(tmp_path / "data", masks)
    source = write(root, "coco", tmp_path / "out", outlines=exchange.Outlines.POLYGON)
    back = read_back(source, "coco", root, tmp_path / "back")
    assert all(np.array_equal(back[name], masks[name]) for name in NAMES)


@pytest.mark.parametrize("form", ["coco", "label-studio", "yolo", "labelme"])
def test_parts_below_the_least_area_are_left_out(form: str, tmp_path: Path) -> None:
    masks = drawn_folder.masks(ignore=False)
    root = drawn_folder.write(tmp_path / "data", masks)
    back = read_back(write(root, form, tmp_path / "out", min_area=30), form, root, tmp_path / "back")
    for name in NAMES[:2]:
        parts = [one for one in sources.of_folder(root).read(NAMES.index(name)).instances() if one.area >= 30]
        expected = np.zeros_like(masks[name])
        for part in parts:
            expected[part.mask] = part.label
        assert np.array_equal(back[name], expected)


def test_instances_are_the_connected_parts_of_a_class(tmp_path: Path) -> None:
    mask = np.zeros((40, 56), dtype=np.uint8)
    mask[2:5, 2:6] = mask[5, 6] = 1  # touch at a corner
    mask[20:30, 10:20], mask[24:26, 12:14], mask[0, 50] = 1, 2, 255
    root = drawn_folder.write(tmp_path, {**drawn_folder.masks(), NAMES[0]: mask})
    first, second, inner = sources.of_folder(root).read(0).instances()
    assert (first.label, first.area, first.box) == (1, 13, (2, 2, 5, 4))
    assert (second.label, second.area, second.box) == (1, 96, (10, 20, 10, 10))
    assert (inner.label, inner.area, inner.box) == (2, 4, (12, 24, 2, 2))
    assert first.score is None


@pytest.mark.parametrize("form", exchange.FORMATS)
def test_all_that_does_not_fit_is_said_at_once_and_nothing_is_written(form: str, tmp_path: Path) -> None:
    source = write(drawn_folder.write(tmp_path / "data", drawn_folder.masks()), form, tmp_path / "out")
    other = drawn_folder.write(tmp_path / "other", drawn_folder.masks())
    (other / "classes.txt").write_text("CAT\nbär\nhorse\n", encoding="utf-8")
    (other / "labels.csv").write_text("image,labels\nimages/a/one.png,CAT\nimages/b/three.png,bär\n", encoding="utf-8")
    Image.new("RGB", (8, 9)).save(other / "images/a/one.png")
    with pytest.raises(DataError) as caught:
        exchange.import_masks(lambda: exchange.FORMATS[form].read(source), Folder(other), tmp_path / "back")
    said = str(caught.value)
    assert "unknown class 'dog & co' on 2 images; the classes are CAT, bär, horse" in said
    assert f"1 images that {other} does not have:" in said and "two" in said
    assert "1 masks of another size than their image:" in said and "drawn at 56x40, the image has 8x9" in said
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("form", ["png", "yolo", "labelme"])
def test_the_same_command_goes_on_where_it_was(form: str, tmp_path: Path) -> None:
    root = drawn_folder.write(tmp_path / "data", drawn_folder.masks())
    write(root, form, tmp_path / "out")
    suffix = {"png": "masks/**/*.png", "yolo": "labels/**/*.txt", "labelme": "**/[!.]*.json"}[form]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob(suffix)}
    assert len(made) == 3
    gone, *stay = sorted(made)
    gone.unlink()
    write(root, form, tmp_path / "out")
    assert gone.exists()
    assert all(path.stat().st_mtime_ns == made[path] for path in stay)


@pytest.mark.parametrize("form", exchange.FORMATS)
def test_another_export_into_the_same_folder_is_refused(form: str, tmp_path: Path) -> None:
    """Files that are there would stay: those of the masks, of the least area and of the classes before."""
    first = drawn_folder.write(tmp_path / "data", drawn_folder.masks())
    write(first, form, tmp_path / "out")
    write(first, form, tmp_path / "out")
    other = drawn_folder.write(tmp_path / "other", drawn_folder.masks())
    with pytest.raises(RunError, match=r"holds another export of the split all \(from was .*data/masks\)"):
        write(other, form, tmp_path / "out")
    with pytest.raises(RunError, match=r"\(min_area was 1\); choose another folder"):
        write(first, form, tmp_path / "out", min_area=9)


@pytest.mark.parametrize("form", ["png", "yolo", "labelme", "label-studio"])
def test_copies_of_images_that_exif_turns_lie_as_their_masks(form: str, tmp_path: Path) -> None:
    root = drawn_folder.write(tmp_path / "data", drawn_folder.masks())
    pixels = np.zeros((33, 47, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    (root / "images/two.png").unlink()
    turned = Image.fromarray(np.rot90(pixels).copy())
    turned.save(root / "images/two.jpg", exif=exif, quality=95)
    lines = (root / "labels.csv").read_text(encoding="utf-8").replace("two.png", "two.jpg")
    (root / "labels.csv").write_text(lines, encoding="utf-8")
    write(root, form, tmp_path / "out")
    copy = next(path for path in (tmp_path / "out").rglob("two.*g") if "masks" not in path.parts)
    with Image.open(copy) as image:
        assert image.getexif().get(0x0112, 1) == 1
        found = np.asarray(image.convert("L"))
    assert found.shape == (33, 47) and found[:6, :6].min() > 200 and found[10:, 10:].max() < 50


@pytest.mark.parametrize("form", ["coco", "label-studio", "cvat"])
def test_a_file_is_there_as_a_whole_or_not_at_all(form: str, tmp_path: Path) -> None:
    root = drawn_folder.write(tmp_path / "data", drawn_folder.masks())
    (root / "masks/two.png").write_bytes(b"damaged")
    with pytest.raises(BaosegError, match=r"two\.png"):
        write(root, form, tmp_path / "out")
    assert [path for path in (tmp_path / "out").glob("[!.]*") if path.is_file()] == []  # images may be there


def test_masks_of_new_images_are_exported_beside_their_folder(tmp_path: Path) -> None:
    masks = drawn_folder.masks()
    root = drawn_folder.write(tmp_path / "data", masks)
    results = sources.of_masks(root / "masks", root / "images", ClassSet(CLASSES))
    assert sorted(results.names) == sorted(NAMES)
    assert all(np.array_equal(result.mask, masks[result.name]) for result in results)
    assert sources.classes_of(root / "masks", root).names == CLASSES
    assert list(sources.of_masks(root / "masks", root, ClassSet(CLASSES)).names) == list(NAMES)
    with pytest.raises(DataError, match=r"has no classes\.txt, nor has"):
        sources.classes_of(root / "masks", root / "images")
    few = sources.of_masks(root / "masks", root / "images", ClassSet(CLASSES[:1]))
    with pytest.raises(DataError, match=r"one\.png: index [23] is outside 0\.\.1"):
        list(few)
    Image.new("L", (9, 8)).save(root / "masks/two.png")
    with pytest.raises(DataError, match=r"two\.png: 9x8 pixels, its image 47x33"):
        list(results)
    with pytest.raises(DataError, match=r"has no mask NAME\.png of an image in"):
        sources.of_masks(root / "images/a", root / "images/b", ClassSet(CLASSES))


def test_images_are_found_with_more_or_fewer_folders_before_them(tmp_path: Path) -> None:
    masks = drawn_folder.masks()
    root = drawn_folder.write(tmp_path / "data", masks)
    path = write(root, "coco", tmp_path / "out")
    content = json.loads(path.read_text(encoding="utf-8"))
    for image, name in zip(content["images"], ("upload\\a\\one.jpg", "images/val/two.webp", "three.png"), strict=True):
        image["file_name"] = name
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_back(path, "coco", root, tmp_path / "back").keys() == masks.keys()


@pytest.mark.parametrize(
    ("form", "name", "content", "problem"),
    [
        ("coco", "a.json", '{"images": []}', "no file of COCO instances"),
        ("coco", "a.json", "{", "is no JSON"),
        ("label-studio", "a.json", '{"id": 1}', "no list of tasks"),
        ("cvat", "a.zip", "no zip", "export it from CVAT as Segmentation mask 1.1"),
        ("png", "d/data.yaml", "nc: 3", "has no list `names` of the classes"),
        ("png", "d/none.txt", "", "has no data.yaml or classes.txt"),
        ("yolo", "d/data.yaml", "names: [a]", "has no folders images and labels"),
        ("labelme", "d/x.json", "{}", "no file of LabelMe"),
    ],
)
def test_files_of_another_kind_are_named(form: str, name: str, content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    root = drawn_folder.write(tmp_path / "data")
    source = path if path.suffix in (".json", ".zip") and form != "labelme" else path.parent
    with pytest.raises(BaosegError, match=problem):
        exchange.import_masks(lambda: exchange.FORMATS[form].read(source), Folder(root), tmp_path / "back")


def test_masks_in_colours_with_their_list(tmp_path: Path) -> None:
    """The unpacked zip of CVAT: the folder of the objects is none of masks, and colours without a name are refused."""
    masks = drawn_folder.masks()
    root = drawn_folder.write(tmp_path / "data", masks)
    with zipfile.ZipFile(write(root, "cvat", tmp_path / "out")) as archive:
        archive.extractall(tmp_path / "unpacked")
    back = read_back(tmp_path / "unpacked", "png", root, tmp_path / "back")
    assert back.keys() == masks.keys() and all(np.array_equal(back[name], masks[name]) for name in masks)
    Image.new("RGB", (47, 33), (1, 2, 3)).save(tmp_path / "unpacked/SegmentationClass/two.png")
    with pytest.raises(DataError, match=r"two\.png has the colour #010203, which labelmap\.txt does not name"):
        read_back(tmp_path / "unpacked", "png", root, tmp_path / "again")
    (tmp_path / "unpacked/labelmap.txt").write_text("cat:red")
    with pytest.raises(DataError, match="write name:red,green,blue:: on each line"):
        read_back(tmp_path / "unpacked", "png", root, tmp_path / "again")


@pytest.mark.parametrize("form", exchange.FORMATS)
def test_masks_are_held_one_at_a_time(form: str, tmp_path: Path) -> None:
    """So the memory does not grow with the number of images."""
    whole, alive, most = sources.of_folder(drawn_folder.write(tmp_path / "data", drawn_folder.masks())), [], []

    def read(index: int) -> ImageResult:
        result = replace(whole.read(index % 3), name=f"image_{index}")
        most.append(sum(one() is not None for one in alive))
        alive.append(weakref.ref(result))
        return result

    many = replace(whole, names=[f"image_{index}" for index in range(12)], read=read)
    exchange.export_masks(many, form, tmp_path / "out", exchange.Options())
    assert len(most) == 12 and max(most) <= 1


def test_names_in_a_zip_stay_within_the_folder(tmp_path: Path) -> None:
    """A member is found by the name of an image of the data set, and its mask has that name."""
    root = drawn_folder.write(tmp_path / "data", drawn_folder.masks())
    path = write(root, "cvat", tmp_path / "out")
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(evil, "w") as other:
        other.writestr("labelmap.txt", archive.read("labelmap.txt"))
        other.writestr("SegmentationClass/../../../two.png", archive.read("SegmentationClass/two.png"))
    assert read_back(evil, "cvat", root, tmp_path / "back").keys() == {"two"}
    assert not (tmp_path.parent / "two.png").exists()
