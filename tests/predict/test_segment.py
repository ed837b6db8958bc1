import itertools
import math
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

import baoseg
from baoseg import pipeline, recipes
from baoseg.core.errors import CheckpointError, DataError, RecipeError
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import Batch, ClassSet
from baoseg.data import open_dataset
from baoseg.data.images import write_mask
from baoseg.data.transforms import Normalisation
from baoseg.nets import weights
from baoseg.nets.base import pad_to_multiple
from baoseg.nets.segmentation import Alignment, SegmentationNetwork
from baoseg.predict import labeler, segment
from baoseg.predict.segment import Inference, NetConfig, Segmenter
from baoseg.refine import crf
from baoseg.training import train

CLASSES = ClassSet(("red", "green", "blue"))
TINY = NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16)


class Colours(SegmentationNetwork):
    """A network by hand: the logit of a class is its colour, that of the background one half."""

    num_classes = 3
    stride = 1
    normalisation = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    body = "nothing"

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(20.0))
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append((images.shape[2], images.shape[3]))
        return self.gain * torch.cat([torch.full_like(images[:, :1], 0.5), images], dim=1)


def colours(labels: torch.Tensor) -> torch.Tensor:
    palette = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    return palette[labels].permute(2, 0, 1).contiguous()


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    window=st.integers(8, 40),
    margin=st.integers(0, 7),
    seed=st.integers(0, 2**31),
)
def test_windows_give_what_the_whole_image_gives(size, window, margin, seed):
    labels = torch.randint(4, size, generator=torch.Generator().manual_seed(seed))
    network = Colours()
    inference = Inference(scales=(1.0,), window=window, margin=margin)
    segmenter = Segmenter(network, CLASSES, inference=inference)
    mask, scores = segmenter(colours(labels))
    assert torch.equal(mask.long(), labels)
    assert torch.equal(segmenter.mask(colours(labels)), mask)
    assert torch.allclose(scores.sum(dim=0), torch.ones(size))
    assert max(itertools.chain(*network.seen)) <= window


@hypothesis_settings(deadline=None, max_examples=100)
@given(length=st.integers(1, 5000), window=st.integers(2, 600), share=st.floats(0, 0.99))
def test_windows_keep_each_pixel_once_and_overlap(length, window, share):
    margin = math.floor(share * window)
    spans = segment._spans(length, window, margin)
    assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
    assert spans[-1].last == spans[-1].stop == length and spans[0].start == 0
    for span in spans:
        assert span.stop - span.start == min(window, length)
        assert span.start <= span.first < span.last <= span.stop
    for left, right in itertools.pairwise(spans):
        assert left.stop - right.start >= margin


