"""The verbs of `bao`; no logic. Torch is imported when a verb runs, so that help appears at once."""

import sys
from collections.abc import Callable

import tyro

from baoseg.cli import runs, steps
from baoseg.errors import BaosegError

Verb = Callable[..., None]


def _by_name(*verbs: Verb) -> dict[str, Verb]:
    return {verb.__name__.strip("_"): verb for verb in verbs}


VERBS = _by_name(
    *(runs.demo, runs.run, runs.compare, runs.reproduce, runs.fuse),
    *(steps.train, steps.maps, steps.masks, steps.refine, steps.segment, steps.evaluate, steps.report),
)
# Verbs with verbs of their own, and what they are for.
GROUPS: dict[str, tuple[str, dict[str, Verb]]] = {}


def main() -> None:
    """Entry point of `bao`. Mistakes of the person at the keyboard end in one line and exit code 2."""
    words = sys.argv[1:]
    try:
        if words and words[0] in GROUPS:
            about, verbs = GROUPS[words[0]]
            _choose(verbs, words[1:], prog=f"bao {words[0]}", description=about)
        else:
            listed = {name: _listed(about) for name, (about, _) in GROUPS.items()}
            about = "Pixel masks from image-level labels, with no background threshold to tune."
            _choose(VERBS | listed, words, prog="bao", description=about)
    except BaosegError as error:
        print(f"bao: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nbao: stopped; the same command continues where it was", file=sys.stderr)
        sys.exit(130)


def _choose(verbs: dict[str, Verb], words: list[str], *, prog: str, description: str) -> None:
    config = (tyro.conf.OmitSubcommandPrefixes,)
    tyro.extras.subcommand_cli_from_dict(verbs, args=words, prog=prog, description=description, config=config)


def _listed(about: str) -> Verb:
    """Stands for a group in the list of all verbs."""

    def group() -> None:
        raise AssertionError("a group is dispatched by its name")

    group.__doc__ = about
    return group
