"""The cost of a step: its seconds, and its peak memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Seconds and peak memory of a block. `measure` fills them in when the block ends."""

    seconds: float = 0.0
    peak_mb: float | None = None  # megabytes; None if the system does not report it


@contextmanager
def measure(device: torch.device) -> Iterator[Cost]:
    """Measure the seconds and the peak memory of a block.

    On a GPU, the memory is that of the device. On a CPU, it is the memory of this process (Linux only), including the
    memory that the process held before the block, without the worker processes that load images.
    """
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text("5")  # resets the peak of the resident memory to its present value
    start = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start
    if device.type == "cuda":
        cost.peak_mb = torch.cuda.max_memory_allocated(device) / 1e6
    elif _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        cost.peak_mb = int(lines["VmHWM"].split()[0]) / 1e3
