"""The group `bao weights`: from published weights to files that `--weights` reads."""

from pathlib import Path
from typing import Annotated

import tyro

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]


def list_() -> None:
    """List all weights, with their licences and the recipes that read them."""
    from baoseg.core.progress import say
    from baoseg.recipes import weights

    say(weights.table())


def show(name: Name) -> None:
    """Show all facts about one file of weights: source, licence, checksum, and what could not be verified.

    Args:
        name: Name of the weights, e.g. conformer-small; an unknown name lists all names.
    """
    from baoseg.recipes import weights

    print(weights.show(name))


def fetch(name: Name, to: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("weights")) -> None:
    """Download weights, check them, and write DIR/NAME.safetensors, or say how to download them by hand.

    Args:
        name: Name of the weights, e.g. conformer-small; an unknown name lists all names.
        to: Folder to write; recipes read the default folder. The published file stays in it too.
    """
    from baoseg.core.progress import say
    from baoseg.nets import catalogue

    kind, out = catalogue.checkpoint(name).kind, catalogue.converted(name, to)
    report = catalogue.convert(catalogue.fetch(name, to), out, kind=kind)
    say(f"{out}: {report}")


def convert(file: File, out: Annotated[Path, tyro.conf.arg(metavar="FILE")]) -> None:
    """Convert weights of a known network to safetensors, and print which keys match the network.

    Args:
        file: Weights of a Conformer, ResNet, ResNet-38 or DeepLab v2: .pth, .safetensors, or MXNet's .params.
        out: File to write; its name ends with .safetensors.
    """
    from baoseg.core.progress import say
    from baoseg.nets import catalogue

    say(f"{out}: {catalogue.convert(file, out)}")
