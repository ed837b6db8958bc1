"""Options that verbs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from baoseg.recipes import Recipe
    from baoseg.training.train import Hardware


def optional(metavar: str) -> object:
    """An option that may be left out: the help shows `metavar` for its value, and not the default None."""
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
    """Device to compute on. It is not part of the recipe: a run may continue on another device."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto uses a GPU if the machine has one."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """bf16-mixed and 16-mixed are faster on GPUs that support them; results differ a little."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Processes that load images during training; any number gives the same result."""
    devices: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Number of GPUs (or of processes on CPUs) on each machine; the batches of the recipe are divided among them."""
    nodes: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Number of machines; each runs this command under torchrun or SLURM, in a folder that all machines see."""
    accumulate: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Number of parts of a batch that go through the network one after the other, to save memory."""

    def resolve(self) -> "Hardware":
        from baoseg.training.train import Hardware

        hardware = Hardware(**vars(self))
        hardware.fabric()  # what the machine does not have is said at once; processes of other devices start
        return hardware


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Settings of the recipe to change; all other settings stay. run.json in the run folder holds the result."""

    data: Annotated[str | None, optional("FOLDER")] = None
    """Folder of images with a labels.csv, or of a data set with boxes; or "synthetic": generated scenes."""
    layout: Annotated[Literal["folder", "cub", "ilsvrc", "openimages"] | None, optional("LAYOUT")] = None
    """How a data set with boxes lies on disk: cub, ilsvrc, openimages, or folder for your own (docs/localization.md).
    """
    train_split: Split = None
    """Split to train on. Without it: train, or all images if there is no split train; for boxes, train."""
    eval_split: Split = None
    """Split to label. Without it: val, or the training images if there is no split val; for boxes, test or val."""
    backbone: Annotated[str | None, optional("NAME")] = None
    """Network: conformer_nano, _tiny, _small or _base, or timm:NAME for a CNN or ViT of timm."""
    weights: Annotated[Path | None, optional("FILE")] = None
    """Weights to start from: .safetensors or .pth in the names of timm, of the published Conformers, or of a run."""
    only: Annotated[str | None, optional("STAGE")] = None
    """Train only this stage of the recipe, e.g. bao; give the weights of a trained classifier with --weights."""
    epochs: Count = None
    """Epochs of each stage; refinements and segmentation networks keep theirs."""
    batch_size: Count = None
    """Number of images in a step of each stage."""
    lr: Annotated[float | None, optional("RATE")] = None
    """Learning rate of the backbone in each stage; the learning rate of the heads keeps its ratio to it."""
    seed: Count = None
    """Random seed."""
    refine: Annotated[Words | None, optional("WAY ...")] = None
    """Refinements of the masks: some of crf regions psa irn. They replace the refinements of the recipe."""
    smoke: Flag = False
    """Only check that all steps run: a few small images of each split, 1 epoch, no weights; some minutes."""

    values: Values = ()
    """Change any other setting by its path (`bao recipes show RECIPE` prints all), e.g. maps.sizes=256,384."""

    def apply(self, recipe: "Recipe") -> "Recipe":
        from baoseg.recipes import override, smoke, with_values

        changes = {name: value for name, value in vars(self).items() if name not in ("smoke", "values")}
        return with_values(override(smoke(recipe) if self.smoke else recipe, **changes), self.values)
