"""Spreads scores through self-attention, A* M of TransCAM, without keeping the attention maps.

    A^{b,h} = softmax(Q^{b,h} K^{b,h}^T / sqrt(d))      over all tokens, the class token included
    A*      = sum_b mean_h A^{b,h}                      with the class token's row and column removed afterwards
    M*      = A* M                                      (BAO eq. 2-5; noise reduction eq. 2-5)

Published code keeps the N x N matrices of all blocks and heads. Here there are three ways, all exact:

- On a CPU A* alone is kept, as long as it is smaller than the queries and keys of all blocks. Its parts are made a few
  queries at a time and summed while they are in the cache; the backward pass makes them again (`matrix`).
- Inference on a CPU sums A* up while the blocks attend (`Attending`), so that nothing is multiplied twice.
- Elsewhere A* does not exist: attention with M in the place of the values (zero for the class token), averaged over
  heads and summed over blocks, is A* M, and fused kernels do that in O(N) memory.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from baoseg.types import full_precision

ROWS = 128  # queries at a time: their weights of all heads stay in the cache


@dataclass(frozen=True)
class Attention:
    """Queries and keys of every block of a transformer; n = prefix + h * w tokens, the prefix first.

    `scale` multiplies Q K^T before the softmax, 1 / sqrt(d) in all published networks. `prefix` counts the tokens
    that are no patches (class and register tokens).
    """

    queries: tuple[Float[Tensor, "b heads n d"], ...]
    keys: tuple[Float[Tensor, "b heads n d"], ...]
    scale: float
    prefix: int
    grid: tuple[int, int]

    @property
    def blocks(self) -> int:
        return len(self.queries)

    @property
    def matrix(self) -> Float[Tensor, "b n n"]:
        """A*, n = h * w. Differentiable."""
        # one that was made without gradients does not serve where they are asked for
        return self._made if torch.is_grad_enabled() else self._make()

    @cached_property
    def _made(self) -> Float[Tensor, "b n n"]:
        return self._make()

    def _make(self) -> Float[Tensor, "b n n"]:
        total: Tensor = _Sum.apply(self.scale, self.prefix, *self.queries, *self.keys)
        return total


@dataclass(frozen=True)
class Summed:
    """A* of a forward pass without gradients, n = h * w."""

    matrix: Float[Tensor, "b n n"]
    blocks: int
    grid: tuple[int, int]


class Attending:
    """The self-attention of a network's blocks in one forward pass, and what `spread` needs of it.

    `width` is that of a token, all heads together; `scale`, `prefix` and `grid` are those of `Attention`. With `sums`
    A* may be summed up; then each block has to attend by calling this.
    """

    def __init__(
        self,
        images: Float[Tensor, "b _ _ _"],
        *,
        blocks: int,
        width: int,
        scale: float,
        prefix: int,
        grid: tuple[int, int],
        sums: bool = True,
    ) -> None:
        self.scale, self.prefix, self.grid = scale, prefix, grid
        self.queries: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.total: Float[Tensor, "b n n"] | None = None  # sum of the blocks so far
        self.added, self.blocks = 0, blocks
        n = prefix + math.prod(grid)
        if sums and not torch.is_grad_enabled() and _keeps_matrix(images, n, blocks * width):
            self.total = torch.zeros(len(images), n, n, dtype=full_precision(images).dtype)

    def __call__(
        self,
        query: Float[Tensor, "b heads n d"],
        key: Float[Tensor, "b heads n d"],
        value: Float[Tensor, "b heads n d"],
    ) -> Float[Tensor, "b heads n d"]:
        """softmax(Q K^T scale) V of the next block."""
        if self.total is not None:
            self.added += 1
            return _attend_and_add(query, key, value, scale=self.scale, total=self.total)
        self.queries.append(query)
        self.keys.append(key)
        return F.scaled_dot_product_attention(query, key, value, scale=self.scale)

    def result(self) -> Attention | Summed:
        if self.total is None:
            return Attention(tuple(self.queries), tuple(self.keys), self.scale, self.prefix, self.grid)
        assert self.added == self.blocks, f"{self.added} of {self.blocks} blocks were summed up"
        return Summed(self.total[:, self.prefix :, self.prefix :], self.blocks, self.grid)


def spread(scores: Float[Tensor, "b k h w"], attention: Attention | Summed) -> Float[Tensor, "b k h w"]:
    """A* M for k score maps M on the token grid (BAO eq. 5). Exact up to rounding, differentiable."""
    height, width = attention.grid
    if scores.shape[-2:] != (height, width):
        raise ValueError(f"scores on a {tuple(scores.shape[-2:])} grid, attention on {attention.grid}")
    values = full_precision(rearrange(scores, "b k h w -> b (h w) k"))  # the blocks are summed in it
    if isinstance(attention, Summed) or _keeps_matrix(values, attention.prefix + height * width, _width(attention)):
        with torch.autocast(values.device.type, enabled=False):
            result = attention.matrix.to(values.dtype) @ values
    else:
        blocks = zip(attention.queries, attention.keys, strict=True)
        spread_by = (_attend(query, key, values, attention) for query, key in blocks)
        result = sum(spread_by, torch.zeros_like(values))
    return rearrange(result, "b (h w) k -> b k h w", h=height)


def _keeps_matrix(like: Tensor, n: int, width: int) -> bool:
    """Whether A* of n tokens is the way: on a CPU, no larger than queries and keys of `width` in all blocks together.

    Not for what is captured to run elsewhere: a graph has no loop over the queries of a number that it does not know.
    """
    return like.device.type == "cpu" and n <= 2 * width and not torch.compiler.is_compiling()


def _width(attention: Attention) -> int:
    return sum(query.shape[1] * query.shape[3] for query in attention.queries)


def _attend(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads n d"],
    values: Float[Tensor, "b m k"],
    attention: Attention,
) -> Float[Tensor, "b m k"]:
    """One block's mean_h A^{b,h} M, by a fused kernel: those want values as wide as a head, hence the padding."""
    heads, width = query.shape[1], query.shape[-1]
    patch_query = query[:, :, attention.prefix :]
    parts = []
    for part in values.split(width, dim=-1):
        padded = F.pad(part, (0, width - part.shape[-1], attention.prefix, 0)).to(query.dtype)
        padded = padded[:, None].expand(-1, heads, -1, -1)
        spread_part = F.scaled_dot_product_attention(patch_query, key, padded, scale=attention.scale)
        parts.append(spread_part.mean(dim=1)[..., : part.shape[-1]])
    return torch.cat(parts, dim=-1).to(values.dtype)


