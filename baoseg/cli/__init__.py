"""The verbs of `bao`; no logic. Torch is imported when a verb runs, so that help appears at once."""

import sys
from collections.abc import Callable

import tyro

from baoseg.cli import export, label, localize, predict, prepare, recipes, runs, steps, try_, weights
from baoseg.errors import BaosegError

Verb = Callable[..., None]


def _by_name(*verbs: Verb) -> dict[str, Verb]:
    return {verb.__name__.strip("_"): verb for verb in verbs}


VERBS = _by_name(
    *(try_.try_, runs.demo, runs.run, runs.compare, runs.reproduce, runs.fuse),
    *(steps.train, steps.maps, steps.masks, steps.refine, steps.segment, steps.evaluate, steps.report),
    *(predict.predict, label.label, localize.localize),
)
# Verbs with verbs of their own, and what they are for.
GROUPS: dict[str, tuple[str, dict[str, Verb]]] = {
    "prepare": (
        "The papers' data sets, from their archives to folders that other verbs take; a check of your own folder.",
        _by_name(
            *(prepare.voc12, prepare.coco14, prepare.cub200, prepare.ilsvrc, prepare.openimages),
            prepare.folder,
        ),
    ),
    "weights": (
        "Published weights: what there is, fetched, and as safetensors.",
        _by_name(weights.list_, weights.show, weights.fetch, weights.convert),
    ),
    "recipes": (
        "Named settings of whole runs, and where each number comes from.",
        _by_name(recipes.list_, recipes.show),
    ),
    "export": ("Networks and masks in the forms that other tools take.", _by_name(export.onnx, export.voc)),
}
LISTED = "list"  # what the name of a group alone does, where it can


def main() -> None:
    """Entry point of `bao`. Mistakes of the person at the keyboard end in one line and exit code 2."""
    words = sys.argv[1:]
    try:
        if words and words[0] in GROUPS:
            about, verbs = GROUPS[words[0]]
            given = words[1:] or [LISTED] * (LISTED in verbs)
            _choose(verbs, given, prog=f"bao {words[0]}", description=about)
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
