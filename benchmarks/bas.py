"""A training step of BAS beside one of its classification loss alone: ResNet-50, 448 crops, forward, backward, update.

    python benchmarks/bas.py [--json FILE]

The steps alternate in one process, so that a busy machine slows both; the ratio is that of the medians.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from figures import publish

from baoseg import losses, nets
from baoseg.methods import Method, bas, heads_of, make
from baoseg.methods.base import on_grid
from baoseg.train import Config, Optimizer, make_optimizer
from baoseg.types import Batch

CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    backbone: str = "timm:resnet50"
    side: int = 448
    batch_size: int = 2
    rounds: int = 5
    json: Path | None = None


class Classifier(Method):
    """Eq. 9 alone, on the same network."""

    def __init__(self, network: nets.Network) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        class_maps = self.network.class_maps(self.network(batch.images))
        logits = losses.pool(class_maps, on_grid(batch.valid, class_maps))
        return {"classification": bas.multilabel_softmax(logits, batch.labels)}


def step(method: Method, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    start = time.perf_counter()
    torch.stack(list(method(batch).values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def main(options: Options) -> None:
    schedule = Config(epochs=1, batch_size=options.batch_size, lr=0.005, optimizer=Optimizer.SGD)
    images = torch.randn(options.batch_size, 3, options.side, options.side)
    labels = (torch.arange(CLASSES) % 10 == 3).float().expand(options.batch_size, -1)
    batch = Batch(images, labels, torch.ones(options.batch_size, 1, options.side, options.side, dtype=torch.bool))
    settings = bas.Config()
    config = nets.Config(backbone=options.backbone)
    plain = Classifier(nets.build(config, CLASSES))
    full = make(settings, nets.build(config, CLASSES, heads=heads_of(settings)))
    runs = {
        name: (method.train(), make_optimizer(method, schedule)) for name, method in [("plain", plain), ("BAS", full)]
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, (method, optimizer) in runs.items():
            spent = step(method, optimizer, batch)
            if number > 0:
                seconds[name].append(spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures = {"seconds": medians, "ratio": medians["BAS"] / medians["plain"], "threads": torch.get_num_threads()}
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
