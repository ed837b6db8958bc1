"""`spread` against A* M written out with every matrix (BAO eq. 2-5; noise reduction eq. 2-5)."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baoseg.nets import attention
from baoseg.nets.attention import Attending, Attention, Summed

SIZES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2),
        "blocks": st.integers(1, 3),
        "heads": st.integers(1, 3),
        "prefix": st.integers(0, 3),
        "grid": st.tuples(st.integers(1, 5), st.integers(1, 4)),
        "width": st.integers(1, 6),
    }
)


def random_attention(
    generator: torch.Generator, *, batch=2, blocks=2, heads=3, prefix=1, grid=(3, 4), width=5, spread_out=1.0
) -> Attention:
    n = prefix + grid[0] * grid[1]
    shape = (batch, heads, n, width)

    def draw() -> tuple[Tensor, ...]:
        return tuple(spread_out * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(blocks))

    return Attention(draw(), draw(), scale=width**-0.5, prefix=prefix, grid=grid)


def random_scores(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def attention_map(a: Attention) -> Tensor:
    """A*, image by image, block by block, head by head, token by token."""
    batch, heads, n, _ = a.queries[0].shape
    pictures = []
    for picture in range(batch):
        total = torch.zeros(n, n, dtype=torch.float64)
        for queries, keys in zip(a.queries, a.keys, strict=True):
            for head in range(heads):
                q, k = queries[picture, head], keys[picture, head]
                rows = []
                for token in range(n):
                    logits = a.scale * (k * q[token]).sum(dim=1)
                    rows.append(logits.exp() / logits.exp().sum())
                total = total + torch.stack(rows) / heads
        pictures.append(total[a.prefix :, a.prefix :])
    return torch.stack(pictures)


def spread_by_matrix(scores: Tensor, a: Attention) -> Tensor:
    flat = scores.reshape(*scores.shape[:2], -1)
    return torch.stack([m @ star.T for star, m in zip(attention_map(a), flat, strict=True)]).view(scores.shape)


def attend(a: Attention, values: Tensor, **settings) -> tuple[list[Tensor], Attention | Summed]:
    """What each block gives for its values, and what is left for `spread`."""
    images = torch.zeros(len(values), 3, 1, 1, dtype=values.dtype)
    common = {"blocks": a.blocks, "scale": a.scale, "prefix": a.prefix, "grid": a.grid}
    attending = Attending(images, **{**common, "width": 10**6, "spreads": True, **settings})
    return [attending(q, k, values) for q, k in zip(a.queries, a.keys, strict=True)], attending.result()


def summed(a: Attention) -> Summed:
    with mock.patch.object(attention, "ROWS", 5):
        return attend(a, torch.zeros_like(a.queries[0]))[1]


WAYS = pytest.mark.parametrize("way", [summed, lambda a: a], ids=["summed", "fused"])


@WAYS
@settings(deadline=None, max_examples=20)
@given(
    sizes=SIZES,
    maps=st.integers(1, 14),  # more than a head is wide, too
    seed=st.integers(0, 2**31),
)
def test_equals_the_matrices_of_the_paper(way, sizes, maps, seed):
    generator = torch.Generator().manual_seed(seed)
    a = random_attention(generator, **sizes)
    scores = random_scores(generator, sizes["batch"], maps, *sizes["grid"])
    torch.testing.assert_close(attention.spread(scores, way(a)), spread_by_matrix(scores, a))


@WAYS
def test_gradients_equal_those_of_the_matrices(way, generator):
    a = random_attention(generator, prefix=2)
    scores = random_scores(generator, 2, 7, 3, 4)
    weight = random_scores(generator, 2, 7, 3, 4)  # of each output in the scalar that is differentiated
    inputs = [t.requires_grad_() for t in (scores, *a.queries, *a.keys)]
    expected = torch.autograd.grad((spread_by_matrix(scores, a) * weight).sum(), inputs)
    actual = torch.autograd.grad((attention.spread(scores, way(a)) * weight).sum(), inputs)
    torch.testing.assert_close(actual, expected)


@WAYS
def test_memory_layout_does_not_matter(way, generator):
    grid, n = (3, 4), 13
    # as a projection to queries and keys gives them: b n (two heads d), seen as two b heads n d
    projected = random_scores(generator, 2, n, 2, 3, 5).permute(2, 0, 3, 1, 4)
    scores = random_scores(generator, 3, 2, 4, 6).permute(1, 3, 0, 2)
    queries, keys = projected
    assert not (queries.is_contiguous() or scores.is_contiguous())
    plain = Attention((queries.contiguous(),), (keys.contiguous(),), scale=0.4, prefix=1, grid=grid)
    result = attention.spread(scores, way(Attention((queries,), (keys,), scale=0.4, prefix=1, grid=grid)))
    torch.testing.assert_close(result, spread_by_matrix(scores, plain))


@WAYS
@settings(deadline=None, max_examples=10)
@given(factor=st.floats(-10, 10), seed=st.integers(0, 2**31))
def test_is_linear_in_the_scores(way, factor, seed):
    generator = torch.Generator().manual_seed(seed)
    a = random_attention(generator)
    first, second = random_scores(generator, 2, 2, 6, 3, 4)
    together = attention.spread(first + factor * second, way(a))
    apart = attention.spread(first, way(a)) + factor * attention.spread(second, way(a))
    torch.testing.assert_close(together, apart)


@settings(deadline=None, max_examples=20)
@given(blocks=st.integers(1, 4), prefix=st.integers(0, 2), spread_out=st.floats(0, 5), seed=st.integers(0, 2**31))
def test_rows_sum_to_the_blocks_less_what_the_prefix_attracts(blocks, prefix, spread_out, seed):
    generator = torch.Generator().manual_seed(seed)
    a = random_attention(generator, blocks=blocks, prefix=prefix, spread_out=spread_out)
    matrix = summed(a).matrix
    rows = matrix.sum(dim=-1)
    assert matrix.min() >= 0
    if prefix == 0:
        torch.testing.assert_close(rows, torch.full_like(rows, blocks))
    else:
        assert rows.max() <= blocks + 1e-9


def test_equal_keys_average_over_all_tokens(generator):
    """All keys alike: each weight is 1 / n with n = prefix + h w, so a constant map loses the prefix's share."""
    queries = torch.randn(1, 2, 10, 4, generator=generator)
    a = Attention((queries,), (torch.ones_like(queries),), scale=0.5, prefix=1, grid=(3, 3))
    torch.testing.assert_close(attention.spread(torch.ones(1, 1, 3, 3), a), torch.full((1, 1, 3, 3), 0.9))


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation makes, forward or backward."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                held = result.untyped_storage().nbytes() // result.element_size()
                self.elements = max(self.elements, held)
        return results


