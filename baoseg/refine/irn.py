"""IRN: inter-pixel relations (Ahn, Cho and Kwak, "Weakly supervised learning of instance segmentation with inter-pixel
relations", CVPR 2019).

IRNet learns from the pixels where a seed is sure where classes border on one another, and beside it in which direction
the middle of an object lies. A random walk that does not cross the boundaries then spreads the seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from baoseg import seeds
from baoseg.core.errors import RecipeError
from baoseg.core.types import Batch, full_precision
from baoseg.data.transforms import normalise
from baoseg.nets.base import Backbone, pad_to_multiple
from baoseg.refine import affinity_labels, pairs, random_walk
from baoseg.refine.random_walk import HERE, Offset, within
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import label_image
from baoseg.training.learner import Learner

STRIDE = 4  # of the boundary map and the displacement field


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of IRN; the thresholds are for seeds without a background map."""

    radius: int = 10  # pairs of cells in training are nearer than this (sec. 4.2)
    background: float = 0.05  # of the labels, see `affinity_labels.from_thresholds`; as released
    foreground: float = 0.30
    threshold: float = 0.25  # of the mask after the walk; as released
    learned_background: bool = True  # whether the background map of a seed, where it has one, stands for thresholds
    walk_radius: int = 5
    beta: float = 10.0  # sec. 5
    steps: int = 256  # of the walk: 2^8
    power: float = 1.0  # to which the maps are raised before the walk; released: 1 in IRN, 1.3 in AMN, 1.5 in BAS

    def __post_init__(self) -> None:
        if not 0 <= self.background <= self.foreground <= 1 or not 0 <= self.threshold <= 1:
            raise RecipeError(f"irn: {self}; thresholds lie in 0..1, that of the background below that of the classes")
        if self.radius < 2 or self.walk_radius < 1 or min(self.beta, self.power) <= 0 or self.steps < 0:
            raise RecipeError(f"irn: {self}; a radius of 2 or more, beta and power above 0, steps not negative")


def labels(image: UInt8[Tensor, "3 h w"], seed: SeedMaps, config: Config) -> UInt8[Tensor, "h w"]:
    """Labels to learn from: by the seed's background map where it has one, else by the two thresholds."""
    if config.learned_background and seed.background is not None:
        return affinity_labels.from_background(image, seed)
    return affinity_labels.from_thresholds(image, seed, background=config.background, foreground=config.foreground)


