from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import baoseg
from baoseg.core.errors import DataError
from baoseg.nets.base import Backbone, Features
from baoseg.nets.network import Network
from baoseg.predict import imagenet
from baoseg.predict.imagenet import GroupCAM, ImageNetLabeler, group, of_class
from baoseg.training import losses

CAT = Path(__file__).parents[1] / "photos" / "cat.jpg"


@pytest.fixture(scope="module")
def labeler() -> ImageNetLabeler:
    return imagenet.load()


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("golden retriever", {207}),
        ("cat", {281, 282, 283, 284, 285, 286, 287}),  # five domestic cats, cougar and lynx, below genus Felis' family
        ("bicycle", {444, 671}),  # tandem, mountain bike
        ("boat", {472, 554, 576, 625, 814, 914}),  # canoe fireboat gondola lifeboat speedboat yawl
    ],
)
def test_a_group_has_the_classes_below_it(name: str, classes: set[int]) -> None:
    assert set(group(name).classes) == classes


def test_dog_is_all_breeds_and_no_wolf() -> None:
    assert set(group("dog").classes) == set(range(151, 269))
    assert group("timber wolf").classes == (269,)


def test_a_name_with_two_senses_is_the_commoner_one_and_the_other_can_be_named() -> None:
    assert group("crane").classes == (517,)
    assert group("crane (wading bird)").classes == (134,)


def test_names_are_found_in_any_writing() -> None:
    assert group("Golden_Retriever") == group("golden  retriever") == group("golden retriever")


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(DataError, match=r"'zebrra' is neither .*did you mean zebra"):
        group("zebrra")


def test_every_class_has_a_group_of_its_own_number() -> None:
    """WordNet's table and timm's order agree: each class is the only member of one synset at least."""
    ranges = {ranges for _, ranges in imagenet._table()["groups"].values()}
    assert {str(index) for index in range(1000)} <= ranges
    assert of_class(207).name == "golden retriever"


# --------------------------------------------------------------------------------------------- the maps


class _Identity(Backbone):
    """The features are the image's own channels."""

    channels, stride, attends, head_kernel, token_head = 3, 1, False, 1, None

    def forward(self, images: torch.Tensor) -> Features:
        return Features(images, None, None)


def _method(groups: list[tuple[int, ...]]) -> GroupCAM:
    """Groups of six classes of a linear network."""
    torch.manual_seed(0)
    network = Network(_Identity(), 6)
    network.class_head = nn.Conv2d(3, 7, 1)
    return GroupCAM(network, [imagenet.Group(str(g), "", g) for g in groups])


def test_maps_are_the_gradient_of_the_logit_of_the_group() -> None:
    """Grad-CAM of log sum exp z_c, less the mean of all class maps, by autograd."""
    method, images = _method([(0, 2, 3)]), torch.rand(2, 3, 4, 5)
    logits = losses.pool(method.network.class_maps(Features(images, None, None))).detach().requires_grad_()
    (weights,) = torch.autograd.grad(logits[:, [0, 2, 3]].logsumexp(dim=1).sum(), logits)
    class_maps = method.network.class_maps(Features(images, None, None))
    expected = torch.einsum("bk,bkhw->bhw", weights, class_maps) - class_maps.mean(dim=1)
    actual = method.maps(images, torch.ones(2, 1)).scores[:, 0]
    torch.testing.assert_close(actual, expected)


def test_what_is_common_to_all_logits_changes_nothing() -> None:
    method, images = _method([(1,), (4, 5)]), torch.rand(1, 3, 4, 5)
    before = method.maps(images, torch.ones(1, 2)).scores
    with torch.no_grad():
        method.network.class_head.weight[1:] += torch.randn(3)[:, None, None]
        method.network.class_head.bias[1:] += 3.0
    torch.testing.assert_close(method.maps(images, torch.ones(1, 2)).scores, before, atol=1e-5, rtol=1e-5)


def test_classes_choose_groups() -> None:
    method, images = _method([(0,), (1, 2), (3,)]), torch.rand(1, 3, 2, 2)
    every = method.maps(images, torch.ones(1, 3)).scores
    some = method.maps(images, torch.ones(1, 3), classes=torch.tensor([3, 1])).scores
    torch.testing.assert_close(some, every[:, [2, 0]])


def test_probabilities_of_groups_add_up() -> None:
    method = _method([(0, 1, 2), (3,), (4, 5)])
    assert method.classify(torch.rand(1, 3, 2, 2)).exp().sum().item() == pytest.approx(1.0)


# --------------------------------------------------------------------------------------------- photographs


def test_a_cat_is_a_cat(labeler: ImageNetLabeler) -> None:
    likeliest = labeler.likeliest(CAT)
    assert len(likeliest) == 5
    assert {one.classes[0] for one, _ in likeliest[:3]} <= set(group("cat").classes)
    assert [share for _, share in likeliest] == sorted((share for _, share in likeliest), reverse=True)


def test_its_mask_is_on_the_face_and_not_on_the_wall(labeler: ImageNetLabeler) -> None:
    """The cat's face is in the middle of the photograph, the corner at the lower left shows a blanket."""
    result = labeler(CAT, labels=["cat"])
    assert result.mask.shape == (300, 451) and result.labels == ("cat",)
    assert (result.mask[100:220, 130:330] == 1).mean() > 0.6
    assert (result.mask[:, 400:] == 1).mean() < 0.3
    assert (result.mask[:, :30] == 1).mean() < 0.3


def test_labels_number_the_mask_in_their_order(labeler: ImageNetLabeler) -> None:
    result = labeler(CAT, labels=["spoon", "cat"], crf=False)
    assert list(result.class_maps) == ["spoon", "cat"]
    assert (result.mask == 2).sum() > (result.mask == 1).sum()


def test_a_group_is_a_label_as_its_name_is(labeler: ImageNetLabeler) -> None:
    by_name, by_group = labeler(CAT, labels=["crane (wading bird)"]), labeler(CAT, labels=[of_class(134)])
    assert by_group.labels == ("crane",) and np.array_equal(by_group.mask, by_name.mask)
    (likeliest, _), *_ = labeler.likeliest(CAT)
    assert np.array_equal(labeler(CAT, labels=[likeliest]).mask, labeler(CAT).mask)


def test_a_large_image_is_looked_at_smaller_and_comes_back_at_its_size(labeler: ImageNetLabeler) -> None:
    small = Image.open(CAT).convert("RGB")
    large = small.resize((1804, 1200), Image.Resampling.BICUBIC)
    result = labeler(large, labels=["cat"], crf=False)
    assert result.mask.shape == (1200, 1804) == result.class_maps["cat"].shape
    reduced = np.asarray(Image.fromarray(result.mask).resize(small.size, Image.Resampling.NEAREST))
    assert (reduced == labeler(small, labels=["cat"], crf=False).mask).mean() > 0.95


def test_load_knows_it_by_name() -> None:
    assert isinstance(baoseg.load("imagenet"), ImageNetLabeler)
