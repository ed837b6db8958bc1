"""Maps of one picture with Conformer-S at 256, 512 and 768 squares plus flips: ours beside the published way.

    python benchmarks/inference.py [--json FILE]

Both ways run in this one process on the same weights, ours first in each round; the numbers are checked to be equal.
Peak memory is what each way adds to the process at its highest, measured in a process of its own.
"""

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import published
import torch
import tyro
from figures import publish
from torch import Tensor

from baoseg.methods.bao import BAO, Background, Config
from baoseg.nets import Config as NetConfig
from baoseg.nets import Heads, build

CLASSES = 20
PRESENT = (4, 8)  # two classes, as VOC pictures have on average one and a half


@dataclass(frozen=True, kw_only=True)
class Options:
    sizes: tuple[int, ...] = (256, 512, 768)
    rounds: int = 3
    json: Path | None = None


def method() -> BAO:
    return BAO(build(NetConfig(), CLASSES, heads=Heads(backgrounds=1)), Config(background=Background.RELEASED)).eval()


def labels() -> Tensor:
    vector = torch.zeros(1, CLASSES)
    vector[0, [index - 1 for index in PRESENT]] = 1
    return vector


def pictures(sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, side, side, generator=generator) for side in sizes]


@torch.inference_mode()
def ours(model: BAO, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    classes = torch.tensor(PRESENT)
    results = []
    for image in images:
        views = torch.cat([image, image.flip(-1)])
        maps = model.maps(views, labels().expand(2, -1), classes=classes)
        results.append((maps.scores, maps.background))
    return results


@torch.inference_mode()
def the_published_way(model: BAO, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    results = []
    for image in images:
        parts = [published.maps(model.network, view, labels()) for view in (image, image.flip(-1))]
        scores = torch.cat([part[0][:, [index - 1 for index in PRESENT]] for part in parts])
        results.append((scores, torch.cat([part[1] for part in parts])))
    return results


def peak_of(way: str, sizes: tuple[int, ...]) -> float:
    """Megabytes that one run adds to a fresh process which already holds the network."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (way, sizes))


def _peak(way: str, sizes: tuple[int, ...]) -> float:
    model, images = method(), pictures(sizes)
    before = _resident("VmRSS")
    WAYS[way](model, images)
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Megabytes of this process, now (VmRSS) or at its highest (VmHWM). Linux."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


WAYS = {"ours": ours, "published": the_published_way}


def main(options: Options) -> None:
    model, images = method(), pictures(options.sizes)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        results = {}
        for way, run in WAYS.items():
            start = time.perf_counter()
            results[way] = run(model, images)
            seconds[way].append(time.perf_counter() - start)
    difference = max(
        float((mine - theirs).abs().max() / theirs.abs().max())
        for pair, other in zip(results["ours"], results["published"], strict=True)
        for mine, theirs in zip(pair, other, strict=True)
    )
    best = {way: min(values) for way, values in seconds.items()}
    memory = {way: peak_of(way, options.sizes) for way in WAYS}
    figures = {
        "seconds": best,
        "ratio": best["ours"] / best["published"],
        "peak_mb": memory,
        "peak_ratio": memory["ours"] / memory["published"],
        "largest_relative_difference": difference,
        "threads": torch.get_num_threads(),
    }
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
