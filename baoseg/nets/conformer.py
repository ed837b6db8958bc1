"""Conformer (Peng et al., ICCV 2021): a ResNet and a transformer in parallel, which exchange their features.

    stem        convolution of stride 2, pooled to 1/4
    block 1     a convolution block at 1/4; the tokens of the transformer come from the stem, at 1/16
    block 2..   convolution block -> FCU down -> transformer block -> FCU up -> fusion block (a "dual block");
                a third of the blocks each has its convolutions at 1/4, 1/8 and 1/16

As in TransCAM and BAO, the last fusion block keeps stride 1, so that the feature map and the tokens have the same grid,
and the attention of all blocks is returned, to spread class maps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from baoseg.core.errors import RecipeError
from baoseg.data.transforms import Normalisation
from baoseg.nets.attention import Attending
from baoseg.nets.base import Backbone, Features, pad_to_multiple

STEM_WIDTH = 64
PATCH = 4  # cells of the first stage that a token covers in each direction
EXPANSION = 4  # of the bottlenecks in the convolution blocks


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of a Conformer; the defaults are Conformer-S/16."""

    channel_ratio: float = 4.0  # the stages have 64, 128 and 256 times this number of channels
    embed_dim: int = 384  # of the tokens
    depth: int = 12  # transformer blocks, a multiple of 3
    heads: int = 6
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    # rate at the last transformer block, increasing linearly from 0 at the first, as in TransCAM
    drop_path: float = 0.1
    stem_pool: bool = True  # False: all strides are halved, so the last is 8 instead of 16
    # Initial values for training without ImageNet. Keys equal queries and have unit scale, so that from the first step
    # a
    # token attends to similar tokens (in the released code, with std 0.02, attention is almost uniform for a long
    # time).
    # Heads are near zero (in the released code, the first logits have a deviation of several units).
    from_scratch: bool = False


VARIANTS = {
    "conformer_nano": Config(
        channel_ratio=0.5, embed_dim=96, depth=6, heads=3, drop_path=0.0, stem_pool=False, from_scratch=True
    ),  # not in the paper; small enough to train a demonstration from scratch on a CPU
    "conformer_tiny": Config(channel_ratio=1.0),
    "conformer_small": Config(),
    "conformer_base": Config(channel_ratio=6.0, embed_dim=576, heads=9),
}


class Conformer(Backbone):
    """The dual network without its convolutional classifier; `token_head` classifies the class token (K + 1 outputs).

    Raises RecipeError if the depth is not a multiple of 3, or if the heads do not divide the width.
    """

    attends = True
    head_kernel = 3
    token_head: nn.Linear

    def __init__(self, config: Config, num_classes: int, *, normalisation: Normalisation) -> None:
        super().__init__()
        if config.depth < 3 or config.depth % 3:
            raise RecipeError(
                f"conformer: depth {config.depth} cannot be divided into three stages; use a multiple of 3"
            )
        if config.embed_dim % config.heads:
            raise RecipeError(
                f"conformer: {config.heads} heads do not divide embed_dim {config.embed_dim}; use a divisor"
            )
        self.config = config
        self.normalisation = normalisation
        self.stride = 16 if config.stem_pool else 8
        widths = [int(STEM_WIDTH * config.channel_ratio * 2**stage) for stage in range(3)]
        self.channels = widths[-1]
        drop_path = [config.drop_path * index / (config.depth - 1) for index in range(config.depth)]

        self.stem_conv = nn.Conv2d(3, STEM_WIDTH, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(STEM_WIDTH)
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1) if config.stem_pool else nn.Identity()
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.patch_embed = nn.Conv2d(STEM_WIDTH, config.embed_dim, PATCH, stride=PATCH)
        self.conv_block = ConvBlock(STEM_WIDTH, widths[0], shortcut=True)
        self.transformer_block = TransformerBlock(config, drop_path=drop_path[0])
        self.blocks = nn.ModuleList()
        for index in range(1, config.depth):
            stage, first = divmod(index, config.depth // 3)
            shrinks = stage > 0 and first == 0
            self.blocks.append(
                DualBlock(
                    config,
                    inputs=widths[stage - 1] if shrinks else widths[stage],
                    outputs=widths[stage],
                    shrinks=shrinks,
                    cells=PATCH // 2**stage,
                    last=index == config.depth - 1,
                    drop_path=drop_path[index],
                )
            )
        self.token_norm = nn.LayerNorm(config.embed_dim)
        self.token_head = nn.Linear(config.embed_dim, num_classes + 1)

        _initialise_as_released(self)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        if config.from_scratch:
            self.initialise_head(self.token_head)
            for block in self.modules():
                if isinstance(block, TransformerBlock):
                    block.start_with_similarity()

    def initialise_head(self, head: nn.Module) -> None:
        if self.config.from_scratch:
            super().initialise_head(head)
        else:
            _initialise_as_released(head)

    def token_classifier(self) -> Iterator[nn.Parameter]:
        yield from self.token_norm.parameters()
        yield from super().token_classifier()

    def forward(self, images: Float[Tensor, "b 3 H W"], *, spreads: bool = False) -> Features:
        stem = convolve(pad_to_multiple(images, self.stride), self.stem_conv, self.stem_norm)
        stem = self.stem_pool(F.relu(stem, inplace=True))
        patches = self.patch_embed(stem)
        grid = (patches.shape[-2], patches.shape[-1])
        tokens = rearrange(patches, "b c h w -> b (h w) c")
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1)

        attending = Attending(
            images,
            blocks=self.config.depth,
            width=self.config.embed_dim,
            scale=self.transformer_block.scale,
            prefix=1,
            grid=grid,
            spreads=spreads,
        )

        features = self.conv_block(stem)[0]
        tokens = self.transformer_block(tokens, attending)
        for block in self.blocks:
            features, tokens = block(features, tokens, attending)

        # only the class token is used here; the patch tokens are already in the feature map
        logits = self.token_head(self.token_norm(tokens[:, 0]))[:, 1:]
        return Features(features, logits, attending.result())


