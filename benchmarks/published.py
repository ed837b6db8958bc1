"""A straightforward rendering of TransCAM's and BAO's inference as published: the yardstick of the benchmarks.

Same network, same weights, same numbers; each block's attention matrix is built, kept, stacked and averaged, each scale
and flip is a forward pass of its own, all classes are computed, and the units between the branches project before
they average.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from baoseg.nets.conformer import Conformer, CouplingDown, TransformerBlock
from baoseg.nets.network import Network


def maps(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Refined class maps [b K h w] and background map [b 1 h w]; without activation heads the latter is empty."""
    features, attention = conformer(network.backbone, images)
    height, width = features.shape[-2:]

    def spread(scores: Tensor) -> Tensor:
        return torch.einsum("nij,ncj->nci", attention, scores.flatten(2)).unflatten(2, (height, width))

    class_maps = spread(network.class_head(features))
    if network.label_encoder is None:
        return class_maps[:, 1:], class_maps[:, :0]
    conditioned = features * network.label_encoder(labels)[:, :, None, None]
    return class_maps[:, 1:], spread(network.activation_head(conditioned))[:, :1]


def conformer(net: Conformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Feature map and the sum over blocks of the attention, averaged over heads, without the class token."""
    stem = net.stem_pool(F.relu(net.stem_norm(net.stem_conv(images))))
    patches = net.patch_embed(stem)
    grid = tuple(patches.shape[-2:])
    tokens = torch.cat([net.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    features, _ = net.conv_block(stem)
    tokens, weights = _transformer(net.transformer_block, tokens)
    attention = [weights]
    for block in net.blocks:
        features, inner = block.conv_block(features)
        tokens = torch.cat([tokens[:, :1], _down(block.down, inner)], dim=1) + tokens
        tokens, weights = _transformer(block.transformer_block, tokens)
        attention.append(weights)
        features, _ = block.fusion_block(features, block.up(tokens[:, 1:], grid))
    stacked = torch.stack(attention).mean(dim=2)
    return features, stacked.sum(dim=0)[:, 1:, 1:]


def _transformer(block: TransformerBlock, tokens: Tensor) -> tuple[Tensor, Tensor]:
    batch, count, width = tokens.shape
    qkv = block.qkv(block.norm1(tokens)).reshape(batch, count, 3, block.heads, width // block.heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-2, -1) * block.scale).softmax(dim=-1)
    attended = (weights @ value).transpose(1, 2).reshape(batch, count, width)
    tokens = tokens + block.projection(attended)
    return tokens + block.contract(F.gelu(block.expand(block.norm2(tokens)))), weights


def _down(unit: CouplingDown, features: Tensor) -> Tensor:
    pooled = F.avg_pool2d(unit.project(features), unit.cells)
    return F.gelu(unit.norm(pooled.flatten(2).transpose(1, 2)))
