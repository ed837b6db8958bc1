"""What a recipe is: everything that decides the result of a run."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from baoseg import nets, refine
from baoseg.core.errors import RecipeError
from baoseg.data import Config as DataConfig
from baoseg.data import transforms
from baoseg.methods import METHODS, Settings, method_of, name_of
from baoseg.predict import segment
from baoseg.predict.boxes import BoxConfig, ViewConfig
from baoseg.predict.maps import Config as MapsConfig
from baoseg.refine import crf, vote
from baoseg.report import Config as ReportConfig
from baoseg.seeds.masks import Config as MasksConfig
from baoseg.training import train

RESERVED = ("run.json", "report.html")  # files of a run folder, in which stages are folders


LONGEST = 200  # bytes of a stage's name, which file systems and our own suffixes leave room for


class Task(StrEnum):
    """What a run gives for each image."""

    MASKS = "masks"
    BOXES = "boxes"  # and a foreground map, of images with one label each


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One method and how long it is trained."""

    method: Settings
    schedule: train.Config
    start: str | None = None  # the earlier stage whose weights it starts from; None: the network's own weights
    labelled_by: str | None = None  # the earlier stage whose seeds label the training images, where the method asks
    called: str | None = None  # None: the method's name
    threshold: float | None = None  # at which its maps are cut, where no background is learned; None: the recipe's
    box: BoxConfig | None = None  # how its box is drawn; None where masks are made

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise RecipeError(
                f"{self.name}: threshold is {self.threshold}; maps lie in 0..1, choose a value in between"
            )

    @property
    def name(self) -> str:
        return self.called or name_of(self.method)


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """The normalised sum of seeds (BAS tables 9, 14), or, of a single source, the seeds of another tool as they are."""

    called: str
    sources: tuple[str, ...]  # stages of this recipe, run folders (their last stage), RUN/STAGE, or folders of maps
    allow_pickle: bool = False  # whether .npy files that hold pickles are read, by a reader that admits arrays alone

    def __post_init__(self) -> None:
        if not self.sources:
            raise RecipeError(f"{self.called}: no seeds to fuse; name one source at least")

    @property
    def name(self) -> str:
        return self.called


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Masks of a stage or fusion, drawn to the edges of the images."""

    of: str  # a stage or fusion; for the CRF, a refinement too
    by: refine.Settings
    schedule: train.Config | None = None  # of the network, where there is one to train (PSA, IRN)
    augment: transforms.Config | None = None  # of its training; None: the recipe's
    net: nets.Config | None = None  # a convolutional network; None: the recipe's

    @property
    def name(self) -> str:
        return f"{self.of}+{refine.name_of(self.by)}"

    def __post_init__(self) -> None:
        if (self.learned is None) != (self.schedule is None):
            raise RecipeError(f"{self.name}: what is trained needs a schedule, and nothing else has one")

    @property
    def learned(self) -> refine.LearnedSettings | None:
        """Settings of the network that learns from the seeds and works on them, where the way has one."""
        return None if isinstance(self.by, crf.Config | vote.Config) else self.by

    @property
    def votes(self) -> bool:
        """Whether it is the region vote."""
        return isinstance(self.by, vote.Config)

    def of_regions(self, source: str) -> "Refinement":
        """The region vote with regions from `source`; any other refinement as it is."""
        return replace(self, by=replace(self.by, source=source)) if isinstance(self.by, vote.Config) else self

    def with_paths(self, change: Callable[[str], str]) -> "Refinement":
        """The same with `change` applied to the folder of the regions, where there is one."""
        if isinstance(self.by, vote.Config) and self.by.in_files:
            return self.of_regions(change(self.by.source))
        return self

    @property
    def needs_maps(self) -> bool:
        """Whether it works on maps, and not on masks."""
        return not isinstance(self.by, crf.Config)


class Rest(StrEnum):
    """What becomes of training masks that nobody has reviewed, where a network learns from reviewed masks."""

    KEEP = "keep"
    WEIGH = "weigh"  # pixels count by the margin of their maps, those of reviewed masks in full
    LEAVE_OUT = "leave-out"


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A segmentation network, and the masks of the training images that it learns from."""

    masks: str  # a stage, fusion, refinement or earlier segmentation of this recipe, or a folder of masks NAME.png
    schedule: train.Config
    net: segment.NetConfig = field(default_factory=segment.NetConfig)
    inference: segment.Inference = field(default_factory=segment.Inference)
    augment: transforms.Config | None = None  # None: the recipe's
    reweight: bool = False  # pixels count by how sure the masks are, see `Recipe.sure_of`
    reviewed: Rest | None = None  # reviewed masks stand for those of `masks`; what becomes of the others
    called: str = "segment"

    @property
    def name(self) -> str:
        return self.called


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a run, but for the hardware."""

    name: str
    task: Task = Task.MASKS
    data: DataConfig
    net: nets.Config
    stages: tuple[Stage, ...]
    fusions: tuple[Fusion, ...] = ()
    refinements: tuple[Refinement, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()
    epoch_curves: bool = False  # evaluate the network in training after each epoch (BAO figure 4)
    # of boxes: images are squares of the side `resize_long`, and crops of it the views of training and evaluation
    augment: transforms.Config = field(default_factory=transforms.Config)
    ten_crops: bool = True  # of boxes: the class is the mean of ten crops; else that of the centre crop
    maps: MapsConfig = field(default_factory=MapsConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        everything = [*self.names, *(segmentation.name for segmentation in self.segmentations)]
        if not 0 <= self.seed < 2**32:
            raise RecipeError(f"recipe {self.name}: the seed is {self.seed}; choose one of 0 to {2**32 - 1}")
        if not everything or len(set(everything)) != len(everything):
            raise RecipeError(f"recipe {self.name}: its stages are {everything}; name each once, and at least one")
        if odd := [name for name in everything if not re.fullmatch(r"\w[\w+.=-]*", name)]:
            raise RecipeError(f"recipe {self.name}: {odd[0]!r} cannot name a folder; use letters, digits and . + - = _")
        if odd := [name for name in everything if len(name.encode()) > LONGEST or name in RESERVED]:
            raise RecipeError(f"recipe {self.name}: {odd[0]!r} cannot name a folder of the run; choose another name")
        known: set[str | None] = {None}
        for stage in self.stages:
            if missing := {stage.start, stage.labelled_by} - known:
                raise RecipeError(
                    f"recipe {self.name}: {stage.name} needs the stage {missing.pop()}, which does not come before it"
                )
            known.add(stage.name)
        refinable = set(self.names)
        for refinement in self.refinements:
            if refinement.of not in refinable or refinement.name in refinable:
                raise RecipeError(
                    f"recipe {self.name}: cannot refine {refinement.of} to {refinement.name}; there are masks of "
                    f"{', '.join(sorted(refinable))}, and each refinement is made once"
                )
            if refinement.needs_maps and refinement.of not in self.names:
                raise RecipeError(f"recipe {self.name}: {refinement.name} works on maps, and {refinement.of} has none")
            refinable.add(refinement.name)
        if taken := refinable & {segmentation.name for segmentation in self.segmentations}:
            raise RecipeError(f"recipe {self.name}: {taken.pop()} is there already; choose another name (--called)")
        if self.task is Task.BOXES:
            self._check_boxes()
        elif self.data.layout is not None or any(stage.box is not None for stage in self.stages):
            raise RecipeError(f"recipe {self.name}: has data or stages of boxes; its task is masks, choose boxes")

    def _check_boxes(self) -> None:
        """Raise RecipeError for what does not go with boxes."""
        if self.data.layout is None:
            raise RecipeError(f"recipe {self.name}: draws boxes; choose the layout of the data set (data.layout)")
        for stage in self.stages:
            if not method_of(stage.method).localizes:
                able = " or ".join(name for name, method in METHODS.items() if method.localizes)
                raise RecipeError(f"recipe {self.name}: {name_of(stage.method)} does not localize; use {able}")
            if stage.box is None or stage.threshold is not None:
                raise RecipeError(f"recipe {self.name}: {stage.name} draws boxes; give it `box` and no `threshold`")
        if not self.stages or self.fusions or self.refinements or self.segmentations or self.epoch_curves:
            raise RecipeError(
                f"recipe {self.name}: draws boxes; it has stages, no fusions, refinements, segmentation networks or "
                "curves of epochs"
            )
        if len(set(self.augment.resize_long)) > 1:
            raise RecipeError(
                f"recipe {self.name}: augment.resize_long is {self.augment.resize_long}; images of boxes are squares "
                "of one side, give that twice"
            )
        _ = self.view

    @property
    def names(self) -> list[str]:
        """Of the stages and fusions, which have maps, in their order."""
        return [*(stage.name for stage in self.stages), *(fusion.name for fusion in self.fusions)]

    @property
    def masked(self) -> list[str]:
        """Of all that has masks, in the order in which these are made."""
        return [
            *self.names,
            *(refinement.name for refinement in self.refinements),
            *(segmentation.name for segmentation in self.segmentations),
        ]

    def sure_of(self, name: str) -> str | None:
        """What says how sure the masks `name` are of each pixel: the region vote or the stage that they go back to.

        The measure is `seeds.masks.margin`, of the votes or of the maps. None if nothing says it.
        """
        of = {one.name: one for one in self.refinements}
        while name in of and not of[name].votes:
            name = of[name].of
        return name if name in of or name in self.names else None

    @property
    def view(self) -> ViewConfig:
        """How images are seen where boxes are drawn."""
        return ViewConfig(side=self.augment.resize_long[0], crop=self.augment.crop, ten_crops=self.ten_crops)

    def masks_of(self, name: str) -> MasksConfig:
        """How the maps of a stage or fusion become masks: with the stage's own threshold where it has one."""
        own = next(
            (stage.box.threshold if stage.box else stage.threshold for stage in self.stages if stage.name == name), None
        )
        return self.masks if own is None else replace(self.masks, threshold=own)
