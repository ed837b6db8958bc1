import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

import baoseg
from baoseg import refine
from baoseg.core.errors import BaosegError, DataError
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import ClassSet
from baoseg.data.images import read_image, read_mask, voc_palette
from baoseg.data.transforms import Normalisation
from baoseg.nets.segmentation import SegmentationNetwork
from baoseg.predict import predict
from baoseg.predict.predict import Config
from baoseg.predict.segment import Inference, Segmenter

CLASSES = ClassSet(("red", "green", "light blue"))
COLOURS = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)


class Colours(SegmentationNetwork):
    """A network by hand: the logit of a class is its colour, that of the background one half."""

    num_classes = 3
    stride = 1
    normalisation = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    body = "nothing"

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.gain * torch.cat([torch.full_like(images[:, :1], 0.5), images], dim=1)


def segmenter(*, gain: float = 20.0, window: int = 64, margin: int = 16, crf: bool = False) -> Segmenter:
    inference = Inference(scales=(1.0,), flip=False, window=window, margin=margin, crf=crf)
    return Segmenter(Colours(gain), CLASSES, inference=inference)


def blots(height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """A label image of large regions."""
    coarse = torch.randint(4, (1, 1, 3, 4), generator=torch.Generator().manual_seed(seed)).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")[0, 0].long()


def image_of(labels: torch.Tensor) -> torch.Tensor:
    return COLOURS[labels].permute(2, 0, 1).contiguous()


def write(path: Path, labels: torch.Tensor | None = None) -> Path:
    """An image of the labels, in colours that JPEG does not change much."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = COLOURS[blots(24, 40) if labels is None else labels].numpy()
    Image.fromarray(pixels).save(path, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------- files in and out


def test_masks_lie_where_their_images_lay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    labels = {name: blots(20 + i, 30, seed=i) for i, name in enumerate(["cat.jpg", "deep/er/dog.v2.png", "x/b.BMP"])}
    for name, to_mask in labels.items():
        write(photos / name, to_mask)
    alone = write(tmp_path / "alone.tiff")
    (photos / "notes.txt").write_text("no picture")
    write(photos / ".cat.jpg")
    write(photos / ".hidden/cat.jpg")
    assert predict.run(segmenter(), [photos, alone], out) == []
    assert files(out) == {"cat.png", "deep/er/dog.v2.png", "x/b.png", "alone.png"}
    for name, to_mask in labels.items():
        assert torch.equal(read_mask((out / name).with_suffix(".png")).long(), to_mask)
    with Image.open(out / "cat.png") as mask:
        assert mask.mode == "P" and mask.getpalette()[:768] == voc_palette().flatten().tolist()
    assert capsys.readouterr() == (f"{out}: 4 written, 0 failed\n", "")


def test_what_cannot_be_read_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    good, cut = write(photos / "good.png"), write(photos / "cut.png")
    cut.write_bytes(cut.read_bytes()[:60])
    (photos / "text.jpg").write_text("no picture")
    failed = predict.run(segmenter(), [photos, tmp_path / "nowhere.png", good], out, config=Config(overlays=True))
    assert failed == [photos / "cut.png", photos / "text.jpg", tmp_path / "nowhere.png"]
    assert files(out) == {"good.png", "overlays/good.jpg"}  # once, though it was named twice
    seen = capsys.readouterr()
    lines = seen.err.splitlines()
    assert [line.startswith(f"bao: {path}: ") for line, path in zip(lines, failed, strict=True)] == [True] * 3
    assert "not a known kind of image" in lines[1] and "no such image" in lines[2]
    assert seen.out == f"{out}: 1 written, 3 failed\n"


def test_a_folder_that_cannot_be_read_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good.png", "locked/cat.png"):
        write(tmp_path / "photos" / name)
    locked, scan = tmp_path / "photos/locked", os.scandir

    def refuse(folder: str) -> object:
        if Path(folder) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert predict.run(segmenter(), [tmp_path / "photos"], tmp_path / "out") == [locked]
    assert (tmp_path / "out/good.png").exists()
    problem = "this folder cannot be read (Permission denied); change its permissions"
    assert capsys.readouterr().err == f"bao: {locked}: {problem}\n"


def test_a_device_without_memory_for_an_image_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "photos/large.png", blots(50, 60))
    write(tmp_path / "photos/small.png", blots(5, 6))
    model = segmenter()
    whole = model.mask

    def scarce(picture: torch.Tensor, labels: None) -> torch.Tensor:
        if picture.shape[1] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return whole(picture, labels)

    monkeypatch.setattr(model, "mask", scarce)
    assert predict.run(model, [tmp_path / "photos"], tmp_path / "out") == [tmp_path / "photos/large.png"]
    assert files(tmp_path / "out") == {"small.png"}
    assert capsys.readouterr().err == (
        f"bao: {tmp_path / 'photos/large.png'}: the image is too large for the memory of the device; "
        "use --accelerator cpu\n"
    )


def test_predicting_again_overwrites(tmp_path: Path) -> None:
    source = write(tmp_path / "cat.png")
    for to_mask in (blots(8, 9, seed=1), blots(8, 9, seed=2)):
        write(source, to_mask)
        predict.run(segmenter(), [source], tmp_path / "out")
        assert torch.equal(read_mask(tmp_path / "out/cat.png").long(), to_mask)


@pytest.mark.parametrize(
    ("inputs", "out", "problem"),
    [
        ([], "out", "no images to predict"),
        (["empty"], "out", r"empty: holds no images \(such as \.jpg"),
        (["b"], "b", "b: is inside .*b, whose images are read"),
        (["b"], "b/masks", "b/masks: is inside .*b, whose images are read"),
        (["a/cat.png"], "a", r"a/cat\.png: an image to predict would be overwritten"),
        (["d/overlays/x.jpg"], "d", r"d/overlays/x\.jpg: an image to predict would be overwritten"),
        (["b"], "b/dog.jpg/out", r"b/dog\.jpg: a file is in the way of a folder"),
    ],
)
def test_what_cannot_be_predicted_is_refused_before_any_work(
    tmp_path: Path, inputs: list[str], out: str, problem: str
) -> None:
    for name in ("a/cat.jpg", "a/cat.png", "b/dog.jpg", "c/dog.jpg", "d/overlays/x.jpg"):
        write(tmp_path / name)
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    config = Config(overlays=True)
    sources = [tmp_path / name for name in inputs]
    with pytest.raises(BaosegError, match=problem) as caught:
        predict.run(segmenter(), sources, tmp_path / out, config=config)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("alone", [False, True])
def test_images_whose_masks_would_be_one_file_fail_and_the_others_are_predicted(
    tmp_path: Path, alone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named one by one or found in a folder; twice the same file is no clash."""
    for name in ("p/cat.jpg", "p/cat.JPG", "p/dog.png", "p/dog.WEBP", "p/ok.png", "q/ok.v2.png", "q/one.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / "x.png").rename(tmp_path / name)
    inputs = sorted((tmp_path / "p").iterdir()) if alone else [tmp_path / "p"]
    failed = predict.run(segmenter(), [*inputs, tmp_path / "q", tmp_path / "q/../q/one.png"], tmp_path / "out")
    assert sorted(failed) == [tmp_path / "p" / name for name in ("cat.JPG", "cat.jpg", "dog.WEBP", "dog.png")]
    assert files(tmp_path / "out") == {"ok.png", "ok.v2.png", "one.png"}
    seen = capsys.readouterr()
    assert seen.err.count("2 images have this name: ") == seen.err.count("\n") == 4
    assert seen.out == f"{tmp_path / 'out'}: 3 written, 4 failed\n"


def test_two_folders_with_images_of_one_name_fail_there(tmp_path: Path) -> None:
    for name in ("b/dog.jpg", "b/cat.jpg", "c/dog.jpg"):
        write(tmp_path / name)
    failed = predict.run(segmenter(), [tmp_path / "b", tmp_path / "c"], tmp_path / "out")
    assert failed == [tmp_path / "b/dog.jpg", tmp_path / "c/dog.jpg"]
    assert files(tmp_path / "out") == {"cat.png"}


def test_what_is_passed_over_is_counted_and_failed_where_nothing_else_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("IMG_1.HEIC", "deep/IMG_2.heic", "plan.svg", "notes.txt", "._IMG_3.heic", "all.zip"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"content")
    failed = predict.run(segmenter(), [tmp_path / "photos"], tmp_path / "out")
    assert sorted(path.name for path in failed) == ["IMG_1.HEIC", "IMG_2.heic", "all.zip", "plan.svg"]
    last = "4 files were ignored: 2 .heic, 1 .svg, 1 .zip"
    assert capsys.readouterr() == (f"{tmp_path / 'out'}: 0 written, 0 failed; {last}\n", "")
    write(tmp_path / "photos/cat.jfif.png").rename(tmp_path / "photos/cat.jfif")
    assert predict.run(segmenter(), [tmp_path / "photos"], tmp_path / "out") == []
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 1 written, 0 failed; {last}\n"


def test_a_mask_whose_name_no_file_can_have_is_of_that_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A suffix of two letters leaves room for a name whose mask has none; a folder may have the name of a mask."""
    for name in ("n" * 252, "taken", "猫" * 83, "ok"):
        suffix = ".bw" if name[0] == "n" else ".png"
        write(tmp_path / "photos/x.png").rename(tmp_path / "photos" / f"{name}{suffix}")
    (tmp_path / "out/taken.png").mkdir(parents=True)
    failed = predict.run(segmenter(), [tmp_path / "photos"], tmp_path / "out", config=Config(overlays=True))
    assert [path.name[:5] for path in failed] == ["nnnnn", "taken"]
    assert files(tmp_path / "out") == {"ok.png", "overlays/ok.jpg", f"{'猫' * 83}.png", f"overlays/{'猫' * 83}.jpg"}
    too_long, taken = capsys.readouterr().err.splitlines()
    assert "the name is too long" in too_long and "a folder has this name" in taken


def test_an_image_that_is_gone_meanwhile_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write(tmp_path / "photos/a.png"), write(tmp_path / "photos/b.png")
    model = segmenter()
    whole = model.mask

    def while_it_is_gone(picture: torch.Tensor, labels: None) -> torch.Tensor:
        second.unlink()
        return whole(picture, labels)

    monkeypatch.setattr(model, "mask", while_it_is_gone)
    assert predict.run(model, [first, second], tmp_path / "out") == [second]
    assert capsys.readouterr().err == f"bao: {second}: no such image; restore the file or correct its path\n"


# -------------------------------------------------------------------------------------------- labels


def test_labels_say_what_images_show_at_most(tmp_path: Path) -> None:
    labels = blots(24, 40)
    source = write(tmp_path / "cat.png", labels)
    for text, kept in {"green": [2], "red;light blue": [1, 3], "light blue": [3], "red green": [1, 2]}.items():
        predict.run(segmenter(), [source], tmp_path / "out", config=Config(labels=text))
        found = read_mask(tmp_path / "out/cat.png").long()
        assert torch.equal(found, torch.where(torch.isin(labels, torch.tensor(kept)), labels, 0))


@pytest.mark.parametrize(("labels", "problem"), [("dog", "unknown class 'dog'"), (" ", "--labels: names no class")])
def test_labels_that_name_nothing_are_errors_before_any_work(tmp_path: Path, labels: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        predict.run(segmenter(), [write(tmp_path / "cat.png")], tmp_path / "out", config=Config(labels=labels))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- CRF


def noisy(labels: torch.Tensor) -> torch.Tensor:
    """Images whose single pixels mislead the network by hand, and whose regions do not."""
    generator = torch.Generator().manual_seed(3)
    noise = 60 * torch.randn(3, *labels.shape, generator=generator)
    return (0.6 * image_of(labels).float() + 50 + noise).clamp(0, 255).byte()


def test_an_image_of_one_window_is_drawn_as_the_segmenter_draws_it() -> None:
    picture = noisy(blots(40, 50))
    drawn = predict.predict(segmenter(gain=4.0), picture, crf=True)
    itself = segmenter(gain=4.0, crf=True)
    assert torch.equal(drawn, itself(picture).mask)
    assert torch.equal(drawn, predict.predict(itself, picture))
    assert not torch.equal(drawn, predict.predict(segmenter(gain=4.0), picture))


def test_large_images_are_drawn_window_by_window() -> None:
    """Windows of 40 of a side of 60 with overlaps of 20: they begin at 0 and 20 and are cut at 30."""
    picture = noisy(blots(60, 36))
    model = segmenter(gain=4.0, window=40, margin=20)
    upper, lower = (predict.predict(model, picture[:, rows], crf=True) for rows in (slice(0, 40), slice(20, 60)))
    assert torch.equal(predict.predict(model, picture, crf=True), torch.cat([upper[:30], lower[10:]]))


@hypothesis_settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 6))
def test_candidates_are_the_best_somewhere_and_those_with_a_share(seed: int, classes: int) -> None:
    logits = 4 * torch.randn(classes, 5, 6, generator=torch.Generator().manual_seed(seed))
    scores = logits.softmax(dim=0)
    kept = predict.candidates(scores)
    for index in range(classes):
        best = any(scores[:, y, x].max() == scores[index, y, x] for y in range(5) for x in range(6))
        if best or scores[index].sum() / 30 >= 0.01:
            assert torch.equal(kept[index], scores[index])
        else:
            assert (kept[index] == 0).all()


def test_the_crf_of_a_labeler_is_that_of_its_mask(tiny_run: RunFolder) -> None:
    model = baoseg.load(tiny_run.root)
    picture = noisy(blots(48, 64))
    mask = torch.from_numpy(model(picture, ["bee", "frog"]).mask)
    assert torch.equal(predict.predict(model, picture, labels=["bee", "frog"]), mask)
    assert torch.equal(predict.predict(model, picture, labels=["bee", "frog"], crf=True), refine.by_crf(picture, mask))


def test_a_labeler_finds_the_labels_itself(tiny_run: RunFolder, tmp_path: Path) -> None:
    model = baoseg.load(tiny_run.root)
    source = write(tmp_path / "cat.png")
    assert predict.run(model, [source], tmp_path / "out") == []
    assert np.array_equal(read_mask(tmp_path / "out/cat.png").numpy(), model(source).mask)


# ----------------------------------------------------------------------------------------- overlays


def test_an_overlay_is_half_image_half_colour_and_the_image_on_the_background() -> None:
    picture = torch.tensor([[[10, 10]], [[20, 20]], [[200, 201]]], dtype=torch.uint8)
    mask = torch.tensor([[0, 2]], dtype=torch.uint8)  # class 2 of VOC is (0, 128, 0)
    pixels = np.asarray(predict.overlay(picture, mask)).astype(int)
    assert pixels[0, 0].tolist() == [10, 20, 200]
    assert np.abs(pixels[0, 1] - [5, 74, 100.5]).max() <= 0.5


def test_overlays_have_the_tree_and_the_size_of_the_images(tmp_path: Path) -> None:
    labels = blots(24, 40)
    write(tmp_path / "photos/deep/cat.png", labels)
    predict.run(segmenter(), [tmp_path / "photos"], tmp_path / "out", config=Config(overlays=True))
    assert files(tmp_path / "out") == {"deep/cat.png", "overlays/deep/cat.jpg"}
    written = read_image(tmp_path / "out/overlays/deep/cat.jpg").float()
    exact = predict.overlay(image_of(labels), labels.byte())
    assert (written - torch.from_numpy(np.array(exact)).permute(2, 0, 1)).abs().mean() < 12  # JPEG


def test_an_image_of_which_the_network_says_no_numbers_fails_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A half-precision network that overflows on white, say."""
    model, whole = segmenter(), Colours.forward
    model.network.forward = lambda images: whole(model.network, images) / (images.amin() < 1)
    good, white = write(tmp_path / "in" / "a.png"), tmp_path / "in" / "b.png"
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(white)
    assert predict.run(model, [tmp_path / "in"], tmp_path / "out") == [white]
    assert files(tmp_path / "out") == {"a.png"}
    assert torch.equal(read_mask(tmp_path / "out" / "a.png"), model.mask(read_image(good)))
    assert f"bao: {white}: the network gives probabilities of this image that are NaN" in capsys.readouterr().err
