"""Plain vision transformers of timm as backbones, with the attention of their blocks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from baoseg.data.transforms import Normalisation
from baoseg.nets.attention import Attending
from baoseg.nets.base import Backbone, Features, pad_to_multiple
from baoseg.nets.timm_cnn import normalisation_of


class TimmTransformer(Backbone):
    """A plain vision transformer: patch tokens as feature map, and the attention of its blocks.

    The feature map is the output of the last norm. `token_head` (K + 1 outputs, background first, as in the Conformer)
    reads the class token; it is None for models without a class token. Queries and keys are recorded during the forward
    pass, after the norms of some models, so that nothing is computed twice. A model with another form of attention is
    used without attention.
    """

    def __init__(self, model: nn.Module, num_classes: int, *, normalisation: Normalisation | None = None) -> None:
        super().__init__()
        assert isinstance(model, VisionTransformer), type(model)
        self.model: Any = model
        self.channels = model.embed_dim
        self.stride = int(model.patch_embed.feat_ratio())
        self.normalisation = normalisation or normalisation_of(model)
        self.attends = all(type(getattr(block, "attn", None)) is TimmAttention for block in model.blocks)
        self.token_head = None
        if model.has_class_token:
            self.token_head = nn.Linear(self.channels, num_classes + 1)
            self.initialise_head(self.token_head)

    def forward(self, images: Float[Tensor, "b 3 H W"], *, spreads: bool = False) -> Features:
        images = pad_to_multiple(images, self.stride)
        grid = (images.shape[-2] // self.stride, images.shape[-1] // self.stride)
        prefix, attending = self.model.num_prefix_tokens, None
        if self.attends:
            layers = [block.attn for block in self.model.blocks]
            attending = Attending(
                images,
                blocks=len(layers),
                width=layers[0].num_heads * layers[0].head_dim,
                scale=layers[0].scale,
                prefix=prefix,
                grid=grid,
                spreads=spreads and all(layer.fused_attn and layer.attn_drop.p == 0 for layer in layers),
            )
        with nullcontext() if attending is None else self._watched(attending):
            tokens = self.model.forward_features(images)
        feature_map = rearrange(tokens[:, prefix:], "b (h w) c -> b c h w", h=grid[0])
        logits = None if self.token_head is None else self.token_head(tokens[:, 0])[:, 1:]
        return Features(feature_map, logits, None if attending is None else attending.result())

    @contextmanager
    def _watched(self, attending: Attending) -> Iterator[None]:
        """Inside, record the attention of the blocks, or let `attending` compute it if it accumulates A*."""
        if attending.total is not None:
            with _InPlaceOfFused(attending):
                yield
            return
        # The norms of queries and keys are modules even if they do nothing, so a hook can record queries and keys.
        # The hooks exist for one forward pass only: a copied backbone must not report to the original.
        hooks = []
        for block in self.model.blocks:
            hooks.append(block.attn.q_norm.register_forward_hook(lambda *call: attending.queries.append(call[-1])))
            hooks.append(block.attn.k_norm.register_forward_hook(lambda *call: attending.keys.append(call[-1])))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _InPlaceOfFused(TorchFunctionMode):
    """In the block, `attending` replaces the fused attention of PyTorch."""

    def __init__(self, attending: Attending) -> None:
        super().__init__()
        self.attending = attending

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.attending(*args)
        return func(*args, **(kwargs or {}))
