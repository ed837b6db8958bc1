"""Networks of segmentation-models-pytorch (smp)."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor

from baoseg.core.errors import CheckpointError, RecipeError, first_line
from baoseg.data.transforms import Normalisation
from baoseg.nets import hub, weights
from baoseg.nets.base import pad_to_multiple
from baoseg.nets.segmentation.network import SegmentationNetwork, fill, has_prefix

SMP = "smp:"


class SmpNetwork(SegmentationNetwork):
    """A network of segmentation-models-pytorch; its logits have the size of the image."""

    body = "model.encoder"
    class_layers = "model.segmentation_head"
    stride = 1

    def __init__(self, model: Any, num_classes: int, *, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        self.num_classes = num_classes
        self.normalisation = normalisation

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b S H W"]:
        height, width = images.shape[-2:]
        logits: Tensor = self.model(pad_to_multiple(images, self.model.encoder.output_stride))
        return logits[..., :height, :width]

    def load(self, state: weights.State, *, source: Path) -> None:
        """Load whole smp models, or encoders in the names of smp, torchvision or timm.

        Layers of a classifier that the encoder does not use are ignored. The feature extractors of timm, which smp
        uses, have names such as stages_0 for stages.0 in timm's models.
        """
        if has_prefix(state, "encoder."):
            state = {f"model.{key}": value for key, value in state.items()}
        elif not has_prefix(state, f"{self.body}."):
            names = {_joined(key): key for key in self.model.encoder.state_dict()}
            state = {f"{self.body}.{names[_joined(k)]}": value for k, value in state.items() if _joined(k) in names}
        fill(self, state, source=source)


def _joined(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")


def build_smp(
    name: str, num_classes: int, *, pretrained: bool, options: dict[str, Any], normalisation: Normalisation | None
) -> SmpNetwork:
    import segmentation_models_pytorch as smp  # noqa: PLC0415  (its import takes a second, and other networks do not need it)

    architecture, _, encoder = name.removeprefix(SMP).partition("/")
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise RecipeError(f"{name}: smp has no such architecture; use {', '.join(smp.MODEL_ARCHITECTURES_MAPPING)}")
    of_timm = encoder.startswith("tu-")
    if not (encoder in smp.encoders.get_encoder_names() or (of_timm and timm.is_model(encoder.removeprefix("tu-")))):
        raise RecipeError(
            f"{name}: no such encoder; use an encoder of smp such as mit_b2, or tu-NAME with a model of timm"
        )
    wanted = {"encoder_weights": (True if of_timm else "imagenet") if pretrained else None, "classes": 1 + num_classes}
    try:
        with hub.quick() if pretrained else nullcontext("") as reason:
            model = smp.create_model(architecture, encoder, **wanted, **options)
        _probe(model)
    except OSError as error:  # of the network connection
        raise CheckpointError(hub.problem(name, reason, error)) from None
    except Exception as error:  # errors of smp and timm for encoders, options and sizes that do not fit together
        raise RecipeError(
            f"{name}: cannot be built ({first_line(error)}); use another encoder or other options"
        ) from None
    noted: Any = timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if of_timm else None
    if normalisation is None and noted is not None:
        normalisation = Normalisation(mean=tuple(noted.mean), std=tuple(noted.std))
    return SmpNetwork(model, num_classes, normalisation=normalisation or Normalisation())


@torch.no_grad()
def _probe(model: Any) -> None:
    """Run the model on an oblong image; models that accept only one size raise an error."""
    stride = model.encoder.output_stride
    model.eval()(torch.zeros(1, 3, 8 * stride, 12 * stride))
