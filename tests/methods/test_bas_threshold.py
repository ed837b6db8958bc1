"""The threshold of each image against a search over all of them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from methods.two_stages import K, TwoStages, make, seeing, slow_logits, slow_value
from torch import Tensor

from baoseg.methods import bas
from baoseg.methods.bas import (
    BAS,
    Activation,
    Config,
    Relu,
    Threshold,
    image_threshold,
)
from baoseg.nets.network import Network


@torch.no_grad()
def slow_threshold(network: Network, image: Tensor, labels: Tensor, scores: Tensor, config: Config) -> list[float]:
    """L_bas + L_ac of each threshold, its mean over the present classes with S > 0 (fig. 22); empty without any."""
    features = network.backbone.first(image)
    everywhere = torch.ones(1, 3, 4, dtype=torch.bool)
    (whole,) = slow_logits(network, features, everywhere, config.relu)
    (empty,) = slow_logits(network, torch.zeros_like(features), everywhere, config.relu)
    absent = [k for k in range(K) if not labels[k]]
    values = {k: slow_value(whole, empty, k, absent, config.activation) for k in range(K) if labels[k]}
    seen = [k for k, value in values.items() if value > 0]
    size = 16 // features.shape[-1]
    judged = []
    for threshold in config.thresholds if seen else ():
        total = 0.0
        for k in seen:
            number = list(values).index(k)
            mask = torch.zeros(features.shape[-2:], dtype=torch.float64)
            for i, j in itertools.product(range(mask.shape[0]), range(mask.shape[1])):
                # the scores are of stride 1 here
                block = scores[number, i * size : (i + 1) * size, j * size : (j + 1) * size]
                mask[i, j] = float(block.mean() >= threshold)
            (background,) = slow_logits(network, features * (1 - mask), everywhere, config.relu)
            left = slow_value(background, empty, k, absent, config.activation)
            total += min(left / (values[k] + 1e-8), 1.0) + float(mask.mean())
        judged.append(total / len(seen))
    return judged


@pytest.mark.parametrize("first", [4, 2], ids=["one grid", "finer features"])
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("seed", range(6))
def test_threshold_is_that_of_a_search(generator, first, activation, seed):
    method = make(first=first, seed=seed, relu=list(Relu)[seed % 2], activation=activation, threshold=Threshold.IMAGE)
    assert method.chooses_threshold
    images = torch.randn(2, 3, 12, 16, generator=generator, dtype=torch.float64)
    labels = torch.tensor([1, 0, seed % 2, 1], dtype=torch.float64)
    scores = torch.rand(int(labels.sum()), 3, 4, generator=generator, dtype=torch.float64)
    scores = F.interpolate(scores[None], scale_factor=4, mode="bilinear")[0]
    judged = slow_threshold(method.network, images[:1], labels, scores, method.config)
    best = method.config.thresholds[judged.index(min(judged))] if judged else 0.123
    assert method.threshold(images, labels, scores, fixed=0.123) == best
    assert image_threshold(method.network, images[:1], labels, scores, config=method.config, fixed=0.123) == best


def test_threshold_does_not_depend_on_how_many_are_judged_together(generator, monkeypatch):
    method = make(threshold=Threshold.IMAGE)
    image = torch.randn(1, 3, 12, 16, generator=generator, dtype=torch.float64)
    labels, scores = torch.ones(K, dtype=torch.float64), torch.rand(K, 12, 16, generator=generator, dtype=torch.float64)
    found = []
    for chunk in (1, 5, 1000):
        monkeypatch.setattr(bas, "CHUNK", chunk)
        found.append(method.threshold(image, labels, scores, fixed=0.3))
    assert len(set(found)) == 1


def test_a_threshold_that_cuts_out_the_object_is_found():
    """One cell excites the class, and the map is 0.6 there, 0.4 beside it and 0 elsewhere: 0.45 to 0.6 cut it out."""
    config = Config(threshold=Threshold.IMAGE, generator_after=1)
    network = Network(TwoStages(4), 1, heads=BAS.heads(config)).double().eval()
    with torch.no_grad():
        for convolution in (network.backbone.first[0], network.backbone.last[0]):
            convolution.weight.zero_()
            convolution.bias.zero_()
        network.backbone.first[0].weight[0, 0] = 1 / 16
        network.backbone.last[0].weight[0, 0, 1, 1] = 1
        network.class_head.weight.fill_(1)
    image = torch.zeros(1, 3, 12, 16, dtype=torch.float64)
    image[:, :, 4:8, 4:8] = 1
    scores = torch.zeros(1, 3, 4, dtype=torch.float64)
    scores[0, 1, 1], scores[0, 1, 2] = 0.6, 0.4
    one = torch.ones(1, dtype=torch.float64)
    chosen = image_threshold(network, image, one, scores, config=config, fixed=0.3)
    assert chosen == pytest.approx(0.45)
    assert BAS(network, config).threshold(image, one, scores, fixed=0.3) == chosen


def test_a_class_that_is_not_seen_has_no_say_in_the_threshold():
    """Class 0 excites one cell; class 1 is present and S <= 0. With both, L_bas of class 1 is 0 at every cut, and its
    area, which falls with the threshold, would raise the cut to 0.7. Without any class that is seen: the fixed one."""
    network = seeing([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    image = torch.zeros(1, 3, 12, 16, dtype=torch.float64)
    image[:, :1, 4:8, 4:8] = 1
    scores = torch.full((2, 3, 4), 0.1, dtype=torch.float64)
    scores[0, 1, 1], scores[0, 0, 0] = 0.6, 0.2
    config = Config(generator_after=1, thresholds=(0.05, 0.4, 0.7))
    labels = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    unseen = scores[1:].clone()
    scores[1] = 0.65  # everywhere: at 0.4 all of the image, at 0.7 nothing
    assert image_threshold(network, image, labels, scores, config=config, fixed=0.3) == 0.4
    alone = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert image_threshold(network, image, alone, unseen, config=config, fixed=0.3) == 0.3
    assert image_threshold(network, image, alone, unseen, config=config, fixed=0.25) == 0.25