def test_scores_are_means_over_scales_and_mirror_images():
    image = torch.randint(256, (3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = Colours()
    _, scores = Segmenter(network, CLASSES, inference=Inference(scales=(1.0, 2.0)))(image)
    assert network.seen == [(8, 12), (8, 12), (16, 24), (16, 24)]  # each alone, which bounds memory
    view = image[None] / 255
    larger = nn.functional.interpolate(view, size=(16, 24), mode="bicubic", antialias=True)
    expected = torch.zeros(4, 8, 12)
    with torch.no_grad():
        for one in (view, larger):
            probabilities = network(one).softmax(dim=1)
            expected += nn.functional.interpolate(probabilities, size=(8, 12), mode="bilinear")[0] / 2
    assert torch.allclose(scores, expected, atol=1e-5)  # this network is the same for a mirror image


@pytest.mark.parametrize("flip", [False, True])
def test_scores_can_be_the_maximum_over_views(flip):
    """Of each class the highest probability of all views, divided by their sum; pixel by pixel."""
    image = torch.randint(256, (3, 9, 13), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network, scales = Averages(4), (0.5, 1.0, 2.0)
    network.gain.data.fill_(9.0)
    inference = Inference(scales=scales, flip=flip, reduce=segment.Reduce.MAX)
    mask, scores = Segmenter(network, ClassSet(("one",)), inference=inference)(image)
    best = torch.zeros(2, 9, 13, dtype=torch.float64)
    for scale, mirrored in itertools.product(scales, (False, True)[: 1 + flip]):
        size = [round(side * scale) for side in (9, 13)]
        view = image[None] / 255 - 0.5
        if scale != 1:
            view = nn.functional.interpolate(view, size=size, mode="bicubic", antialias=True)
        view = view.flip(-1) if mirrored else view
        with torch.no_grad():
            cells = network(view).softmax(dim=1)[0].double()
        seen = from_cells(
            cells, (9, 13), lambda pixel, axis, size=size: (pixel + 0.5) * size[axis] / (9, 13)[axis] / 4 - 0.5
        )
        best = torch.maximum(best, seen.flip(-1) if mirrored else seen)
    torch.testing.assert_close(scores.double(), best / best.sum(dim=0), rtol=1e-4, atol=1e-5)
    assert torch.equal(mask, scores.argmax(dim=0).byte())
    mean = Segmenter(network, ClassSet(("one",)), inference=replace(inference, reduce=segment.Reduce.MEAN))(image)
    assert not torch.equal(mean.mask, mask)  # a class that one scale alone is sure of


def test_the_crf_has_the_settings_of_the_inference():
    labels = torch.arange(4).repeat(6, 3)
    plain = Segmenter(Colours(), CLASSES, inference=Inference(scales=(1.0,)))(colours(labels))
    config = crf.Config(gaussian_sxy=4.0, bilateral_sxy=83.0, bilateral_srgb=5.0, bilateral_compat=3.0)
    for settings in (crf.PROBABILITIES, config):
        inference = Inference(scales=(1.0,), crf=True, crf_settings=settings)
        drawn = Segmenter(Colours(), CLASSES, inference=inference)(colours(labels))
        expected = crf.from_probabilities(colours(labels).permute(1, 2, 0), plain.scores, config=settings)
        assert torch.equal(drawn.scores, expected)


class Averages(SegmentationNetwork):
    """An ideal network: a cell's logits are the means of the colours of its pixels."""

    num_classes = 1
    normalisation = Normalisation(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    body = "nothing"

    def __init__(self, stride: int, alignment: Alignment = Alignment.CELLS) -> None:
        super().__init__()
        self.stride, self.alignment = stride, alignment
        self.gain = nn.Parameter(torch.tensor(0.2))  # so small that probabilities are linear

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = nn.functional.avg_pool2d(pad_to_multiple(images[:, :1], self.stride), self.stride)
        return self.gain * torch.cat([torch.zeros_like(logits), logits], dim=1)


def ramp(size: tuple[int, int], edge: float, *, axis: int) -> torch.Tensor:
    """Brightness rises by 2 in 255 a pixel along an axis and is one half at the edge, in pixels from its begin."""
    place = torch.arange(size[axis]) + 0.5
    values = (127.5 + 2 * (place - edge)).round().clamp(0, 255)
    values = values[:, None] if axis == 0 else values
    return values.expand(size).expand(3, *size).to(torch.uint8).contiguous()


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    sides=st.tuples(st.integers(60, 180), st.integers(60, 180)),
    share=st.floats(0.4, 0.6),  # so that the cells around the edge have no padding
    stride=st.sampled_from([1, 4, 8]),
    scales=st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5, 1.75]), min_size=1, max_size=3),
    looks=st.tuples(st.booleans(), st.sampled_from([100, 1024])),
)
def test_an_edge_lies_where_it_is_in_the_image(sides, share, stride, scales, looks):
    flip, window = looks
    inference = Inference(scales=tuple(scales), flip=flip, window=window, margin=64)
    segmenter = Segmenter(Averages(stride), ClassSet(("one",)), inference=inference)
    for axis, side in enumerate(sides):
        image = ramp(sides, share * side, axis=axis)
        before = (segmenter.mask(image) == 0).sum(dim=axis).double()
        assert (before - share * side).abs().max() < 1
        mirrored = (segmenter.mask(image.flip(axis + 1)) == 1).sum(dim=axis).double()
        assert (mirrored - (1 - share) * side).abs().max() < 1


