import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import baoseg
from baoseg import cli
from baoseg.core.types import ClassSet
from baoseg.data.images import read_mask
from baoseg.predict import segment
from baoseg.predict.segment import Inference, NetConfig

CLASSES = ClassSet(("dog", "sofa", "traffic light"))
CPU = ("--accelerator", "cpu")


@pytest.fixture
def bao(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bao", "predict", *map(str, words)])
        cli.main()

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file of a small network that nobody trained."""
    net = NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16)
    path = tmp_path / "segment/network.safetensors"
    inference = Inference(scales=(1.0,), flip=False)
    segment.save(path, net.build(len(CLASSES)), net=net, inference=inference, classes=CLASSES)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos/deep").mkdir(parents=True)
    for seed, name in enumerate(("cat.png", "deep/dog.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_masks_are_those_that_python_gives(
    bao: Callable[..., None], model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    bao(model.parent, photos, "--out", out, "--overlays", *CPU)
    assert capsys.readouterr() == (f"{out}: 2 written, 0 failed\n", "")
    segmenter = baoseg.load(model)
    for name in ("cat.png", "deep/dog.png"):
        assert np.array_equal(read_mask(out / name).numpy(), segmenter(photos / name).mask.numpy())
        assert (out / "overlays" / name).with_suffix(".jpg").exists()
    assert len([path for path in out.rglob("*") if path.is_file()]) == 4


def test_single_images_options_and_labels(bao: Callable[..., None], model: Path, photos: Path, tmp_path: Path) -> None:
    bao(model, photos / "cat.png", photos / "deep/dog.png", "--out", tmp_path, "--labels", "sofa", "--crf", *CPU)
    for name in ("cat.png", "dog.png"):
        assert set(read_mask(tmp_path / name).unique().tolist()) <= {0, CLASSES.names.index("sofa") + 1}


def test_exit_code_1_if_some_could_not_be_read(
    bao: Callable[..., None], model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(SystemExit) as end:
        bao(model, photos, "--out", tmp_path / "out", *CPU)
    assert end.value.code == 1
    seen = capsys.readouterr()
    assert seen.out == f"{tmp_path / 'out'}: 2 written, 1 failed\n"
    assert seen.err.startswith(f"bao: {photos / 'broken.jpg'}: ") and seen.err.count("\n") == 1


def test_what_is_passed_over_alone_is_exit_code_1(
    bao: Callable[..., None], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone/IMG_1.HEIC").write_bytes(b"content")
    with pytest.raises(SystemExit) as end:
        bao(model, tmp_path / "phone", "--out", tmp_path / "out", *CPU)
    assert end.value.code == 1
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 0 written, 0 failed; 1 file was ignored: 1 .heic\n"


@pytest.mark.usefixtures("model", "photos")
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--out", "out", "--labels", "cow"), "unknown class 'cow'; the classes are dog, sofa, traffic light"),
        (("--out", "out", "--labels", ""), "--labels: names no class"),
        (("--out", "photos/masks"), "photos/masks: is inside photos, whose images are read"),
    ],
)
def test_mistakes_end_in_one_line(
    bao: Callable[..., None], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(SystemExit) as end:
        bao("segment", "photos", *words, *CPU)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert problem in err and err.count("\n") == 1


def test_help_says_what_goes_in_and_out(
    bao: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        bao("--help")
    assert end.value.code == 0
    page = capsys.readouterr().out
    assert "MODEL" in page and "--out FOLDER" in page and "--labels LABELS" in page
    assert "None" not in page
    assert max(map(len, page.splitlines())) <= 110
