"""How long evaluation with 101 thresholds takes: one pass, beside evaluating each threshold by itself.

    python benchmarks/evaluation.py [--images 1449] [--json FILE]

Writes seeds of random smooth maps to a temporary folder, as `bao maps` would, and evaluates them with the
threshold sweep. The straightforward way reads and resizes each seed and finds its largest map once as well,
then makes a label image and a confusion matrix for each threshold with NumPy; it runs on a few of the
pictures, and its time is scaled to all of them. Both must give the same matrices. Ground truth: the VOC 2012
val masks where they lie beside the repository, else blobs.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from baoseg import seeds
from baoseg.evaluate import THRESHOLDS, ThresholdSweep, evaluate_seeds

CLASSES = 20
VOC_MASKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "voc12-val-masks"


def read_mask(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image))


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
        mask = torch.where(values > 0.7, present[channels], 0)
        paths.append(folder / f"{i}.png")
        Image.fromarray(mask.byte().numpy()).save(paths[-1])
    return paths


def write_seed(path: Path, truth: torch.Tensor, generator: torch.Generator) -> None:
    """Smooth random maps of the classes in the ground truth, larger where the class is, at stride 4."""
    height, width = truth.shape
    grid = (-(-height // 4), -(-width // 4))
    present = [index for index in truth.unique().tolist() if 0 < index <= CLASSES]
    noise = seeds.resize(torch.rand(len(present) + 1, 12, 16, generator=generator), grid)
    inside = torch.stack([(truth == index).float() for index in [*present, 0]])
    scores = (0.6 * noise + 0.4 * seeds.resize(inside, grid)).clamp(0, 1)
    seeds.save(path, seeds.Seed(torch.tensor(present, dtype=torch.int64), scores[:-1], scores[-1], (height, width)))


def pairs(seed_paths: list[Path], mask_paths: list[Path]) -> Iterator[tuple[seeds.Seed, torch.Tensor]]:
    for seed_path, mask_path in zip(seed_paths, mask_paths, strict=True):
        yield seeds.load(seed_path), read_mask(mask_path)


def threshold_by_threshold(seed_paths: list[Path], mask_paths: list[Path]) -> np.ndarray:
    """Confusion matrices [101 S S]."""
    size = CLASSES + 1
    matrices = np.zeros((len(THRESHOLDS), size, size), dtype=np.int64)
    for seed, mask in pairs(seed_paths, mask_paths):
        scores, truth = seed.upsample().scores.numpy(), mask.numpy()
        found, values = seed.classes.numpy()[scores.argmax(axis=0)], scores.max(axis=0)
        valid = truth <= CLASSES
        for i, threshold in enumerate(np.float32(THRESHOLDS)):
            prediction = np.where(values >= threshold, found, 0)
            index = truth[valid].astype(np.int64) * size + prediction[valid]
            matrices[i] += np.bincount(index, minlength=size**2).reshape(size, size)
    return matrices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1449, help="pictures to evaluate (at most 1449 with VOC masks)")
    parser.add_argument("--subset", type=int, default=6, help="pictures for the straightforward way")
    parser.add_argument("--json", type=Path, help="store the figures in this file")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mask_paths = ground_truth(folder, arguments.images, generator)
        seed_paths = [folder / f"{i}.npz" for i in range(len(mask_paths))]
        for seed_path, mask_path in zip(seed_paths, mask_paths, strict=True):
            write_seed(seed_path, read_mask(mask_path), generator)
        megabytes = sum(path.stat().st_size for path in seed_paths) / 1e6

        start = time.perf_counter()
        metrics = evaluate_seeds(pairs(seed_paths, mask_paths), CLASSES, threshold=0.3)
        ours = time.perf_counter() - start

        step = max(1, len(mask_paths) // arguments.subset)  # spread over the set, as pictures differ in classes
        subset = seed_paths[::step][: arguments.subset], mask_paths[::step][: arguments.subset]
        start = time.perf_counter()
        matrices = threshold_by_threshold(*subset)
        straightforward = (time.perf_counter() - start) / len(subset[0]) * len(mask_paths)

        sweep = ThresholdSweep(CLASSES)
        for seed, truth in pairs(*subset):
            sweep.update(seed, truth)
    for i, matrix in enumerate(matrices):
        if not np.array_equal(sweep.confusion(i).counts.numpy(), matrix):
            raise SystemExit(f"the two ways differ at threshold {THRESHOLDS[i]}")

    figures = {
        "images": len(mask_paths),
        "masks": "VOC 2012 val" if VOC_MASKS.is_dir() else "generated",
        "threads": torch.get_num_threads(),
        "seeds_megabytes": round(megabytes, 1),
        "one_pass_seconds": round(ours, 2),
        "one_pass_milliseconds_per_image": round(1000 * ours / len(mask_paths), 2),
        "straightforward_seconds": round(straightforward, 1),
        "straightforward_measured_on_images": len(subset[0]),
        "ratio": round(straightforward / ours, 1),
    }
    print(f"{figures['images']} pictures ({figures['masks']}), {figures['threads']} thread(s), 101 thresholds")
    print(f"one pass, with reading, threshold-free scores and oracle: {ours:8.1f} s")
    print(f"each threshold by itself (from {len(subset[0])} pictures):             {straightforward:8.1f} s")
    print(f"ratio {figures['ratio']}; the confusion matrices of the {len(subset[0])} pictures are equal")
    print(f"oracle threshold {metrics['oracle']['threshold']}, seeds on disk {megabytes:.0f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
