"""From maps on disk to masks on disk: ours beside the published way, on generated maps of 500 x 375.

    python benchmarks/masks.py [--images 200] [--json FILE]

Ours reads maps of a quarter of the sides in half precision, enlarges them, and writes a palette PNG under a temporary
name. The published way reads a pickled dictionary of maps at full size (`high_res`), puts the threshold before them,
takes the argmax, and saves. Both must give the same masks.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from figures import compare, publish_results, with_about
from PIL import Image

from baoseg import seeds
from baoseg.data.images import read_mask, write_mask
from baoseg.seeds import masks

THRESHOLD = 0.3


@dataclass(frozen=True, kw_only=True)
class Options:
    images: int = 200
    classes: int = 2  # in each image
    size: tuple[int, int] = (375, 500)
    rounds: int = 3
    folder: Path = Path()  # of the maps: set by `main`
    json: Path | None = None


def write_maps(options: Options) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = (-(-options.size[0] // 4), -(-options.size[1] // 4))
    for number in range(options.images):
        scores = seeds.resize(torch.rand(options.classes, 6, 8, generator=generator), grid)
        seeds.save(
            options.folder / f"{number}.npz",
            seeds.SeedMaps(torch.arange(options.classes) + 1, scores, None, options.size),
        )
        full = seeds.load(options.folder / f"{number}.npz").upsample()
        high_res = {"keys": np.arange(options.classes), "high_res": full.scores.numpy()}
        np.save(options.folder / f"{number}.npy", high_res, allow_pickle=True)


def ours(options: Options, number: int) -> None:
    mask = masks.to_mask(seeds.load(options.folder / f"{number}.npz"), threshold=THRESHOLD)
    write_mask(options.folder / f"{number} ours.png", mask)


def the_published_way(options: Options, number: int) -> None:
    stored = np.load(options.folder / f"{number}.npy", allow_pickle=True).item()
    keys = np.pad(stored["keys"] + 1, (1, 0), mode="constant")
    scores = np.pad(stored["high_res"], ((1, 0), (0, 0), (0, 0)), mode="constant", constant_values=THRESHOLD)
    Image.fromarray(keys[scores.argmax(axis=0)].astype(np.uint8)).save(options.folder / f"{number} published.png")


RUNS = {"ours": ours, "published": the_published_way}


def prepare(way: str, options: Options) -> Callable[[], list[None]]:
    return lambda: [RUNS[way](options, number) for number in range(options.images)]


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = replace(options, folder=Path(folder))
        write_maps(options)
        result, _ = compare(prepare, options, rounds=options.rounds)
        for number in range(options.images):
            mine, theirs = (read_mask(options.folder / f"{number} {way}.png") for way in RUNS)
            if not torch.equal(mine, theirs):
                raise SystemExit(f"the two ways differ on mask {number}")
        kilobytes = {
            kind: sum(path.stat().st_size for path in options.folder.glob(f"*.{kind}")) / 1e3 / options.images
            for kind in ("npz", "npy")
        }
    result = with_about(
        result,
        masks_per_second={way: options.images / seconds for way, seconds in result.seconds.items()},
        kilobytes_of_maps={"ours": kilobytes["npz"], "published": kilobytes["npy"]},
    )
    height, width = options.size
    publish_results({f"{options.images} masks from maps, {width} x {height}": result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