class IRNet(Learner):
    """Class boundary map and displacement field: two branches on the stages of a frozen backbone (sec. 4.1).

    On ResNet-50 the stages are IRN's five. Of another backbone they are all from stride 2 on; those of stride 2 are
    pooled to 4, as in IRN's ResNet.

    Deviations from the released code: no running mean is taken off the displacements at inference, which instances
    need and class masks do not; padding is left out of the losses; pairs near the borders of a crop count too.
    """

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__()
        strides = pairs.stage_strides(backbone)
        self.read = [stage for stage, stride in enumerate(strides) if stride >= STRIDE // 2]
        self.pooled = sum(strides[stage] < STRIDE for stage in self.read)
        fine = sum(strides[stage] <= STRIDE for stage in self.read)
        if not 0 < fine < len(self.read):
            raise RecipeError(
                f"irn: stages of strides {strides}; it reads one of {STRIDE // 2} or {STRIDE}, and coarser ones"
            )
        channels = [backbone.stage_channels[stage] for stage in self.read]
        self.backbone = backbone.requires_grad_(False).eval()
        self.boundary = Boundary(channels)
        self.displacement = Displacement(channels, pooled=self.pooled, fine=fine)
        self.config = config

    def train(self, mode: bool = True) -> "IRNet":
        super().train(mode)
        self.backbone.eval()
        return self

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the displacement field: IRN trains them ten times as fast as the boundaries, and nothing else."""
        return self.displacement.parameters()

    def fields(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b 2 h w"]]:
        """Logits of the boundary map B, and the displacements D (rows, columns), on a grid of ceil(image / 4)."""
        stages = self._stages(images)
        rows, columns = (-(-side // STRIDE) for side in images.shape[-2:])
        return self.boundary(stages)[:, 0, :rows, :columns], self.displacement(stages)[..., :rows, :columns]

    @torch.no_grad()
    def _stages(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        stages = self.backbone.stages(images)
        stages = [stages[stage] for stage in self.read]
        pooled = [F.max_pool2d(stage, 3, stride=2, padding=1) for stage in stages[: self.pooled]]
        return pooled + stages[self.pooled :]

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Boundaries by the affinities of pairs (sec. 4.4), and displacements by pairs that are alike (sec. 4.3).

        All halved, as released: boundaries by `pairs.affinity_terms`; D_i - D_j is the way from i to j for pairs of one
        class, and nothing for pairs of background, each the mean error of a coordinate.
        """
        logits, displacement = self.fields(batch.images)
        labels = pairs.labels_of(batch, displacement)
        edge = full_precision(logits).sigmoid()
        means = pairs.means(_sums, labels, edge, full_precision(displacement), radius=self.config.radius)
        own = {"displacement_foreground": means[3] / 2, "displacement_background": means[4] / 2}
        return pairs.affinity_terms(means[:3]) | own

    @torch.inference_mode()
    def edge(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w"]:
        """B in [0, 1]: the sigmoid of the mean logits of the image and its mirror image, as released."""
        device = self.boundary.joint.weight.device
        inputs = normalise(image.to(device), self.backbone.normalisation)
        inputs = pad_to_multiple(inputs[None], STRIDE)  # so that the cells of both lie on one another
        logits, _ = self.fields(torch.cat([inputs, inputs.flip(-1)]))
        return ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()

    @torch.inference_mode()
    def walked(self, image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> SeedMaps:
        """The class maps, and the background where the seed has one, spread up to the boundaries (sec. 5).

        The maps go to the power first, on the grid of the boundary map; after the walk they are divided by the maximum
        of all channels, in the released code by that of the enlarged maps. A seed without a background is cut at
        `Config.threshold`. Where a side of the image is no multiple of 4, seed and boundaries lie up to a cell apart
        at its far end, as in the released code.

        Raises DataError for a seed of an image of another size, or with values that are no numbers.
        """
        affinity_labels.check(image, seed)
        config = self.config
        background = seed.background if config.learned_background else None
        if background is None and len(seed.classes) == 0:
            return SeedMaps(seed.classes, seed.scores, None, seed.size, config.threshold)  # nothing to spread
        maps = seed.scores if background is None else torch.cat([background[None], seed.scores])
        edge = self.edge(image)
        maps = random_walk.powered(seeds.resize(maps, (edge.shape[0], edge.shape[1])).to(edge), config.power)
        maps = random_walk.propagate_to_edge(
            maps, edge, radius=config.walk_radius, beta=config.beta, steps=config.steps
        ).cpu()
        maps = maps / maps.max().clamp(min=torch.finfo(maps.dtype).tiny)
        if background is None:
            return SeedMaps(seed.classes, maps, None, seed.size, config.threshold)
        return SeedMaps(seed.classes, maps[1:], maps[0], seed.size)

    def refine(self, image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> UInt8[Tensor, "h w"]:
        """The mask after the walk. A seed of no class is all background."""
        return label_image(self.walked(image, seed))


class Boundary(nn.Module):
    """Logits of the boundary map from stages, fine to coarse, on the grid of the first."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_layer(count, 32, groups=4) for count in channels)
        self.joint = nn.Conv2d(32 * len(channels), 1, 1)

    def forward(self, stages: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b 1 h w"]:
        logits: Tensor = self.joint(_joined(self.stages, stages))
        return logits


class Displacement(nn.Module):
    """The displacement field from stages, fine to coarse: those coarser than the grid are joined on theirs first.

    The first `fine` stages are on the grid of the field, `pooled` of these were brought to it.
    """

    def __init__(self, channels: list[int], *, pooled: int, fine: int) -> None:
        super().__init__()
        widths = [64] * pooled + [128] * (fine - pooled) + [256] * (len(channels) - fine)
        layers = [_layer(*sizes, groups=min(sizes[1] // 8, 16)) for sizes in zip(channels, widths, strict=True)]
        self.fine, self.coarse = nn.ModuleList(layers[:fine]), nn.ModuleList(layers[fine:])
        self.coarse_joint = _layer(sum(widths[fine:]), 256, groups=16)
        self.joint = nn.Sequential(
            _layer(sum(widths[:fine]) + 256, 256, groups=16), nn.ReLU(), nn.Conv2d(256, 2, 1, bias=False)
        )

    def forward(self, stages: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b 2 h w"]:
        fine = _joined(self.fine, stages[: len(self.fine)])
        coarse = self.coarse_joint(_joined(self.coarse, stages[len(self.fine) :]))
        field: Tensor = self.joint(torch.cat([fine, pairs.resize(coarse, fine).relu()], dim=1))
        return field


def _layer(channels: int, width: int, *, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width))


def _joined(layers: nn.ModuleList, stages: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
    """Each stage through its layer, enlarged to the first of them, rectified; all together."""
    outputs = [layer(stage) for layer, stage in zip(layers, stages, strict=True)]
    return torch.cat([pairs.resize(output, outputs[0]).relu() for output in outputs], dim=1)


def _sums(
    offset: Offset,
    labels: Int[Tensor, "b h w"],
    edge: Float[Tensor, "b h w"],
    displacement: Float[Tensor, "b 2 h w"],
) -> Float[Tensor, "2 5"]:
    kinds = pairs.pairs_at(labels, offset)
    affinity = pairs.affinity_sums(random_walk.edge_affinity_at(edge, offset), kinds)
    moved = within(displacement, offset, HERE) - within(displacement, offset, offset)
    errors = (moved - moved.new_tensor(offset)[:, None, None]).abs().sum(dim=1)
    sums = torch.stack([(errors * kinds.foreground).sum(), (moved.abs().sum(dim=1) * kinds.background).sum()])
    coordinates = 2 * torch.stack([kinds.foreground.sum(), kinds.background.sum()])
    return torch.cat([affinity, torch.stack([sums, coordinates])], dim=1)
