"""The hot paths as the papers' code does them, in a straightforward rendering: the yardstick of the benchmarks.

Same network, same weights, same numbers; each block's attention matrix is built, kept, stacked and averaged, each scale
and flip is a forward pass of its own, all classes are computed, and the units between the branches project before
they average. Dropped paths are left out: they would make the numbers differ.
"""

import copy
from contextlib import nullcontext
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baoseg.core.types import Batch
from baoseg.methods import bas as ours
from baoseg.nets import conformer as ours_conformer
from baoseg.nets.conformer import Conformer, CouplingDown, TransformerBlock
from baoseg.nets.network import Network
from baoseg.nets.timm_vit import TimmTransformer

SMOOTHING = 0.4  # of PCL


class Pass(NamedTuple):
    features: Tensor  # [b c h w]
    token_logits: Tensor  # [b K]
    attention: list[Tensor]  # [b heads n n] of each block


def maps(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Refined class maps [b K h w] and background map [b 1 h w]; without activation heads the latter is empty."""
    features, _, attention = forward(network, images)
    matrix = of_blocks(attention).sum(dim=0)
    class_maps = spread(network.class_head(features)[:, 1:], matrix)
    if network.label_encoder is None:
        return class_maps, class_maps[:, :0]
    return class_maps, spread(activations(network, features, labels), matrix)[:, :1]


def transcam(network: Network, batch: Batch) -> Tensor:
    features, token_logits, _ = forward(network, batch.images)
    return classification(network.class_head(features)[:, 1:], token_logits, batch)


def bnr(network: Network, batch: Batch) -> Tensor:
    features, token_logits, attention = forward(network, batch.images)
    class_maps, matrices = network.class_head(features)[:, 1:], of_blocks(attention)
    noisy = spread(spread(class_maps, matrices.sum(dim=0)), matrices.mean(dim=0))
    return classification(class_maps, token_logits, batch) + classification(noisy, 0.0, batch)


def bao(network: Network, target: Network, batch: Batch) -> Tensor:
    features, token_logits, attention = forward(network, batch.images)
    refined = spread(activations(network, features, batch.labels), of_blocks(attention).sum(dim=0))
    with torch.no_grad():
        foreground, _ = maps(target, batch.images, batch.labels)
        foreground = foreground.clamp(min=0)
        floor, peak = foreground.amin(dim=(2, 3), keepdim=True), foreground.amax(dim=(2, 3), keepdim=True)
        scaled = ((foreground - floor) / (peak - floor)).nan_to_num(0)  # a map that is nowhere positive stays 0
        foreground = scaled * batch.labels[:, :, None, None]
        background = 1 - foreground.amax(dim=1, keepdim=True)
        pseudo_labels = torch.cat([background, foreground], dim=1).argmax(dim=1)
    loss = classification(network.class_head(features)[:, 1:], token_logits, batch)
    return loss + pixel_classification(refined, pseudo_labels)


@torch.no_grad()
def average(target: Network, online: Network, *, momentum: float) -> None:
    """EMA, tensor by tensor. The released code leaves the batch statistics behind."""
    for theirs, mine in zip(target.parameters(), online.parameters(), strict=True):
        theirs.mul_(momentum).add_(mine, alpha=1 - momentum)


def bas(network: Network, batch: Batch) -> Tensor:
    """The layers behind the generator are copied for the background branch in each step."""
    config, labels = ours.Config(), batch.labels
    lower, upper, _ = network.split()
    features = lower(batch.images)
    class_maps = network.class_head(upper(features))[:, 1:]
    logits = class_maps.mean(dim=(2, 3))
    drawn = (labels * (1 + torch.rand_like(labels))).argmax(dim=1)
    images = torch.arange(len(labels))
    mask = network.prediction_maps(features)[images, drawn][:, None]
    branch = copy.deepcopy(nn.Sequential(upper, network.class_head)).requires_grad_(False)
    background = branch(features.detach() * (1 - mask))[:, 1:].mean(dim=(2, 3))
    seen = background.relu() / (logits.detach().relu() + ours.EPSILON)
    guided = (F.interpolate(mask, size=class_maps.shape[-2:], mode="area") * class_maps.detach()).mean(dim=(2, 3))
    return (
        ours.multilabel_softmax(logits, labels)
        + config.alpha * F.cross_entropy(guided, drawn)
        + config.beta * mask.mean()
        + config.weight * seen.clamp(max=1)[images, drawn].mean()
    )


def classification(class_maps: Tensor, token_logits: Tensor | float, batch: Batch) -> Tensor:
    return F.multilabel_soft_margin_loss(class_maps.mean(dim=(2, 3)) + token_logits, batch.labels)


def pixel_classification(scores: Tensor, labels: Tensor) -> Tensor:
    """PCL: the mean over the background and the mean over the foreground count half each."""
    channels = scores.shape[1]
    others = SMOOTHING / (channels - 1)
    wanted = F.one_hot(labels, channels).permute(0, 3, 1, 2) * (1 - SMOOTHING - others) + others
    loss = -(wanted * scores.log_softmax(dim=1)).sum(dim=1)
    means = [loss[cells].mean() for cells in (labels == 0, labels > 0) if cells.any()]
    return torch.stack(means).mean()


def activations(network: Network, features: Tensor, labels: Tensor) -> Tensor:
    assert network.label_encoder is not None and network.activation_head is not None
    return network.activation_head(features * network.label_encoder(labels)[:, :, None, None])


def of_blocks(attention: list[Tensor]) -> Tensor:
    """The attention of each block between patches, averaged over heads [blocks b n n]."""
    return torch.stack(attention).mean(dim=2)[:, :, 1:, 1:]


def spread(scores: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("nij,ncj->nci", matrix, scores.flatten(2)).unflatten(2, scores.shape[2:])


def forward(network: Network, images: Tensor) -> Pass:
    return PASSES[type(network.backbone)](network.backbone, images)


def conformer(net: Conformer, images: Tensor) -> Pass:
    with mock.patch.object(ours_conformer, "_recomputed", lambda *_: nullcontext()):  # all is kept
        return _conformer(net, images)


def _conformer(net: Conformer, images: Tensor) -> Pass:
    stem = net.stem_pool(F.relu(net.stem_norm(net.stem_conv(images))))
    patches = net.patch_embed(stem)
    grid = tuple(patches.shape[-2:])
    tokens = torch.cat([net.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    features, _ = net.conv_block(stem)
    tokens, weights = _conformer_block(net.transformer_block, tokens)
    attention = [weights]
    for block in net.blocks:
        features, inner = block.conv_block(features)
        tokens = torch.cat([tokens[:, :1], _down(block.down, inner)], dim=1) + tokens
        tokens, weights = _conformer_block(block.transformer_block, tokens)
        attention.append(weights)
        features, _ = block.fusion_block(features, block.up(tokens[:, 1:], grid))
    return Pass(features, net.token_head(net.token_norm(tokens[:, 0]))[:, 1:], attention)


def transformer(net: TimmTransformer, images: Tensor) -> Pass:
    """Of timm's plain vision transformers, those with a class token and no other."""
    model, attention = net.model, []
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    for block in model.blocks:
        attended, weights = _attend(block.norm1(tokens), block.attn.qkv, block.attn.num_heads, block.attn.scale)
        tokens = tokens + block.ls1(block.attn.proj(attended))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        attention.append(weights)
    tokens = model.norm(tokens)
    assert net.token_head is not None
    grid = tuple(side // net.stride for side in images.shape[2:])
    return Pass(tokens[:, 1:].transpose(1, 2).unflatten(2, grid), net.token_head(tokens[:, 0])[:, 1:], attention)


PASSES = {Conformer: conformer, TimmTransformer: transformer}


def _conformer_block(block: TransformerBlock, tokens: Tensor) -> tuple[Tensor, Tensor]:
    attended, weights = _attend(block.norm1(tokens), block.qkv, block.heads, block.scale)
    tokens = tokens + block.projection(attended)
    return tokens + block.contract(F.gelu(block.expand(block.norm2(tokens)))), weights


def _attend(tokens: Tensor, project: nn.Module, heads: int, scale: float) -> tuple[Tensor, Tensor]:
    batch, count, width = tokens.shape
    query, key, value = project(tokens).reshape(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-2, -1) * scale).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).reshape(batch, count, width), weights


def _down(unit: CouplingDown, features: Tensor) -> Tensor:
    pooled = F.avg_pool2d(unit.project(features), unit.cells)
    return F.gelu(unit.norm(pooled.flatten(2).transpose(1, 2)))
