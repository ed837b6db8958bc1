"""Spreads scores through self-attention, A* M of TransCAM, without building attention maps.

    A^{b,h} = softmax(Q^{b,h} K^{b,h}^T / sqrt(d))      over all tokens, the class token included
    A*      = sum_b mean_h A^{b,h}                      with the class token's row and column removed afterwards
    M*      = A* M                                      (BAO eq. 2-5; noise reduction eq. 2-5)

A* is linear in nothing but M, and attention is just such a product: with M in the place of the values (and zero for
the class token), averaged over heads and summed over blocks, attention gives A* M exactly. The N x N matrices never
exist, memory is O(N), and gradients flow into M, Q and K.

Inference on a CPU goes the other way where A* is smaller than all queries and keys together: the blocks sum it up as
they attend (`Attending`), so that nothing is multiplied twice.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from baoseg.types import full_precision

ROWS = 128  # queries at a time while A* is summed up: their weights of all heads stay in the cache

# Up to here the matrix of all blocks is small (a quarter of a megabyte a picture), and multiplying by it was no slower
# on two CPU cores than a fused kernel, which pads the scores to a head's width. From 1024 cells on the kernel wins.
SHORT = 256


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
        inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if sums and inference and images.device.type == "cpu" and n <= 2 * blocks * width:
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
    if isinstance(attention, Summed):
        with torch.autocast(values.device.type, enabled=False):
            result = attention.matrix.to(values.dtype) @ values
    elif height * width <= SHORT:
        result = matrix(attention).to(values.dtype) @ values
    else:
        blocks = zip(attention.queries, attention.keys, strict=True)
        spread_by = (_attend(query, key, values, attention) for query, key in blocks)
        result = sum(spread_by, torch.zeros_like(values))
    return rearrange(result, "b (h w) k -> b k h w", h=height)


def matrix(attention: Attention | Summed) -> Float[Tensor, "b n n"]:
    """A* itself, n = h * w: for pictures, and for grids so small that it is the faster way."""
    if isinstance(attention, Summed):
        return attention.matrix
    patches = slice(attention.prefix, None)
    total = None
    for query, key in zip(attention.queries, attention.keys, strict=True):
        logits = torch.einsum("b h q d, b h k d -> b h q k", query[:, :, patches] * attention.scale, key)
        block = reduce(logits.softmax(dim=-1), "b heads query key -> b query key", "mean")[..., patches]
        total = block if total is None else total + block
    assert total is not None, "attention without blocks"
    return total


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
    """softmax(Q K^T scale) V, a few queries at a time, and mean_h of that softmax added to `total`."""
    heads, n = query.shape[1:3]
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    buffers = query.new_empty(2, heads * min(ROWS, n) * n)
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    for picture in range(len(query)):
        scaled, values = query[picture] * scale, value[picture].contiguous()
        transposed = key[picture].contiguous().transpose(1, 2)
        for first in range(0, n, ROWS):
            rows = slice(first, min(first + ROWS, n))
            shape = (heads, rows.stop - first, n)
            logits, weights = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
            torch.bmm(scaled[:, rows], transposed, out=logits)
            torch.softmax(logits, dim=-1, out=weights)
            torch.bmm(weights, values, out=result[picture, :, rows])
            total[picture, rows] += weights.mean(dim=0)
    return result
