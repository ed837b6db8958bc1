"""AMN: activation manipulation network (Lee, Kim, Shim, CVPR 2022), "Threshold matters in WSSS".

A network learns the class of each pixel from fixed pseudo-labels, which the seeds of another network give beforehand.
Smoothed labels and a balance between foreground and background keep its activations even, so that many thresholds give
good masks. On TransCAM's network and seeds it is `transcam+amn`, with which BAO's figure 4 compares.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import BACKGROUND, IGNORE, Batch, Maps, Sample
from baoseg.methods.base import Learns, Method, Settings, refine
from baoseg.nets.base import Features, Heads
from baoseg.nets.grid import labels_on_grid, on_grid
from baoseg.nets.network import Network
from baoseg.refine import affinity_labels
from baoseg.seeds import masks
from baoseg.seeds.seed_maps import SeedMaps
from baoseg.training import losses


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of AMN. Thresholds and CRF are those of its released code, step 1 of scripts/generate_pseudo_mask.sh.

    Step 2 of that script has 0.15 and 0.45 (the defaults of run_sample.py): they make IRN's labels of AMN's own maps.
    """

    smoothing: float = 0.4  # eps of PCL, sec. 4
    background_below: float = 0.05  # pixels whose largest seed is lower are labelled background
    foreground_above: float = 0.30  # pixels whose largest seed is at least this are labelled by its class; else ignored
    crf: bool = True  # whether a dense CRF draws the mask at each of the two thresholds to the edges first

    def __post_init__(self) -> None:
        if not 0 <= self.background_below <= self.foreground_above <= 1 or not 0 <= self.smoothing < 1:
            raise RecipeError(f"amn: {self}; 0 <= background_below <= foreground_above <= 1 and smoothing below 1")


class AMN(Method):
    """Label conditioning f * (W y + b) and a classifier of each pixel's S classes on it.

    Deviations from the released code: the network's own activation head (one 3 x 3 convolution; there, an ASPP of four
    behind a dropout), and on a backbone with attention A* on its activation maps, as BAO has it, so that the two differ
    by the labels.

    The class head stays as it started while the features change: image-level labels, where they are not given, are
    better predicted by the classifier that AMN started from.
    """

    config_class = Config
    learns = Learns.PIXELS
    needs_seeds = True

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config
        for parameter in (*network.class_head.parameters(), *network.backbone.token_classifier()):
            parameter.requires_grad_(False)  # classification takes no part

    @staticmethod
    def heads(config: Config) -> Heads:
        return Heads(backgrounds=1)

    @staticmethod
    def pixel_labels(config: Config, sample: Sample, seed: SeedMaps) -> UInt8[Tensor, "h w"]:
        low, high = config.background_below, config.foreground_above
        if config.crf:
            return affinity_labels.from_thresholds(sample.image, seed, background=low, foreground=high)
        return masks.confident_labels(seed, background=low, foreground=high)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L = PCL(AM, seed labels). Raises RecipeError if the batch brings none."""
        if batch.pixel_labels is None:
            raise RecipeError("amn learns from seeds; name the stage that makes them (`labelled_by` in the recipe)")
        activations = self.activations(self.network(batch.images, spreads=True), batch.labels)
        labels = labels_on_grid(batch.pixel_labels, activations)
        labels = labels.masked_fill(~on_grid(batch.valid, activations)[:, 0], IGNORE)
        return {"pcl": losses.pixel_classification(activations, labels, smoothing=self.config.smoothing)}

    def activations(self, features: Features, labels: Float[Tensor, "b K"]) -> Float[Tensor, "b S h w"]:
        return refine(self.network.activation_maps(features, labels), features)

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        """Softmax of AM over all S classes, without the background's: a threshold stands for that (sec. 4).

        Deviations: scales are summed after the softmax, where the released code averages the logits before it; and the
        seed labels have no say, where the released code leaves pixels that they call background unnormalised.
        """
        probabilities = self.activations(self.network(images, spreads=True), labels).softmax(dim=1)
        return Maps(probabilities[:, BACKGROUND + 1 :] if classes is None else probabilities[:, classes])
