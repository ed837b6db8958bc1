"""BAS on two convolutions, and means over cells, written out."""

import dataclasses

import torch
from torch import Tensor, nn

from baoseg.data.transforms import Normalisation
from baoseg.methods.bas import (
    BAS,
    Activation,
    Config,
    Relu,
)
from baoseg.nets.base import Backbone, Features, Heads, Split
from baoseg.nets.network import Network

K = 4


class TwoStages(Backbone):
    """Two convolutions, each with batch norm and ReLU: an image of 12 x 16 becomes 3 x 4 cells after the second."""

    channels = 7
    stride = 4
    normalisation = Normalisation()
    attends = False
    token_head = None

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 5, first, stride=first), nn.BatchNorm2d(5), nn.ReLU())
        last = nn.Conv2d(5, self.channels, 3, stride=4 // first, padding=1)
        self.last = nn.Sequential(last, nn.BatchNorm2d(self.channels), nn.ReLU())

    def forward(self, images: Tensor) -> Features:
        return Features(self.last(self.first(images)), None, None)

    def split(self, after: int) -> Split:
        assert after == 1
        return Split(self.first, self.last, 5)


def make(config: Config | None = None, *, first: int = 4, classes: int = K, seed: int = 0, **options) -> BAS:
    config = dataclasses.replace(config or Config(alpha=0.3, beta=0.7, weight=1.7), generator_after=1, **options)
    torch.manual_seed(seed)
    network = Network(TwoStages(first), classes, heads=BAS.heads(config))
    for name, parameter in network.named_parameters():
        if ".1." not in name:  # batch norm
            nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        network.class_head.weight.add_(0.3)  # most classes are seen, and less so in a part of the features
    for norm in (network.backbone.first[1], network.backbone.last[1]):  # as after some training
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return BAS(network.double(), config).eval()


def cells_of(maps: Tensor, cells: Tensor) -> list[tuple[int, int]]:
    """Rows and columns that count, for a map on the 3 x 4 grid or on one of half its stride."""
    factor = maps.shape[-1] // cells.shape[-1]
    return [(i, j) for i in range(maps.shape[-2]) for j in range(maps.shape[-1]) if cells[i // factor, j // factor]]


def average(values: Tensor, cells: list[tuple[int, int]]) -> Tensor:
    return sum((values[i, j] for i, j in cells), torch.zeros((), dtype=torch.float64)) / len(cells)


def slow_logits(network: Network, features: Tensor, cells: Tensor, relu: Relu) -> list[list[Tensor]]:
    """y~ or y^b of each image and class (eq. 1, 2)."""
    feature_map = network.backbone.last(features)
    rows = []
    for picture in range(len(feature_map)):
        row = []
        for index in range(network.num_classes):
            weight = network.class_head.weight[1 + index, :, 0, 0]
            class_map = (weight[:, None, None] * feature_map[picture]).sum(dim=0)
            if relu is Relu.CONFERENCE:
                class_map = class_map.clamp(min=0)
            row.append(average(class_map, cells_of(class_map, cells[picture])))
        rows.append(row)
    return rows


def slow_value(logits: list[Tensor], empty: list[Tensor], k: int, absent: list[int], activation: Activation) -> float:
    """S or S^b of class k (eq. 3), read from logits as the settings say."""
    if activation is Activation.RAW:
        value = logits[k]
    elif activation is Activation.RELATIVE or not absent:
        value = logits[k] - empty[k]
    else:
        against, nothing = (torch.log(sum(torch.exp(row[j]) for j in absent)) for row in (logits, empty))
        value = (logits[k] - against) - (empty[k] - nothing)
    return max(value.item(), 0.0)


def seeing(weights: list[list[float]]) -> Network:
    """A network of single cells: two channels are the brightness of the red and the green of a cell, logits are their
    means over the image, weighted by a row for each class."""
    network = Network(TwoStages(4), len(weights), heads=Heads(generator_after=1)).double().eval()
    with torch.no_grad():
        for convolution in (network.backbone.first[0], network.backbone.last[0]):
            convolution.weight.zero_()
            convolution.bias.zero_()
        for channel in (0, 1):
            network.backbone.first[0].weight[channel, channel] = 1 / 16
            network.backbone.last[0].weight[channel, channel, 1, 1] = 1
        network.class_head.weight.zero_()
        network.class_head.weight[1:, :2, 0, 0] = torch.tensor(weights, dtype=torch.float64)
        for norm in (network.backbone.first[1], network.backbone.last[1]):
            norm.eps = 0.0
    return network
