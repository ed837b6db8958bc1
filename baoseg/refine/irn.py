"""IRN: inter-pixel relations (Ahn, Cho and Kwak, "Weakly supervised learning of instance segmentation with inter-pixel
relations", CVPR 2019).

IRNet learns, from the pixels where the seed is certain, the boundaries between classes, and the displacement of each
cell from the centre of its object. A random walk that does not cross the boundaries then spreads the seed.
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
from baoseg.nets.base import Backbone, pad_to_multiple, resize
from baoseg.refine import affinity_labels, pairs, random_walk
from baoseg.refine.random_walk import HERE, Offset, within
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import to_mask
from baoseg.training.learner import Learner

STRIDE = 4  # of the boundary map and the displacement field


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of IRN. The thresholds apply to seeds without a background map."""

    radius: int = 10  # largest distance of pairs of cells in training (exclusive; sec. 4.2)
    background: float = 0.05  # for the labels, see `affinity_labels.from_thresholds`; as in the released code
    foreground: float = 0.30
    threshold: float = 0.25  # for the mask after the walk; as in the released code
    learned_background: bool = True  # use the background map of a seed, if it has one, instead of thresholds
    walk_radius: int = 5
    beta: float = 10.0  # sec. 5
    steps: int = 256  # of the walk: 2^8
    power: float = 1.0  # exponent of the maps before the walk; in the released code 1 (IRN), 1.3 (AMN), 1.5 (BAS)

    def __post_init__(self) -> None:
        if not 0 <= self.background <= self.foreground <= 1 or not 0 <= self.threshold <= 1:
            raise RecipeError(f"irn: {self}; use thresholds in 0..1, that of the background below that of the classes")
        if self.radius < 2 or self.walk_radius < 1 or min(self.beta, self.power) <= 0 or self.steps < 0:
            raise RecipeError(f"irn: {self}; use a radius of at least 2, beta and power above 0, steps of at least 0")


def labels(image: UInt8[Tensor, "3 h w"], seed: SeedMaps, config: Config) -> UInt8[Tensor, "h w"]:
    """Pixel labels [h w] to learn from: by the background map of the seed, or without one by the two thresholds."""
    if config.learned_background and seed.background is not None:
        return affinity_labels.from_background(image, seed)
    return affinity_labels.from_thresholds(image, seed, background=config.background, foreground=config.foreground)


class IRNet(Learner):
    """A class boundary map and a displacement field: two branches on the stages of a frozen backbone (sec. 4.1).

    On ResNet-50, the stages are the five of IRN. On other backbones, they are all stages from stride 2 on; stages of
    stride 2 are pooled to 4, as in IRN.

    Deviations from the released code: no running mean is subtracted from the displacements at inference (only instances
    need this); padding does not count in the losses; pairs near the borders of a crop count.
    """

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__()
        strides = pairs.stage_strides(backbone)
        self.read = [stage for stage, stride in enumerate(strides) if stride >= STRIDE // 2]
        self.pooled = sum(strides[stage] < STRIDE for stage in self.read)
        fine = sum(strides[stage] <= STRIDE for stage in self.read)
        if not 0 < fine < len(self.read):
            raise RecipeError(
                f"irn: stages of strides {strides}; it needs a stage of {STRIDE // 2} or {STRIDE}, and coarser stages"
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
        """The parameters of the displacement field; in IRN, their learning rate is ten times that of the boundaries."""
        return self.displacement.parameters()

    def fields(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b 2 h w"]]:
        """Logits of the boundary map B, and displacements D (rows, columns) in cells, on a grid of ceil(image / 4)."""
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
        """The terms of the boundaries (sec. 4.4) and of the displacements (sec. 4.3).

        Boundaries learn from the affinities of pairs (`pairs.affinity_terms`). For displacements, D_i - D_j is the
        offset from i to j for pairs of one class, and 0 for pairs of background; the loss is the mean absolute error of
        a coordinate. All terms are halved, as in the released code.
        """
        logits, displacement = self.fields(batch.images)
        labels = pairs.labels_of(batch, displacement)
        edge = full_precision(logits).sigmoid()
        means = pairs.means(_sums, labels, edge, full_precision(displacement), radius=self.config.radius)
        own = {"displacement_foreground": means[3] / 2, "displacement_background": means[4] / 2}
        return pairs.affinity_terms(means[:3]) | own

    @torch.inference_mode()
    def edge(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w"]:
        """B in [0, 1] on the grid: the sigmoid of the mean logits of the image and its mirror image, as released."""
        device = self.boundary.joint.weight.device
        inputs = normalise(image.to(device), self.backbone.normalisation)
        inputs = pad_to_multiple(inputs[None], STRIDE)  # so that the cells of image and mirror image coincide
        logits, _ = self.fields(torch.cat([inputs, inputs.flip(-1)]))
        return ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()

    @torch.inference_mode()
    def walked(self, image: UInt8[Tensor, "3 h w"], seed: SeedMaps) -> SeedMaps:
        """The class maps, and the background map of the seed if it has one, after the random walk (sec. 5).

        Before the walk, the maps are raised to `Config.power` on the grid of the boundary map. Afterwards they are
        divided by the maximum of all channels (in the released code, by the maximum of the enlarged maps). A seed
        without a background map gets the threshold `Config.threshold`. If a side of the image is not a multiple of 4,
        seed and boundaries are shifted by up to a cell at the right and lower border, as in the released code.

        Raises DataError if the size of the seed is not that of the image, or if it has values NaN or infinite.
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
        """The mask after the walk. A seed without classes gives background everywhere."""
        return to_mask(self.walked(image, seed))


class Boundary(nn.Module):
    """Computes logits of the boundary map from stages (fine to coarse), on the grid of the first stage."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_layer(count, 32, groups=4) for count in channels)
        self.joint = nn.Conv2d(32 * len(channels), 1, 1)

    def forward(self, stages: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b 1 h w"]:
        logits: Tensor = self.joint(_joined(self.stages, stages))
        return logits


class Displacement(nn.Module):
    """Computes the displacement field from stages (fine to coarse); stages coarser than the grid are joined first.

    The first `fine` stages are on the grid of the field; `pooled` of them were pooled to it.
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
        field: Tensor = self.joint(torch.cat([fine, resize(coarse, fine.shape[-2:]).relu()], dim=1))
        return field


def _layer(channels: int, width: int, *, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width))


def _joined(layers: nn.ModuleList, stages: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
    """All stages through their layers, enlarged to the first stage, with a ReLU, concatenated."""
    outputs = [layer(stage) for layer, stage in zip(layers, stages, strict=True)]
    return torch.cat([resize(output, outputs[0].shape[-2:]).relu() for output in outputs], dim=1)


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
