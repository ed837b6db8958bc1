"""Boxes from maps, and the geometry of the field's crops worked out by hand."""

import dataclasses
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as cases
from hypothesis import strategies as st
from tiny_boxes import HARDWARE, settings, write_images

from baoseg import pipeline
from baoseg.core.errors import DataError
from baoseg.core.run_folder import RunFolder
from baoseg.data import boxed, open_boxed
from baoseg.evaluate.localization import box_at
from baoseg.methods import bas
from baoseg.nets.base import Features
from baoseg.predict import labeler
from baoseg.predict.boxes import localize, truth_on_crop


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    """A run of all steps; tests read it."""
    root = tmp_path_factory.mktemp("pictures")
    write_images(root)
    return pipeline.run(settings(root), tmp_path_factory.mktemp("runs") / "run", hardware=HARDWARE)


# --- geometry ------------------------------------------------------------------------------------------------------


def test_boxes_and_masks_on_the_crop_by_hand():
    """100 x 50 pixels to 256 x 256, margin 16: x * 2.56 - 16, y * 5.12 - 16, down, and within 0..223."""
    boxes = torch.tensor([[10, 5, 60, 30], [0, 0, 99, 49], [-20, 10, 150, 80]])
    mask = torch.zeros(50, 100, dtype=torch.uint8)
    mask[25:, :50], mask[:25, 50:] = 3, 255
    config = settings("", side=256, crop=224)
    truth = truth_on_crop(boxes, mask, (50, 100), view=config.view)
    assert truth.boxes.tolist() == [[9, 9, 137, 137], [0, 0, 223, 223], [0, 35, 223, 223]]
    expected = torch.zeros(224, 224, dtype=torch.uint8)
    expected[112:, :112], expected[:112, 112:] = 1, 255
    assert torch.equal(truth.mask, expected)


@pytest.mark.parametrize("box", [[100, 0, 120, 10], [0, 50, 10, 60], [-9, 0, -1, 10], [0, -9, 10, -1]])
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(DataError, match="lies outside the image of 100x50 pixels"):
        truth_on_crop(torch.tensor([[0, 0, 5, 5], box]), None, (50, 100), view=settings("").view)


@given(
    height=st.integers(5, 400),
    width=st.integers(5, 400),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
@cases(deadline=None, max_examples=50)
def test_boxes_of_any_image_lie_on_the_crop(height, width, corners):
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    box = [int(x0 * (width - 1)), int(y0 * (height - 1)), int(x1 * (width - 1)), int(y1 * (height - 1))]
    truth = truth_on_crop(torch.tensor([box]), None, (height, width), view=settings("", side=256, crop=224).view)
    expected = [min(max(value * 256 // (width, height)[i % 2] - 16, 0), 223) for i, value in enumerate(box)]
    assert truth.boxes.tolist() == [expected]


# --- inference -----------------------------------------------------------------------------------------------------


def test_top_averages_class_by_class(generator):
    maps = torch.rand(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.5, 4.0, 1.0, 2.0]])
    averages = bas.top_averages(maps, logits, torch.tensor([3, 1]))
    orders = [[3, 0, 2, 1], [1, 3, 2, 0]]  # the true class first, then by probability
    for picture, order in enumerate(orders):
        for k in range(1, 5):
            expected = sum(maps[picture, c] for c in order[:k]) / k
            torch.testing.assert_close(averages[picture, k - 1], expected)


def slow_map(method: bas.BAS, crop: torch.Tensor, classes: list[int]) -> torch.Tensor:
    """M = sigmoid(conv(F)), its mean over classes, enlarged and brought to [0, 1]."""
    network = method.network
    features = network.split().lower(crop)
    generated = 1 / (1 + torch.exp(-F.conv2d(features, network.generator.weight, padding=1)))
    mean = sum(generated[0, c] for c in classes) / len(classes)
    large = F.interpolate(mean[None, None], size=crop.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    return (large - large.min()) / (large.max() - large.min())


@torch.no_grad()
def test_map_and_rank_of_an_image(finished):
    """The centre crop for the map; for the rank the mean softmax of it, four corners, and their mirror images."""
    config = pipeline.recipe_of(finished)
    dataset = open_boxed(config.data, "eval")
    method = labeler.load(finished.stage("bas").network).method
    image = dataset[3].image
    found = localize(method, image, 2, view=config.view, top=(2, 1, 99), fixed=0.2)
    square = boxed.squash(image, 72).float() / 255 * 2 - 1
    corners = [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]
    crops = [square[:, y : y + 64, x : x + 64] for y, x in corners]
    probabilities = sum(
        method.classify(view[None])[0].softmax(dim=0) for crop in crops for view in (crop, crop.flip(-1))
    )
    assert found.rank == int((probabilities > probabilities[2]).sum())
    centre = crops[0][None]
    logits = method.classify(centre)[0].tolist()
    others = sorted({0, 1}, key=lambda c: -logits[c])
    for average, classes in zip(found.averages, ([2, others[0]], [2], [0, 1, 2]), strict=True):
        torch.testing.assert_close(average, slow_map(method, centre, list(classes)), atol=1e-5, rtol=1e-4)
    assert found.threshold in method.config.thresholds


@torch.no_grad()
def test_cam_is_brought_to_its_range_negative_values_and_all(finished, generator):
    """Softmax tells classes apart by differences: the map of the true class may be negative everywhere."""
    config = dataclasses.replace(pipeline.recipe_of(finished), ten_crops=False)
    method = labeler.load(finished.stage("cam").network).method
    backbone, head = method.network.backbone, method.network.class_head
    head.weight[3] = -head.weight[3].abs()
    features = torch.rand(1, backbone.channels, 4, 4, generator=generator)
    with mock.patch.object(backbone, "forward", lambda images: Features(features, None, None)):
        image = torch.zeros(3, 20, 30, dtype=torch.uint8)
        found = localize(method, image, 2, view=config.view, top=(1,)).averages[0]
    plain = torch.einsum("c, c h w -> h w", head.weight[3, :, 0, 0], features[0])
    assert plain.max() < 0
    large = F.interpolate(plain[None, None], size=(64, 64), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(found, (large - large.min()) / (large.max() - large.min()))


def test_a_class_that_the_network_does_not_know(finished):
    """Its map is that of the most probable class, and it has no rank."""
    config = pipeline.recipe_of(finished)
    image = open_boxed(config.data, "eval")[0].image
    method = labeler.load(finished.stage("bas").network).method
    views = [localize(method, image, target, view=config.view, top=(1,)) for target in (None, 0, 1, 2)]
    assert views[0].rank is None
    single = dataclasses.replace(config, ten_crops=False)
    ranks = [localize(method, image, target, view=single.view, top=(1,)).rank for target in range(3)]
    assert sorted(ranks) == [0, 1, 2]
    assert torch.equal(views[0].averages, views[1 + ranks.index(0)].averages)


def test_an_empty_map_has_the_empty_box(finished):
    """A generator that says the same everywhere gives a map of zeros."""
    config = pipeline.recipe_of(finished)
    method = labeler.load(finished.stage("bas").network).method
    torch.nn.init.zeros_(method.network.generator.weight)
    found = localize(method, torch.zeros(3, 20, 30, dtype=torch.uint8), 0, view=config.view, top=(1,))
    assert found.averages.eq(0).all()
    assert box_at(found.averages[0], threshold=0.1).tolist() == [0, 0, 0, 0]
