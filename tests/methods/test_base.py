import math

import pytest
import torch

from baoseg.methods.base import class_logits, classification_loss, refine
from baoseg.nets.grid import on_grid


def test_cells_count_from_half_a_cell_of_image(batch, valid_cells):
    maps = torch.zeros(3, 2, 3, 4)
    assert torch.equal(on_grid(batch.valid, maps)[:, 0], valid_cells)
    half = torch.ones(1, 1, 4, 8, dtype=torch.bool)
    half[..., 6:] = False
    assert on_grid(half, torch.zeros(1, 1, 1, 2)).all()


@pytest.mark.parametrize("attends", [True, False])
def test_classification_loss_is_equation_7_of_pooled_maps_and_token(make_network, batch, valid_cells, attends):
    network = make_network(attends=attends)
    features = network(batch.images)
    maps = network.class_maps(features)
    total = 0.0
    for picture in range(3):
        for s in range(4):
            z = float(maps[picture, s][valid_cells[picture]].mean().detach())
            if attends:
                z += float(features.token_logits[picture, s].detach())
            y = float(batch.labels[picture, s])
            total -= y * math.log(1 / (1 + math.exp(-z)))
            total -= (1 - y) * math.log(math.exp(-z) / (1 + math.exp(-z)))
    assert classification_loss(features, maps, batch).item() == pytest.approx(total / 12)


def test_logits_without_valid_average_the_whole_map(make_network, batch):
    network = make_network(attends=False)
    features = network(batch.images)
    maps = network.class_maps(features)
    torch.testing.assert_close(class_logits(features, maps), maps.mean(dim=(2, 3)))


def test_without_attention_refining_is_the_identity(make_network, batch):
    network = make_network(attends=False)
    features = network(batch.images)
    maps = network.class_maps(features)
    assert refine(maps, features) is maps
