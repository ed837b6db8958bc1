"""What the benchmarks share: ways side by side, memory of a fresh process, rates of the machine, results."""

import functools
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from baoseg.core import costs

Prepare = Callable[[str, Any], Callable[[], Any]]  # from the name of a way and options to what is timed
WAYS = ("ours", "published")
CPU = torch.device("cpu")
SIDE = 2048  # of the matrices whose product is timed
COPIED = 2**28  # bytes, far more than a cache holds


@dataclass(frozen=True, kw_only=True)
class Result:
    """A hot path: the fewest seconds of each way, the megabytes that it adds to a process of its own, and its work."""

    seconds: dict[str, float]
    peak_mb: dict[str, float]
    rates: dict[str, float]  # of the machine, measured right after
    tflop: float | None = None  # of ours
    gigabytes: float | None = None  # that ours reads and writes at least
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """With the ratios, below 1 where ours is better, and the shares of the machine's rates that ours reaches."""
        shares = {}
        if self.tflop is not None:
            shares["product"] = 1e3 * self.tflop / self.seconds["ours"] / self.rates["gflop_per_second"]
        if self.gigabytes is not None:
            shares["copy"] = self.gigabytes / self.seconds["ours"] / self.rates["gigabytes_per_second"]
        ratios = {"ratio": ratio(self.seconds), "peak_ratio": ratio(self.peak_mb)}
        return {**asdict(self), **ratios, "shares": shares}


def ratio(values: dict[str, float]) -> float:
    return values["ours"] / values["published"]


def compare(
    prepare: Prepare,
    options: Any,
    *,
    rounds: int,
    ways: Sequence[str] = WAYS,
    scale: dict[str, float] | None = None,
) -> tuple[Result, dict[str, Any]]:
    """All ways side by side, and what each gave. `scale` is on the seconds of a way that did a part of the work."""
    seconds, outcomes = alternate({way: prepare(way, options) for way in ways}, rounds=rounds, clock=clock())
    for way, factor in (scale or {}).items():
        seconds[way] *= factor
    peaks = {way: added_memory(prepare, way, options) for way in ways}
    return Result(seconds=seconds, peak_mb=peaks, rates=rates()), outcomes


def alternate(
    ways: dict[str, Callable[[], Any]], *, rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, Any]]:
    """The fewest seconds of each way and what it gave last; in turn, so that a busy machine slows all of them."""
    seconds, outcomes = dict.fromkeys(ways, float("inf")), {}
    for _ in range(rounds):
        for way, run in ways.items():
            start = clock()
            outcomes[way] = run()
            seconds[way] = min(seconds[way], clock() - start)
    return seconds, outcomes


def clock() -> Callable[[], float]:
    """That of the processor on one thread, where other work on the machine does little harm; else the one on the wall.

    Threads that wait for one another keep their processors busy, so with more than one only the wall tells.
    """
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def added_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Megabytes that a run adds, at its highest, to a process of its own in which all is prepared. Linux."""
    return float(alone(_added_memory, prepare, *arguments))


def _added_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    run = prepare(*arguments)
    before = resident_mb()
    with costs.measure(CPU) as cost:
        run()
    assert cost.peak_mb is not None
    return cost.peak_mb - before


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a process of its own."""
    with processes().Pool(1) as pool:
        return pool.apply(function, arguments)


@functools.cache
def processes() -> multiprocessing.context.BaseContext:
    """Processes start from one that has imported PyTorch, which saves them seconds, and computed nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["baoseg.labeler", "baoseg.nets.timm_backbones"])
    return context


def resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS:"))


def rates() -> dict[str, float]:
    """What the machine reaches now, with these threads, in a float32 matrix product and in copying memory."""
    left, right, product = torch.rand(3, SIDE, SIDE)
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = source.clone()
    ways = {"product": lambda: torch.mm(left, right, out=product), "copy": lambda: target.copy_(source)}
    seconds, _ = alternate(ways, rounds=5, clock=clock())
    return {
        "threads": torch.get_num_threads(),
        "gflop_per_second": 2e-9 * SIDE**3 / seconds["product"],
        "gigabytes_per_second": 2e-9 * COPIED / seconds["copy"],
    }


def tflop(run: Callable[[], Any]) -> float:
    """Of the products in a run: convolutions, matrices, attention; a multiplication and an addition are two."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def forward_flop(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward_flop(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(gradient, query, key, value))

    counter = FlopCounterMode(display=False, custom_mapping={attention: forward_flop, backward: backward_flop})
    with counter:
        run()
    return counter.get_total_flops() / 1e12


def with_work(result: Result, **work: float) -> Result:
    """`tflop` or `gigabytes` of a result, which are counted after it was timed."""
    return replace(result, **work)


def with_about(result: Result, **about: Any) -> Result:
    return replace(result, about={**result.about, **about})


def largest_relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def machine() -> str:
    """The processor as it calls itself, and the versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def publish(figures: dict[str, Any], path: Path | None) -> None:
    """Print the figures as JSON and, where a path is given, write them there."""
    text = json.dumps(figures, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")


def publish_results(results: dict[str, Result], path: Path | None) -> None:
    """The results by the name of their path: what all benchmarks of the suite give."""
    publish({name: result.to_json() for name, result in results.items()}, path)
