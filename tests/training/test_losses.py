"""The losses against their formulas, written out cell by cell."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baoseg.core.types import BACKGROUND, IGNORE
from baoseg.training import losses


def balanced_cross_entropy(activations: Tensor, pseudo_labels: Tensor, smoothing: float) -> float:
    """PCL: the mean over background cells and the mean over foreground cells, half each (DESIGN: AMN's loss)."""
    channels = activations.shape[1]
    of_background, of_foreground = [], []
    for picture, labels in zip(activations, pseudo_labels, strict=True):
        for row in range(labels.shape[0]):
            for column in range(labels.shape[1]):
                label = int(labels[row, column])
                if label == IGNORE:
                    continue
                scores = picture[:, row, column].tolist()
                norm = math.log(sum(math.exp(score) for score in scores))
                loss = 0.0
                for channel in range(channels):
                    share = 1 - smoothing if channel == label else smoothing / (channels - 1)
                    loss -= share * (scores[channel] - norm)
                (of_background if label == BACKGROUND else of_foreground).append(loss)
    means = [sum(kind) / len(kind) for kind in (of_background, of_foreground) if kind]
    return sum(means) / len(means) if means else 0.0


def draw(classes: int, grid: tuple[int, int], choices: list[int], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    activations = 3 * torch.randn(2, classes + 1, *grid, generator=generator, dtype=torch.float64)
    chosen = torch.randint(len(choices), (2, *grid), generator=generator)
    return activations, torch.tensor(choices)[chosen]


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kinds=st.sets(st.sampled_from(["background", "foreground", "ignored"]), min_size=1),
    smoothing=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_pixel_classification_is_the_balanced_cross_entropy(classes, grid, kinds, smoothing, seed):
    values = {"background": [BACKGROUND], "foreground": range(1, classes + 1), "ignored": [IGNORE]}
    choices = [label for kind in sorted(kinds) for label in values[kind]]
    activations, pseudo_labels = draw(classes, grid, choices, seed)
    loss = losses.pixel_classification(activations, pseudo_labels, smoothing=smoothing)
    expected = balanced_cross_entropy(activations, pseudo_labels, smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_pixel_classification_by_hand():
    """S = 2, scores (ln 3, 0): probabilities 3/4 and 1/4. One background cell, two of the class, eps 0.4."""
    activations = torch.tensor([math.log(3.0), 0.0])[None, :, None, None].expand(1, 2, 1, 3)
    pseudo_labels = torch.tensor([[[0, 1, 1]]])
    background = -0.6 * math.log(3 / 4) - 0.4 * math.log(1 / 4)
    foreground = -0.4 * math.log(3 / 4) - 0.6 * math.log(1 / 4)
    loss = losses.pixel_classification(activations, pseudo_labels, smoothing=0.4)
    assert float(loss) == pytest.approx((background + foreground) / 2)


@pytest.mark.parametrize(("label", "channel"), [(BACKGROUND, 0), (2, 2)], ids=["background alone", "foreground alone"])
def test_one_kind_alone_counts_in_full(label, channel):
    activations, _ = draw(2, (3, 3), [0], seed=1)
    pseudo_labels = torch.full((2, 3, 3), label)
    loss = losses.pixel_classification(activations, pseudo_labels, smoothing=0.0)
    torch.testing.assert_close(loss, -activations.softmax(dim=1)[:, channel].log().mean())


def test_nothing_but_ignored_cells_gives_zero_loss_and_gradient():
    activations, pseudo_labels = draw(3, (2, 2), [IGNORE], seed=0)
    activations.requires_grad_()
    loss = losses.pixel_classification(activations, pseudo_labels, smoothing=0.4)
    (gradient,) = torch.autograd.grad(loss, activations)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_ignored_cells_have_neither_influence_nor_gradient():
    activations, pseudo_labels = draw(3, (4, 4), [0, 1, 3, IGNORE], seed=5)
    ignored = (pseudo_labels == IGNORE)[:, None].expand_as(activations)
    assert ignored.any() and not ignored.all()
    changed = torch.where(ignored, -7.0, activations).requires_grad_()
    loss = losses.pixel_classification(changed, pseudo_labels, smoothing=0.4)
    torch.testing.assert_close(loss, losses.pixel_classification(activations, pseudo_labels, smoothing=0.4))
    (gradient,) = torch.autograd.grad(loss, changed)
    assert (gradient[ignored] == 0).all()


def test_pixel_classification_is_least_at_the_smoothed_labels():
    """Cross-entropy against q is least where the softmax is q, and then it is q's entropy."""
    q = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)  # eps 0.4 over S = 3
    activations = q.log()[None, :, None, None].clone().requires_grad_()
    loss = losses.pixel_classification(activations, torch.zeros(1, 1, 1, dtype=torch.int64), smoothing=0.4)
    torch.testing.assert_close(loss, -(q * q.log()).sum())
    (gradient,) = torch.autograd.grad(loss, activations)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 3), classes=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_soft_margin_is_equation_7(batch, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    z = 4 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (batch, classes), generator=generator).double()
    total = 0.0
    for picture in range(batch):
        for s in range(classes):
            fraction = 1 / (1 + math.exp(-z[picture, s]))
            rest = math.exp(-z[picture, s]) / (1 + math.exp(-z[picture, s]))
            total -= float(y[picture, s] * math.log(fraction) + (1 - y[picture, s]) * math.log(rest))
    assert float(losses.multilabel_soft_margin(z, y)) == pytest.approx(total / classes / batch)


@settings(deadline=None, max_examples=20)
@given(grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 2**31))
def test_pool_averages_over_the_image(grid, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, *grid, generator=generator, dtype=torch.float64)
    valid = torch.randint(2, (2, 1, *grid), generator=generator).bool()
    pooled = losses.pool(maps, valid)
    for picture in range(2):
        for channel in range(3):
            cells = maps[picture, channel][valid[picture, 0]].tolist()
            expected = sum(cells) / len(cells) if cells else 0
            assert float(pooled[picture, channel]) == pytest.approx(expected)
    torch.testing.assert_close(losses.pool(maps), losses.pool(maps, torch.ones_like(valid)))
