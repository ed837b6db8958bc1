"""What the steps share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from baoseg import costs
from baoseg.data.images import read_mask
from baoseg.errors import RunError
from baoseg.evaluate import MaskDecision
from baoseg.recipes import Recipe
from baoseg.runs import Run, Stage, read_json, write_json


def trained_stages(folder: Run, recipe: Recipe) -> list[Stage]:
    stages = [folder.stage(stage.name) for stage in recipe.stages]
    for paths in stages:
        if not paths.network.exists():
            raise RunError(f"{paths.network}: not trained yet; run `bao train` on {folder.root} first")
    return stages


def evaluated_stages(folder: Run, recipe: Recipe) -> list[Stage]:
    """All that has maps: the trained stages and the fusions."""
    return [*trained_stages(folder, recipe), *(folder.stage(fusion.name) for fusion in recipe.fusions)]


def masked_stages(folder: Run, recipe: Recipe, split: str) -> dict[MaskDecision, list[Stage]]:
    """The refinements and the segmentations, which have masks and no maps, as far as they are made."""
    refined = [folder.stage(one.name) for one in recipe.refinements]
    predicted = [folder.stage(one.name) for one in recipe.segmentations]
    return {
        "refined": [paths for paths in refined if paths.masks(split).is_dir()],
        "predicted": [paths for paths in predicted if paths.masks(split).is_dir()],
    }


def note_cost(paths: Stage, step: str, cost: costs.Cost, **about: int) -> None:
    """Keep what a step took in costs.json, beside what the other steps took."""
    noted = read_json(paths.costs) if paths.costs.exists() else {}
    write_json(paths.costs, {**noted, step: {"seconds": cost.seconds, "peak_mb": cost.peak_mb, **about}})


def up_to_date(made: Path, *sources: Path) -> bool:
    if missing := [path for path in sources if not path.exists()]:
        raise RunError(f"{missing[0]}: no such file; run `bao maps` and `bao masks` on the run folder first")
    return made.exists() and all(made.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in sources)


@dataclasses.dataclass(frozen=True)
class KeptLabels:
    """Pixel labels on disk, by the index of the picture; travels to the processes that load pictures."""

    paths: Sequence[Path]

    def __call__(self, index: int) -> UInt8[Tensor, "h w"]:
        return read_mask(self.paths[index])
