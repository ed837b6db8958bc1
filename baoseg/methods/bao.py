"""BAO: background-aware activation map optimisation (Fujimori, Oono, Shishibori, JVCIR 2025).

Two networks of one architecture. The *target* turns its refined class maps into pseudo-labels while training, the
background being where no class is; the *online* network learns from them an activation map of the background. At
inference that map stands where other methods put a threshold.

Options of `Config` go beyond the paper and are off by default: `cut`, `doubt`, `backgrounds`, a momentum of None, and
`edges`, which makes BAO+ (`PLUS`). On backbones that do not attend, `class_channels` and `background` depart from the
paper by default (`ClassMaps.AUTO`).
"""

import copy
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baoseg.core.errors import RecipeError
from baoseg.core.types import IGNORE, Batch, Maps, full_precision
from baoseg.methods.base import Learns, Method, Settings, classification_loss, refine
from baoseg.methods.components import teacher
from baoseg.methods.components.decisions import Cut, find_cut, in_doubt
from baoseg.methods.components.edges import draw_to_edges
from baoseg.methods.components.teacher import Follow
from baoseg.nets.base import Features, Heads, resize
from baoseg.nets.grid import on_grid
from baoseg.nets.network import Network
from baoseg.seeds.normalise import Scaling, normalise
from baoseg.training import losses
from baoseg.training.learner import Progress


class Background(StrEnum):
    """What of the activation maps stands for the background at inference.

    PCL is a softmax over the S channels and does not see a map that is common to all of them, so the background's
    channel is determined only up to such a map: nothing keeps it from being high on the objects, as long as the classes
    are higher there. Relative to the mean of all channels it is determined, high where the background wins and low
    where a class does. Training is the same either way.
    """

    AUTO = "auto"  # centred where A* M scores the classes, as released where AM does
    CENTRED = "centred"  # AM_bg - mean_s AM_s
    RELEASED = "released"  # AM_bg, as in the paper and its code


class ClassMaps(StrEnum):
    """What scores the classes at inference. AM is relative to the mean of all channels here if its background is.

    A* M and AM have no common unit, so before they are added each is brought to [0, 1] (`maps.normalise`), for every
    image and scale by itself. Hence negative values become 0 before scales are summed, and all scales count the same.

    With attention, the pixel loss trains A*, and A* carries to the class maps what it has learned. Without attention
    the class maps know nothing of the pixel loss, so that AM alone holds what the online network learned.
    """

    AUTO = "auto"  # refined on backbones that attend, activation on those that do not
    REFINED = "refined"  # A* M, as in the paper (sec. 4.4)
    WITH_ACTIVATION = "with-activation"  # A* M + AM_s
    ACTIVATION = "activation"  # AM_s: the segmentation that the online network learns


