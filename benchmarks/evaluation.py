"""How long evaluation with 101 thresholds takes: one pass, beside evaluating each threshold by itself.

    python benchmarks/evaluation.py [--images 1449] [--json FILE]

Writes seeds of random smooth maps to a temporary folder, as `bao maps` would, and evaluates them with the threshold
sweep. The published way reads and resizes each seed and finds its largest map once as well, then makes a label image
and a confusion matrix for each threshold with NumPy; it runs on a few of the images, and its time is scaled to all of
them. Both must give the same matrices. Ground truth: the VOC 2012 val masks where they lie beside the repository, else
blobs.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from figures import compare, publish_results, with_about

from baoseg import seeds
from baoseg.data.images import read_mask, write_mask
from baoseg.evaluate import THRESHOLDS, ThresholdSweep, evaluate_seeds

CLASSES = 20
VOC_MASKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "voc12-val-masks"


@dataclass(frozen=True, kw_only=True)
class Options:
    images: int = 1449  # images to evaluate
    subset: int = 6  # images of the published way, spread over the set, as images differ in classes
    rounds: int = 1
    seeds: tuple[tuple[Path, Path], ...] = ()  # seed and mask of each image: set by `main`
    json: Path | None = None

    @property
    def few(self) -> tuple[tuple[Path, Path], ...]:
        return self.seeds[:: max(1, len(self.seeds) // self.subset)][: self.subset]


def ground_truth(folder: Path, images: int, generator: torch.Generator) -> list[Path]:
    """Paths of masks: the real ones where present, else blobs of 1 to 3 classes written to `folder`."""
    if VOC_MASKS.is_dir():
        names = (VOC_MASKS / "val.txt").read_text().split()
        return [VOC_MASKS / "SegmentationClass" / f"{name}.png" for name in names[:images]]
    paths = []
    for i in range(images):
        present = torch.randperm(CLASSES, generator=generator)[: 1 + i % 3] + 1
        noise = seeds.resize(torch.rand(len(present), 6, 8, generator=generator), (375, 500))
        values, channels = noise.max(dim=0)
        paths.append(folder / f"{i}.png")
        write_mask(paths[-1], torch.where(values > 0.7, present[channels], 0).byte())
    return paths


def make_seed(truth: torch.Tensor, generator: torch.Generator) -> seeds.SeedMaps:
    """Smooth random maps of the classes in the ground truth, larger where the class is, at stride 4."""
    height, width = truth.shape
    grid = (-(-height // 4), -(-width // 4))
    present = [index for index in truth.unique().tolist() if 0 < index <= CLASSES]
    noise = seeds.resize(torch.rand(len(present) + 1, 12, 16, generator=generator), grid)
    inside = torch.stack([(truth == index).float() for index in [*present, 0]])
    scores = (0.6 * noise + 0.4 * seeds.resize(inside, grid)).clamp(0, 1)
    return seeds.SeedMaps(torch.tensor(present, dtype=torch.int64), scores[:-1], scores[-1], (height, width))


def write_seeds(folder: Path, images: int) -> tuple[tuple[Path, Path], ...]:
    """Paths of seeds and masks."""
    generator = torch.Generator().manual_seed(0)
    written = []
    for mask in ground_truth(folder, images, generator):
        path = folder / f"{mask.stem}.npz"
        seeds.save(path, make_seed(read_mask(mask), generator))
        written.append((path, mask))
    return tuple(written)


def pairs(paths: tuple[tuple[Path, Path], ...]) -> Iterator[tuple[seeds.SeedMaps, torch.Tensor]]:
    for seed, mask in paths:
        yield seeds.load(seed), read_mask(mask)


def threshold_by_threshold(paths: tuple[tuple[Path, Path], ...]) -> np.ndarray:
    """Confusion matrices [101 S S]."""
    size = CLASSES + 1
    matrices = np.zeros((len(THRESHOLDS), size, size), dtype=np.int64)
    for seed, mask in pairs(paths):
        scores, truth = seed.upsample().scores.numpy(), mask.numpy()
        found, values = seed.classes.numpy()[scores.argmax(axis=0)], scores.max(axis=0)
        valid = truth <= CLASSES
        for i, threshold in enumerate(np.float32(THRESHOLDS)):
            prediction = np.where(values >= threshold, found, 0)
            index = truth[valid].astype(np.int64) * size + prediction[valid]
            matrices[i] += np.bincount(index, minlength=size**2).reshape(size, size)
    return matrices


def prepare(way: str, options: Options) -> Callable[[], Any]:
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: evaluate_seeds(pairs(options.seeds), CLASSES, threshold=0.3),
        "published": lambda: threshold_by_threshold(options.few),
    }
    return runs[way]


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = replace(options, seeds=write_seeds(Path(folder), options.images))
        megabytes = sum(path.stat().st_size for path, _ in options.seeds) / 1e6
        scale = {"published": len(options.seeds) / len(options.few)}
        result, outcomes = compare(prepare, options, rounds=options.rounds, scale=scale)
        sweep = ThresholdSweep(CLASSES)
        for seed, truth in pairs(options.few):
            sweep.update(seed, truth)
    for i, matrix in enumerate(outcomes["published"]):
        if not np.array_equal(sweep.confusion(i).counts.numpy(), matrix):
            raise SystemExit(f"the two ways differ at threshold {THRESHOLDS[i]}")
    masks = "VOC 2012 val" if VOC_MASKS.is_dir() else "generated"
    result = with_about(result, masks=masks, published_measured_on=len(options.few), seeds_mb=megabytes)
    publish_results({f"evaluation of {len(options.seeds):,} images, 101 thresholds": result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
