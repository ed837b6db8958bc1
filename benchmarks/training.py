"""Training steps of TransCAM, BNR and BAO on Conformer-S, 512 crops: ours beside the published way.

    python benchmarks/training.py [--json FILE]

Forward, backward, optimiser, and for BAO the target's following; the optimiser is the same. Memory is what a step adds
once the optimiser has its state. The losses of the first step are checked to be equal.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import published
import torch
import tyro
from figures import Result, compare, publish_results, tflop, with_about, with_work
from torch import Tensor

from baoseg import nets
from baoseg.core.types import Batch
from baoseg.methods import Settings, bao, bnr, heads_of, make, transcam
from baoseg.training.learner import Progress
from baoseg.training.train import Config, make_optimizer

CLASSES = 20
SETTINGS: dict[str, Settings] = {"TransCAM": transcam.Config(), "BNR": bnr.Config(), "BAO": bao.Config()}
LATER = Progress(step=60, steps=100, steps_per_epoch=10)  # in the second half of a run the target follows by EMA
LARGEST_DIFFERENCE = 1e-4  # relative


@dataclass(frozen=True, kw_only=True)
class Options:
    methods: tuple[str, ...] = tuple(SETTINGS)
    backbone: str = "conformer_small"
    side: int = 512
    batch_size: int = 2
    rounds: int = 2
    device: str = "cpu"
    json: Path | None = None


def random_batch(options: Options) -> Batch:
    size, side = options.batch_size, options.side
    images = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(CLASSES) % 10 == 3).float().expand(size, -1)
    return Batch(images, labels, torch.ones(size, 1, side, side, dtype=torch.bool)).to(torch.device(options.device))


def network(settings: Settings, options: Options) -> nets.Network:
    """Without dropped paths, which are drawn and would make the losses differ."""
    config = nets.Config(backbone=options.backbone, options=(("drop_path", 0.0),))
    return nets.build(config, CLASSES, heads=heads_of(settings)).to(options.device)


def optimizer_of(learner: torch.nn.Module) -> torch.optim.Optimizer:
    """With its state: after a step of gradients that are zero."""
    optimizer = make_optimizer(learner, Config(epochs=1, batch_size=1))
    for parameter in learner.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, follow: Callable[[], None]) -> Tensor:
    value = loss()
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    follow()
    return value.detach()


def ours(settings: Settings, options: Options) -> Callable[[], Tensor]:
    batch, method = random_batch(options), make(settings, network(settings, options))
    method.begin_training()
    method.train()
    return functools.partial(
        step,
        lambda: torch.stack(list(method(batch).values())).sum(),
        optimizer_of(method),
        lambda: method.after_step(LATER),
    )


def the_published_way(settings: Settings, options: Options) -> Callable[[], Tensor]:
    batch, online = random_batch(options), network(settings, options).train()
    target = copy.deepcopy(online).requires_grad_(False).eval()
    losses = {
        transcam.Config: lambda: published.transcam(online, batch),
        bnr.Config: lambda: published.bnr(online, batch),
        bao.Config: lambda: published.bao(online, target, batch),
    }
    follow = {bao.Config: lambda: published.average(target, online, momentum=0.9995)}
    return functools.partial(
        step, losses[type(settings)], optimizer_of(online), follow.get(type(settings), lambda: None)
    )


RUNS = {"ours": ours, "published": the_published_way}


def prepare(way: str, options: Options) -> Callable[[], list[float]]:
    """A step of the one method that the options name; gives the losses of all steps so far."""
    (name,) = options.methods
    run, losses = RUNS[way](SETTINGS[name], options), []

    def following() -> Sequence[float]:
        losses.append(float(run()))
        return losses

    return following


def compared(options: Options) -> Result:
    result, losses = compare(prepare, options, rounds=options.rounds)
    (first, *_), (expected, *_) = losses["ours"], losses["published"]
    if abs(first - expected) > LARGEST_DIFFERENCE * abs(expected):
        raise SystemExit(f"{options.methods[0]}: a loss of {first}, and {expected} in the published way")
    result = with_work(result, tflop=tflop(prepare("ours", options)))
    return with_about(result, loss=first, loss_of_the_published_way=expected)


def main(options: Options) -> None:
    results = {name: compared(replace(options, methods=(name,))) for name in options.methods}
    if {"BAO", "TransCAM"} <= results.keys():
        share = results["BAO"].seconds["ours"] / results["TransCAM"].seconds["ours"]
        results["BAO"] = with_about(results["BAO"], of_a_step_of_transcam=share)
    what = f"{options.backbone}, {options.batch_size} crops of {options.side}"
    publish_results({f"training step of {name}, {what}": result for name, result in results.items()}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