@pytest.mark.parametrize("maps", [3, 20])
@pytest.mark.parametrize("width", [8, 24])
def test_what_is_held(maps, width, generator):
    """The matrix of all blocks and heads where it is smaller than their queries and keys, and none at all elsewhere."""
    n = 1 + 12 * 20
    a = random_attention(generator, batch=1, blocks=3, heads=2, grid=(12, 20), width=width)
    queries_and_keys = 2 * 3 * 2 * width  # numbers a token: 96 and 288
    values = random_scores(generator, *a.queries[0].shape)
    inputs = [t.requires_grad_() for t in (random_scores(generator, 1, maps, 12, 20), values, *a.queries, *a.keys)]
    saved = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with mock.patch.object(attention, "ROWS", 8), Largest() as largest, hooks:
        attended, result = attend(a, values, width=2 * width)
        loss = attention.spread(inputs[0], result).sum() + torch.stack(attended).sum()
        torch.autograd.grad(loss, inputs)
    if n <= queries_and_keys:
        assert sum(size >= 0.9 * n**2 for size in saved) == 1
        assert largest.elements <= n**2
    else:
        assert max(saved) < 0.2 * n**2
        assert largest.elements < 0.5 * n**2  # all that the blocks give, stacked


@WAYS
def test_scores_on_another_grid_are_refused(way, generator):
    a = random_attention(generator, grid=(3, 4))
    with pytest.raises(ValueError, match="grid"):
        attention.spread(random_scores(generator, 2, 1, 4, 3), way(a))


