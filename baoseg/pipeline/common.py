"""What the steps share."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg import seeds
from baoseg.core import costs, progress, ranks
from baoseg.core.errors import RunError
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.data.images import read_mask, read_numbers
from baoseg.evaluate import MaskDecision
from baoseg.recipes import Recipe
from baoseg.seeds import masks


def trained_stages(folder: RunFolder, recipe: Recipe) -> list[StageFolder]:
    stages = [folder.stage(stage.name) for stage in recipe.stages]
    for paths in stages:
        if not paths.network.exists():
            raise RunError(f"{paths.network}: not trained yet; run `bao train` on {folder.root} first")
    return stages


def evaluated_stages(folder: RunFolder, recipe: Recipe) -> list[StageFolder]:
    """All that has maps: the trained stages and the fusions."""
    return [*trained_stages(folder, recipe), *(folder.stage(fusion.name) for fusion in recipe.fusions)]


def masked_stages(folder: RunFolder, recipe: Recipe, split: str) -> dict[MaskDecision, list[StageFolder]]:
    """The refinements and the segmentations, which have masks and no maps, as far as they are made."""
    refined = [folder.stage(one.name) for one in recipe.refinements]
    predicted = [folder.stage(one.name) for one in recipe.segmentations]
    return {
        "refined": [paths for paths in refined if paths.masks(split).is_dir()],
        "predicted": [paths for paths in predicted if paths.masks(split).is_dir()],
    }


def missing_indices(paths: Sequence[Path]) -> list[int]:
    """The numbers of the files that are missing: the same for all processes, as none goes on before all have looked."""
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    ranks.barrier()
    return missing


def outdated(made: Sequence[Path], sources: Sequence[Sequence[Path]]) -> list[int]:
    """The numbers of the files that are missing, or older than one of their sources; as `missing_indices`.

    Raises RunError for a source that is missing.
    """
    due = [i for i, (path, of) in enumerate(zip(made, sources, strict=True)) if not up_to_date(path, *of)]
    ranks.barrier()
    return due


def sharded(due: Sequence[int], *, of: int, title: str) -> Iterator[int]:
    """The images to work on, of which there are `of`, with a bar: where there are many processes, each has its own.

    All processes are done when the last image has been handed out and worked on.
    """
    own, shares = ranks.own_share(due), len(ranks.own_share(range(of)))
    yield from progress.track(own, title=title, total=shares, done=shares - len(own))
    ranks.barrier()


def note_cost(paths: StageFolder, step: str, cost: costs.Cost, **about: int) -> None:
    """Keep what a step took in costs.json, beside what the other steps took. Of many processes, the first says it."""
    if not ranks.first():
        return
    noted = read_json(paths.costs) if paths.costs.exists() else {}
    write_json(paths.costs, {**noted, step: {"seconds": cost.seconds, "peak_mb": cost.peak_mb, **about}})


def up_to_date(made: Path, *sources: Path) -> bool:
    if missing := [path for path in sources if not path.exists()]:
        raise RunError(f"{missing[0]}: no such file; run `bao maps` and `bao masks` on the run folder first")
    return made.exists() and all(made.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in sources)


@dataclasses.dataclass(frozen=True)
class Margins:
    """How sure masks of a run are of each pixel of an image, in 1/255 (`Recipe.sure_of`)."""

    stage: StageFolder
    split: str
    threshold: float | None  # of the maps; None: a region vote, whose margins are kept

    def file(self, image: str) -> Path:
        """What the margins are read from."""
        return (self.stage.confidence if self.threshold is None else self.stage.maps)(self.split, image)

    def __call__(self, image: str) -> UInt8[Tensor, "h w"]:
        if self.threshold is None:
            return torch.from_numpy(read_numbers(self.file(image))).to(torch.uint8)
        return masks.margin(seeds.load(self.file(image)), threshold=self.threshold)


def margins_of(folder: RunFolder, recipe: Recipe, name: str, split: str) -> Margins | None:
    """The margins of the masks of a stage, refinement or segmentation; None where nothing says how sure they are."""
    behind = recipe.sure_of(name)
    if behind is None:
        return None
    return Margins(folder.stage(behind), split, recipe.masks_of(behind).threshold if behind in recipe.names else None)


@dataclasses.dataclass(frozen=True)
class KeptLabels:
    """Pixel labels on disk, by the index of the image; travels to the processes that load images."""

    paths: Sequence[Path]
    read: Callable[[Path], UInt8[Tensor, "h w"]] = read_mask

    def __call__(self, index: int) -> UInt8[Tensor, "h w"]:
        return self.read(self.paths[index])