class Keep(StrEnum):
    """Which network labels images after training."""

    TARGET = "target"  # as the paper does (sec. 4.4)
    ONLINE = "online"  # as its figure 4 measures


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of BAO; the defaults are the paper's, but for the switches named below.

    Where the released code does otherwise (recipe `bao_voc_reference` switches it on): `target_trains` keeps the
    target in training mode, so dropped paths and batch statistics act on the pseudo-labels; `momentum_restarts`
    starts the cosine of the momentum anew each epoch; `scaling` is `peak`; `background` is `released`. The foreground
    weight of its first epoch cancels out in the balanced loss and is absent here.

    Beyond the paper: `cut` decides for each image which cells are background in the pseudo-labels, and `doubt`
    leaves out those nearest to the cut. `backgrounds` gives K_b channels of AM to the background, which count as
    one, their log-sum-exp: in the softmax of PCL its probability is then the sum of theirs, and each is free to stand
    for a background of another kind. `class_channels` takes AM's channels of the classes to inference too. A `momentum`
    of None makes the window of the average a fixed share of the training, whose length is not known beforehand.

    `edges` makes the pseudo-labels at stride 4, draws them to the edges of the image by a dense CRF, and enlarges AM to
    that grid in the loss: coarse maps spill over the objects.
    """

    smoothing: float = 0.4  # eps of PCL; AMN sec. 4
    pcl_weight: float = 1.0  # lambda_pcl
    follow: Follow = Follow.SHARE_THEN_EMA
    share_epochs: float = 1.0  # how long share-then-EMA shares
    momentum: float | None = 0.9995  # of the EMA, rising to 1 on a cosine; None: `teacher.proportional`
    momentum_restarts: bool = False
    target_trains: bool = False
    scaling: Scaling = Scaling.RANGE  # of the class maps before they become pseudo-labels
    background: Background = Background.AUTO
    keep: Keep = Keep.TARGET
    cut: Cut = Cut.HALF  # of the pseudo-labels; eq. 6 has 0.5
    doubt: float = 0.0  # share of an image's cells without a pseudo-label
    backgrounds: int = 1  # K_b
    class_channels: ClassMaps = ClassMaps.AUTO
    edges: bool = False  # pseudo-labels at stride 4, drawn to the edges of the images

    def __post_init__(self) -> None:
        momentum = 0.0 if self.momentum is None else self.momentum
        if not (0 <= self.smoothing < 1 and 0 <= momentum <= 1 and self.share_epochs >= 0):
            raise RecipeError(f"bao: {self}; smoothing and momentum lie in 0..1, share_epochs is not negative")
        if not (0 <= self.doubt < 1 and self.backgrounds >= 1 and self.pcl_weight >= 0):
            raise RecipeError(
                f"bao: {self}; doubt is a share in 0..1 and less than 1, backgrounds are at least 1, and pcl_weight is "
                "at least 0"
            )


FINE = 4  # pixels a cell of the pseudo-labels that follow edges
PLUS = Config(momentum=None, edges=True)  # BAO+


class BAO(Method):
    config_class = Config
    learns = Learns.PIXELS
    starts_trained = True
    learns_background = True
    variants = MappingProxyType({"bao-plus": PLUS})

    @staticmethod
    def heads(config: Config) -> Heads:
        return Heads(backgrounds=config.backgrounds)

    @staticmethod
    def for_one_epoch(config: Config) -> Config:
        """It shares during half of the epoch, so that its average has a turn too."""
        return replace(config, share_epochs=0.5)

    @staticmethod
    def as_published(config: Config) -> Config:
        return replace(config, edges=False)

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
        features = self.network(batch.images, spreads=True)
        class_maps = self.network.class_maps(features)
        activations = self.activations(features, batch.labels)
        pseudo_labels = self.pseudo_labels(batch)
        activations = resize(activations, pseudo_labels.shape[-2:])
        pcl = losses.pixel_classification(activations, pseudo_labels, smoothing=self.config.smoothing)
        return {
            "classification": classification_loss(features, class_maps, batch),
            "pcl": self.config.pcl_weight * pcl,
        }

    def activations(self, features: Features, labels: Float[Tensor, "b K"]) -> Float[Tensor, "b S h w"]:
        """AM of the online network (sec. 4.2), its K_b backgrounds joined by log-sum-exp after A* has spread them."""
        refined = full_precision(refine(self.network.activation_maps(features, labels), features))
        backgrounds, classes = refined.tensor_split([self.config.backgrounds], dim=1)
        return torch.cat([backgrounds.logsumexp(dim=1, keepdim=True), classes], dim=1)

    @torch.no_grad()
    def pseudo_labels(self, batch: Batch) -> Int[Tensor, "b h w"]:
        """p = argmax over [M_bg, M_fg] (eq. 6), of the target; 255 on padding and in doubt.

        M_bg = 2 cut - max_s M_fg, the background being where max_s M_fg <= cut. Eq. 6 has a cut of 1/2. An image
        without labels is all background, and no cell of it is in doubt.
        """
        config = self.config
        features = self._target(batch.images, spreads=True)
        foreground = refine(self._target.class_maps(features), features)
        valid = on_grid(batch.valid, foreground)
        foreground = normalise(foreground, valid=valid, scaling=config.scaling) * batch.labels[:, :, None, None]
        if config.edges:
            foreground = resize(foreground, self._fine_grid(foreground))
            valid = on_grid(batch.valid, foreground)
        strongest = foreground.amax(dim=1, keepdim=True)
        cut = find_cut(strongest, valid, cut=config.cut)
        decided = torch.cat([2 * cut - strongest, foreground], dim=1).argmax(dim=1)
        doubtful = in_doubt(strongest - cut, valid, share=config.doubt)
        ignored = ~valid | (doubtful & batch.labels.any(dim=1)[:, None, None, None])
        decided = decided.masked_fill(ignored[:, 0], IGNORE)
        return draw_to_edges(decided, batch.images, self.network.normalisation) if config.edges else decided

    def _fine_grid(self, maps: Float[Tensor, "b k h w"]) -> tuple[int, int]:
        """The cells of stride FINE that cover what the cells of the maps cover."""
        finer = max(1, self.network.backbone.stride // FINE)
        return finer * maps.shape[-2], finer * maps.shape[-1]

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        """[AM of the background, class maps] (sec. 4.4), spread through the attention.

        In the paper's case, one background and the refined class maps, the other channels of AM are not computed.
        """
        scored_by, centred = self._class_channels, self._background is Background.CENTRED
        features = self.network(images, spreads=True)
        if self.config.backgrounds == 1 and scored_by is ClassMaps.REFINED:
            background = self.network.background_map(features, labels, centred=centred)
            class_maps = self.network.class_maps(features, classes=classes)
            refined = refine(torch.cat([background, class_maps], dim=1), features)
            return Maps(refined[:, 1:], refined[:, :1])

        activations = self.activations(features, labels)
        if centred:
            activations = activations - activations.mean(dim=1, keepdim=True)
        of_classes = activations[:, 1:] if classes is None else activations[:, classes]
        if scored_by is not ClassMaps.ACTIVATION:
            refined = refine(self.network.class_maps(features, classes=classes), features)
            both = scored_by is ClassMaps.WITH_ACTIVATION
            of_classes = normalise(refined) + normalise(of_classes) if both else refined
        return Maps(of_classes, activations[:, :1])

    @property
    def _class_channels(self) -> ClassMaps:
        chosen = self.config.class_channels
        if chosen is not ClassMaps.AUTO:
            return chosen
        return ClassMaps.REFINED if self.network.backbone.attends else ClassMaps.ACTIVATION

    @property
    def _background(self) -> Background:
        chosen = self.config.background
        if chosen is not Background.AUTO:
            return chosen
        return Background.RELEASED if self._class_channels is ClassMaps.ACTIVATION else Background.CENTRED

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
        start = teacher.proportional(progress.steps - shared) if config.momentum is None else config.momentum
        teacher.average(self._target, self.network, momentum=teacher.cosine(start, 1.0, done))
