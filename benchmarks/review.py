"""What corrections are worth, and how often the interval of `bao evaluate --truth reviewed` holds the true mIoU.

    bao run msrc14 --data ../shared/data/msrc14 --weights mobilenetv2_100.safetensors --out runs/msrc14
    python benchmarks/review.py --run runs/msrc14 --out runs/review --json review.json

A person is simulated who replaces the masks of some training images by the true ones: of the most doubtful images, or
of random ones. The segmentation network of the run learns from these and from all other masks, and is measured on the
evaluation split without labels. The interval is that of masks of the evaluation split, from random samples of it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from figures import publish

from baoseg import evaluate, pipeline
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.data.folder import Folder
from baoseg.data.images import read_mask
from baoseg.data.reviewed import Chosen, Decision
from baoseg.pipeline.reviewing import estimate
from baoseg.review.session import Session
from baoseg.training.train import Hardware

HARDWARE = Hardware(accelerator="cpu", workers=0)
SAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Options:
    run: Path  # a run on a folder whose training images have true masks too
    out: Path  # copies of the run, one for each way to choose images
    stage: str = "bao-plus+crf"
    split: str = "train"
    images: tuple[int, ...] = (0, 20, 40)  # corrected; ascending
    chosen: tuple[Chosen, ...] = (Chosen.DOUBT, Chosen.RANDOM)
    epochs: int = 6
    sample_sizes: tuple[int, ...] = (20, 40, 60)
    json: Path | None = None


def main(options: Options) -> None:
    figures: dict[str, Any] = {"covered": covered(RunFolder(options.run), options)}
    for chosen in options.chosen:
        target = options.out / chosen
        if not target.exists():
            shutil.copytree(options.run, target)
        figures[chosen] = corrected(RunFolder(target), chosen, options)
    publish(figures, options.json)


def corrected(run: RunFolder, chosen: Chosen, options: Options) -> dict[int, float]:
    """mIoU of the network by the number of corrected masks."""
    pipeline.make_maps(run, hardware=HARDWARE, split=options.split)
    pipeline.make_masks(run, split=options.split)
    pipeline.refine_masks(run, hardware=HARDWARE, split=options.split)
    session = Session(run, split=options.split, stage=options.stage, chosen=chosen)
    for _ in session.rate():
        pass
    truth, found = Folder(pipeline.recipe_of(run).data.path, options.split), {}
    position = {name: index for index, name in enumerate(truth.names)}
    for count in options.images:
        for index in session.order()[:count]:
            name = session.names[index]
            mask = truth.mask(position[name])
            if mask is not None and name not in session.reviewed.entries:
                session.reviewed.decide(name, Decision.CORRECTED, mask, chosen=chosen, pixels=0, version=0)
        masks = {"masks": "reviewed", "rest": "keep"} if count else {"masks": options.stage}
        pipeline.add_segmentation(run, called=f"of-{count}", epochs=options.epochs, **masks)
        pipeline.segment_images(run, hardware=HARDWARE)
        pipeline.evaluate_stages(run)
        metrics = read_json(run.stage(f"of-{count}").metrics)
        found[count] = round(evaluate.of_masks(metrics)["miou"], 1)
    return found


def covered(run: RunFolder, options: Options) -> dict[int, float]:
    """Percent of random samples, by their size, whose interval holds the mIoU of the whole evaluation split."""
    dataset, counts = pipeline.split_data(run), []
    for index, name in enumerate(dataset.names):
        if (truth := dataset.mask(index)) is not None:
            confusion = evaluate.Confusion(len(dataset.classes))
            confusion.update(read_mask(run.stage(options.stage).mask(dataset.split, name)), truth)
            counts.append(confusion.counts)
    whole, draw, found = torch.stack(counts), np.random.default_rng(1), {}
    true = evaluate.class_iou(whole.sum(dim=0)).nanmean().item()
    for size in options.sample_sizes:
        samples = [estimate(whole[draw.integers(0, len(whole), size)]) for _ in range(SAMPLES)]
        found[size] = 100 * sum(one.low <= true <= one.high for one in samples) / SAMPLES
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
