"""The training loop of all stages, with its schedule and hardware settings."""

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader

from baoseg.core import progress
from baoseg.core.errors import RecipeError, RunError
from baoseg.core.files import csv_of, write_csv, write_tensors
from baoseg.core.run_folder import StageFolder
from baoseg.data import EpochSampler, TrainSet, batches, collate
from baoseg.training import guards
from baoseg.training.learner import Learner, Progress


class Decay(StrEnum):
    """The decrease of the learning rate; progress is the share of finished steps."""

    CONSTANT = "constant"
    POLY = "poly"  # (1 - progress) ** 0.9
    COSINE = "cosine"


class Optimizer(StrEnum):
    """The optimiser of a stage."""

    ADAMW = "adamw"  # TransCAM, BNR and BAO
    SGD = "sgd"


RANKS_APART = 1 << 32  # difference of the random seeds of two ranks


@dataclass(frozen=True, kw_only=True)
class Config:
    """The schedule of one stage."""

    epochs: int
    batch_size: int
    lr: float = 5e-5
    head_lr: float | None = None  # of the heads, which start untrained; None: as `lr`
    optimizer: Optimizer = Optimizer.ADAMW
    momentum: float = 0.9  # of SGD
    weight_decay: float = 5e-4
    decay: Decay = Decay.CONSTANT
    warmup: float = 0.0  # share of the steps in which the rate increases from 0

    def __post_init__(self) -> None:
        rates = (self.lr, self.lr if self.head_lr is None else self.head_lr)
        if min(self.epochs, self.batch_size) < 1 or not all(0 < rate < math.inf for rate in rates):
            raise RecipeError(
                f"{self.epochs} epochs, batches of {self.batch_size}, learning rates {rates[0]:g} and {rates[1]:g}; "
                "use numbers above 0"
            )
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"a momentum of {self.momentum:g}; choose a value from 0 to less than 1")
        if not (0 <= self.warmup < 1 and 0 <= self.weight_decay < math.inf):
            raise RecipeError(
                f"a warm-up of {self.warmup:g} and a weight decay of {self.weight_decay:g}; choose a warm-up "
                "(a share of the steps) from 0 to less than 1, and a weight decay of at least 0"
            )

    def rate(self, progress: float) -> float:
        """The factor of the learning rates at a `progress` in [0, 1), the share of finished steps."""
        if progress < self.warmup:
            return progress / self.warmup
        match self.decay:
            case Decay.POLY:
                return (1 - progress) ** 0.9
            case Decay.COSINE:
                return 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0


def sgd(
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float = Config.momentum,
    weight_decay: float = Config.weight_decay,
) -> Config:
    """SGD with a polynomial decay and ten times the rate for the heads, as the released code of most papers has it."""
    return Config(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        head_lr=10 * lr,
        optimizer=Optimizer.SGD,
        momentum=momentum,
        weight_decay=weight_decay,
        decay=Decay.POLY,
    )