def test_at_the_end_of_a_wide_image_too():
    """The case of an audit: it was 4 pixels off at a width of 500, and 12 at half of that."""
    for scale, edge in itertools.product((0.5, 1.0), (100, 300, 460)):
        inference = Inference(scales=(scale,), flip=False)
        segmenter = Segmenter(Averages(8), ClassSet(("one",)), inference=inference)
        assert abs(int((segmenter.mask(ramp((16, 500), edge, axis=1))[8] == 0).sum()) - edge) < 1


def from_cells(cells: torch.Tensor, size: tuple[int, int], place) -> torch.Tensor:
    """Pixel by pixel; `place(pixel, axis)` is where it lies between the centres of the cells."""
    result = torch.empty(len(cells), *size, dtype=torch.float64)
    for y, x in itertools.product(*(range(side) for side in size)):
        at = [min(max(place(pixel, axis), 0), cells.shape[axis + 1] - 1) for axis, pixel in enumerate((y, x))]
        (top, low), (left, far) = ((math.floor(one), math.ceil(one)) for one in at)
        dy, dx = at[0] - top, at[1] - left
        upper = cells[:, top, left] * (1 - dx) + cells[:, top, far] * dx
        lower = cells[:, low, left] * (1 - dx) + cells[:, low, far] * dx
        result[:, y, x] = upper * (1 - dy) + lower * dy
    return result


