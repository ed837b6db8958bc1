"""Spreads scores through self-attention, A* M of TransCAM, without keeping the attention maps.

    A^{b,h} = softmax(Q^{b,h} K^{b,h}^T / sqrt(d))      over all tokens, the class token included
    A*      = sum_b mean_h A^{b,h}                      with the class token's row and column removed afterwards
    M*      = A* M                                      (BAO eq. 2-5; noise reduction eq. 2-5)

Published code keeps the N x N matrices of all blocks and heads. Here there are two ways, both exact:

- On a CPU A* is summed up while the blocks attend, a few queries at a time, whose weights are still in the cache
  (`Attending`); the backward pass makes the weights again. A* alone is kept, as long as it is smaller than the queries
  and keys of all blocks.
- Elsewhere A* does not exist: attention with M in the place of the values (zero for the class token), averaged over
  heads and summed over blocks, is A* M, and fused kernels do that in O(N) memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from baoseg.core.types import full_precision

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


@dataclass(frozen=True)
class Summed:
    """A* itself, n = h * w."""

    matrix: Float[Tensor, "b n n"]
    blocks: int
    grid: tuple[int, int]


class Attending:
    """The self-attention of a network's blocks in one forward pass, and what `spread` needs of it.

    `width` is that of a token, all heads together; `scale`, `prefix` and `grid` are those of `Attention`. With
    `spreads` A* may be summed up; then each block has to attend by calling this. Where nothing is spread, fused kernels
    are faster.
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
        spreads: bool,
    ) -> None:
        self.scale, self.prefix, self.grid = scale, prefix, grid
        self.queries: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.total: Float[Tensor, "b n n"] | None = None  # sum of the blocks so far
        self.added, self.blocks = 0, blocks
        n = prefix + math.prod(grid)
        # what is captured to run elsewhere has no loop over a number of queries that it does not know
        here = images.device.type == "cpu" and not torch.compiler.is_compiling()
        if spreads and here and n <= 2 * blocks * width:
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
            if torch.is_autocast_enabled("cpu"):
                query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
            attended: Tensor
            attended, self.total = _AttendAndAdd.apply(query, key, value, self.scale, self.total)
            return attended
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
    if isinstance(attention, Summed):
        with torch.autocast(values.device.type, enabled=False):
            result = attention.matrix.to(values.dtype) @ values
    else:
        blocks = zip(attention.queries, attention.keys, strict=True)
        spread_by = (_attend(query, key, values, attention) for query, key in blocks)
        result = sum(spread_by, torch.zeros_like(values))
    return rearrange(result, "b (h w) k -> b k h w", h=height)


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


def _weights(
    query: Float[Tensor, "heads n d"], key: Float[Tensor, "heads n d"], scale: float
) -> Iterator[tuple[slice, Float[Tensor, "heads rows n"]]]:
    """softmax(Q K^T scale) of ROWS queries at a time, each in the memory of the one before."""
    heads, n, _ = query.shape
    buffers = query.new_empty(2, heads * min(ROWS, n) * n)
    scaled, transposed = query * scale, key.contiguous().transpose(1, 2)
    for first in range(0, n, ROWS):
        rows = slice(first, min(first + ROWS, n))
        shape = (heads, rows.stop - first, n)
        logits, weights = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
        torch.bmm(scaled[:, rows], transposed, out=logits)
        torch.softmax(logits, dim=-1, out=weights)
        yield rows, weights


def _add_mean(total: Float[Tensor, "rows n"], weights: Float[Tensor, "heads rows n"]) -> None:
    """Head by head: no memory of its own, and bfloat16 is added in single precision."""
    for of_head in weights:
        total.add_(of_head, alpha=1 / len(weights))


class _AttendAndAdd(torch.autograd.Function):
    """softmax(Q K^T scale) V of a block; mean_h of that softmax is added to `total`, in place."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd hands over by position
        ctx: Any,
        query: Float[Tensor, "b heads n d"],
        key: Float[Tensor, "b heads n d"],
        value: Float[Tensor, "b heads n d"],
        scale: float,
        total: Float[Tensor, "b n n"],
    ) -> tuple[Float[Tensor, "b heads n d"], Float[Tensor, "b n n"]]:
        ctx.scale = scale
        ctx.save_for_backward(query, key, value)
        ctx.mark_dirty(total)
        ctx.set_materialize_grads(False)
        result = torch.empty_like(query, memory_format=torch.contiguous_format)
        for picture in range(len(query)):
            values = value[picture].contiguous()
            for rows, weights in _weights(query[picture], key[picture], scale):
                torch.bmm(weights, values, out=result[picture, :, rows])
                _add_mean(total[picture, rows], weights)
        return result, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_result: Float[Tensor, "b heads n d"] | None, of_total: Float[Tensor, "b n n"] | None
    ) -> tuple[Tensor | None, ...]:
        """With P the softmax: dP = dO V^T + dA / heads, dS = P (dP - sum_n P dP); dQ = dS K and dK = dS^T Q, times the
        scale; dV = P^T dO.
        """
        query, key, value = ctx.saved_tensors
        single = full_precision(query[:0]).dtype  # in which rows are summed up
        of_query = torch.zeros_like(query)
        of_key, of_value = (torch.zeros_like(tensor, dtype=single) for tensor in (key, value))
        with torch.autocast("cpu", enabled=False):
            for picture in range(len(query)):
                for rows, weights in _weights(query[picture], key[picture], ctx.scale):
                    of_weights = None
                    if of_result is not None:
                        of_rows = of_result[picture, :, rows]
                        of_weights = full_precision(torch.bmm(of_rows, value[picture].mT))
                        of_value[picture] += torch.bmm(weights.mT, of_rows)
                    if of_total is not None:
                        share = of_total[picture, rows] / len(weights)
                        of_weights = share.repeat(len(weights), 1, 1) if of_weights is None else of_weights.add_(share)
                    if of_weights is None:
                        continue
                    of_weights.sub_((weights * of_weights).sum(dim=-1, keepdim=True)).mul_(weights)
                    of_logits = of_weights.to(query.dtype)
                    of_query[picture, :, rows] = torch.bmm(of_logits, key[picture])
                    of_key[picture] += torch.bmm(of_logits.mT, query[picture, :, rows])
        of_key = of_key.mul_(ctx.scale).to(key.dtype)
        return of_query.mul_(ctx.scale), of_key, of_value.to(value.dtype), None, of_total
