"""A small run folder with everything a report shows, for its tests: no network was trained for it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baoseg import report, seeds
from baoseg.core.files import write_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.core.types import ClassSet, Sample
from baoseg.data.images import write_mask
from baoseg.evaluate import evaluate_seeds
from baoseg.seeds import SeedMaps
from baoseg.seeds.masks import to_mask

EVIL = "</script><img src=x onerror=alert(1)>"
THRESHOLD = 0.3


class Scenes:
    """Noise with a bright rectangle for each class of the image; `masks=False` leaves out the ground truth."""

    split = "val"

    def __init__(self, count: int, classes: Sequence[str], *, masks: bool = True) -> None:
        self.classes = ClassSet(tuple(classes))
        self.names = [f"scene_{i}" for i in range(count)]
        self.has_masks = masks

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        truth = self.truth(index)
        image = torch.randint(0, 90, (3, *truth.shape), generator=generator, dtype=torch.uint8)
        image[:, truth > 0] += 120
        return Sample(self.names[index], image, self.labels(index), truth if self.has_masks else None)

    def labels(self, index: int) -> Float[Tensor, "K"]:
        labels = torch.zeros(len(self.classes))
        labels[index % len(self.classes)] = 1
        return labels

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        return self.truth(index) if self.has_masks else None

    def truth(self, index: int) -> UInt8[Tensor, "h w"]:
        mask = torch.zeros(48, 64, dtype=torch.uint8)
        mask[12:36, 16:40] = 1 + index % len(self.classes)
        mask[:2] = 255
        return mask

    def fingerprint(self, *, masks: bool = True) -> str:
        return "0"


def decision_of(method: str) -> str:
    """How the background is decided: one of evaluate.DECISIONS."""
    return {"bas": "image_specific", "bao": "threshold_free"}.get(method, "fixed")


def seed_of(scenes: Scenes, index: int, *, decision: str) -> SeedMaps:
    """A map that falls off from the rectangle's middle; the learned background is right at its edges.

    An image-specific threshold is another one for each image: 0.35, 0.45, ...
    """
    truth = scenes.truth(index)
    inside = (truth[::4, ::4] % 255 > 0).float()
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in inside.shape), indexing="ij")
    scores = torch.exp(-((y - 5.5) ** 2 + (x - 6.5) ** 2) / 16)[None]
    return SeedMaps(
        classes=scenes.labels(index).nonzero()[:, 0] + 1,
        scores=scores,
        background=1 - inside if decision == "threshold_free" else None,
        size=(truth.shape[0], truth.shape[1]),
        threshold=0.35 + 0.1 * index if decision == "image_specific" else None,
    )


def write_run(root: Path, scenes: Scenes, stages: Sequence[str], *, measured: bool = False) -> RunFolder:
    """Everything but the report itself; a stage whose name is a sum (a+b) is a fusion, for which nothing was trained.

    `measured` adds what the trained stages cost and the evaluation after each epoch.
    """
    run = RunFolder(root)
    data = {"eval": {"split": scenes.split, "images": len(scenes), "fingerprint": scenes.fingerprint()}}
    recipe = {"name": "fake", "data": {"path": "scenes"}}
    write_json(
        run.manifest, {"recipe": recipe, "version": "1.2.3", "data": data, "environment": {}, "stages": list(stages)}
    )
    for number, name in enumerate(stages):
        stage, decision = run.stage(name), decision_of(name)
        for i, picture in enumerate(scenes.names):
            seed = seed_of(scenes, i, decision=decision)
            seeds.save(stage.maps(scenes.split, picture), seed)
            write_mask(stage.mask(scenes.split, picture), to_mask(seed, threshold=None if seed.decided else THRESHOLD))
        if "+" not in name:
            stage.losses.write_text("epoch,step,seconds,cls,pcl\n0,10,1.5,0.7,1.2\n1,20,1.4,0.5,0.9\n")
        if measured and "+" not in name:
            _write_measurements(stage, number)
        if scenes.has_masks:
            pairs = ((seed_of(scenes, i, decision=decision), scenes.truth(i)) for i in range(len(scenes)))
            scores = evaluate_seeds(pairs, len(scenes.classes), threshold=THRESHOLD)
            about = {"split": scenes.split, "images": len(scenes)}
            write_json(stage.metrics, {**about, "classes": ["background", *scenes.classes.names], **scores})
    return run


def _write_measurements(stage: StageFolder, number: int) -> None:
    train = {"seconds": 90.0 * (number + 1), "peak_mb": 1500.0, "epochs": 2}
    write_json(stage.costs, {"train": train, "maps": {"seconds": 3.0, "peak_mb": 800.0, "images": 12}})
    lines = [f"{epoch},{40 + 2 * number + 3 * epoch},{45 + 2 * number},0.4" for epoch in (1, 2, 3)]
    stage.epochs.write_text("\n".join(["epoch,miou,oracle_miou,oracle_threshold", *lines]) + "\n")


def write_report(
    root: Path,
    scenes: Scenes,
    stages: Sequence[str] = ("transcam", "bao"),
    *,
    config: report.Config | None = None,
    measured: bool = False,
) -> tuple[RunFolder, str]:
    """The run and the text of its page."""
    run = write_run(root, scenes, stages, measured=measured)
    page = report.build(run, stages=stages, dataset=scenes, config=config or report.Config(), title="A fake run")
    return run, page.read_text(encoding="utf-8")
