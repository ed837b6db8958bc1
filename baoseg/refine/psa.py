"""PSA: pixel-level semantic affinity (Ahn and Kwak, "Learning pixel-level semantic affinity with image-level
supervision for weakly supervised semantic segmentation", CVPR 2018).

AffinityNet learns from the pixels where a seed is sure which cells belong together; a random walk over these affinities
then spreads the seed.
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
from baoseg.nets.base import Backbone, enlarge_cells, freeze_batch_norm, pad_to_multiple
from baoseg.refine import affinity_labels, crf, pairs, random_walk
from baoseg.refine.random_walk import Offset
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import label_image
from baoseg.training.learner import Learner

STRIDE = 8  # of PSA's ResNet-38 in its last stages


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of PSA; alphas and fixed scores are for seeds without a background map."""

    radius: int = 5  # pairs of cells are nearer than this, in training and in the walk (sec. 3.2)
    low_alpha: float = 4.0  # of the labels: PSA has 4 and 24, others 8 and 32; the released code has 4 and 32
    high_alpha: float = 24.0
    background_alpha: float = 16.0  # of the walk
    fixed_scores: bool = False  # whether the background has the same score everywhere, as TransCAM released, not alphas
    low_score: float = 0.25  # of the labels: what is background even for it is sure to be background
    high_score: float = 0.60  # of the labels: what is of a class in spite of it is sure to be of that class
    walk_score: float = 0.42
    n_labels: int | None = None  # of the CRF of label images, see `crf.Config`; alphas have one of probabilities
    learned_background: bool = True  # whether the background map of a seed, where it has one, stands for the alphas
    beta: float = 8.0  # sec. 3.3
    steps: int = 256  # of the walk: 2^logt
    power: float = 1.0  # to which maps and background are raised before the walk; of no released PSA, see irn.Config
    widths: tuple[int, int, int] = (64, 128, 256)  # channels from each of the three stages

    def __post_init__(self) -> None:
        if self.radius < 2 or not 0 < self.low_alpha <= self.high_alpha or self.background_alpha <= 0:
            raise RecipeError(f"psa: {self}; a radius of 2 or more, and alphas above 0, the low one first")
        if min(self.beta, self.power, *self.widths) <= 0 or self.steps < 0:
            raise RecipeError(f"psa: {self}; beta, power and widths above 0, steps not negative")
        if not 0 <= self.low_score <= self.high_score <= 1 or not 0 <= self.walk_score <= 1:
            raise RecipeError(f"psa: {self}; fixed scores lie in 0..1, the low one first")
        crf.Config(n_labels=self.n_labels)  # refuses what is no number of labels


def labels(image: UInt8[Tensor, "3 h w"], seed: SeedMaps, config: Config) -> UInt8[Tensor, "h w"]:
    """Labels to learn from: by the seed's background map where it has one, else by the alphas or the fixed scores.

    A fixed score is a threshold, so those labels are made as IRN makes its own (`affinity_labels.from_thresholds`).
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
    """Features of each cell, alike for cells of one class (sec. 3.2 and 4.1).

    Three stages of the backbone, each through a 1 x 1 convolution, and one more over all together; ELU after each. On
    PSA's ResNet-38 the stages have 512, 1024 and 4096 channels at stride 8. Of another backbone these are its last two
    and the last of stride 8 before them; coarser ones are enlarged. Batch norm stays as it is, as in the released code.

    Deviations from that: all layers learn, also the first; the label of a cell is that of its central pixel, where PSA
    averages CRF scores over the cell; and pairs near the borders of a crop count too (`random_walk.feature_affinity`).
    """

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__()
        strides = pairs.stage_strides(backbone)
        fine = [stage for stage, stride in enumerate(strides[:-2]) if stride <= STRIDE]
        if not fine:
            raise RecipeError(f"psa: stages of strides {strides}; the last but two must be at {STRIDE} or finer")
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
            F.elu(pairs.resize(head(stages[stage]), finest))
            for head, stage in zip(self.heads, self.stages, strict=True)
        ]
        rows, columns = (-(-side // self.stride) for side in images.shape[-2:])
        return F.elu(self.joint(torch.cat(parts, dim=1)))[..., :rows, :columns]

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Pairs of background, pairs of one class, and pairs that differ (sec. 3.2; `pairs.affinity_terms`)."""
        features = full_precision(self.features(batch.images))
        labels = pairs.labels_of(batch, features)
        return pairs.affinity_terms(pairs.means(_sums, labels, features, radius=self.config.radius))

    @torch.inference_mode()
    def walked(self, image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> SeedMaps:
        """T^t of the class maps and of the background (sec. 3.3), on the grid of the features.

        The background is the seed's own, (1 - max_s M_s)^alpha, or the fixed score. Where a side of the image is no
        multiple of the stride, the last cells reach beyond it, and the seed is on the pixels instead, without what lies
        beyond. The network is in evaluation mode afterwards.

        Raises DataError for a seed of an image of another size, or with values that are no numbers.
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
        """The mask after the walk. A seed of no class is all background."""
        return label_image(self.walked(image, seed))


def _sums(offset: Offset, labels: Int[Tensor, "b h w"], features: Float[Tensor, "b c h w"]) -> Float[Tensor, "2 3"]:
    return pairs.affinity_sums(random_walk.feature_affinity_at(features, offset), pairs.pairs_at(labels, offset))
