"""What a method is to the rest of the package. Methods do not inherit from one another: each composes the functions
here with what is its own, so a diff of two method files shows the difference of two papers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from baoseg.core.types import Batch, Maps, Sample
from baoseg.nets import attention
from baoseg.nets.base import Features, Heads
from baoseg.nets.grid import on_grid
from baoseg.nets.network import Network
from baoseg.seeds.seed_maps import SeedMaps
from baoseg.training import losses
from baoseg.training.learner import Learner


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the settings of all methods are instances of."""


class Learns(StrEnum):
    """What a method learns, which decides its schedule in a comparison (`recipes.comparison`)."""

    CLASSES = "classes"  # to classify images
    PIXELS = "pixels"  # from labels of pixels
    BOTH = "both"  # at once


class Method(Learner):
    """A network with a loss to train it and maps to take from it. The class says what the method needs and can do."""

    config_class: type[Settings]
    variants: Mapping[str, Settings] = MappingProxyType({})  # settings other than the default that have a name
    learns = Learns.CLASSES
    starts_trained = False  # whether it starts from a trained classifier
    needs_seeds = False  # whether it learns from `pixel_labels`, which the seeds of an earlier stage give
    learns_background = False  # whether `maps` gives a background map, so that masks need no threshold
    finds_thresholds = False  # whether it has a `threshold`
    chooses_threshold = False  # whether `threshold` cuts its own maps
    localizes = False  # whether it learns from images of one label each, and its maps give boxes
    averages_classes = False  # whether its box may come from the mean of several classes' maps (BAS sec. 3.1)
    without_attention: str | None = None  # the method that it is where the backbone does not attend
    traceable = True  # whether `torch.jit.trace` records what it computes
    network: Network
    single_label = False  # whether each image has exactly one label; `make` sets it

    @staticmethod
    def heads(config: Any) -> Heads:
        """What the network carries beside the class head, for these settings of the method."""
        return Heads()

    @staticmethod
    def for_one_epoch(config: Any) -> Any:
        """The settings with which all parts of the training take place in a single epoch."""
        return config

    @staticmethod
    def as_published(config: Any) -> Any:
        """The settings without what goes beyond the paper, but for what makes them fit a training of another length."""
        return config

    @staticmethod
    def pixel_labels(config: Any, sample: Sample, seed: SeedMaps) -> UInt8[Tensor, "h w"]:
        """Labels of a training image's pixels from its seed. Asked of methods that have `needs_seeds`."""
        raise NotImplementedError

    def head_parameters(self) -> Iterator[nn.Parameter]:
        return self.network.head_parameters()

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        """Refined maps on the feature grid, before any clipping or normalisation; BAS's are on its generator's grid.

        `classes` are the class indices (1..K) to compute, all K without it; `labels` condition the background map of
        methods that learn one.
        """
        raise NotImplementedError

    def threshold(
        self,
        images: Float[Tensor, "v 3 h w"],
        labels: Float[Tensor, "K"],
        scores: Float[Tensor, "k H W"],
        *,
        fixed: float,
    ) -> float:
        """The cut in [0, 1] for one image's normalised maps of its present classes (BAS sec. 5.5).

        `images` are views of it at one scale, itself first. `fixed` is the recipe's threshold, for an image
        in which nothing tells which one is best. Asked of methods that have `finds_thresholds`.
        """
        raise NotImplementedError

    def result(self) -> Network:
        """The network to keep when training is over."""
        return self.network

    def classify(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b K"]:
        """Class logits z, without labels."""
        features = self.network(images)
        return class_logits(features, self.network.class_maps(features))


def class_logits(
    features: Features, class_maps: Float[Tensor, "b K h w"], valid: Bool[Tensor, "b 1 h w"] | None = None
) -> Float[Tensor, "b K"]:
    """z = GAP(M) + z_token (TransCAM; BAO sec. 4.3); backbones without a class token have the first term alone."""
    pooled = losses.pool(class_maps, valid)
    return pooled if features.token_logits is None else pooled + features.token_logits


def classification_loss(features: Features, class_maps: Float[Tensor, "b K h w"], batch: Batch) -> Float[Tensor, ""]:
    """L_cls: soft-margin loss of z against the image-level labels (BAO eq. 7)."""
    logits = class_logits(features, class_maps, on_grid(batch.valid, class_maps))
    return losses.multilabel_soft_margin(logits, batch.labels)


def refine(maps: Float[Tensor, "b k h w"], features: Features) -> Float[Tensor, "b k h w"]:
    """A* M where the backbone attends, M itself where it does not (CNNs)."""
    return maps if features.attention is None else attention.spread(maps, features.attention)
