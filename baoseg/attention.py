"""Spreads scores through self-attention, A* M of TransCAM, without building attention maps.

    A^{b,h} = softmax(Q^{b,h} K^{b,h}^T / sqrt(d))      over all tokens, the class token included
    A*      = sum_b mean_h A^{b,h}                      with the class token's row and column removed afterwards
    M*      = A* M                                      (BAO eq. 2-5; noise reduction eq. 2-5)

A* is linear in nothing but M, and attention is just such a product: with M in the place of the values (and zero for
the class token), averaged over heads and summed over blocks, attention gives A* M exactly. The N x N matrices never
exist, memory is O(N), and gradients flow into M, Q and K.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from baoseg.types import full_precision

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


def spread(scores: Float[Tensor, "b k h w"], attention: Attention) -> Float[Tensor, "b k h w"]:
    """A* M for k score maps M on the token grid (BAO eq. 5). Exact up to rounding, differentiable."""
    height, width = attention.grid
    if scores.shape[-2:] != (height, width):
        raise ValueError(f"scores on a {tuple(scores.shape[-2:])} grid, attention on {attention.grid}")
    values = full_precision(rearrange(scores, "b k h w -> b (h w) k"))  # the blocks are summed in it
    if height * width <= SHORT:
        result = matrix(attention).to(values.dtype) @ values
    else:
        blocks = zip(attention.queries, attention.keys, strict=True)
        spread_by = (_attend(query, key, values, attention) for query, key in blocks)
        result = sum(spread_by, torch.zeros_like(values))
    return rearrange(result, "b (h w) k -> b k h w", h=height)


def matrix(attention: Attention) -> Float[Tensor, "b n n"]:
    """A* itself, n = h * w: for pictures, and for grids so small that it is the faster way."""
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
