"""Rank and world size of this process; without a launcher, rank 0 of 1.

Files are written by the process to which the index of the image belongs (`own_share`), so that processes need not know
what others have done.
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
    """The number of this process, from 0."""
    return dist.get_rank() if _spread() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if _spread() else 1


def first() -> bool:
    """Whether this is the process of rank 0, which prints, and writes files that exist once for all processes."""
    return rank() == 0


def own_share(indices: Sequence[int]) -> list[int]:
    """The image indices that this process works on: each index belongs to one rank, always the same one."""
    return [index for index in indices if index % world() == rank()]


def barrier() -> None:
    """Wait until all processes have reached this call."""
    if _spread():
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """Rank 0 runs the block first, then all others run it. If rank 0 fails, the others exit without a message."""
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
    """The value of rank 0, on all processes."""
    if not _spread():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def peer_is_gone(error: RuntimeError) -> bool:
    """Whether the error only says that another process has ended (which has printed its own error)."""
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
    """The values of all processes, in the order of their ranks."""
    if not _spread():
        return [value]
    values: list[T] = [value] * world()
    dist.all_gather_object(values, value)
    return values