def rescheduled(schedule: Config, *, epochs: int | None, batch_size: int | None, lr: float | None) -> Config:
    """The schedule with the given values (None: unchanged); the rate of the heads keeps its ratio to `lr`."""
    head_lr = schedule.head_lr
    if lr is not None and head_lr is not None:
        head_lr = lr * head_lr / schedule.lr
    return replace(
        schedule,
        epochs=schedule.epochs if epochs is None else epochs,
        batch_size=schedule.batch_size if batch_size is None else batch_size,
        lr=schedule.lr if lr is None else lr,
        head_lr=head_lr,
    )


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The hardware to compute on; not part of a recipe. The batches of a recipe are divided over all devices."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    workers: int = 2  # worker processes that load images, per device
    devices: int = 1  # per machine
    nodes: int = 1  # machines; each runs the same command under torchrun or SLURM
    accumulate: int = 1  # gradient accumulation: parts of a batch that are computed one after the other

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise RecipeError(f"--workers {self.workers}: give 0 (load in the main process) or more")
        if min(self.devices, self.nodes, self.accumulate) < 1:
            raise RecipeError(
                f"--devices {self.devices} --nodes {self.nodes} --accumulate {self.accumulate}: give 1 or more of each"
            )

    @property
    def more_stable(self) -> str:
        """How to fix a training that diverges."""
        single = "" if self.precision == "32-true" else ", or --precision 32-true, whose numbers have a wider range"
        return f"use a smaller learning rate (--lr){single}"

    def fabric(self) -> Fabric:
        """The Fabric for these settings. With several devices, the first call starts their processes.

        Raises RecipeError if the machine does not have these devices.
        """
        # as on one device, a loss need not use all parameters
        strategy = DDPStrategy(find_unused_parameters=True) if self.devices * self.nodes > 1 else "auto"
        try:
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.nodes,
                precision=self.precision,
                strategy=strategy,
            )
            fabric.launch()
            return fabric
        except (RuntimeError, ValueError, MisconfigurationException) as error:
            reason = str(error).partition("\n")[0]
            asked = f"--accelerator {self.accelerator} --devices {self.devices} --precision {self.precision}"
            raise RecipeError(f"{asked}: {reason}") from None


