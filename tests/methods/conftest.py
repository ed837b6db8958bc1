"""A small network whose every part can be followed by hand."""

from collections.abc import Callable

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from baoseg.core.types import Batch
from baoseg.data.transforms import Normalisation
from baoseg.nets.attention import Attention
from baoseg.nets.base import Backbone, Features, Heads
from baoseg.nets.network import Network

CLASSES = 4
STRIDE = 4


class SmallBackbone(Backbone):
    """A convolution of stride 4 as feature map; with attention two blocks of two heads and a class token on it."""

    channels = 6
    stride = STRIDE
    normalisation = Normalisation()

    def __init__(self, *, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        self.features = nn.Conv2d(3, self.channels, STRIDE, stride=STRIDE)
        self.norm = nn.BatchNorm2d(self.channels)
        self.class_token = nn.Parameter(torch.randn(1, 1, self.channels))
        self.token_head = nn.Linear(self.channels, CLASSES)
        self.projections = nn.ModuleList(nn.Linear(self.channels, 4 * 5) for _ in range(2))

    def forward(self, images: Tensor, *, spreads: bool = False) -> Features:
        feature_map = self.norm(self.features(images))
        if not self.attends:
            return Features(feature_map, None, None)
        tokens = rearrange(feature_map, "b c h w -> b (h w) c")
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1)
        pairs = [
            rearrange(projection(tokens), "b n (two heads d) -> two b heads n d", two=2, heads=2)
            for projection in self.projections
        ]
        queries, keys = zip(*pairs, strict=True)
        grid = (feature_map.shape[2], feature_map.shape[3])
        attention = Attention(queries, keys, scale=5**-0.5, prefix=1, grid=grid)
        return Features(feature_map, self.token_head(tokens[:, 1:].mean(dim=1)), attention)


@pytest.fixture
def make_network() -> Callable[..., Network]:
    def make(*, attends: bool = True, heads: Heads | None = None, seed: int = 0) -> Network:
        torch.manual_seed(seed)
        network = Network(SmallBackbone(attends=attends), CLASSES, heads=heads)
        for name, parameter in network.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=0.5)
        return network.double()

    return make


@pytest.fixture
def batch(generator: torch.Generator) -> Batch:
    """Three images of 12 x 16, grid 3 x 4: one whole, one with padding at the right, one with half a cell below."""
    images = torch.randn(3, 3, 12, 16, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.float64)
    valid = torch.ones(3, 1, 12, 16, dtype=torch.bool)
    valid[1, :, :, 7:] = False  # the second column of cells is image to three quarters: valid
    valid[2, :, 9:, :] = False  # the last row of cells is image to a quarter: padding
    images = images.masked_fill(~valid, 5.0)  # padding that would be heard if it counted
    return Batch(images, labels, valid)


@pytest.fixture
def valid_cells() -> Tensor:
    """What `batch.valid` is on the 3 x 4 grid, worked out by hand."""
    cells = torch.ones(3, 3, 4, dtype=torch.bool)
    cells[1, :, 2:] = False
    cells[2, 2, :] = False
    return cells
