"""The verbs of `bao`; no logic. Torch is imported when a verb runs, so that help appears at once."""

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper, UnsupportedOperation

import tyro

from baoseg.cli import export, label, localize, predict, prepare, recipes, review, runs, steps, try_, weights
from baoseg.core.errors import BaosegError

Verb = Callable[..., None]


def _by_name(*verbs: Verb) -> dict[str, Verb]:
    for verb in verbs:
        verb.__doc__ = _reflowed(verb.__doc__ or "")
    return {verb.__name__.strip("_").removeprefix("import_"): verb for verb in verbs}


def _reflowed(doc: str) -> str:
    """A docstring with one line for each argument: tyro would keep the breaks within the text of an argument."""
    lines: list[str] = []
    for line in inspect.cleandoc(doc).splitlines():
        if line.startswith(" " * 8):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


VERBS = _by_name(
    *(try_.try_, runs.demo, runs.run, runs.compare, runs.reproduce, runs.fuse),
    *(steps.train, steps.maps, steps.masks, steps.refine, steps.segment, steps.evaluate, steps.report),
    *(review.review, predict.predict, label.label, localize.localize),
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
    "export": (
        "Networks and masks in the forms that other tools take.",
        _by_name(export.onnx, export.voc, export.masks),
    ),
    "import": ("Masks that other tools drew or corrected.", _by_name(export.import_masks)),
}
LISTED = "list"  # what the name of a group alone does, where it can
QUIET = "--quiet"
PIPE_CLOSED = 141  # what a shell says of a program that wrote to a closed pipe: 128 + SIGPIPE


def main() -> None:
    """Entry point of `bao`. Errors of the user are one line, and the exit code is 2.

    Where nobody reads on (`bao recipes list | head -1`) it ends in silence; long work goes on (`progress.say`).
    """
    _speak_utf8()
    try:
        try:
            _run(sys.argv[1:])
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at the end of the interpreter a failure would be its own complaint
    except BrokenPipeError:
        _silence("stdout", "stderr")
        sys.exit(PIPE_CLOSED)
    except OSError as error:
        if error.errno is None:
            raise
        _silence("stdout")
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _fail(f"{where}{error.strerror}; check the path, what you may do there, and the space that is left")


def _run(words: list[str]) -> None:
    if QUIET in words:
        from baoseg.core.progress import Quiet

        words, Quiet.on = [word for word in words if word != QUIET], True
    try:
        if words and words[0] in GROUPS:
            about, verbs = GROUPS[words[0]]
            given = words[1:] or [LISTED] * (LISTED in verbs)
            _choose(verbs, given, prog=f"bao {words[0]}", description=about)
        else:
            listed = {name: _listed(about) for name, (about, _) in GROUPS.items()}
            about = (
                "Pixel masks from image-level labels, with no background threshold to tune.\n"
                f"{QUIET} with any command: no progress, only errors and what was asked for."
            )
            _choose(VERBS | listed, words, prog="bao", description=about)
    except BaosegError as error:
        _fail(str(error))
    except UnicodeEncodeError as error:  # of the name of a file: the streams take everything (`_speak_utf8`)
        _fail(f"{error.object}: no such name in the encoding {error.encoding} of this locale; set PYTHONUTF8=1")
    except RuntimeError as error:
        _require_news(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nbao: stopped; the same command continues where it was", file=sys.stderr)
        sys.exit(130)


def _require_news(error: RuntimeError) -> None:
    """Raise the error unless it is that another process of this run has ended."""
    from baoseg.core import ranks

    if not ranks.peer_is_gone(error):
        raise error
    if ranks.first():
        print("bao: another process of this run has ended, and said why; all end", file=sys.stderr)


def _fail(problem: str) -> None:
    print(f"bao: {problem}", file=sys.stderr)
    sys.exit(2)


def _speak_utf8() -> None:
    """Write what a console's encoding lacks as an escape, and name files in UTF-8 where the locale is plain ASCII.

    Python chooses the encoding of file names when it starts, so it is started once more for the latter.
    """
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence(*names: str) -> None:
    """Send what is still to be written to the standard streams of these names nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in filter(None, (getattr(sys, name) for name in names)):  # None: closed from the start (`>&-`)
        with suppress(UnsupportedOperation):  # a stream in memory
            os.dup2(nowhere, stream.fileno())


def _choose(verbs: dict[str, Verb], words: list[str], *, prog: str, description: str) -> None:
    config = (tyro.conf.OmitSubcommandPrefixes,)
    tyro.extras.subcommand_cli_from_dict(verbs, args=words, prog=prog, description=description, config=config)


def _listed(about: str) -> Verb:
    """Stands for a group in the list of all verbs."""

    def group() -> None:
        raise AssertionError("a group is dispatched by its name")

    group.__doc__ = about
    return group