@pytest.mark.parametrize("alignment", Alignment)
@pytest.mark.parametrize(
    ("size", "view"), [((9, 13), (9, 13)), ((11, 9), (6, 7)), ((8, 10), (16, 20)), ((10, 10), (39, 39))]
)
def test_enlarging_pixel_by_pixel(alignment, size, view):
    """CELLS: a cell of 4 pixels of the view has its centre at 4 i + 2. CORNERS, STRETCHED: whatever its size."""
    cells = torch.rand(2, *(-(-side // 4) for side in view), generator=torch.Generator().manual_seed(0)).double()
    places = {
        Alignment.CELLS: lambda pixel, axis: (pixel + 0.5) * view[axis] / size[axis] / 4 - 0.5,
        Alignment.CORNERS: lambda pixel, axis: pixel * (cells.shape[axis + 1] - 1) / (size[axis] - 1),
        Alignment.STRETCHED: lambda pixel, axis: (pixel + 0.5) * cells.shape[axis + 1] / size[axis] - 0.5,
    }
    found = segment.enlarge(cells[None], size, Averages(4, alignment), view=view)[0]
    torch.testing.assert_close(found, from_cells(cells, size, places[alignment]))


def test_training_compares_each_label_with_the_cells_around_it():
    """The loss of logits that were enlarged pixel by pixel, to a crop of 21 x 27 pixels at stride 8."""
    generator = torch.Generator().manual_seed(0)
    network = Averages(8).double()
    images = torch.rand(1, 3, 21, 27, generator=generator).double()
    labels = torch.randint(2, (1, 21, 27), generator=generator).to(torch.uint8)
    batch = Batch(images, torch.zeros(1, 1), torch.ones(1, 1, 21, 27, dtype=torch.bool), labels)
    with torch.no_grad():
        logits = from_cells(network(images)[0], (21, 27), lambda pixel, axis: (pixel + 0.5) / 8 - 0.5)
    expected = (logits.logsumexp(0) - logits.gather(0, labels.long())[0]).mean()
    assert segment.SegmentationLearner(network).loss(batch)["segmentation"].item() == pytest.approx(float(expected))


@pytest.mark.parametrize("alignment", Alignment)
def test_the_alignment_is_kept_with_the_network_and_older_files_have_the_default(alignment, tmp_path):
    net, path = replace(TINY, alignment=alignment), tmp_path / "network.safetensors"
    segment.save(path, net.build(3), net=net, inference=Inference(), classes=CLASSES)
    assert segment.load(path).network.alignment == alignment
    state, about = weights.read_checkpoint(path), weights.read_metadata(path)
    assert about is not None
    del about["net"]["alignment"]
    network = TINY.build(3)
    network.load_state_dict(state)
    weights.save(path, network, about)
    assert segment.load(path).network.alignment == Alignment.CELLS


def test_with_labels_no_other_class_is_found():
    labels = torch.tensor([[0, 1, 2, 3]])
    segmenter = Segmenter(Colours(), CLASSES, inference=Inference(scales=(1.0,)))
    mask, scores = segmenter(colours(labels), ["green"])
    assert mask.tolist() == [[0, 0, 2, 0]]
    assert (scores[[1, 3]] == 0).all()


def test_the_loss_is_the_weighted_mean_over_labelled_pixels():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 4, 5, generator=generator)
    labels = torch.randint(4, (2, 4, 5), generator=generator)
    labels[0, :2] = 255
    weights = torch.rand(2, 4, 5, generator=generator)
    learner = segment.SegmentationLearner(Colours())
    total = weight = plain = 0.0
    with torch.no_grad():
        logits = learner.network(images).double()
    for b, y, x in itertools.product(range(2), range(4), range(5)):
        if labels[b, y, x] != 255:
            error = float(logits[b, :, y, x].logsumexp(0) - logits[b, labels[b, y, x], y, x])
            total += float(weights[b, y, x]) * error
            weight += float(weights[b, y, x])
            plain += error
    valid = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    batch = Batch(images, torch.zeros(2, 3), valid, labels.to(torch.uint8))
    assert learner.loss(batch)["segmentation"].item() == pytest.approx(plain / 30, rel=1e-5)
    weighted = batch._replace(pixel_weights=weights)
    assert learner.loss(weighted)["segmentation"].item() == pytest.approx(total / weight, rel=1e-5)
    nothing = batch._replace(pixel_labels=torch.full_like(batch.pixel_labels, 255))
    assert learner.loss(nothing)["segmentation"].item() == 0
    with pytest.raises(RecipeError, match="learns from masks"):
        learner.loss(batch._replace(pixel_labels=None))


def test_a_file_gives_the_segmenter_back(tmp_path: Path) -> None:
    network = TINY.build(3)
    inference = Inference(scales=(1.0,), flip=False)
    path = tmp_path / "network.safetensors"
    segment.save(path, network, net=TINY, inference=inference, classes=CLASSES)
    image = torch.randint(256, (3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = Segmenter(network, CLASSES, inference=inference)(image)
    for source in (path, tmp_path):
        loaded = baoseg.load(source)
        assert isinstance(loaded, baoseg.Segmenter)
        assert loaded.classes == CLASSES and loaded.inference == inference
        assert torch.equal(loaded(image).scores, expected.scores)
    with pytest.raises(CheckpointError, match="a network for segmentation, not a labeler"):
        labeler.load(path)


def test_what_is_no_segmentation_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        segment.load(tmp_path / "w.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no segmentation network"):
        segment.load(tmp_path / "w.pth")


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0.0,)}, {"window": 8, "margin": 8}])
def test_inference_that_cannot_be_is_refused(wrong):
    with pytest.raises(RecipeError, match="scales above 0, and a margin"):
        Inference(**wrong)


def test_weights_of_another_architecture_are_refused_in_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    other = NetConfig(name="deeplabv2:timm:test_resnet", stride=16)
    segment.save(path, other.build(3), net=other, inference=Inference(), classes=CLASSES)
    with pytest.raises(CheckpointError, match=r"other\.safetensors") as caught:
        NetConfig(name=TINY.name, stride=16, weights=str(path)).build(3)
    line = str(caught.value)
    assert "head.conv_fov.weight" in line and "head.c0" in line  # what is missing, what is too much
    assert "\n" not in line and len(line) < 500


