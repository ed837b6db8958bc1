"""Spreads scores through self-attention, A* M of TransCAM, without storing the attention matrices.

    A^{b,h} = softmax(Q^{b,h} K^{b,h}^T / sqrt(d))      over all tokens, the class token included
    A*      = sum_b mean_h A^{b,h}                      with the class token's row and column removed afterwards
    M*      = A* M                                      (BAO eq. 2-5; noise reduction eq. 2-5)

The released code stores the N x N matrices of all blocks and heads. Here there are two ways, both exact:

- On a CPU, A* is accumulated during the forward pass of the blocks, for a few queries at a time, while their weights
are
  in the cache (`Attending`); the backward pass recomputes the weights. Only A* is stored, provided that it is smaller
  than the queries and keys of all blocks.
- Elsewhere, A* is never computed: attention with M as the values (0 for the class token), averaged over heads and
summed
  over blocks, is A* M. Fused kernels compute it in O(N) memory.
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

ROWS = 128  # queries at a time, so that their weights of all heads fit into the cache


@dataclass(frozen=True)
class Attention:
    """Queries and keys of each block of a transformer; n = prefix + h * w tokens, first the prefix.

    `scale` multiplies Q K^T before the softmax, 1 / sqrt(d) in all published networks. `prefix` is the number
    of tokens that are not patches (class and register tokens). `grid` is (h, w).
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
    """The matrix A* of a transformer, n = h * w. `blocks` is the number of blocks in the sum."""

    matrix: Float[Tensor, "b n n"]
    blocks: int
    grid: tuple[int, int]


class Attending:
    """Computes the self-attention of the blocks in one forward pass, and collects what `spread` needs.

    `width` is the width of a token (all heads). `scale`, `prefix` and `grid` are as in `Attention`. With `spreads`, A*
    may be accumulated; then each block must call this object for its attention. Without, fused kernels are faster.
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
        self.total: Float[Tensor, "b n n"] | None = None  # A* of the blocks so far
        self.added, self.blocks = 0, blocks
        n = prefix + math.prod(grid)
        # a compiled or exported graph must not loop over an unknown number of queries
        here = images.device.type == "cpu" and not torch.compiler.is_compiling()
        if spreads and here and n <= 2 * blocks * width:
            self.total = torch.zeros(len(images), n, n, dtype=full_precision(images).dtype)

    def __call__(
        self,
        query: Float[Tensor, "b heads n d"],
        key: Float[Tensor, "b heads n d"],
        value: Float[Tensor, "b heads n d"],
    ) -> Float[Tensor, "b heads n d"]:
        """The attention softmax(Q K^T scale) V of the next block."""
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
        """The input of `spread`, after all blocks."""
        if self.total is None:
            return Attention(tuple(self.queries), tuple(self.keys), self.scale, self.prefix, self.grid)
        assert self.added == self.blocks, f"{self.added} of {self.blocks} blocks were summed up"
        return Summed(self.total[:, self.prefix :, self.prefix :], self.blocks, self.grid)


def spread(scores: Float[Tensor, "b k h w"], attention: Attention | Summed) -> Float[Tensor, "b k h w"]:
    """A* M for k score maps M on the token grid (BAO eq. 5): exact up to rounding, and differentiable.

    Raises ValueError if the grids differ.
    """
    height, width = attention.grid
    if scores.shape[-2:] != (height, width):
        raise ValueError(f"scores on a {tuple(scores.shape[-2:])} grid, attention on {attention.grid}")
    values = full_precision(rearrange(scores, "b k h w -> b (h w) k"))  # the sum over the blocks has this precision
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
    """mean_h A^{b,h} M of one block by a fused kernel, which needs values as wide as a head, hence the padding."""
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
    """Yields softmax(Q K^T scale) for ROWS queries at a time; the memory is reused for the next rows."""
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
    """Add the mean over heads to `total`, head by head: in place, and in single precision for bfloat16."""
    for of_head in weights:
        total.add_(of_head, alpha=1 / len(weights))


class _AttendAndAdd(torch.autograd.Function):
    """softmax(Q K^T scale) V of a block; the mean of the softmax over heads is added to `total`, in place."""

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
        for index in range(len(query)):
            values = value[index].contiguous()
            for rows, weights in _weights(query[index], key[index], scale):
                torch.bmm(weights, values, out=result[index, :, rows])
                _add_mean(total[index, rows], weights)
        return result, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_result: Float[Tensor, "b heads n d"] | None, of_total: Float[Tensor, "b n n"] | None
    ) -> tuple[Tensor | None, ...]:
        """With P the softmax: dP = dO V^T + dA / heads, dS = P (dP - sum_n P dP), dV = P^T dO;
        dQ = dS K and dK = dS^T Q, both times the scale.
        """
        query, key, value = ctx.saved_tensors
        single = full_precision(query[:0]).dtype  # the precision of the sums over rows
        of_query = torch.zeros_like(query)
        of_key, of_value = (torch.zeros_like(tensor, dtype=single) for tensor in (key, value))
        with torch.autocast("cpu", enabled=False):
            for index in range(len(query)):
                for rows, weights in _weights(query[index], key[index], ctx.scale):
                    of_weights = None
                    if of_result is not None:
                        of_rows = of_result[index, :, rows]
                        of_weights = full_precision(torch.bmm(of_rows, value[index].mT))
                        of_value[index] += torch.bmm(weights.mT, of_rows)
                    if of_total is not None:
                        share = of_total[index, rows] / len(weights)
                        of_weights = share.repeat(len(weights), 1, 1) if of_weights is None else of_weights.add_(share)
                    if of_weights is None:
                        continue
                    of_weights.sub_((weights * of_weights).sum(dim=-1, keepdim=True)).mul_(weights)
                    of_logits = of_weights.to(query.dtype)
                    of_query[index, :, rows] = torch.bmm(of_logits, key[index])
                    of_key[index] += torch.bmm(of_logits.mT, query[index, :, rows])
        of_key = of_key.mul_(ctx.scale).to(key.dtype)
        return of_query.mul_(ctx.scale), of_key, of_value.to(value.dtype), None, of_total
