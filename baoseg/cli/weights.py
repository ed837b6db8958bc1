"""The group `bao weights`: published weights, from their hosts to files that `--weights` takes."""

from pathlib import Path
from typing import Annotated

import tyro

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]


def list_() -> None:
    """What there is: each file of weights, its licence, and the recipes that read it."""
    from baoseg.core.progress import say
    from baoseg.recipes import weights

    say(weights.table())


def show(name: Name) -> None:
    """All that is known about one: where it comes from, its licence and checksum, and what could not be verified.

    Args:
        name: E.g. conformer-small; an unknown name lists them all.
    """
    from baoseg.recipes import weights

    print(weights.show(name))


def fetch(name: Name, to: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("weights")) -> None:
    """Download one, check it, and write it as DIR/NAME.safetensors; or say what to do where a host wants a person.

    Args:
        name: E.g. conformer-small; an unknown name lists them all.
        to: Folder to write; recipes look into the default. The file as published stays there too.
    """
    from baoseg.core.progress import say
    from baoseg.nets import catalogue

    kind, out = catalogue.checkpoint(name).kind, catalogue.converted(name, to)
    report = catalogue.convert(catalogue.fetch(name, to), out, kind=kind)
    say(f"{out}: {report}")


def convert(file: File, out: Annotated[Path, tyro.conf.arg(metavar="FILE")]) -> None:
    """Write weights of any network that is known as safetensors, and say which keys match the network.

    Args:
        file: Weights of a Conformer, ResNet, ResNet-38 or DeepLab v2: .pth, .safetensors, or MXNet's .params.
        out: File to write; its name ends with .safetensors.
    """
    from baoseg.core.progress import say
    from baoseg.nets import catalogue

    say(f"{out}: {catalogue.convert(file, out)}")
