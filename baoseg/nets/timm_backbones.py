"""Any convolutional network and any plain vision transformer of timm as a backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models.inception_v3 import InceptionV3
from torch import Tensor, nn

from baoseg.core.errors import CheckpointError, RecipeError, first_line
from baoseg.data.transforms import Normalisation
from baoseg.nets import hub, weights
from baoseg.nets.base import Backbone
from baoseg.nets.timm_cnn import TimmConvolutional, pad_inception
from baoseg.nets.timm_vit import TimmTransformer

TRANSFORMERS = ("vision_transformer", "vision_transformer_hybrid", "deit")  # modules of timm
SECOND_CLASSIFIER = "AuxLogits"  # of InceptionV3; only training from nothing needs it


def make(
    name: str,
    num_classes: int,
    *,
    stride: int = 16,
    pretrained: bool = False,
    normalisation: Normalisation | None = None,
    options: Mapping[str, Any] | None = None,
) -> Backbone:
    """Build the timm model `name` as a backbone; `options` are passed to timm.create_model.

    `stride` applies to convolutional networks (the stride of a transformer is its patch). `normalisation` defaults to
    the normalisation that timm notes for the weights. InceptionV3 is padded (`pad_inception`). Raises RecipeError for a
    model that is unknown or cannot be used, and CheckpointError if `pretrained` weights cannot be loaded.
    """
    if not timm.is_model(name):
        raise RecipeError(f"timm:{name}: timm {timm.__version__} has no such model; see timm.list_models()")
    options = dict(options or {})
    if timm.models.is_model_in_modules(name, TRANSFORMERS):
        model = _create(name, pretrained, {"dynamic_img_size": True, **options})
        return TimmTransformer(model, num_classes, normalisation=normalisation)
    if stride != 32:  # 32 is the stride of nearly all networks
        options = {"output_stride": stride, **options}
    model = _create(name, pretrained, options)
    if isinstance(model, InceptionV3):
        pad_inception(model, stride)
    return TimmConvolutional(model, stride, normalisation=normalisation)


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if not pretrained:
        return _built(name, options)
    with hub.quick() as reason:
        try:
            return _built(name, options, pretrained=True)
        except RecipeError:
            raise
        except Exception as error:  # the hub raises errors of several libraries
            raise CheckpointError(hub.problem(f"timm:{name}", reason, error)) from None


def _built(name: str, options: dict[str, Any], *, pretrained: bool = False) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (TypeError, AssertionError, NotImplementedError) as error:
        # the model has a fixed stride, which is checked later
        if "output_stride" in options and "output_stride" in str(error):
            without = {key: value for key, value in options.items() if key != "output_stride"}
            return _built(name, without, pretrained=pretrained)
        wishes = ", ".join(f"{key}={value}" for key, value in options.items())
        raise RecipeError(
            f"timm:{name}: cannot be built with {wishes} ({first_line(error)}); "
            "use another stride (all models have 32), other options or another model"
        ) from None
    except Exception as error:
        if pretrained:
            raise
        raise RecipeError(f"timm:{name}: cannot be built ({first_line(error)}); check its options") from None


def load(backbone: Backbone, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Fill the timm model of a backbone from a state dict in timm's names; classifiers in it are ignored.

    Raises CheckpointError for any other key that is missing, unexpected or of another shape.
    """
    model = backbone.model
    assert isinstance(model, nn.Module)
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = (SECOND_CLASSIFIER, *((classifier,) if isinstance(classifier, str) else classifier))
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{h}." for h in heads))}
    report = weights.compare(model.state_dict(), state)
    report.require_complete(source, remedy="use weights of the same timm model and options")
    model.load_state_dict({key: state[key] for key in report.matched}, strict=False)
