"""`baoseg.load`: opens any trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch

from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.nets import weights
from baoseg.predict import labeler, segment
from baoseg.predict.labeler import Labeler
from baoseg.predict.segment import Segmenter

if TYPE_CHECKING:
    from baoseg.predict.imagenet import ImageNetLabeler


@overload
def load(  # type: ignore[overload-overlap]
    source: Literal["imagenet"], *, device: str | torch.device = "cpu"
) -> "ImageNetLabeler": ...


@overload
def load(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
    device: str | torch.device = "cpu",
) -> Labeler | Segmenter: ...


def load(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
    device: str | torch.device = "cpu",
) -> "Labeler | Segmenter | ImageNetLabeler":
    """Load a labeler, or a segmenter, which needs no labels.

    `source` is one of: a network.safetensors; the folder of a stage, e.g. RUN/bao or RUN/segment; a run folder, from
    which the last labeler is loaded or, without a labeler, the last segmenter; an official checkpoint; or "imagenet", a
    labeler for ImageNet classes with weights that are installed with baoseg (`predict.imagenet`).

    `classes` and `heads` apply to official checkpoints; for these and for errors see `labeler.load`.
    """
    if source == "imagenet":
        from baoseg.predict import imagenet  # noqa: PLC0415  (timm's tables of ImageNet, which nothing else needs)

        return imagenet.load(device=device)
    path = Path(source)
    if StageFolder(path).network.exists():
        path = StageFolder(path).network
    elif segmenters := segment.trained(RunFolder(path)):
        path = path if labeler.trained(RunFolder(path)) else segmenters[-1]
    if path.is_file():
        about = weights.read_metadata(path)
        if about is not None and about.get("task") == segment.TASK:
            return segment.load(path, device=device)
    return labeler.load(path, classes=classes, heads=heads, device=device)
