"""A large photograph through the segmentation network: seconds a megapixel, and memory at its highest.

    python benchmarks/predict.py [--photo FILE] [--scales 1.0 1.25 1.5] [--crf] [--json FILE]

What `bao predict` does with one image, from the file to mask and overlay, in a process of its own, with a network
that nobody trained: time and memory do not depend on that, but for the CRF, whose work grows with the classes that
it finds. Without an image, a scene in large blots with the noise of a camera. Seconds are by the clock and of one
core: the latter hold where the machine has other things to do. Linux.
"""

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from figures import publish
from PIL import Image

from baoseg.core.types import ClassSet
from baoseg.predict import predict
from baoseg.predict.segment import Inference, NetConfig, Segmenter

CLASSES = 14  # and the background
NOISE = 5.0  # grey levels


@dataclass(frozen=True, kw_only=True)
class Options:
    net: str = "smp:fpn/tu-mobilenetv2_100"
    size: tuple[int, int] = (6000, 4000)
    photo: Path | None = None  # enlarged to the size
    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    crf: bool = False
    json: Path | None = None


def scene(size: tuple[int, int]) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    blots = torch.rand(1, 3, 20, 30, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(blots, (size[1], size[0]), mode="bilinear")[0]
    noisy = smooth + NOISE * torch.randn(smooth.shape, generator=generator)
    return Image.fromarray(noisy.clamp(0, 255).byte().permute(1, 2, 0).numpy())


def resident(field: str) -> float:
    """Megabytes of this process, now (VmRSS) or at its highest (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def measure(options: Options, photo: Path) -> dict[str, float]:
    """In a fresh process, which has only this image before it."""
    names = ClassSet(tuple(f"class {index}" for index in range(1, CLASSES + 1)))
    inference = Inference(scales=options.scales, flip=options.flip)
    segmenter = Segmenter(NetConfig(name=options.net).build(CLASSES), names, inference=inference)
    loaded, start, computed = resident("VmRSS"), time.perf_counter(), time.process_time()
    config = predict.Config(crf=options.crf, overlays=True)
    with tempfile.TemporaryDirectory() as folder:
        assert not predict.run(segmenter, [photo], Path(folder), config=config)
    seconds, core_seconds = time.perf_counter() - start, time.process_time() - computed
    megapixels = options.size[0] * options.size[1] / 1e6
    return {
        "megapixels": megapixels,
        "seconds_per_megapixel": seconds / megapixels,
        "core_seconds_per_megapixel": core_seconds / megapixels,
        "loaded_mb": loaded,
        "peak_mb": resident("VmHWM"),
        "threads": torch.get_num_threads(),
    }


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        if options.photo is None:
            scene(options.size).save(path, quality=95)
        else:
            with Image.open(options.photo) as image:
                image.convert("RGB").resize(options.size, Image.Resampling.BICUBIC).save(path, quality=95)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures = pool.apply(measure, (options, path))
    publish(figures, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
