"""BAS: background activation suppression (Zhai, Wu, Zhu, Cao, Wu, Zha, IJCV 2023).

A generator in the midst of a classifier draws a map for each class. It learns where an object is from what the
classifier still sees of the object's class when the map is cut out of its features: as little as possible, with a map
as small as possible.

For segmentation an image may have several labels. For localization it has one: that class is the one drawn, eq. 9 is
the cross-entropy of eq. 7, and eq. 10 is eq. 8. The released codes of the two differ in `Config.guide_classifier` and
`Config.generator_bias`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from baoseg.core.errors import RecipeError
from baoseg.core.types import BACKGROUND, Batch, Maps, full_precision
from baoseg.methods.base import Learns, Method, Settings
from baoseg.nets.base import Features, Heads, evaluation
from baoseg.nets.grid import on_grid
from baoseg.nets.network import Network
from baoseg.training import losses

EPSILON = 1e-8  # of eq. 3, as released
CHUNK = 8  # masks that are judged together, which bounds the memory of `image_threshold`


class Relu(StrEnum):
    """What makes the activation values S and S^b non-negative (fig. 4)."""

    RAW = "raw"  # a ReLU on the two alone; logits may be negative
    CONFERENCE = "conference"  # a ReLU on the class maps, before anything is made of them


class Foreground(StrEnum):
    """What a map of all classes together does to a class's map where that one is higher (sec. 5.5)."""

    NONE = "none"  # there is no such map
    REPLACE = "replace"  # stands there instead of it
    AVERAGE = "average"  # the mean of the two stands there


class Activation(StrEnum):
    """How the activation values S and S^b of eq. 3 are read from the logits z: y~ for S, y^b for S^b.

    The paper takes ReLU(z_c) of the class c. But eq. 9 compares a present class with the absent ones alone, so an
    offset common to all logits is free: S of a class that is there may be 0, and then L_bas is 0 for any mask. The
    other two are not of the paper. They measure from z^0, the logits of features that are zero everywhere
    (`empty_logits`), in training and in `image_threshold` alike.
    """

    RAW = "raw"  # ReLU(z_c)
    RELATIVE = "relative"  # ReLU(z_c - z^0_c): blind to an offset that is the same for all features
    # ReLU(m_c(z) - m_c(z^0)) of the margin that eq. 9 trains, m_c(z) = z_c - log sum_{j absent} exp(z_j): blind to an
    # offset that depends on the features, too. Where no class is absent, m_c(z) = z_c.
    MARGIN = "margin"


class Threshold(StrEnum):
    FIXED = "fixed"  # the recipe's, for all images
    IMAGE = "image"  # each image's own (`image_threshold`)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of BAS; the defaults are the paper's for VOC (sec. 3.4). COCO: alpha 0.5, beta 1.5."""

    alpha: float = 0.2  # of the foreground region guidance
    beta: float = 1.2  # of the area constraint; table 7: alpha + weight
    weight: float = 1.0  # lambda, of the background activation suppression
    generator_after: int = 3  # stage of the backbone (table 8)
    generator_bias: bool = False  # of the generator's convolution, as released for localization; not for segmentation
    guide_classifier: bool = False  # eq. 5 trains F2 too, as released for localization; for segmentation it does not
    relu: Relu = Relu.RAW
    activation: Activation = Activation.RAW
    foreground: Foreground = Foreground.NONE
    threshold: Threshold = Threshold.FIXED
    thresholds: tuple[float, ...] = tuple(step / 20 for step in range(1, 20))  # tried for each image

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta, self.weight) < 0 or self.generator_after < 1:
            raise RecipeError(f"bas: {self}; alpha, beta and weight are not negative, stages count from 1")
        if not self.thresholds or not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise RecipeError(f"bas.thresholds is {self.thresholds}; name at least one, all in 0..1")


