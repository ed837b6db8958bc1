"""Which pairs count as what, and the affinity loss of PSA and IRN pair by pair."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.errors import RecipeError
from baoseg.core.types import Batch
from baoseg.nets import timm_backbones
from baoseg.refine import pairs
from baoseg.refine.random_walk import edge_affinity, edge_affinity_at, offsets_within, within

few = settings(deadline=None, max_examples=25)


def test_views_of_pairs_by_hand():
    grid = torch.arange(6).view(2, 3)
    assert within(grid, (1, 1), (0, 0)).tolist() == [[0, 1]]
    assert within(grid, (1, 1), (1, 1)).tolist() == [[4, 5]]
    assert within(grid, (1, -1), (0, 0)).tolist() == [[1, 2]]
    assert within(grid, (1, -1), (1, -1)).tolist() == [[3, 4]]
    assert within(grid, (1, -1), (1, 0)).tolist() == [[4, 5]]
    assert within(grid, (0, 3), (0, 0)).numel() == within(grid, (2, 0), (2, 0)).numel() == 0


def test_affinities_at_one_offset_are_those_of_all():
    edge = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    together = edge_affinity(edge, radius=4)
    for offset, weights in zip(together.offsets, together.weights.unbind(1), strict=True):
        assert torch.equal(within(weights, offset, (0, 0)), edge_affinity_at(edge, offset))
        assert math.isclose(float(weights.sum()), float(edge_affinity_at(edge, offset).sum()), abs_tol=1e-4)


def test_kinds_of_pairs_by_hand():
    labels = torch.tensor([[[0, 0, 1, 1, 2, 255, 255]]])
    kinds = pairs.pairs_at(labels, (0, 1))
    assert kinds.background.tolist() == [[[True, False, False, False, False, False]]]
    assert kinds.foreground.tolist() == [[[False, False, True, False, False, False]]]
    assert kinds.different.tolist() == [[[False, True, False, True, False, False]]]


@few
@given(height=st.integers(1, 5), width=st.integers(1, 5), radius=st.integers(2, 5), number=st.integers(0, 2**31))
def test_the_affinity_loss_pair_by_pair(height, width, radius, number):
    """Means of -log a and -log(1 - a), over all pairs of all images nearer than the radius, each pair once."""
    generator = torch.Generator().manual_seed(number)
    labels = torch.tensor([0, 0, 3, 3, 4, 255])[torch.randint(6, (2, height, width), generator=generator)]
    values = torch.rand(2, height, width, dtype=torch.float64, generator=generator)

    def sums(offset, labels, values):  # any affinity will do
        affinity = (within(values, offset, (0, 0)) - within(values, offset, offset)).abs()
        return pairs.affinity_sums(affinity, pairs.pairs_at(labels, offset))

    found = pairs.affinity_terms(pairs.means(sums, labels, values, radius=radius))

    losses: dict[str, list[float]] = {"background": [], "foreground": [], "different": []}
    cells = torch.ones(height, width).nonzero().tolist()
    for picture in range(2):
        for i, one in enumerate(cells):
            for other in cells[i + 1 :]:
                first, second = (int(labels[picture, *cell]) for cell in (one, other))
                if math.dist(one, other) >= radius or 255 in (first, second):
                    continue
                affinity = abs(float(values[picture, *one] - values[picture, *other]))
                if first != second:
                    losses["different"].append(-math.log(1 + 1e-5 - affinity))
                else:
                    losses["foreground" if first else "background"].append(-math.log(affinity + 1e-5))
    for kind, weight in (("background", 1 / 4), ("foreground", 1 / 4), ("different", 1 / 2)):
        expected = weight * math.fsum(losses[kind]) / (len(losses[kind]) + 1e-5)
        assert float(found[kind]) == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_the_means_kept_in_memory():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (2, 5, 6), generator=generator)
    edge = torch.rand(2, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()

    def sums(offset, labels, edge):
        return pairs.affinity_sums(edge_affinity_at(edge, offset), pairs.pairs_at(labels, offset))

    found = torch.autograd.grad(pairs.means(sums, labels, edge, radius=4).sum(), edge)[0]
    totals = torch.stack([sums(offset, labels, edge) for offset in offsets_within(4)]).sum(dim=0)
    expected = torch.autograd.grad((totals[0] / (totals[1] + 1e-5)).sum(), edge)[0]
    torch.testing.assert_close(found, expected)


def test_labels_of_cells_are_those_of_their_centres_without_padding():
    labels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[..., 5:, :] = False
    batch = Batch(torch.zeros(1, 3, 8, 8), torch.ones(1, 2), valid, labels)
    found = pairs.labels_of(batch, torch.zeros(1, 6, 2, 2))
    assert found.tolist() == [[[18, 22], [255, 255]]]
    with pytest.raises(RecipeError, match="learnt from pixel labels"):
        pairs.labels_of(batch._replace(pixel_labels=None), torch.zeros(1, 6, 2, 2))


@pytest.mark.parametrize(("stride", "expected"), [(32, [2, 4, 8, 16, 32]), (16, [2, 4, 8, 16, 16])])
def test_strides_of_stages_are_found_without_a_trace(stride, expected):
    backbone = timm_backbones.make("test_resnet", 2, stride=stride)
    backbone.model.bn1.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    modes = [module.training for module in backbone.modules()]
    assert pairs.stage_strides(backbone) == expected
    assert [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
