"""What bfloat16 does to the maps and masks of a trained run: seconds, differences, and mIoU beside float32.

    python benchmarks/precision.py --run runs/demo [--images 50] [--json FILE]

The maps of the evaluation split's first images are made both ways in turn, by the last stage of the run; nothing is
written into it. A bfloat16 pass is one under autocast, as training with `--precision bf16-mixed` has it.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from figures import publish

from baoseg import evaluate
from baoseg.core.run_folder import RunFolder
from baoseg.data import open_dataset
from baoseg.pipeline.manifest import recipe_of
from baoseg.predict import labeler
from baoseg.seeds import SeedMaps, masks


@dataclass(frozen=True, kw_only=True)
class Options:
    run: Path
    images: int = 50
    json: Path | None = None


def context(way: str) -> AbstractContextManager:
    return nullcontext() if way == "float32" else torch.autocast("cpu", torch.bfloat16)


def main(options: Options) -> None:
    model, dataset = labeler.load(options.run), open_dataset(recipe_of(RunFolder(options.run)).data, "eval")
    seconds = {"float32": 0.0, "bfloat16": 0.0}
    made: dict[str, list[tuple[SeedMaps, torch.Tensor]]] = {way: [] for way in seconds}
    for index in range(min(options.images, len(dataset))):
        sample = dataset[index]
        if sample.mask is None or not sample.labels.any():
            continue
        for way in seconds:
            start = time.process_time()
            with context(way):
                seed = model.seed(sample.image, sample.labels)
            seconds[way] += time.process_time() - start
            made[way].append((seed, sample.mask))

    def miou(way: str) -> float:
        metrics = evaluate.evaluate_seeds(made[way], len(dataset.classes), threshold=model.masks.threshold)
        return float(evaluate.of_masks(metrics)["miou"])

    both = [(one, other) for (one, _), (other, _) in zip(*made.values(), strict=True)]
    differences = torch.cat([(one.scores - other.scores).abs().flatten() for one, other in both])
    cuts = [None if one.decided else model.masks.threshold for one, _ in both]
    changed = [
        (masks.to_mask(one, threshold=cut) != masks.to_mask(other, threshold=cut)).float().mean()
        for (one, other), cut in zip(both, cuts, strict=True)
    ]
    publish(
        {
            "images": len(both),
            "threads": torch.get_num_threads(),
            "core_seconds": seconds,
            "miou": {way: miou(way) for way in seconds},
            "mean_difference_of_maps": float(differences.mean()),
            "largest_difference_of_maps": float(differences.max()),
            "pixels_that_change": float(torch.stack(changed).mean()),
        },
        options.json,
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
