"""Affinity labels by hand and pixel by pixel; the CRF is left out or made up where the rule itself is looked at."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baoseg.core.errors import DataError
from baoseg.refine import crf
from baoseg.refine.affinity_labels import after_crf, background_score, from_alphas, from_background, from_thresholds
from baoseg.seeds import SeedMaps

FROM_LABELS, FROM_PROBABILITIES = crf.from_labels, crf.from_probabilities
few = settings(deadline=None, max_examples=25)
GREY = torch.full((3, 4, 4), 128, dtype=torch.uint8)


def seed_of(scores: Tensor, background: Tensor | None = None, classes: tuple[int, ...] = (2, 5)) -> SeedMaps:
    return SeedMaps(torch.tensor(classes[: len(scores)]), scores, background, tuple(scores.shape[1:]))


def drawn(number: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(number))


def one_hot(image, labels: Tensor, *, config) -> Tensor:
    """A CRF that changes nothing."""
    return (labels == crf.present_labels(labels)[:, None, None]).float()


@pytest.fixture(autouse=True, scope="module")
def without_crf():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crf, "from_probabilities", lambda image, probabilities, *, config: probabilities)
        patch.setattr(crf, "from_labels", one_hot)
        yield


def test_alphas_by_hand():
    """With alphas 4 and 24: 0.72^4 = 0.269 and 0.92^24 = 0.135 are the background of 0.28 and of 0.08."""
    columns = torch.tensor([0.0, 0.08, 0.12, 0.28])
    first, nothing = columns.expand(4, 4), torch.zeros(4, 4)
    found = from_alphas(GREY, seed_of(torch.stack([nothing, first])), low=4.0, high=24.0)
    assert found.tolist() == [[0, 0, 255, 5]] * 4  # 0.88^24 = 0.047 is below 0.12, and 0.88^4 = 0.6 above


def test_thresholds_by_hand():
    columns = torch.tensor([0.0, 0.04, 0.2, 0.31])
    found = from_thresholds(GREY, seed_of(columns.expand(1, 4, 4)))
    assert found.tolist() == [[0, 0, 255, 2]] * 4
    found = from_thresholds(GREY, seed_of(columns.expand(1, 4, 4)), background=0.25, foreground=0.5)
    assert found.tolist() == [[0, 0, 0, 255]] * 4


@few
@given(number=st.integers(0, 2**31), alphas=st.tuples(st.floats(1, 40), st.floats(1, 40)).map(sorted))
def test_alphas_pixel_by_pixel(number, alphas):
    scores = drawn(number, 2, 4, 4) ** 2
    found = from_alphas(GREY, seed_of(scores), low=alphas[0], high=alphas[1])
    for (row, column), label in zip(torch.ones(4, 4).nonzero().tolist(), found.flatten().tolist(), strict=True):
        pair = scores[:, row, column].tolist()
        strong, weak = ((1 - max(pair)) ** alpha for alpha in alphas)
        if min(abs(max(pair) - strong), abs(max(pair) - weak)) < 1e-6:
            continue  # a tie, up to rounding
        best = 2 if pair[0] >= pair[1] else 5
        assert label == (best if max(pair) > strong else 0 if weak > max(pair) else 255)


@few
@given(number=st.integers(0, 2**31), limits=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_thresholds_pixel_by_pixel(number, limits):
    scores = drawn(number, 2, 4, 4)
    found = from_thresholds(GREY, seed_of(scores), background=limits[0], foreground=limits[1])
    for (row, column), label in zip(torch.ones(4, 4).nonzero().tolist(), found.flatten().tolist(), strict=True):
        pair = scores[:, row, column].tolist()
        best = 2 if pair[0] >= pair[1] else 5
        assert label == (best if max(pair) >= limits[1] else 0 if max(pair) < limits[0] else 255)


def test_where_the_crf_contradicts_itself(monkeypatch):
    """PSA: what is background for the weak background is background. IRN: what the higher threshold finds is found."""
    scores = torch.full((1, 4, 4), 0.5)
    background_wins = {4.0: 0.0, 24.0: 1.0}

    def by_alpha(image, probabilities, *, config):
        alpha = min(background_wins, key=lambda power: abs(0.5**power - float(probabilities[0, 0, 0])))
        return torch.stack([torch.full((4, 4), background_wins[alpha]), torch.full((4, 4), 0.5)])

    monkeypatch.setattr(crf, "from_probabilities", by_alpha)
    assert (from_alphas(GREY, seed_of(scores), low=4.0, high=24.0) == 0).all()

    def swapped(image, labels, *, config):
        return one_hot(image, labels, config=config).flip(0)

    monkeypatch.setattr(crf, "from_labels", swapped)
    columns = torch.tensor([0.0, 0.2, 0.4, 0.4])
    # the masks are 0 2 2 2 at 0.05 and 0 0 2 2 at 0.30; swapped, 2 0 0 0 and 2 2 0 0
    assert from_thresholds(GREY, seed_of(columns.expand(1, 4, 4))).tolist() == [[2, 2, 0, 0]] * 4


def test_a_background_map_decides_and_doubt_is_where_the_crf_disagrees(monkeypatch):
    scores = torch.tensor([[0.6, 0.3, 0.7, 0.1], [0.1, 0.2, 0.9, 0.2]])[:, None].expand(2, 4, 4)
    seed = seed_of(scores, background=torch.full((4, 4), 0.5))
    assert from_background(GREY, seed).tolist() == [[2, 0, 5, 0]] * 4

    def all_of_the_first(image, labels, *, config):
        return one_hot(image, labels, config=config) * torch.tensor([9.0, 1.0, 1.0])[:, None, None] + torch.tensor(
            [2.0, 0.0, 0.0]
        ).reshape(3, 1, 1)

    monkeypatch.setattr(crf, "from_labels", all_of_the_first)
    assert from_background(GREY, seed).tolist() == [[255, 0, 255, 0]] * 4


def test_a_threshold_of_the_seed_itself_serves_as_well():
    seed = SeedMaps(torch.tensor([3]), torch.tensor([0.2, 0.4, 0.6, 0.8]).expand(1, 4, 4), None, (4, 4), threshold=0.5)
    assert from_background(GREY, seed).tolist() == [[0, 0, 3, 3]] * 4


def test_coarse_seeds_are_enlarged():
    coarse = SeedMaps(torch.tensor([1]), torch.tensor([[[0.0, 1.0]]]), None, (4, 4))
    assert torch.equal(from_thresholds(GREY, coarse), from_thresholds(GREY, coarse.upsample()))
    assert from_thresholds(GREY, coarse).tolist() == [[0, 255, 1, 1]] * 4  # 0, 1/4, 3/4, 1


def test_the_crf_draws_labels_to_the_edge_of_the_image(monkeypatch):
    """A red half and a blue one; the map of the red class ends two columns before or after the edge."""
    monkeypatch.setattr(crf, "from_labels", FROM_LABELS)
    monkeypatch.setattr(crf, "from_probabilities", FROM_PROBABILITIES)
    image = torch.zeros(3, 16, 24, dtype=torch.uint8)
    image[0, :, :12], image[2, :, 12:] = 255, 255
    columns = torch.arange(24)
    truth = torch.where(columns < 12, 2, 0).to(torch.uint8).expand(16, 24)
    for end in (10, 14):
        seed = seed_of(torch.where(columns < end, 0.6, 0.01).expand(1, 16, 24), torch.full((16, 24), 0.5))
        too_far = (columns >= 12) & (columns < end)  # too much for the weak background
        assert torch.equal(from_alphas(image, seed, low=4.0, high=24.0), truth.masked_fill(too_far, 255))
        assert torch.equal(from_thresholds(image, seed), truth)
        moved = (columns >= min(end, 12)) & (columns < max(end, 12))
        assert torch.equal(from_background(image, seed), truth.masked_fill(moved, 255))


def test_a_label_that_is_alone_needs_no_crf():
    labels = torch.tensor([[7, 7, 255, 255]] * 4, dtype=torch.uint8)
    assert (after_crf(GREY, labels) == 7).all()


def test_without_classes_all_is_background(monkeypatch):
    for name in ("from_labels", "from_probabilities"):
        monkeypatch.setattr(crf, name, None)  # nobody asks the CRF
    empty = SeedMaps(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2), torch.ones(2, 2), (4, 4))
    for found in (
        from_alphas(GREY, empty, low=4.0, high=24.0),
        from_thresholds(GREY, empty),
        from_background(GREY, empty),
    ):
        assert found.shape == (4, 4)
        assert (found == 0).all()


def test_the_background_score_is_a_power_and_never_no_number():
    seed = seed_of(torch.tensor([[[0.0, 0.5, 1.0, 1.0000001]]]))
    assert background_score(seed, alpha=2.5)[0].tolist() == pytest.approx([1, 0.5**2.5, 0, 0])


@pytest.mark.parametrize(
    "rule", [lambda *given: from_alphas(*given, low=4.0, high=24.0), from_thresholds, from_background]
)
def test_bad_seeds(rule):
    with pytest.raises(DataError, match="image of 4 x 4 pixels and maps of one of 4 x 5"):
        rule(GREY, seed_of(torch.rand(1, 4, 5), torch.rand(4, 5)))
    for value in (math.nan, math.inf):
        scores, background = torch.rand(1, 4, 4), torch.rand(4, 4)
        scores[0, 1, 2] = value
        with pytest.raises(DataError, match="NaN or infinite"):
            rule(GREY, seed_of(scores, background))
        with pytest.raises(DataError, match="NaN or infinite"):
            rule(GREY, seed_of(torch.rand(1, 4, 4), scores[0]))
