"""Options that verbs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from baoseg.recipes import Recipe
    from baoseg.training.train import Hardware


def optional(metavar: str) -> object:
    """Help shows the word for the value of an option that may be left out, and not that its default is None."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


RecipeName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
RunArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Out = Annotated[Path, tyro.conf.arg(metavar="RUN")]
Split = Annotated[str | None, optional("SPLIT")]
Count = Annotated[int | None, optional("N")]
Words = tuple[str, ...]
Seeds = Annotated[Words, optional("NAME=FOLDER ...")]
Values = Annotated[tyro.conf.UseAppendAction[Words], tyro.conf.arg(name="set", metavar="PATH=VALUE")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Device:
    """What to compute on. It is no part of the recipe: a run may continue on another device."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """The mixed ones are faster on GPUs that have them; results differ a little."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Processes that load images during training; any number gives the same result."""
    devices: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """GPUs (or processes on CPUs) to use on each machine; the recipe's batches are divided among them all."""
    nodes: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Machines, each of which runs this same command under torchrun or SLURM, in a folder that all can see."""
    accumulate: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Parts of a batch that go through the network one after the other, where memory is short."""

    def resolve(self) -> "Hardware":
        from baoseg.training.train import Hardware

        hardware = Hardware(**vars(self))
        hardware.fabric()  # what the machine does not have is said at once; processes of other devices start
        return hardware


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What to change in the recipe; all else stays as it is. run.json in the run folder holds the outcome."""

    data: Annotated[str | None, optional("FOLDER")] = None
    """Folder of images with a labels.csv, or of a data set with boxes; or "synthetic": generated scenes."""
    layout: Annotated[Literal["folder", "cub", "ilsvrc", "openimages"] | None, optional("LAYOUT")] = None
    """How a data set with boxes lies on disk: cub, ilsvrc, openimages, or folder for your own (docs/localization.md).
    """
    train_split: Split = None
    """Images to train on. Without it: train, or all images where there is no such split; for boxes, train."""
    eval_split: Split = None
    """Images to label. Without it: val, or those of training where there is no val; for boxes, test or val."""
    backbone: Annotated[str | None, optional("NAME")] = None
    """conformer_nano, conformer_tiny, conformer_small or conformer_base, or timm:NAME for a CNN or ViT of timm."""
    weights: Annotated[Path | None, optional("FILE")] = None
    """Weights to start from: .safetensors or .pth in the names of timm, of the published Conformers, or of a run."""
    only: Annotated[str | None, optional("STAGE")] = None
    """Train this stage of the recipe alone, e.g. bao; with --weights, from an already trained classifier."""
    epochs: Count = None
    """Epochs of each stage; refinements and segmentation networks keep theirs."""
    batch_size: Count = None
    """Images a step, in each stage."""
    lr: Annotated[float | None, optional("RATE")] = None
    """Learning rate of the backbone in each stage; that of the heads keeps its ratio to it."""
    seed: Count = None
    """Random seed."""
    refine: Annotated[Words | None, optional("WAY ...")] = None
    """Ways to refine the masks, of crf regions psa irn, in the place of the recipe's own."""
    smoke: Flag = False
    """Only see that all of it runs: a few small images of each split, 1 epoch, no weights; a minute or a few."""

    values: Values = ()
    """Change any other setting by its path (`bao recipes show RECIPE` prints all), e.g. maps.sizes=256,384."""

    def apply(self, recipe: "Recipe") -> "Recipe":
        from baoseg.recipes import override, smoke, with_values

        changes = {name: value for name, value in vars(self).items() if name not in ("smoke", "values")}
        return with_values(override(smoke(recipe) if self.smoke else recipe, **changes), self.values)
