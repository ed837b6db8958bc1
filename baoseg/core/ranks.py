"""Who of how many processes this one is, where a run is spread over devices or machines; alone, the first of one.

Work that makes files is dealt out by the number of the image, so that no process has to know what another has done.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def _spread() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if _spread() else 0


def world() -> int:
    return dist.get_world_size() if _spread() else 1


def first() -> bool:
    """Whether this process writes what there is once, and talks."""
    return rank() == 0


def mine(indices: Sequence[int]) -> list[int]:
    """Those of the image numbers that are this process's to work on: the same on every process and at any time."""
    return [index for index in indices if index % world() == rank()]


def barrier() -> None:
    """Wait until all processes are here."""
    if _spread():
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block, then all others do; where it fails, they end in silence."""
    if not first() and not _told(True):
        raise SystemExit(2)
    done = False
    try:
        yield
        done = True
    finally:
        if first():
            _told(done)


def _told(value: bool) -> bool:
    """What the first process says, on all processes."""
    if not _spread():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def peer_is_gone(error: RuntimeError) -> bool:
    """Whether an error says no more than that another process of this run has ended, which has said why."""
    return world() > 1 and any(word in str(error) for word in ("gloo", "NCCL"))


def total(values: Tensor) -> Tensor:
    """The sum over all processes, exact for integers."""
    if not _spread():
        return values
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    values = values.to(device, copy=True)
    dist.all_reduce(values)
    return values.cpu()


def gathered(value: T) -> list[T]:
    """The value of each process."""
    if not _spread():
        return [value]
    values: list[T] = [value] * world()
    dist.all_gather_object(values, value)
    return values
