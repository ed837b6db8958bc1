"""CAM: class activation maps (Zhou et al., CVPR 2016)."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from baoseg.core.types import Batch, Maps
from baoseg.methods.base import Method, classification_loss
from baoseg.nets.network import Network


@dataclass(frozen=True, kw_only=True)
class Config:
    """CAM has no settings of its own."""


class CAM(Method):
    """M_s = w_s . f. Trained as TransCAM is, so that on one network the two differ by the attention alone."""

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        features = self.network(batch.images)
        return {"classification": classification_loss(features, self.network.class_maps(features), batch)}

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        features = self.network(images)
        return Maps(self.network.class_maps(features, classes=classes))
