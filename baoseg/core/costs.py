"""What a step costs: seconds, and the most memory it held."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Filled in when the block that `measure` watches ends."""

    seconds: float = 0.0
    peak_mb: float | None = None  # megabytes; None where the system does not tell


@contextmanager
def measure(device: torch.device) -> Iterator[Cost]:
    """Seconds and peak memory of a block: of the device, or on a CPU of the process (Linux only).

    On a CPU it is the whole process that is measured, what it held before the block included, and not the processes
    that load images.
    """
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text("5")  # sets the peak of the resident memory back to what it is now
    start = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start
    if device.type == "cuda":
        cost.peak_mb = torch.cuda.max_memory_allocated(device) / 1e6
    elif _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        cost.peak_mb = int(lines["VmHWM"].split()[0]) / 1e3
