"""BAO: background-aware activation map optimisation (Fujimori, Oono, Shishibori, JVCIR 2025).

Two networks of one architecture. The *target* turns its refined class maps into pseudo-labels while training, the
background being where no class is; the *online* network learns from them an activation map of the background. At
inference that map stands where other methods put a threshold.
"""

import copy
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baoseg import losses, teacher
from baoseg.errors import RecipeError
from baoseg.maps import Scaling, normalise
from baoseg.methods.base import Method, Progress, classification_loss, on_grid, refine
from baoseg.nets.network import Network
from baoseg.teacher import Follow
from baoseg.types import IGNORE, Batch, Maps


class Background(StrEnum):
    """What of the activation maps stands for the background at inference.

    PCL is a softmax over the S channels and does not see a map that is common to all of them, so the background's
    channel is determined only up to such a map: nothing keeps it from being high on the objects, as long as the classes
    are higher there. Relative to the mean of all channels it is determined, high where the background wins and low
    where a class does. Training is the same either way.
    """

    CENTRED = "centred"  # AM_bg - mean_s AM_s
    RELEASED = "released"  # AM_bg, as in the paper and its code


class Keep(StrEnum):
    """Which network labels pictures after training."""

    TARGET = "target"  # as the paper does (sec. 4.4)
    ONLINE = "online"  # as its figure 4 measures


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of BAO; the defaults are the paper's, but for the switches named below.

    Where the released code does otherwise (recipe `bao_voc_reference` switches it on): `target_trains` keeps the
    target in training mode, so dropped paths and batch statistics act on the pseudo-labels; `momentum_restarts`
    starts the cosine of the momentum anew each epoch; `scaling` is `peak`; `background` is `released`. The foreground
    weight of its first epoch cancels out in the balanced loss and is absent here.
    """

    smoothing: float = 0.4  # eps of PCL; AMN sec. 4
    pcl_weight: float = 1.0  # lambda_pcl
    follow: Follow = Follow.SHARE_THEN_EMA
    share_epochs: float = 1.0  # how long share-then-EMA shares
    momentum: float = 0.9995  # of the EMA, rising to 1 on a cosine
    momentum_restarts: bool = False
    target_trains: bool = False
    scaling: Scaling = Scaling.RANGE  # of the class maps before they become pseudo-labels
    background: Background = Background.CENTRED
    keep: Keep = Keep.TARGET

    def __post_init__(self) -> None:
        if not (0 <= self.smoothing < 1 and 0 <= self.momentum <= 1 and self.share_epochs >= 0):
            raise RecipeError(f"bao: {self}; smoothing and momentum lie in 0..1, share_epochs is not negative")


class BAO(Method):
    learns_background = True
    needs_activation_heads = True

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network = network
        self.target: Network | None = None
        self.config = config

    def begin_training(self) -> None:
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.train(self.training)

    def result(self) -> Network:
        return self.network if self.config.keep is Keep.ONLINE else self._target

    @property
    def _target(self) -> Network:
        assert self.target is not None, "begin_training was not called"
        return self.target

    def train(self, mode: bool = True) -> "BAO":
        super().train(mode)
        if self.target is not None:
            self.target.train(mode and self.config.target_trains)
        return self

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L = L_cls + lambda_pcl L_pcl(AM, p) (eq. 8)."""
        features = self.network(batch.images)
        class_maps = self.network.class_maps(features)
        activations = refine(self.network.activation_maps(features, batch.labels), features)
        pseudo_labels = self.pseudo_labels(batch)
        pcl = losses.pixel_classification(activations, pseudo_labels, smoothing=self.config.smoothing)
        return {
            "classification": classification_loss(features, class_maps, batch),
            "pcl": self.config.pcl_weight * pcl,
        }

    @torch.no_grad()
    def pseudo_labels(self, batch: Batch) -> Int[Tensor, "b h w"]:
        """p = argmax over [M_bg, M_fg] with M_bg = 1 - max_s M_fg (eq. 6), of the target; 255 on padding."""
        features = self._target(batch.images)
        foreground = refine(self._target.class_maps(features), features)
        valid = on_grid(batch.valid, foreground)
        foreground = normalise(foreground, valid=valid, scaling=self.config.scaling) * batch.labels[:, :, None, None]
        background = 1 - foreground.amax(dim=1, keepdim=True)
        decided = torch.cat([background, foreground], dim=1).argmax(dim=1)
        return decided.masked_fill(~valid[:, 0], IGNORE)

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        """[AM of the background, refined class maps] (sec. 4.4), spread through the attention together."""
        features = self.network(images)
        background = self.network.background_map(features, labels, centred=self.config.background is Background.CENTRED)
        class_maps = self.network.class_maps(features, classes=classes)
        refined = refine(torch.cat([background, class_maps], dim=1), features)
        return Maps(refined[:, 1:], refined[:, :1])

    def after_step(self, progress: Progress) -> None:
        """theta <- omega while sharing, then theta <- l theta + (1 - l) omega (eq. 9)."""
        config = self.config
        shared = round(config.share_epochs * progress.steps_per_epoch)
        match config.follow:
            case Follow.SHARE:
                shared = progress.steps
            case Follow.EMA:
                shared = 0
        if progress.step <= shared:
            teacher.share(self._target, self.network)
            return
        if config.momentum_restarts:
            done = (progress.step - 1) % progress.steps_per_epoch / progress.steps_per_epoch
        else:
            done = (progress.step - 1 - shared) / max(progress.steps - shared, 1)
        teacher.average(self._target, self.network, momentum=teacher.cosine(config.momentum, 1.0, done))
