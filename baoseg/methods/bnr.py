"""BNR: background noise reduction of attention maps (Fujimori, Oono, Shishibori, arXiv:2404.03394)."""

from dataclasses import dataclass
from enum import StrEnum

from jaxtyping import Float, Int
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import Batch, Maps
from baoseg.methods.base import Method, Settings, classification_loss, refine
from baoseg.nets.base import Features
from baoseg.nets.grid import on_grid
from baoseg.nets.network import Network
from baoseg.training import losses


class Strength(StrEnum):
    """What a noise of 2 means: the paper's table 5 writes "Abar* . 2" and leaves it open. The two agree for 1."""

    APPLIED = "applied"  # M** = Abar* (Abar* M*): the map is applied so many times
    SCALED = "scaled"  # M** = 2 Abar* M*: the map is applied once and multiplied by the number


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    noise: int = 1  # 0, 1 or 2 (table 5); at 0 the loss sees M* itself
    strength: Strength = Strength.APPLIED

    def __post_init__(self) -> None:
        if self.noise not in (0, 1, 2):
            raise RecipeError(f"bnr.noise is {self.noise}; give 0, 1 or 2")


class BNR(Method):
    """TransCAM whose refined maps, with noise on them, have to classify as well.

    The noise is the network's own mean attention, Abar* = (1/B) A* (eq. 7): it spreads the maps once more, so that the
    loss hears of the background that attention lights up. On a CNN, which has no attention, M** is M. Inference is
    TransCAM's.
    """

    config_class = Config

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L = L_cls + L_M** (eq. 9)."""
        features = self.network(batch.images, spreads=True)
        class_maps = self.network.class_maps(features)
        noisy = self.add_noise(refine(class_maps, features), features)
        logits = losses.pool(noisy, on_grid(batch.valid, noisy))
        return {
            "classification": classification_loss(features, class_maps, batch),
            "noise": losses.multilabel_soft_margin(logits, batch.labels),
        }

    def add_noise(self, refined: Float[Tensor, "b K h w"], features: Features) -> Float[Tensor, "b K h w"]:
        """M** = Abar* M* (eq. 6)."""
        noise = self.config.noise
        if features.attention is None or noise == 0:
            return refined
        match self.config.strength:
            case Strength.APPLIED:
                times, factor = noise, 1
            case Strength.SCALED:
                times, factor = 1, noise
        for _ in range(times):
            refined = refine(refined, features) / features.attention.blocks
        return factor * refined

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        features = self.network(images, spreads=True)
        return Maps(refine(self.network.class_maps(features, classes=classes), features))
