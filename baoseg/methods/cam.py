"""CAM: class activation maps (Zhou et al., CVPR 2016)."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from baoseg.core.types import Batch, Maps
from baoseg.methods.base import Method, Settings, class_logits, classification_loss
from baoseg.nets.network import Network


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """CAM has no settings of its own."""


class CAM(Method):
    """M_s = w_s . f. Trained as TransCAM is, so that on one network the two differ by the attention alone."""

    config_class = Config
    localizes = True

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L_cls; where each image has exactly one label, the cross-entropy of that (BAS eq. 7)."""
        features = self.network(batch.images)
        class_maps = self.network.class_maps(features)
        if self.single_label:
            return {"classification": F.cross_entropy(class_logits(features, class_maps), batch.labels)}
        return {"classification": classification_loss(features, class_maps, batch)}

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        features = self.network(images)
        return Maps(self.network.class_maps(features, classes=classes))
