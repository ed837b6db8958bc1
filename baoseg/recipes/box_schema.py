"""Recipes for localization: boxes from one label an image."""

from dataclasses import dataclass

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.data.wsol import Config as DataConfig
from baoseg.methods import METHODS, Settings, method_of, name_of
from baoseg.training import train


@dataclass(frozen=True, kw_only=True)
class Localizer:
    """One method, how long it is trained, and how its box is made."""

    method: Settings  # CAM or BAS
    schedule: train.Config
    threshold: float  # of the box, a share of the map's maximum
    top_k: int = 1  # classes whose maps are averaged (BAS); no more than there are classes count
    start: str | None = None  # the earlier stage whose weights it starts from; None: the network's own weights
    called: str | None = None  # None: the method's name

    def __post_init__(self) -> None:
        if not method_of(self.method).localizes:
            able = " or ".join(name for name, method in METHODS.items() if method.localizes)
            raise RecipeError(f"{name_of(self.method)} does not localize; use {able}")
        if not 0 <= self.threshold < 1 or self.top_k < 1:
            raise RecipeError(
                f"{self.name}: threshold {self.threshold}, top_k {self.top_k}; a threshold is in [0, 1), k at least 1"
            )

    @property
    def name(self) -> str:
        return self.called or name_of(self.method)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides the result of a run, but for the hardware."""

    name: str
    data: DataConfig
    net: nets.Config
    stages: tuple[Localizer, ...]
    side: int = 256  # of the square that an image is squashed to
    crop: int = 224
    ten_crops: bool = True  # for the class; else the centre crop alone
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.side:
            raise RecipeError(
                f"crops of {self.crop} pixels do not fit into squares of {self.side}; choose smaller ones"
            )
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise RecipeError(f"{self.name}: its stages are {names}; name at least one, and each once")
        for i, stage in enumerate(self.stages):
            if stage.start not in (None, *names[:i]):
                raise RecipeError(f"{self.name}: {stage.name} starts from {stage.start}, which does not come before it")
