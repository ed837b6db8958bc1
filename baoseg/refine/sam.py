"""Regions of an image by SAM or SAM 2 (Kirillov et al., ICCV 2023; Ravi et al., 2024): masks of a grid of points.

By the pipeline `mask-generation` of transformers, with its defaults: 32 points a side, those masks that the model rates
at 0.88 and finds stable at 0.95, at most 0.7 of overlap.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from PIL import Image
from torch import Tensor

from baoseg.core.errors import CheckpointError, RecipeError, first_line
from baoseg.core.types import Sample
from baoseg.nets import hub
from baoseg.refine.region_files import packed

OPTIONS: dict[str, Any] = {"points_per_batch": 64}


def finder(model: str, *, device: torch.device) -> Callable[[Sample], Int32[Tensor, "n h w"]]:
    """What finds the regions of an image with a model, e.g. facebook/sam-vit-base or facebook/sam2.1-hiera-tiny.

    A model is its name on the hub, or a folder that holds it. An image where it finds nothing has no layer.
    Raises RecipeError without the extra `sam`, and CheckpointError where the model cannot be loaded.
    """
    try:
        from transformers import pipeline  # noqa: PLC0415  (the extra `sam`)
    except ImportError:
        raise RecipeError(f"sam:{model} needs transformers; pip install 'baoseg[sam]'") from None
    try:
        with hub.quick():
            generate = pipeline("mask-generation", model=model, device=device)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"sam:{model}: cannot be loaded ({first_line(error)}); give the name of a model of SAM or SAM 2, or a "
            "folder that holds one"
        ) from None

    def found(sample: Sample) -> Int32[Tensor, "n h w"]:
        image = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
        masks = [np.asarray(mask, dtype=bool) for mask in generate(image, **OPTIONS)["masks"]]
        return packed(sorted(masks, key=np.count_nonzero), (image.height, image.width))

    return found
