"""CAM and TransCAM: the same network, trained the same way; the maps differ by the attention alone."""

import pytest
import torch

from baoseg.methods import cam, transcam


@pytest.fixture(params=[True, False], ids=["attention", "no attention"])
def pair(request, make_network):
    network = make_network(attends=request.param)
    return cam.CAM(network, cam.Config()), transcam.TransCAM(network, transcam.Config())


def test_class_maps_are_the_weighted_features(make_network, batch):
    """M_s = w_s . f (BAO eq. 1), w_0 being the background's and left out."""
    network = make_network()
    maps = cam.CAM(network, cam.Config()).maps(batch.images, batch.labels)
    weights, features = network.class_head.weight[:, :, 0, 0], network(batch.images).map
    for s in range(4):
        expected = sum(weights[s + 1, channel] * features[:, channel] for channel in range(6))
        torch.testing.assert_close(maps.scores[:, s], expected)
    assert maps.background is None


def test_transcam_spreads_the_maps_of_cam(pair, batch):
    """M* = A* M with A* written out (eq. 2-5)."""
    plain, refined = (method.maps(batch.images, batch.labels).scores for method in pair)
    attention = pair[0].network(batch.images).attention
    if attention is None:
        assert torch.equal(refined, plain)
        return
    star = torch.zeros(3, 13, 13, dtype=torch.float64)
    for queries, keys in zip(attention.queries, attention.keys, strict=True):
        star = star + (queries @ keys.transpose(2, 3) / 5**0.5).softmax(dim=3).mean(dim=1)
    expected = plain.flatten(2) @ star[:, 1:, 1:].transpose(1, 2)
    torch.testing.assert_close(refined.flatten(2), expected)


def test_both_are_trained_the_same_way(pair, batch):
    first, second = (method.loss(batch) for method in pair)
    assert first.keys() == second.keys() == {"classification"}
    assert torch.equal(first["classification"], second["classification"])


def test_classify_needs_neither_labels_nor_padding(pair, batch):
    network = pair[0].network.eval()
    features = network(batch.images)
    expected = network.class_maps(features).mean(dim=(2, 3))
    if features.token_logits is not None:
        expected = expected + features.token_logits
    for method in pair:
        torch.testing.assert_close(method.classify(batch.images), expected)
