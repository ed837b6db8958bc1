import copy
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from nets import published
from PIL import Image

import baoseg
from baoseg import recipes, seeds
from baoseg.core.errors import CheckpointError, DataError, RunError
from baoseg.core.run_folder import RunFolder
from baoseg.data.synthetic import Synthetic
from baoseg.predict import labeler as labelers
from baoseg.predict.labeler import VOC_CLASSES, Labeler, best_cut, calibrate
from baoseg.seeds import masks

SCENES = Synthetic(tiny.RECIPE.data.synthetic, "val")
SIZES = {"ratio": 0.25, "width": 128, "depth": 3}  # a Conformer of two heads of 64 channels


@pytest.fixture
def labeler(tiny_run: RunFolder) -> Labeler:
    return baoseg.load(tiny_run.root)


# --------------------------------------------------------------------------------------- images


def test_an_image_is_the_same_in_every_form(labeler: Labeler, tmp_path: Path) -> None:
    tensor = SCENES[0].image[:, :50, :37]
    array = tensor.permute(1, 2, 0).numpy()
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    results = [labeler(form, ["bee"]) for form in (path, str(path), Image.open(path), array, tensor)]
    for result in results[1:]:
        assert np.array_equal(result.mask, results[0].mask)
        assert np.array_equal(result.class_maps["bee"], results[0].class_maps["bee"])
        assert np.array_equal(result.background, results[0].background)
    assert results[0].mask.shape == results[0].background.shape == (50, 37)


