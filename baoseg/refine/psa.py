"""PSA: pixel-level semantic affinity (Ahn and Kwak, "Learning pixel-level semantic affinity with image-level
supervision for weakly supervised semantic segmentation", CVPR 2018).

AffinityNet learns, from the pixels where the seed is certain, which cells belong together. A random walk with these
affinities then spreads the seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from baoseg.core.errors import RecipeError
from baoseg.core.types import Batch, full_precision
from baoseg.data.transforms import normalise
from baoseg.nets.base import Backbone, enlarge_cells, freeze_batch_norm, pad_to_multiple, resize
from baoseg.refine import affinity_labels, crf, pairs, random_walk
from baoseg.refine.random_walk import Offset
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import to_mask
from baoseg.training.learner import Learner

STRIDE = 8  # of the last stages of the ResNet-38 in PSA


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of PSA. The alphas and the fixed scores apply to seeds without a background map."""

    radius: int = 5  # largest distance of pairs of cells (exclusive), in training and in the walk (sec. 3.2)
    low_alpha: float = 4.0  # for the labels; the paper has 4 and 24, the released code 4 and 32, other papers 8 and 32
    high_alpha: float = 24.0
    background_alpha: float = 16.0  # for the walk
    fixed_scores: bool = False  # one background score for all pixels instead of alphas, as in the code of TransCAM
    low_score: float = 0.25  # for the labels: a pixel that is background with this score is certainly background
    high_score: float = 0.60  # for the labels: a pixel with a class despite this score certainly has this class
    walk_score: float = 0.42  # for the walk
    n_labels: int | None = None  # of the CRF of masks, see `crf.Config`; with alphas, the CRF uses probabilities
    learned_background: bool = True  # use the background map of a seed, if it has one, instead of alphas or scores
    beta: float = 8.0  # sec. 3.3
    steps: int = 256  # of the walk; 2^logt in the released code
    power: float = 1.0  # exponent of maps and background before the walk; not in PSA, see irn.Config
    widths: tuple[int, int, int] = (64, 128, 256)  # channels from each of the three stages

    def __post_init__(self) -> None:
        if self.radius < 2 or not 0 < self.low_alpha <= self.high_alpha or self.background_alpha <= 0:
            raise RecipeError(f"psa: {self}; use a radius of at least 2, and alphas above 0, low_alpha first")
        if min(self.beta, self.power, *self.widths) <= 0 or self.steps < 0:
            raise RecipeError(f"psa: {self}; use beta, power and widths above 0, and steps of at least 0")
        if not 0 <= self.low_score <= self.high_score <= 1 or not 0 <= self.walk_score <= 1:
            raise RecipeError(f"psa: {self}; use fixed scores in 0..1 with low_score <= high_score")
        crf.Config(n_labels=self.n_labels)  # raises RecipeError for a wrong number of labels


def labels(image: UInt8[Tensor, "3 h w"], seed: SeedMaps, config: Config) -> UInt8[Tensor, "h w"]:
    """Pixel labels [h w] to learn from: by the background map of the seed, or without one by alphas or fixed scores.

    A fixed score is a threshold, so these labels are made as in IRN (`affinity_labels.from_thresholds`).
    """
    drawn = replace(crf.LABELS, n_labels=config.n_labels)
    if config.learned_background and seed.background is not None:
        return affinity_labels.from_background(image, seed, config=drawn)
    if config.fixed_scores:
        return affinity_labels.from_thresholds(
            image, seed, background=config.low_score, foreground=config.high_score, config=drawn
        )
    return affinity_labels.from_alphas(image, seed, low=config.low_alpha, high=config.high_alpha)