def convolve(features: Float[Tensor, "b c h w"], conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Float[Tensor, "b c2 h2 w2"]:
    """norm(conv(features)); in inference as one convolution, because batch norm is then a fixed scale and shift.

    In training, the output of a 1 x 1 convolution that increases the channels is not stored for batch norm but
    recomputed in the backward pass. This saves a fifth of the memory of a Conformer-S and costs a few percent of its
    time.
    """
    if norm.training or torch.is_grad_enabled():
        convolved, source = conv(features), features.detach()
        wider = conv.kernel_size == (1, 1) and conv.out_channels > conv.in_channels
        with _recomputed(convolved, lambda: conv(source)) if wider else nullcontext():
            result: Tensor = norm(convolved)
        return result
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(features, weight, shift, stride=conv.stride, padding=conv.padding)


@contextmanager
def _recomputed(value: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Operations in the block do not store `value` for their backward pass; `make` recomputes it there."""
    which, dtype, device = (value.data_ptr(), value.shape), value.dtype, value.device.type

    def pack(tensor: Tensor) -> Tensor | None:
        return None if (tensor.data_ptr(), tensor.shape) == which else tensor

    def unpack(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        half = dtype in (torch.bfloat16, torch.float16)  # autocast made the value in mixed precision
        with torch.no_grad(), torch.autocast(device, dtype if half else None, enabled=half):
            return make()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _initialise_as_released(module: nn.Module) -> None:
    """Initialise convolutions with He's normal (fan out) and linear layers with std 0.02, in body and heads."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ConvBlock(nn.Module):
    """Residual bottleneck. Returns its output, and the inner features, which the transformer reads."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        inner = outputs // EXPANSION
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner, eps=1e-6)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner, eps=1e-6)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs, eps=1e-6)
        self.shortcut_conv: nn.Conv2d | None = None
        self.shortcut_norm: nn.BatchNorm2d | None = None
        if shortcut:
            self.shortcut_conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outputs, eps=1e-6)

    def forward(
        self, features: Float[Tensor, "b c h w"], from_tokens: Float[Tensor, "b inner h w"] | None = None
    ) -> tuple[Float[Tensor, "b c2 h2 w2"], Float[Tensor, "b inner2 h2 w2"]]:
        inner = F.relu(convolve(features, self.conv1, self.norm1), inplace=True)
        if from_tokens is not None:
            inner = inner + from_tokens
        inner = F.relu(convolve(inner, self.conv2, self.norm2), inplace=True)
        result = convolve(inner, self.conv3, self.norm3)
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            features = convolve(features, self.shortcut_conv, self.shortcut_norm)
        return F.relu(result.add_(features), inplace=True), inner


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, config: Config, *, drop_path: float) -> None:
        super().__init__()
        width, hidden = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
        self.heads = config.heads
        self.scale = (width // config.heads) ** -0.5
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "b n c"], attending: Attending) -> Float[Tensor, "b n c"]:
        attended = attending(*self._project(self.norm1(tokens)))
        tokens = self._add(tokens, self.projection(rearrange(attended, "b heads n d -> b n (heads d)")))
        return self._add(tokens, self.contract(F.gelu(self.expand(self.norm2(tokens)))))

    @torch.no_grad()
    def start_with_similarity(self) -> None:
        width = self.projection.in_features
        query, key, _ = self.qkv.weight.chunk(3)
        key.copy_(nn.init.normal_(query, std=width**-0.5))

    def _project(self, tokens: Float[Tensor, "b n c"]) -> tuple[Tensor, Tensor, Tensor]:
        # Queries and keys are used after the block, values are not: with two products, the values can be freed.
        width = tokens.shape[-1]
        bias = self.qkv.bias
        first = F.linear(tokens, self.qkv.weight[: 2 * width], None if bias is None else bias[: 2 * width])
        last = F.linear(tokens, self.qkv.weight[2 * width :], None if bias is None else bias[2 * width :])
        query, key = rearrange(first, "b n (two heads d) -> two b heads n d", two=2, heads=self.heads)
        return query, key, rearrange(last, "b n (heads d) -> b heads n d", heads=self.heads)

    def _add(self, tokens: Float[Tensor, "b n c"], change: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return tokens + stochastic_depth(change, self.drop_path, mode="row", training=self.training)


class DualBlock(nn.Module):
    """Convolution block, transformer block, and the two feature coupling units (FCU) between them.

    `cells` is the number of cells of the feature map that a token covers in each direction.
    """

    def __init__(
        self,
        config: Config,
        *,
        inputs: int,
        outputs: int,
        shrinks: bool,
        cells: int,
        last: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.conv_block = ConvBlock(inputs, outputs, stride=2 if shrinks else 1, shortcut=shrinks)
        self.down = CouplingDown(outputs // EXPANSION, config.embed_dim, cells=cells)
        self.transformer_block = TransformerBlock(config, drop_path=drop_path)
        self.up = CouplingUp(config.embed_dim, outputs // EXPANSION, cells=cells)
        self.fusion_block = ConvBlock(outputs, outputs, shortcut=last)

    def forward(
        self, features: Float[Tensor, "b c h w"], tokens: Float[Tensor, "b n e"], attending: Attending
    ) -> tuple[Float[Tensor, "b c2 h2 w2"], Float[Tensor, "b n e"]]:
        features, inner = self.conv_block(features)
        # the class token is added to itself, as in the released code
        tokens = torch.cat([tokens[:, :1], self.down(inner)], dim=1) + tokens
        tokens = self.transformer_block(tokens, attending)
        return self.fusion_block(features, self.up(tokens[:, 1:], attending.grid))[0], tokens


class CouplingDown(nn.Module):
    """Feature map to patch tokens: average over the cells of a token, projection, layer norm.

    The released code projects before it averages. Both are linear, so the result is the same; this order has as little
    as a sixteenth of the cost.
    """

    def __init__(self, inputs: int, outputs: int, *, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.project = nn.Conv2d(inputs, outputs, 1)
        self.norm = nn.LayerNorm(outputs, eps=1e-6)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n e"]:
        pooled = self.project(F.avg_pool2d(features, self.cells))
        return F.gelu(self.norm(rearrange(pooled, "b c h w -> b (h w) c")))


class CouplingUp(nn.Module):
    """Patch tokens to a feature map: projection, batch norm, each token repeated over its cells."""

    def __init__(self, inputs: int, outputs: int, *, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.project = nn.Conv2d(inputs, outputs, 1)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-6)

    def forward(self, patches: Float[Tensor, "b n e"], grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        patch_map = rearrange(patches, "b (h w) c -> b c h w", h=grid[0])
        patch_map = F.relu(convolve(patch_map, self.project, self.norm), inplace=True)
        return F.interpolate(patch_map, scale_factor=float(self.cells), mode="nearest")
