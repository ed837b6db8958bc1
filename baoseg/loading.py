"""`baoseg.load`: whatever was trained, ready to use."""

from collections.abc import Sequence
from pathlib import Path

import torch

from baoseg import labeler, segment
from baoseg.labeler import Labeler
from baoseg.nets import weights
from baoseg.runs import Run, Stage
from baoseg.segment import Segmenter


def load(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
    device: str | torch.device = "cpu",
) -> Labeler | Segmenter:
    """A labeler, or a segmenter, which does without labels.

    `source` is the network.safetensors of a run or the folder of a stage, e.g. RUN/bao or RUN/segment; a run folder,
    which stands for the last labeler in it, or the last segmenter where it has no labeler; or a published checkpoint.
    For `classes` and `heads`, which are about the last, and for errors see `labeler.load`.
    """
    path = Path(source)
    if Stage(path).network.exists():
        path = Stage(path).network
    elif segmenters := segment.trained(Run(path)):
        path = path if labeler.trained(Run(path)) else segmenters[-1]
    if path.is_file():
        about = weights.read_metadata(path)
        if about is not None and about.get("task") == segment.TASK:
            return segment.load(path, device=device)
    return labeler.load(path, classes=classes, heads=heads, device=device)