def test_a_training_that_was_killed_ends_with_the_same_network(tmp_path: Path) -> None:
    scenes = open_dataset(tiny.RECIPE.data, "train")
    for index, name in enumerate(scenes.names):
        mask = scenes.mask(index)
        assert mask is not None
        write_mask(tmp_path / "masks" / f"{name}.png", mask)
    schedule = train.Config(epochs=3, batch_size=4, lr=1e-3)
    wanted = recipes.Segmentation(masks=str(tmp_path / "masks"), schedule=schedule, net=TINY)
    recipe = replace(tiny.RECIPE, segmentations=(wanted,))
    whole, broken = (pipeline.begin(recipe, tmp_path / name) for name in ("whole", "broken"))
    pipeline.segment_images(whole, hardware=tiny.HARDWARE)

    process = multiprocessing.get_context("spawn").Process(target=_train_and_die, args=(broken.root,))
    process.start()
    process.join()
    stage = broken.stage("segment")
    assert process.exitcode == -signal.SIGKILL
    assert stage.state.exists() and not stage.network.exists()
    first_epoch = stage.losses.read_text().splitlines()[:2]
    pipeline.segment_images(broken, hardware=tiny.HARDWARE)
    assert stage.network.read_bytes() == whole.stage("segment").network.read_bytes()
    assert stage.losses.read_text().splitlines()[:2] == first_epoch  # seconds too: it was not trained again


def _train_and_die(root: Path) -> None:
    """In the second of three steps of the second epoch."""
    loss, calls = segment.SegmentationLearner.loss, itertools.count(1)

    def deadly(learner: segment.SegmentationLearner, batch: Batch) -> dict[str, torch.Tensor]:
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(learner, batch)

    with mock.patch.object(segment.SegmentationLearner, "loss", deadly):
        pipeline.segment_images(RunFolder(root), hardware=tiny.HARDWARE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("labels", [None, ["red"]])
def test_logits_that_are_no_numbers_are_no_mask(value: float, labels: list[str] | None) -> None:
    """A class that the network itself rules out (-inf) is no less an error than one that it is endlessly sure of."""
    network = NetConfig(name=TINY.name, stride=16).build(3)
    segmenter = Segmenter(network, CLASSES, inference=Inference(window=64, margin=16))
    image = torch.randint(256, (3, 40, 100), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    others = segmenter(image, ["blue"]).scores
    with torch.no_grad():
        network.head.cls_conv.bias[1] = value
    for call in (segmenter, segmenter.mask):
        with pytest.raises(DataError, match=r"network gives probabilities of this image that are NaN or infinite; use"):
            call(image, labels)
    assert torch.equal(segmenter(image, ["blue"]).scores, others)  # what the labels rule out has no say


def test_the_image_and_the_network_are_named_where_a_split_is_segmented(tmp_path: Path, monkeypatch: Any) -> None:
    schedule = train.Config(epochs=1, batch_size=4, lr=1e-3)
    masks = tmp_path / "masks"
    scenes = open_dataset(tiny.RECIPE.data, "train")
    for index, name in enumerate(scenes.names):
        mask = scenes.mask(index)
        assert mask is not None
        write_mask(masks / f"{name}.png", mask)
    wanted = recipes.Segmentation(masks=str(masks), schedule=schedule, net=TINY)
    recipe = replace(tiny.RECIPE, segmentations=(wanted,))
    folder = pipeline.begin(recipe, tmp_path / "run")
    probabilities, paths = Segmenter._look, folder.stage("segment")
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "_look", lambda *given: probabilities(*given) * math.nan)
        with pytest.raises(DataError) as caught:
            pipeline.segment_images(folder, hardware=tiny.HARDWARE)
    assert str(caught.value).startswith(
        f"{paths.root}, val_00000: the network gives probabilities of this image that are"
    )
    pipeline.begin(recipe, tmp_path / "run")  # what failed and made nothing was withdrawn
    pipeline.segment_images(folder, hardware=tiny.HARDWARE, split="train")
    monkeypatch.setattr(Segmenter, "_look", lambda *given: probabilities(*given) * math.nan)
    with pytest.raises(DataError) as caught:
        pipeline.segment_images(folder, hardware=tiny.HARDWARE)
    assert str(caught.value).startswith(f"{paths.network}, val_00000: the network gives probabilities")
    assert not paths.masks("val").exists()