def fit(
    learner: Learner,
    dataset: TrainSet,
    *,
    config: Config,
    stage: StageFolder,
    seed: int,
    hardware: Hardware,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train `learner` in place, continuing from `stage.state` if it exists; write `stage.losses` after each epoch.

    `after_epoch` is called after each epoch with its number (from 1), before the state is saved. A crash loses at most
    the current epoch. A continued training gives the same result as an uninterrupted training, bit for bit on a CPU,
    because all randomness comes from the seed and the epoch. Raises RunError if the loss or the weights become NaN or
    infinite, and RecipeError before the first step if batch norm cannot be computed for so few images (`guards`).
    """
    fabric = hardware.fabric()
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(learner)
    learner.begin_training()
    optimizer = make_optimizer(learner, config, fused=fabric.device.type == "cuda")
    finished, rows = _resume(stage.state, learner, optimizer) if stage.state.exists() else (0, [])
    model, optimizer = fabric.setup(learner, optimizer)

    batch_size = divided(min(config.batch_size, len(dataset)), fabric.world_size)
    sampler = EpochSampler(
        len(dataset),
        seed=seed,
        batch_size=batch_size,
        num_replicas=fabric.world_size,
        rank=fabric.global_rank,
    )
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=hardware.workers,
        persistent_workers=hardware.workers > 0,
        collate_fn=collate,
        # a separate generator, because draws from the global state would change the dropped paths
        generator=torch.Generator(),
        pin_memory=fabric.device.type == "cuda",
    )
    steps = config.epochs * len(loader)
    learner.train()
    alone = guards.smallest_part(batch_size, hardware.accumulate) == 1
    if alone and finished < config.epochs and not (fabric.world_size > 1 and fabric.device.type == "cuda"):
        guards.try_one_image(
            learner,
            collate([dataset[finished, 0]]).to(fabric.device),
            name=str(stage.root),
            batch_size=batch_size,
            devices=fabric.world_size,
            parts=hardware.accumulate,
        )
    watch = guards.LossWatch(
        lambda first: cast(Tensor, fabric.all_reduce(first, reduce_op="min")),
        every=1 if fabric.world_size == 1 and fabric.device.type == "cpu" else guards.EVERY,
        remedy=hardware.more_stable,
    )
    for epoch in range(finished, config.epochs):
        torch.manual_seed(seed * 1_000_003 + epoch + RANKS_APART * fabric.global_rank)  # for the dropped paths
        sampler.set_epoch(epoch)
        start = time.perf_counter()
        sums: dict[str, Tensor] = {}
        step = epoch * len(loader)
        title = f"{stage.name} epoch {epoch + 1}/{config.epochs}"
        for batch in progress.track(batches(loader), title=title, total=len(loader), ends=False):
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * config.rate(step / steps)
            parts = batch.to(fabric.device).parts(hardware.accumulate)
            for number, part in enumerate(parts, start=1):
                share = len(part.images) / len(batch.images)
                waits = fabric.world_size > 1 and number < len(parts)
                with fabric.no_backward_sync(model, enabled=waits):
                    terms = {name: share * value for name, value in model(part).items()}
                    fabric.backward(torch.stack(list(terms.values())).sum())
                watch.see(step + 1, terms)
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
            watch.check(step + 1, steps_per_epoch=len(loader), name=str(stage.root))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            learner.after_step(Progress(step=step, steps=steps, steps_per_epoch=len(loader)))
        means = {name: float(cast(Tensor, fabric.all_reduce(value / len(loader)))) for name, value in sums.items()}
        guards.require_finite(learner, name=str(stage.root), epoch=epoch + 1, remedy=hardware.more_stable)
        rows.append({"epoch": epoch + 1, "step": step, "seconds": round(time.perf_counter() - start, 3), **means})
        losses = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        progress.say(f"{title}: {rows[-1]['seconds']:.1f} s, {losses}")
        if after_epoch is not None:
            learner.eval()
            after_epoch(epoch + 1)
            learner.train()
        if fabric.global_rank == 0:
            _save_state(stage.state, learner, optimizer, epochs=epoch + 1, rows=rows)
            write_csv(stage.losses, rows)
        fabric.barrier()


def seconds(stage: StageFolder) -> float:
    """The total seconds of the epochs of a stage."""
    with stage.losses.open(encoding="utf-8", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def divided(batch_size: int, devices: int) -> int:
    """The batch size per device. Raises RecipeError if the batch cannot be divided."""
    if batch_size % devices:
        raise RecipeError(f"batches of {batch_size} images cannot be divided by {devices} devices; change --batch-size")
    return batch_size // devices


def make_optimizer(learner: Learner, config: Config, *, fused: bool = False) -> torch.optim.Optimizer:
    """The optimiser of a schedule. `fused` computes a step in one kernel, which is faster only on GPUs."""
    groups = parameter_groups(learner, config)
    match config.optimizer:
        case Optimizer.ADAMW:
            return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)
        case Optimizer.SGD:
            return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused)


def parameter_groups(learner: Learner, config: Config) -> list[dict[str, Any]]:
    """The parameter groups of backbone and heads with their peak rates, without parameters that need no gradient."""
    heads = {id(parameter) for parameter in learner.head_parameters()}
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    head_lr = config.lr if config.head_lr is None else config.head_lr
    groups = [
        {"params": [p for p in trained if id(p) not in heads], "lr": config.lr, "peak_lr": config.lr},
        {"params": [p for p in trained if id(p) in heads], "lr": head_lr, "peak_lr": head_lr},
    ]
    return [group for group in groups if group["params"]]


def _save_state(path: Path, learner: nn.Module, optimizer: Any, *, epochs: int, rows: list[dict[str, Any]]) -> None:
    tensors = {f"learner.{name}": value.contiguous() for name, value in learner.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    write_tensors(path, tensors, {"epochs": str(epochs), "losses": csv_of(rows)})


def _resume(path: Path, learner: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
    """Load the state into learner and optimiser; returns the finished epochs and the rows of their losses."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: damaged ({error}); delete it to train this stage from its start") from None
    try:
        learner.load_state_dict(_under("learner", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer", tensors).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: does not fit this network ({reason}); use another --out, or delete the file") from None
    rows: list[dict[str, Any]] = [
        {key: int(value) if key in ("epoch", "step") else float(value) for key, value in row.items()}
        for row in csv.DictReader(io.StringIO(metadata["losses"]))
    ]
    return int(metadata["epochs"]), rows


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