@settings(deadline=None, max_examples=20)
@given(
    sizes=SIZES,
    rows=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_summed_while_attending_equals_the_matrices_of_the_paper(sizes, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    a = random_attention(generator, **sizes)
    values = random_scores(generator, *a.queries[0].shape)
    scores = random_scores(generator, sizes["batch"], 3, *sizes["grid"])
    with mock.patch.object(attention, "ROWS", rows), torch.no_grad():
        attended, result = attend(a, values)
    assert isinstance(result, Summed)
    torch.testing.assert_close(result.matrix, attention_map(a))
    torch.testing.assert_close(attention.spread(scores, result), spread_by_matrix(scores, a))
    for of_block, query, key in zip(attended, a.queries, a.keys, strict=True):
        torch.testing.assert_close(of_block, (query @ key.mT * a.scale).softmax(dim=3) @ values)


def test_half_precision_is_summed_in_single(generator):
    """A thousand equal weights of 1 / 1000: added up in bfloat16 they would stay far below 1."""
    flat = Attention((torch.zeros(1, 2, 1000, 4),) * 2, (torch.zeros(1, 2, 1000, 4),) * 2, 0.5, 0, (20, 50))
    values = torch.randn(1, 2, 1000, 4, generator=generator)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attended, result = attend(flat, values)
    assert result.matrix.dtype == torch.float32
    torch.testing.assert_close(result.matrix.sum(dim=2), torch.full((1, 1000), 2.0), atol=0.01, rtol=0)
    assert attended[0].dtype == torch.bfloat16
    mean = values.mean(dim=2, keepdim=True).expand_as(values)
    torch.testing.assert_close(attended[0].float(), mean, atol=1e-3, rtol=0.02)


@pytest.mark.parametrize("with_spread", [True, False])
def test_gradients_of_attended_and_summed(with_spread, generator):
    """Through both at once, or through what the blocks give alone, as those of the matrices written out."""
    a = random_attention(generator, prefix=2)
    scores, values = random_scores(generator, 2, 7, 3, 4), random_scores(generator, *a.queries[0].shape)
    weights = [random_scores(generator, *a.queries[0].shape) for _ in a.queries]
    inputs = [t.requires_grad_() for t in (values, *a.queries, *a.keys)]

    def loss(attended: list[Tensor], spread: Tensor) -> Tensor:
        own = sum((w * given).sum() for w, given in zip(weights, attended, strict=True))
        return own + (spread.square().sum() if with_spread else 0)

    pairs = zip(a.queries, a.keys, strict=True)
    written_out = [(query @ key.mT * a.scale).softmax(dim=3) @ values for query, key in pairs]
    expected = torch.autograd.grad(loss(written_out, spread_by_matrix(scores, a)), inputs)
    with mock.patch.object(attention, "ROWS", 5):
        attended, result = attend(a, values)
        actual = torch.autograd.grad(loss(attended, attention.spread(scores, result)), inputs)
    torch.testing.assert_close(actual, expected)


def test_gradients_in_half_precision(generator):
    """As those of the same numbers in single precision, up to the rounding of what is multiplied."""
    a = random_attention(generator, heads=2, grid=(6, 7), width=8)
    scores = random_scores(generator, 2, 3, 6, 7).float()
    start = (random_scores(generator, *a.queries[0].shape), *a.queries, *a.keys)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        values, *tokens = inputs = [t.bfloat16().to(dtype).requires_grad_() for t in start]
        given = Attention(tuple(tokens[:2]), tuple(tokens[2:]), a.scale, a.prefix, a.grid)
        attended, result = attend(given, values)
        spread = attention.spread(scores, result)
        assert spread.dtype == torch.float32
        loss = (spread * scores).sum() + torch.stack(attended).float().square().sum()
        gradients.append(torch.autograd.grad(loss, inputs))
    for single, half in zip(*gradients, strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), single, atol=0.03 * single.abs().max().item(), rtol=0.03)


def test_where_nothing_is_summed(generator):
    a = random_attention(generator, batch=1, blocks=2, heads=2, width=3, prefix=1, grid=(4, 6))  # 25 tokens
    values = random_scores(generator, *a.queries[0].shape)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert isinstance(attend(a, values, width=7)[1], Summed)  # queries and keys: 2 * 2 * 7 = 28 a token
            assert isinstance(attend(a, values, width=6)[1], Attention)  # 24 a token, a row of A* has 25
            assert isinstance(attend(a, values, spreads=False)[1], Attention)
    attended, captured = attend(a, values, spreads=False)
    assert torch.equal(torch.stack(captured.queries), torch.stack(a.queries))
    torch.testing.assert_close(attended[0], F.scaled_dot_product_attention(a.queries[0], a.keys[0], values))
