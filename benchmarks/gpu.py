"""The hot paths on a GPU: whether float32 gives what the CPU gives, then seconds and memory beside the published way.

    python benchmarks/gpu.py [--json FILE]

Never run on a GPU so far: none was at hand. `--device cpu --quick` goes through the same lines without one. Meant to
end within eight minutes. The CPU makes small maps only, so that it does not take longer than the GPU. TF32 is off, as
PyTorch has it by default. Memory is the most that PyTorch had allocated.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bas
import crf
import inference
import random_walk
import torch
import training
import tyro
from figures import alternate, largest_relative_difference, publish, ratio
from torch import Tensor

from baoseg.core import costs
from baoseg.refine import crf as dense_crf

EQUAL = 1e-3  # relative: sums are taken in another order
Runs = dict[str, Callable[[], Any]]


@dataclass(frozen=True, kw_only=True)
class Options:
    device: str = "cuda"
    quick: bool = False
    rounds: int = 5
    json: Path | None = None


def results_on(device: str) -> dict[str, Tensor]:
    """Small ones, of single precision."""
    model = inference.method("conformer_tiny").to(device)
    maps = inference.ours(model, [image.to(device) for image in inference.test_images((128, 192), 16)])
    scores, edge = random_walk.scene(24, 32, 3)
    image, labels = torch.from_numpy(crf.photograph(None, (120, 90))), torch.from_numpy(crf.to_mask(3, 90, 120))
    found = {
        "maps": torch.cat([part.flatten() for pair in maps for part in pair]),
        "random walk": random_walk.ours(scores.to(device), edge.to(device)),
        "CRF": dense_crf.from_labels(image.to(device), labels.to(device)),
    }
    return {name: values.cpu() for name, values in found.items()}


def differences(device: str) -> dict[str, float]:
    """To what the CPU gives, the largest and relative. Raises SystemExit where it is too large."""
    found, expected = results_on(device), results_on("cpu")
    values = {name: largest_relative_difference(found[name], expected[name]) for name in found}
    if max(values.values()) > EQUAL:
        raise SystemExit(f"{device} and CPU differ: {values}")
    return values


def paths(options: Options) -> dict[str, Callable[[], Runs]]:
    """What makes the ways of each path."""
    device = options.device
    sizes, side, batch = ((64,), 64, 2) if options.quick else ((256, 512, 768), 512, 8)
    backbone = "conformer_tiny" if options.quick else "conformer_small"
    steps = training.Options(backbone=backbone, side=side, batch_size=batch, device=device)
    cnn = bas.Options(
        backbone="timm:test_resnet" if options.quick else "timm:resnet50", batch_size=batch, device=device
    )

    def maps() -> Runs:
        model = inference.method(backbone).to(device)
        images = [image.to(device) for image in inference.test_images(sizes, 16)]
        return {way: functools.partial(run, model, images) for way, run in inference.RUNS.items()}

    def step(name: str) -> Runs:
        return {way: run(training.SETTINGS[name], steps) for way, run in training.RUNS.items()}

    return {
        "maps": maps,
        **{f"training step of {name}": functools.partial(step, name) for name in training.SETTINGS},
        "training step of BAS": lambda: {way: bas.prepare(way, cnn) for way in bas.WAYS},
    }


def measure(runs: Runs, options: Options) -> dict[str, Any]:
    device = torch.device(options.device)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    peaks = {}
    for way, run in runs.items():  # also the first run, which is slower
        with costs.measure(device) as cost:
            run()
        peaks[way] = cost.peak_mb
    seconds, _ = alternate(runs, rounds=options.rounds, clock=clock)
    return {"seconds": seconds, "ratio": ratio(seconds), "peak_mb": peaks}


def main(options: Options) -> None:
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    figures: dict[str, Any] = {"device": name, "largest_relative_differences": differences(options.device)}
    for path, make in paths(options).items():
        figures[path] = measure(make(), options)
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
