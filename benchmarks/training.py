"""A training step of BAO beside one of TransCAM: Conformer-S, 512 crops, forward, backward and optimiser.

    python benchmarks/training.py [--json FILE]

The steps alternate in one process, so that a busy machine slows both; the ratio is that of the medians.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from figures import publish

from baoseg import nets
from baoseg.methods import Method, Progress, bao, heads_of, make, transcam
from baoseg.train import Config, parameter_groups
from baoseg.types import Batch

CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    side: int = 512
    batch_size: int = 2
    rounds: int = 3
    json: Path | None = None


def step(method: Method, optimizer: torch.optim.Optimizer, batch: Batch, progress: Progress) -> float:
    start = time.perf_counter()
    torch.stack(list(method(batch).values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    method.after_step(progress)
    return time.perf_counter() - start


def main(options: Options) -> None:
    schedule = Config(epochs=1, batch_size=options.batch_size)
    images = torch.randn(options.batch_size, 3, options.side, options.side)
    labels = (torch.arange(CLASSES) % 10 == 3).float().expand(options.batch_size, -1)
    batch = Batch(images, labels, torch.ones(options.batch_size, 1, options.side, options.side, dtype=torch.bool))
    runs = {}
    for settings in (transcam.Config(), bao.Config()):
        network = nets.build(nets.Config(), CLASSES, heads=heads_of(settings))
        method = make(settings, network)
        method.begin_training()
        method.train()
        runs[type(method).__name__] = (method, torch.optim.AdamW(parameter_groups(method, schedule)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, (method, optimizer) in runs.items():
            # the second half of a run: the target follows by EMA
            spent = step(method, optimizer, batch, Progress(step=60 + number, steps=100, steps_per_epoch=10))
            if number > 0:
                seconds[name].append(spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures = {"seconds": medians, "ratio": medians["BAO"] / medians["TransCAM"], "threads": torch.get_num_threads()}
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