def _attend_and_add(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads n d"],
    value: Float[Tensor, "b heads n d"],
    *,
    scale: float,
    total: Float[Tensor, "b n n"],
) -> Float[Tensor, "b heads n d"]:
    """softmax(Q K^T scale) V; mean_h of that softmax is added to `total`."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    for picture in range(len(query)):
        values = value[picture].contiguous()
        for rows, weights in _weights(query[picture], key[picture], scale):
            torch.bmm(weights, values, out=result[picture, :, rows])
            _add_mean(total[picture, rows], weights)
    return result


def _weights(
    query: Float[Tensor, "heads m d"], key: Float[Tensor, "heads n d"], scale: float
) -> Iterator[tuple[slice, Float[Tensor, "heads rows n"]]]:
    """softmax(Q K^T scale) of ROWS queries at a time, each in the memory of the one before."""
    (heads, m, _), n = query.shape, key.shape[1]
    buffers = query.new_empty(2, heads * min(ROWS, m) * n)
    scaled, transposed = query * scale, key.contiguous().transpose(1, 2)
    for first in range(0, m, ROWS):
        rows = slice(first, min(first + ROWS, m))
        shape = (heads, rows.stop - first, n)
        logits, weights = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
        torch.bmm(scaled[:, rows], transposed, out=logits)
        torch.softmax(logits, dim=-1, out=weights)
        yield rows, weights


def _add_mean(total: Float[Tensor, "rows n"], weights: Float[Tensor, "heads rows n"]) -> None:
    """Head by head: no memory of its own, and bfloat16 is added in single precision."""
    for of_head in weights:
        total.add_(of_head, alpha=1 / len(weights))


class _Sum(torch.autograd.Function):
    """A* of the queries and keys of all blocks. Neither pass keeps more of the blocks than a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, scale: float, prefix: int, *tokens: Float[Tensor, "b heads n d"]) -> Float[Tensor, "b m m"]:
        ctx.scale, ctx.prefix = scale, prefix
        ctx.save_for_backward(*tokens)
        batch, _, n, _ = tokens[0].shape
        total = full_precision(tokens[0]).new_zeros(batch, n - prefix, n)
        for query, key in _pairs(tokens):
            for picture in range(batch):
                for rows, weights in _weights(query[picture, :, prefix:], key[picture], scale):
                    _add_mean(total[picture, rows], weights)
        return total[..., prefix:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "b m m"]) -> tuple[Tensor | None, ...]:
        """With P a block's softmax, G the gradient of mean_h P: dS = P (G - sum_n P G), dQ = dS K, dK = dS^T Q."""
        scale, prefix, tokens = ctx.scale, ctx.prefix, ctx.saved_tensors
        heads = tokens[0].shape[1]
        gradient = F.pad(gradient / heads, (prefix, 0))
        of_queries, of_keys = [], []
        with torch.autocast("cpu", enabled=False):
            for query, key in _pairs(tokens):
                of_query, of_key = torch.zeros_like(query), torch.zeros_like(key, dtype=gradient.dtype)
                for picture in range(len(query)):
                    patches = query[picture, :, prefix:]
                    for rows, weights in _weights(patches, key[picture], scale):
                        of_weights = gradient[picture, rows]
                        of_logits = of_weights - (weights * of_weights).sum(dim=-1, keepdim=True)
                        of_logits = (of_logits * weights * scale).to(query.dtype)
                        of_query[picture, :, prefix:][:, rows] = of_logits @ key[picture]
                        of_key[picture] += of_logits.mT @ patches[:, rows]
                of_queries.append(of_query)
                of_keys.append(of_key.to(key.dtype))
        return None, None, *of_queries, *of_keys


def _pairs(tokens: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Query and key of each block, of all queries followed by all keys."""
    middle = len(tokens) // 2
    return zip(tokens[:middle], tokens[middle:], strict=True)
