"""A training step of BAS, ResNet-50, 448 crops: ours beside the published way, and beside the classification alone.

    python benchmarks/bas.py [--json FILE]

Forward, backward and optimiser, which is the same. The losses of the first step are checked to be equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import published
import torch
import training
import tyro
from figures import compare, publish_results, tflop, with_about, with_work
from torch import Tensor

from baoseg import nets
from baoseg.core.types import Batch
from baoseg.methods import Method, bas, heads_of, make
from baoseg.nets.grid import on_grid
from baoseg.training import losses

CLASSIFICATION = "classification alone"
WAYS = ("ours", "published", CLASSIFICATION)


@dataclass(frozen=True, kw_only=True)
class Options:
    backbone: str = "timm:resnet50"
    side: int = 448
    batch_size: int = 2
    rounds: int = 3
    device: str = "cpu"
    json: Path | None = None


class Classifier(Method):
    """Eq. 9 alone, on the same network."""

    def __init__(self, network: nets.Network) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        class_maps = self.network.class_maps(self.network(batch.images))
        logits = losses.pool(class_maps, on_grid(batch.valid, class_maps))
        return {"classification": bas.multilabel_softmax(logits, batch.labels)}


def prepare(way: str, options: Options) -> Callable[[], Sequence[float]]:
    """A step; gives the losses of all steps so far."""
    shape = training.Options(side=options.side, batch_size=options.batch_size, device=options.device)
    batch, settings = training.random_batch(shape), bas.Config()
    network = nets.build(nets.Config(backbone=options.backbone), training.CLASSES, heads=heads_of(settings))
    network = network.to(options.device).train()
    learners = {"ours": make(settings, network), "published": network, CLASSIFICATION: Classifier(network)}
    learner = learners[way].train()
    optimizer = training.optimizer_of(learner)
    values: list[float] = []

    def loss() -> Tensor:
        torch.manual_seed(0)  # which of an image's classes is drawn
        return published.bas(network, batch) if way == "published" else torch.stack([*learner(batch).values()]).sum()

    def following() -> Sequence[float]:
        values.append(float(training.step(loss, optimizer, lambda: None)))
        return values

    return following


def main(options: Options) -> None:
    result, values = compare(prepare, options, rounds=options.rounds, ways=WAYS)
    first, expected = values["ours"][0], values["published"][0]
    if abs(first - expected) > training.LARGEST_DIFFERENCE * abs(expected):
        raise SystemExit(f"a loss of {first}, and {expected} in the published way")
    result = with_work(result, tflop=tflop(prepare("ours", options)))
    share = result.seconds["ours"] / result.seconds[CLASSIFICATION]
    result = with_about(result, of_a_step_of_classification=share, loss=first, loss_of_the_published_way=expected)
    what = f"{options.backbone.removeprefix('timm:')}, {options.batch_size} crops of {options.side}"
    publish_results({f"training step of BAS, {what}": result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