class BAS(Method):
    """Deviations from the paper: pooling and area leave padding out, as everywhere here. A generator's map on a finer
    grid than the class maps' is averaged to that in eq. 5, and nowhere else. An image without any class counts in
    L_cls alone, with 0. With K = 1 there is no absent class, so eq. 9 is 0 and the classifier does not learn.
    """

    config_class = Config
    learns = Learns.BOTH
    finds_thresholds = True
    localizes = True
    averages_classes = True
    traceable = False

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.chooses_threshold = config.threshold is Threshold.IMAGE

    @staticmethod
    def heads(config: Config) -> Heads:
        return Heads(
            generator_after=config.generator_after,
            foreground=config.foreground is not Foreground.NONE,
            generator_bias=config.generator_bias,
        )

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L = L_mcls + alpha L_frg + beta L_ac + lambda L_bas (eq. 10), the last three of one present class, drawn for
        each image. As released, F is detached from the background branch, and for segmentation F2(F) in eq. 5.

        The class-agnostic map has terms of its own, `foreground`: lambda times the sum of L_bas over all classes of the
        image (sec. 5.5), and beta times its area, which the paper does not mention but without which it would grow
        over everything. Draws from the global random state.
        """
        config, labels = self.config, batch.labels
        lower, upper, _ = self.network.split()
        features = lower(batch.images)
        class_maps = _class_maps(self.network, upper(features), relu=config.relu)
        on_features, on_maps = on_grid(batch.valid, features), on_grid(batch.valid, class_maps)
        logits = losses.pool(class_maps, on_maps)

        predicted = self.network.prediction_maps(features)
        drawn = (labels * (1 + torch.rand_like(labels))).argmax(dim=1, keepdim=True)
        mask = predicted.take_along_dim(drawn[:, :, None, None], dim=1)
        values = activation_values(self.network, features, labels, on_maps, config=config)
        whole = values(logits)
        suppressed = self._suppression(features, mask, whole, values, on_maps).take_along_dim(drawn, dim=1)[:, 0]
        area = losses.pool(mask, on_features)[:, 0]
        mask = F.interpolate(mask, size=class_maps.shape[-2:], mode="area")
        guided = class_maps if config.guide_classifier else class_maps.detach()
        foreground_logits = losses.pool(mask * guided, on_maps)
        guidance = F.cross_entropy(foreground_logits, drawn[:, 0], reduction="none")

        labelled = labels.any(dim=1)
        terms = {
            "classification": multilabel_softmax(logits, labels),
            "guidance": config.alpha * _mean(guidance, labelled),
            "area": config.beta * _mean(area, labelled),
            "suppression": config.weight * _mean(suppressed, labelled),
        }
        if config.foreground is not Foreground.NONE:
            mask = predicted[:, -1:]
            suppressed = (self._suppression(features, mask, whole, values, on_maps) * labels).sum(dim=1)
            area = losses.pool(mask, on_features)[:, 0]
            terms["foreground"] = _mean(config.weight * suppressed + config.beta * area, labelled)
        return terms

    def _suppression(
        self,
        features: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"],
        whole: Float[Tensor, "b K"],
        values: "Values",
        valid: Bool[Tensor, "b 1 h2 w2"],
    ) -> Float[Tensor, "b K"]:
        background = background_logits(self.network, features.detach() * (1 - mask), valid, relu=self.config.relu)
        return suppression(values(background), whole)

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        """`generated`: eq. 5 alone needs the coarser grid of the class maps."""
        scores = self.generated(images)
        return Maps(scores if classes is None else scores[:, classes - 1])

    def generated(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b K h2 w2"]:
        """The generator's maps M on its own grid, held down by the class-agnostic one where there is one (sec. 5.5).

        The paper leaves open if averaging is done everywhere; here it is where the class's map is the higher one, as
        its text introduces both ways. Only the layers before the generator are computed.
        """
        network = self.network
        predicted = network.prediction_maps(network.split().lower(images))
        scores = predicted[:, : network.num_classes]
        match self.config.foreground:
            case Foreground.REPLACE:
                scores = scores.minimum(predicted[:, -1:])
            case Foreground.AVERAGE:
                scores = (scores + scores.minimum(predicted[:, -1:])) / 2
        return scores

    def threshold(
        self,
        images: Float[Tensor, "v 3 h w"],
        labels: Float[Tensor, "K"],
        scores: Float[Tensor, "k H W"],
        *,
        fixed: float,
    ) -> float:
        return image_threshold(self.network, images[:1], labels, scores, config=self.config, fixed=fixed)

    def classify(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b K"]:
        """y~ (eq. 1)."""
        return losses.pool(_class_maps(self.network, self.network(images).map, relu=self.config.relu))


def multilabel_softmax(logits: Float[Tensor, "b K"], labels: Float[Tensor, "b K"]) -> Float[Tensor, ""]:
    """L_mcls: cross-entropy of each present class against it and the absent ones, summed over the present classes
    (eq. 9); the mean over images.
    """
    # not -inf, whose logarithm of a sum has no gradient
    absent = logits.masked_fill(labels > 0, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    return -(F.logsigmoid(logits - absent) * labels).sum(dim=1).mean()


def background_logits(
    network: Network,
    masked: Float[Tensor, "b c h w"],
    valid: Bool[Tensor, "b 1 h2 w2"] | None = None,
    *,
    relu: Relu,
) -> Float[Tensor, "b K"]:
    """y^b = GAP(F2(F . M_b)) with frozen weights (eq. 2): gradients reach the masked features F . M_b alone.

    As in the released code, which copies the layers in training mode for it, batch statistics are those of the masked
    features; the running ones do not hear of them.
    """
    branch = nn.Sequential(network.split().upper, network.class_head)
    frozen = {name: parameter.detach() for name, parameter in branch.named_parameters()}
    frozen |= {name: buffer.clone() for name, buffer in branch.named_buffers()}
    maps = functional_call(branch, frozen, (masked,))[:, BACKGROUND + 1 :]
    return losses.pool(_rectify(maps, relu=relu), valid)


@torch.no_grad()
def empty_logits(
    network: Network,
    features: Float[Tensor, "_ c h w"],
    valid: Bool[Tensor, "b 1 h2 w2"] | None = None,
    *,
    relu: Relu,
) -> Float[Tensor, "b K"]:
    """z^0 = GAP(F2(0)), for features of the size of `features`: what the classifier says where there is nothing to see.

    In evaluation mode also while the network trains: batch statistics of features that are all zero mean nothing. Once
    for all images; they differ by their padding alone.
    """
    branch = nn.Sequential(network.split().upper, network.class_head)
    with evaluation(branch):
        maps = _rectify(branch(torch.zeros_like(features[:1]))[:, BACKGROUND + 1 :], relu=relu)
    return losses.pool(maps if valid is None else maps.expand(len(valid), -1, -1, -1), valid)


Values = Callable[[Float[Tensor, "b K"]], Float[Tensor, "b K"]]


def activation_values(
    network: Network,
    features: Float[Tensor, "b c h w"],
    labels: Float[Tensor, "b K"],
    valid: Bool[Tensor, "b 1 h2 w2"] | None = None,
    *,
    config: Config,
) -> Values:
    """What makes activation values of logits, before the ReLU of eq. 3, as `config.activation` says."""
    if config.activation is Activation.RAW:
        return lambda logits: logits
    empty = empty_logits(network, features, valid, relu=config.relu)
    if config.activation is Activation.RELATIVE:
        return lambda logits: logits - empty
    return lambda logits: margins(logits, labels) - margins(empty, labels)


def margins(logits: Float[Tensor, "b K"], labels: Float[Tensor, "#b K"]) -> Float[Tensor, "b K"]:
    """m(z) (`Activation.MARGIN`). For an absent class the value has no meaning, but it is finite."""
    absent = labels <= 0
    # not -inf, see multilabel_softmax
    others = logits.masked_fill(~absent, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    return logits - others.where(absent.any(dim=1, keepdim=True), 0)


def suppression(background: Float[Tensor, "b K"], whole: Float[Tensor, "#b K"]) -> Float[Tensor, "b K"]:
    """L_bas = S^b / (S + epsilon) for each class (eq. 3), from activation values of y^b and y~ before their ReLU.

    As released, and not in the paper: S takes no gradient, and a ratio above 1 is the constant 1.
    """
    return (background.relu() / (whole.detach().relu() + EPSILON)).clamp(max=1)


def top_averages(
    maps: Float[Tensor, "b K h w"], logits: Float[Tensor, "b K"], targets: Int[Tensor, "b"]
) -> Float[Tensor, "b K h w"]:
    """Entry k - 1 is the mean of the maps of k classes: the true one (0..K-1) and the most probable others (sec. 3.1).

    Deviation: the paper takes the k most probable classes "including the ground-truth class"; for k > 1 the released
    code takes them whether or not the true one is among them.
    """
    order = logits.scatter(1, targets[:, None], math.inf).argsort(dim=1, descending=True)
    ordered = maps.take_along_dim(order[:, :, None, None], dim=1)
    counts = torch.arange(1, maps.shape[1] + 1, device=maps.device, dtype=maps.dtype)
    return ordered.cumsum(dim=1) / counts[:, None, None]


@torch.no_grad()
def image_threshold(
    network: Network,
    image: Float[Tensor, "1 3 h w"],
    labels: Float[Tensor, "K"],
    scores: Float[Tensor, "k H W"],
    *,
    config: Config,
    fixed: float,
) -> float:
    """The cut for one image's maps, of any method, that a trained BAS network finds best (sec. 5.5, fig. 22).

    `scores` are in [0, 1], of the present classes in the order of their indices. For each of `config.thresholds` the
    cells at least as high stand in the place of M_f, and the least L_bas + L_ac decides: its mean over the present
    classes, which the paper leaves open. Of equally good thresholds it is the first listed. The network is in
    evaluation mode.

    A class that the network does not see has no say: where S is 0, L_bas is 0 for any mask, and the area alone would
    ask for an empty one. Where it sees none, the threshold is `fixed`. The paper has no word on such classes.
    """
    lower, upper, _ = network.split()
    features = lower(image)
    values = activation_values(network, features, labels[None], config=config)
    whole = values(losses.pool(_class_maps(network, upper(features), relu=config.relu)))
    present = labels.nonzero()[:, 0]
    seen = whole[0, present] > 0
    if not seen.any():
        return fixed
    present, scores = present[seen], scores[seen]
    fine = F.interpolate(full_precision(scores)[None], size=features.shape[-2:], mode="area")
    thresholds = torch.tensor(config.thresholds, dtype=fine.dtype, device=fine.device)
    masks = (fine >= thresholds[:, None, None, None]).to(features.dtype)  # [thresholds, k, h, w]
    background = [
        background_logits(network, features * (1 - some), relu=config.relu)
        for some in masks.flatten(0, 1)[:, None].split(CHUNK)
    ]
    ratios = suppression(values(torch.cat(background)), whole).unflatten(0, masks.shape[:2])
    of_class = ratios.take_along_dim(present[None, :, None], dim=2)[..., 0]
    return config.thresholds[int((of_class + losses.pool(masks)).mean(dim=1).argmin())]


def _class_maps(network: Network, feature_map: Float[Tensor, "b c h w"], *, relu: Relu) -> Float[Tensor, "b K h w"]:
    return _rectify(network.class_maps(Features(feature_map, None, None)), relu=relu)


def _rectify(maps: Float[Tensor, "b K h w"], *, relu: Relu) -> Float[Tensor, "b K h w"]:
    return maps.relu() if relu is Relu.CONFERENCE else maps


def _mean(values: Float[Tensor, "b"], counted: Bool[Tensor, "b"]) -> Float[Tensor, ""]:
    """Over the images counted; 0 without any."""
    return (values * counted).sum() / counted.sum().clamp(min=1)