def test_pillow_images_are_turned_upright_and_shown_over_white_as_files_are(labeler: Labeler, tmp_path: Path) -> None:
    array = SCENES[0].image[:, :40].permute(1, 2, 0).numpy()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.jpg", exif=exif)
    clear = Image.fromarray(array).convert("RGBA")
    clear.putalpha(90)
    clear.save(tmp_path / "clear.png")
    for path in (tmp_path / "turned.jpg", tmp_path / "clear.png"):
        with Image.open(path) as picture:
            assert np.array_equal(labeler(picture, ["bee"]).background, labeler(path, ["bee"]).background)
    assert np.array_equal(labeler(clear, ["bee"]).background, labeler(tmp_path / "clear.png", ["bee"]).background)


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        (np.zeros((8, 8, 3), dtype=np.float32), r"float32 \(8, 8, 3\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"uint8 \(3, 8, 8\)"),
        (np.zeros((8, 8), dtype=np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"uint8 \(0, 8, 3\)"),
        (torch.zeros(3, 8, 8), r"float32 \(3, 8, 8\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"uint8 \(8, 8, 3\)"),
        (Image.new("F", (8, 8)), "floating-point pixels"),
        ("nowhere.jpg", "nowhere.jpg: no such image"),
    ],
)
def test_what_is_no_image_is_an_error_of_one_line(labeler: Labeler, picture: object, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        labeler(picture, ["bee"])
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("stage", ["transcam", "bao"])
def test_a_result_is_what_the_steps_left_on_disk(tiny_run: RunFolder, stage: str) -> None:
    paths = tiny_run.stage(stage)
    labeler = baoseg.load(paths.network)
    for index, name in enumerate(SCENES.names):
        sample = SCENES[index]
        stored = seeds.load(paths.maps("val", name))
        own = labeler.seed(sample.image, sample.labels)
        assert torch.equal(own.scores.half().float(), stored.scores)  # on disk they are in half precision

        result = labeler(sample.image, SCENES.classes.decode(sample.labels))
        full = own.upsample()
        assert result.labels == SCENES.classes.decode(sample.labels) == tuple(result.class_maps)
        assert all(np.array_equal(a, b) for a, b in zip(result.class_maps.values(), full.scores.numpy(), strict=True))
        if stage == "bao":
            assert np.array_equal(result.background, full.background.numpy())
            assert np.array_equal(result.mask, masks.to_mask(full).numpy())
        else:
            assert result.background is None
            assert np.array_equal(result.mask, masks.to_mask(full, threshold=0.3).numpy())
        differing = result.mask != masks.to_mask(stored, threshold=None if stage == "bao" else 0.3).numpy()
        assert differing.mean() < 0.01  # where half precision decides


def test_a_threshold_takes_the_place_of_the_learned_background(labeler: Labeler) -> None:
    result = labeler(SCENES[0].image, ["bee"], threshold=0.6)
    expected = np.where(result.class_maps["bee"] >= np.float32(0.6), SCENES.classes.names.index("bee") + 1, 0)
    assert np.array_equal(result.mask, expected)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([2.0, -1.0, 0.1, -3.0, -0.1], ("ladybird", "frog")),
        ([-2.0, -1.0, -9.0, -0.5, -3.0], ("jay",)),  # none is above one half: the likeliest
    ],
)
def test_without_labels_the_classifiers_own_are_used(
    labeler: Labeler, monkeypatch: pytest.MonkeyPatch, logits: list[float], expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(labeler, "label_cut", 0.0)
    offset = torch.tensor([[0.5], [-0.5]])  # image and mirror image: their mean decides
    monkeypatch.setattr(labeler.method, "classify", lambda views: torch.tensor(logits) + offset)
    result = labeler(SCENES[0].image)
    assert result.labels == expected
    assert np.array_equal(result.mask, labeler(SCENES[0].image, expected).mask)


def test_the_classifiers_own_labels_come_from_image_and_mirror_image(labeler: Labeler) -> None:
    image = SCENES[1].image
    vector = labeler.predict_labels(image)
    assert torch.equal(vector, labeler.predict_labels(image.flip(-1)))
    assert vector.sum() >= 1


def test_the_cut_takes_the_place_of_one_half(labeler: Labeler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeler.method, "classify", lambda views: torch.tensor([[2.0, -1.0, 0.1, -3.0, -1.5]]))
    image = SCENES[0].image
    for cut, expected in {
        -1.2: [1, 1, 1, 0, 0],
        0.1: [1, 0, 1, 0, 0],
        0.2: [1, 0, 0, 0, 0],
        9.0: [1, 0, 0, 0, 0],
    }.items():
        labeler.label_cut = cut
        assert labeler.predict_labels(image).tolist() == expected


# ------------------------------------------------------------------------------------ the label cut


@pytest.mark.parametrize(
    ("logits", "labels", "cut"),
    [
        # The likeliest, 3 and 2, are kept: F1 = 2 * 2 / (2 + 3) = 4/5. With -1 as well 6/6, with -4 too 6/7.
        ([[3.0, -1.0], [2.0, -4.0]], [[1, 1], [1, 0]], -2.5),
        # Nothing is better than the likeliest: 4/4, then 4/5 and 4/6. The cut lies between 1 and the highest of all.
        ([[3.0, 1.0], [0.0, -1.0]], [[1, 0], [1, 0]], 2.0),
        # Equal logits, one right and one wrong, are kept together: 4/5 without them, 6/7 with them.
        ([[5.0, 1.0], [4.0, 1.0]], [[1, 1], [1, 0]], 0.5),
        # The likeliest is wrong: F1 = 0 without the second, then 2/3, 2/4 and 2/5.
        ([[5.0, 1.0, 0.0, -1.0]], [[0, 1, 0, 0]], 0.5),
        # All classes in all images: the cut drops nothing.
        ([[3.0, -1.0], [2.0, -4.0]], [[1, 1], [1, 1]], -4.5),
        # No class in any image: all cuts have F1 = 0, the highest is taken.
        ([[3.0, -1.0], [2.0, -4.0]], [[0, 0], [0, 0]], 1.0),
        # One class: it is always predicted, whatever the cut.
        ([[3.0], [1.0]], [[1], [0]], 1.5),
    ],
)
def test_the_best_cut_by_hand(logits: list[list[float]], labels: list[list[int]], cut: float) -> None:
    assert best_cut(torch.tensor(logits), torch.tensor(labels).float()) == cut


def micro_f1(logits: torch.Tensor, labels: torch.Tensor, cut: float) -> Fraction:
    """With the labels that a labeler with this cut predicts, counted one by one."""
    hits = predicted = 0
    for values, truths in zip(logits.tolist(), labels.tolist(), strict=True):
        for value, truth in zip(values, truths, strict=True):
            if value >= cut or value == max(values):
                predicted += 1
                hits += int(truth)
    return Fraction(2 * hits, predicted + int(labels.sum()))


@hypothesis_settings(deadline=None, max_examples=100)
@given(data=st.data(), pictures=st.integers(1, 6), classes=st.integers(1, 5))
def test_no_cut_is_better_and_no_higher_one_as_good(data: st.DataObject, pictures: int, classes: int) -> None:
    def draw(values: st.SearchStrategy[int]) -> torch.Tensor:
        rows = st.lists(values, min_size=classes, max_size=classes)
        return torch.tensor(data.draw(st.lists(rows, min_size=pictures, max_size=pictures))).float()

    logits, labels = draw(st.integers(-4, 4)), draw(st.integers(0, 1))
    cut = best_cut(logits, labels)
    best = micro_f1(logits, labels, cut)
    for other in [step / 2 for step in range(-11, 12)]:
        f1 = micro_f1(logits, labels, other)
        assert f1 <= best
        if f1 == best and other > cut:  # the same labels
            assert not ((logits >= cut) & (logits < other) & (logits < logits.amax(dim=1, keepdim=True))).any()


def test_calibration_looks_at_evenly_spaced_images_as_prediction_does(labeler: Labeler) -> None:
    logits = torch.stack([labeler.class_logits(SCENES[index].image) for index in range(5)])
    labels = torch.stack([SCENES[index].labels for index in range(5)])
    assert calibrate(labeler, SCENES) == best_cut(logits, labels)
    assert calibrate(labeler, SCENES, images=3) == best_cut(logits[::2], labels[::2])


def about(recipe: recipes.Recipe, stage: recipes.Stage) -> dict[str, Any]:
    """What a file says of the stage of a recipe."""
    return {"method": stage.method, "net": recipe.net, "maps": recipe.maps, "masks": recipe.masks_of(stage.name)}


def test_a_file_keeps_the_cut(tiny_run: RunFolder, tmp_path: Path) -> None:
    stage, path = tiny.RECIPE.stages[0], tmp_path / "network.safetensors"
    trained = baoseg.load(tiny_run.stage(stage.name).network)
    labelers.save(path, trained.method.result(), **about(tiny.RECIPE, stage), classes=trained.classes, label_cut=-1.25)
    assert baoseg.load(path).label_cut == -1.25


def test_a_file_keeps_the_threshold_of_its_stage(tiny_run: RunFolder, tmp_path: Path) -> None:
    stage, path = replace(tiny.RECIPE.stages[0], threshold=0.15), tmp_path / "network.safetensors"
    trained = baoseg.load(tiny_run.stage(stage.name).network)
    recipe = replace(tiny.RECIPE, stages=(stage,))
    labelers.save(path, trained.method.result(), **about(recipe, stage), classes=trained.classes)
    assert (trained.masks.threshold, baoseg.load(path).masks.threshold) == (0.3, 0.15)


def test_labels_that_name_nothing_are_errors_of_one_line(labeler: Labeler) -> None:
    with pytest.raises(DataError, match=r"unknown class 'cow'; the classes are ladybird, bee"):
        labeler(SCENES[0].image, ["bee", "cow"])
    with pytest.raises(DataError, match="without labels"):
        labeler(SCENES[0].image, [])


# ------------------------------------------------------------------------- weights written by runs


def test_a_run_folder_is_its_last_trained_stage(tiny_run: RunFolder, tmp_path: Path) -> None:
    assert baoseg.load(tiny_run.root).method.learns_background
    shutil.copytree(tiny_run.root, tmp_path / "run", ignore=shutil.ignore_patterns("bao"))
    assert not baoseg.load(tmp_path / "run").method.learns_background
    (tmp_path / "run/transcam/network.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no trained network yet"):
        baoseg.load(tmp_path / "run")
    with pytest.raises(RunError, match=r"is .* a run folder"):
        baoseg.load(tmp_path)


def test_a_network_of_a_run_says_what_it_needs(tiny_run: RunFolder) -> None:
    labeler = baoseg.load(tiny_run.stage("bao").network)
    assert labeler.classes == SCENES.classes
    assert labeler.maps == tiny.RECIPE.maps
    assert labeler.masks == tiny.RECIPE.masks
    assert not any(module.training for module in labeler.method.modules())


def test_classes_can_be_renamed_but_not_counted_anew(tiny_run: RunFolder) -> None:
    names = ["a", "b", "c", "d", "e"]
    assert baoseg.load(tiny_run.root, classes=names)(SCENES[0].image, ["b"]).labels == ("b",)
    with pytest.raises(CheckpointError, match="trained for 5 classes, but 4 are given"):
        baoseg.load(tiny_run.root, classes=names[:4])


def test_a_network_of_an_unknown_format_is_refused(tiny_run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    tensors = safetensors.torch.load_file(tiny_run.stage("bao").network)
    safetensors.torch.save_file(tensors, path, metadata={"baoseg": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match="another version of baoseg"):
        baoseg.load(path)


# ------------------------------------------------------------------- checkpoints in published names


def largest_error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return ((ours - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("heads", "classes"), [("bao", 20), ("bao", 3), ("transcam", 3)])
def test_raw_maps_equal_the_published_ones(tmp_path: Path, suffix: str, heads: str, classes: int) -> None:
    state = published.random_state(**SIZES, classes=classes, heads=heads, seed=classes)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    images = torch.randn(2, 3, 48, 80, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(2, classes)
    labels[0, 1] = labels[1, 0] = labels[1, 2] = 1
    labeler = baoseg.load(path)
    scores, background = labeler.raw_maps(images, labels)
    expected = published.forward(state, images, labels if heads == "bao" else None, heads=2)
    assert largest_error(scores, expected["refined"]) < 1e-4
    if heads == "bao":
        assert background is not None
        assert largest_error(background, expected["background"]) < 1e-4
    else:
        assert background is None
    names = VOC_CLASSES if classes == 20 else ("class 1", "class 2", "class 3")
    assert labeler.classes.names == names


def test_heads_of_the_attention_can_be_given(tmp_path: Path) -> None:
    state = published.random_state(**SIZES, classes=3)
    torch.save(state, tmp_path / "weights.pth")
    images, labels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.ones(1, 3)
    scores, _ = baoseg.load(tmp_path / "weights.pth", heads=4).raw_maps(images, labels)
    assert largest_error(scores, published.forward(state, images, labels, heads=4)["refined"]) < 1e-4
    assert largest_error(scores, published.forward(state, images, labels, heads=2)["refined"]) > 1e-3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_wrappings_of_training_scripts_are_opened(tmp_path: Path, wrap) -> None:
    state = published.random_state(**SIZES, classes=3)
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    images, labels = torch.ones(1, 3, 32, 32), torch.ones(1, 3)
    plain, wrapped = (baoseg.load(tmp_path / name).raw_maps(images, labels) for name in ("plain.pth", "wrapped.pth"))
    assert torch.equal(plain.scores, wrapped.scores)


def test_names_of_the_classes_can_be_given_if_they_are_as_many(tmp_path: Path) -> None:
    torch.save(published.random_state(**SIZES, classes=3), tmp_path / "weights.pth")
    labeler = baoseg.load(tmp_path / "weights.pth", classes=["cat", "dog", "cow"])
    assert labeler(SCENES[0].image, ["dog"]).labels == ("dog",)  # at the sizes of the papers
    with pytest.raises(CheckpointError, match="a network of 3 classes, but 2 names are given"):
        baoseg.load(tmp_path / "weights.pth", classes=["cat", "dog"])


class Payload:
    """What a pickle may run, if it is let."""

    def __reduce__(self):
        return (print, ("run by the pickle",))


def test_files_that_are_no_weights_are_errors_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = published.random_state(**SIZES, classes=3)
    torch.save({"model": state, "hook": Payload()}, tmp_path / "objects.pth")
    for suffix, save in ((".pth", torch.save), (".safetensors", safetensors.torch.save_file)):
        save(state, tmp_path / f"whole{suffix}")
        content = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    state.pop("conv_trans_2.trans_block.attn.qkv.weight")
    torch.save(state, tmp_path / "incomplete.pth")
    torch.save(published.random_state(**SIZES, classes=3, heads="imagenet"), tmp_path / "imagenet.pth")
    problems = {
        "objects.pth": "holds Python objects",
        "cut.pth": "damaged",
        "cut.safetensors": "damaged",
        "incomplete.pth": r"1 missing \(conv_trans_2\.trans_block\.attn\.qkv\.weight\)",
        "imagenet.pth": "an ImageNet classifier",
        "nowhere.pth": "no such weights",
    }
    for name, problem in problems.items():
        with pytest.raises(CheckpointError, match=problem) as caught:
            baoseg.load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "run by the pickle" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------- values that are NaN or infinite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_says_no_numbers_gives_no_mask(labeler: Labeler, value: float) -> None:
    """No comparison with NaN is true: the mask would be background, and the labels none."""
    broken = copy.deepcopy(labeler)
    with torch.no_grad():
        broken.method.network.class_head.weight[1] = value
    image = SCENES[0].image
    first = labeler.classes.names[0]
    with pytest.raises(DataError, match="network gives maps of this image that are NaN or infinite"):
        broken(image, [first])
    for ask in (broken.predict_labels, broken.class_logits, broken):
        with pytest.raises(DataError, match="network gives class logits of this image that are NaN or infinite"):
            ask(image)
    with pytest.raises(DataError, match="val_00000: the network gives class logits"):
        calibrate(broken, SCENES)
