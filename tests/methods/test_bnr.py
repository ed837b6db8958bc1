"""BNR against its equations, with the attention matrices written out."""

import math

import pytest
import torch
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import Batch
from baoseg.methods.bnr import BNR, Config, Strength
from baoseg.methods.transcam import Config as TransCAMConfig
from baoseg.methods.transcam import TransCAM
from baoseg.nets.attention import Attention

CONFIGS = [Config(noise=noise, strength=strength) for noise in (0, 1, 2) for strength in Strength]


def attention_matrix(attention: Attention) -> Tensor:
    """A* (eq. 2-4): a softmax over all 13 tokens, the mean of the heads, the sum of the blocks, then cells alone."""
    star = torch.zeros(len(attention.queries[0]), 13, 13, dtype=torch.float64)
    for queries, keys in zip(attention.queries, attention.keys, strict=True):
        heads = queries.shape[1]
        for picture in range(len(star)):
            for head in range(heads):
                for token in range(13):
                    powers = torch.exp(keys[picture, head] @ queries[picture, head, token] / math.sqrt(5))
                    star[picture, token] += (powers / powers.sum() / heads).detach()
    return star[:, 1:, 1:]


def noisy_maps(method: BNR, batch: Batch) -> Tensor:
    """M** of the K classes on the 3 x 4 grid, from eq. 1, 5, 6 and 7; without attention M."""
    features = method.network(batch.images)
    weights = method.network.class_head.weight[1:, :, 0, 0]
    maps = torch.einsum("s c, b c h w -> b s h w", weights, features.map).flatten(2)  # M_s = w_s . f
    if features.attention is None:
        return maps.unflatten(2, (3, 4))
    star = attention_matrix(features.attention)
    mean = star / 2  # Abar* of two blocks
    maps = torch.einsum("b q k, b s k -> b s q", star, maps)  # M*
    noise = method.config.noise
    if method.config.strength is Strength.SCALED and noise:
        maps = noise * torch.einsum("b q k, b s k -> b s q", mean, maps)
    else:
        for _ in range(noise):
            maps = torch.einsum("b q k, b s k -> b s q", mean, maps)
    return maps.unflatten(2, (3, 4))


def soft_margin(logits: Tensor, labels: Tensor) -> float:
    """Eq. 8, and the mean over the images."""
    total = 0.0
    for z, y in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        total -= y * math.log(1 / (1 + math.exp(-z))) + (1 - y) * math.log(math.exp(-z) / (1 + math.exp(-z)))
    return total / labels.numel()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("attends", [True, False], ids=["attention", "no attention"])
def test_loss_is_equation_9(make_network, batch, valid_cells, attends, config):
    """L = L_cls + L_M**; both average over cells that are image."""
    network = make_network(attends=attends)
    method = BNR(network, config)
    terms = method.loss(batch)
    noisy = noisy_maps(method, batch)
    z = torch.stack([maps[:, cells].mean(dim=1) for maps, cells in zip(noisy, valid_cells, strict=True)])
    assert terms.keys() == {"classification", "noise"}
    assert terms["noise"].item() == pytest.approx(soft_margin(z, batch.labels), rel=1e-9)
    expected = TransCAM(network, TransCAMConfig()).loss(batch)["classification"]
    torch.testing.assert_close(terms["classification"], expected)


def test_the_default_is_the_papers_best():
    """Table 5: one times the noise is best."""
    assert Config().noise == 1


def test_strengths_agree_at_one_and_scaling_is_linear(make_network, batch):
    network = make_network()
    features = network(batch.images)
    refined = torch.randn(3, 4, 3, 4, dtype=torch.float64)

    def noisy(noise: int, strength: Strength) -> Tensor:
        return BNR(network, Config(noise=noise, strength=strength)).add_noise(refined, features)

    once = noisy(1, Strength.APPLIED)
    assert torch.equal(noisy(1, Strength.SCALED), once)
    assert torch.equal(noisy(2, Strength.SCALED), 2 * once)
    for strength in Strength:
        assert torch.equal(noisy(0, strength), refined)
    assert not torch.allclose(noisy(2, Strength.APPLIED), 2 * once)


def test_noise_averages_and_loses_what_the_class_token_sees(make_network, batch):
    """Rows of Abar are shares of one; those of Abar* lack the class token's."""
    network = make_network()
    features = network(batch.images)
    method = BNR(network, Config())
    ones = torch.ones(3, 1, 3, 4, dtype=torch.float64)
    spread = method.add_noise(ones, features)
    assert (spread > 0).all()
    assert (spread < 1).all()
    # the average over the blocks does not depend on how often they are counted
    attention = features.attention
    twice = Attention(2 * attention.queries, 2 * attention.keys, attention.scale, attention.prefix, attention.grid)
    again = method.add_noise(ones, type(features)(features.map, features.token_logits, twice))
    torch.testing.assert_close(again, spread)


def test_what_lies_in_the_padding_does_not_matter(make_network, batch, valid_cells):
    """Without attention (which looks everywhere) and batch statistics."""
    method = BNR(make_network(attends=False), Config()).eval()
    pixels = valid_cells.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)[:, None]
    other = Batch(torch.where(pixels, batch.images, -40.0), batch.labels, batch.valid)
    torch.testing.assert_close(method.loss(batch)["noise"], method.loss(other)["noise"])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("attends", [True, False], ids=["attention", "no attention"])
def test_inference_is_that_of_transcam(make_network, batch, attends, config):
    """Sec. 3.3: noise belongs to training alone."""
    network = make_network(attends=attends).eval()
    method = BNR(network, config)
    for classes in (None, torch.tensor([2, 4])):
        expected = TransCAM(network, TransCAMConfig()).maps(batch.images, batch.labels, classes=classes)
        maps = method.maps(batch.images, batch.labels, classes=classes)
        assert torch.equal(maps.scores, expected.scores)
        assert maps.background is None
    assert not method.learns_background


@pytest.mark.parametrize("noise", [0, 1, 2])
def test_the_loss_teaches_queries_and_keys(make_network, batch, noise):
    """The contribution of the paper: the classification loss alone says nothing about where attention looks."""
    method = BNR(make_network(), Config(noise=noise))
    projections = method.network.backbone.projections
    terms = method.loss(batch)
    terms["classification"].backward(retain_graph=True)
    assert all(projection.weight.grad is None for projection in projections)
    terms["noise"].backward()
    for projection in projections:
        queries, keys = projection.weight.grad.chunk(2)
        assert queries.abs().sum() > 0
        assert keys.abs().sum() > 0


@pytest.mark.parametrize("noise", [-1, 3])
def test_a_noise_beyond_the_papers_is_refused(noise):
    with pytest.raises(RecipeError, match=f"noise is {noise}; give 0, 1 or 2"):
        Config(noise=noise)
