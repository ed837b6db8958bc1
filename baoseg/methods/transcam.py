"""TransCAM: class maps refined by the attention of the same network (Li et al., JVCIR 2023)."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from baoseg.core.types import Batch, Maps
from baoseg.methods.base import Method, Settings, classification_loss, refine
from baoseg.nets.network import Network


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """TransCAM has no settings of its own."""


class TransCAM(Method):
    """M* = A* M; z = GAP(M) + z_token; soft-margin loss on z. On a backbone without attention this is CAM."""

    config_class = Config
    without_attention = "cam"

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
        features = self.network(images, spreads=True)
        return Maps(refine(self.network.class_maps(features, classes=classes), features))