class AffinityNet(Learner):
    """A feature for each cell; cells of one class get similar features (sec. 3.2 and 4.1).

    Three stages of the backbone each have a 1 x 1 convolution, and a further 1 x 1 convolution joins them; an ELU
    follows each. On the ResNet-38 of PSA, the stages have 512, 1024 and 4096 channels at stride 8. On other backbones,
    they are the last two stages and the last stage of stride 8 before them; coarser stages are enlarged. Batch norm is
    frozen, as in the released code.

    Deviations from the released code: all layers learn, also the first; the label of a cell is the label of its central
    pixel, where PSA averages CRF scores over the cell; pairs near the borders of a crop count
    (`random_walk.feature_affinity`).
    """

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__()
        strides = pairs.stage_strides(backbone)
        fine = [stage for stage, stride in enumerate(strides[:-2]) if stride <= STRIDE]
        if not fine:
            raise RecipeError(f"psa: stages of strides {strides}; one before the last two must have at most {STRIDE}")
        self.stages = (fine[-1], len(strides) - 2, len(strides) - 1)
        self.stride = strides[fine[-1]]
        self.backbone = backbone
        self.config = config
        channels = [backbone.stage_channels[stage] for stage in self.stages]
        heads = [nn.Conv2d(*sizes, 1, bias=False) for sizes in zip(channels, config.widths, strict=True)]
        for head in heads:
            nn.init.kaiming_normal_(head.weight)
        self.heads = nn.ModuleList(heads)
        self.joint = nn.Conv2d(sum(config.widths), sum(config.widths), 1, bias=False)
        nn.init.xavier_uniform_(self.joint.weight, gain=4)  # as released
        freeze_batch_norm(backbone)

    def train(self, mode: bool = True) -> "AffinityNet":
        super().train(mode)
        freeze_batch_norm(self.backbone)
        return self

    def head_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.heads.parameters()
        yield from self.joint.parameters()

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """f^aff of normalised images of any size, on a grid of ceil(image / stride)."""
        stages = self.backbone.stages(images)
        finest = stages[self.stages[0]]
        parts = [
            F.elu(resize(head(stages[stage]), finest.shape[-2:]))
            for head, stage in zip(self.heads, self.stages, strict=True)
        ]
        rows, columns = (-(-side // self.stride) for side in images.shape[-2:])
        return F.elu(self.joint(torch.cat(parts, dim=1)))[..., :rows, :columns]

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The terms of background pairs, pairs of one class, and different pairs (sec. 3.2; `pairs.affinity_terms`)."""
        features = full_precision(self.features(batch.images))
        labels = pairs.labels_of(batch, features)
        return pairs.affinity_terms(pairs.means(_sums, labels, features, radius=self.config.radius))

    @torch.inference_mode()
    def walked(self, image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> SeedMaps:
        """The class maps and the background after the random walk, T^t M (sec. 3.3), on the grid of the features.

        The background is the map of the seed, (1 - max_s M_s)^alpha, or the fixed score. If a side of the image is not
        a multiple of the stride, the last cells reach beyond the image; then the result has the size of the image
        instead. The network is in evaluation mode afterwards.

        Raises DataError if the size of the seed is not that of the image, or if it has values NaN or infinite.
        """
        affinity_labels.check(image, seed)
        config = self.eval().config
        inputs = normalise(image.to(self.joint.weight.device), self.backbone.normalisation)
        features = self.features(inputs[None])
        seed = seed.upsample()
        background = seed.background if config.learned_background else None
        if background is None and config.fixed_scores:
            background = torch.full(seed.size, config.walk_score)
        elif background is None:
            background = affinity_labels.background_score(seed, alpha=config.background_alpha)
        scores = torch.cat([background[None], seed.scores]).to(features)
        maps = F.avg_pool2d(pad_to_multiple(scores[None], self.stride), self.stride)
        maps = random_walk.powered(maps, config.power)
        moves = random_walk.transition(random_walk.feature_affinity(features, radius=config.radius), beta=config.beta)
        maps = random_walk.walk(maps, moves, steps=config.steps).cpu()
        if any(side % self.stride for side in seed.size):
            maps = enlarge_cells(maps, self.stride, seed.size)
        maps = maps[0]
        return SeedMaps(seed.classes, maps[1:], maps[0], seed.size)

    def refine(self, image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> UInt8[Tensor, "h w"]:
        """The mask after the walk. A seed without classes gives background everywhere."""
        return to_mask(self.walked(image, seed))


def _sums(offset: Offset, labels: Int[Tensor, "b h w"], features: Float[Tensor, "b c h w"]) -> Float[Tensor, "2 3"]:
    return pairs.affinity_sums(random_walk.feature_affinity_at(features, offset), pairs.pairs_at(labels, offset))
