"""Verbs that do everything: demo, run, compare, reproduce, fuse."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from baoseg.cli.options import Device, Flag, Out, Overrides, RecipeName, Seeds, Split, Values, Words, optional
from baoseg.core.errors import RecipeError
from baoseg.reproduce import published

Table = Annotated[
    str | None,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="[TABLE]",
        help=f"One of {', '.join(published.tables())}. Without it, they are listed with their titles.",
        help_behavior_hint="",
    ),
]


def demo(
    out: Out = Path("demo"),
    *,
    smoke: Flag = False,
    values: Values = (),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """See the whole thing work in a few minutes: generated scenes, a tiny network, no data and no weights needed.

    Args:
        out: Folder to write; the same command continues an interrupted run there.
        smoke: Only see that all of it runs: a few small images, 1 epoch; seconds.
        values: Change a setting, by a path as `bao recipes show demo` prints it.
    """
    _run("demo", out, Overrides(smoke=smoke, values=values), device)


def run(
    recipe: RecipeName,
    out: Out,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """All steps of a recipe: train, maps, masks, refine, evaluate, report. The same command continues it.

    Of a recipe for boxes: train, evaluate (where boxes are drawn), report.

    Args:
        recipe: Name of a recipe, e.g. photos for your own images; an unknown name lists them all.
        out: Folder to write, or to continue in.
    """
    _run(recipe, out, overrides, device)


def compare(
    *,
    out: Out,
    methods: Annotated[Words, tyro.conf.arg(metavar="METHOD ...")],
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = "demo",
    seeds: Seeds = (),
    fuse: Annotated[Words, optional("A+B ...")] = (),
    allow_pickle: Flag = False,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Methods side by side on one recipe's data and network. The same command continues an interrupted comparison.

    Args:
        out: Folder to write, or to continue in.
        methods: Of cam transcam bnr amn transcam+amn bas bao bao-plus; of a recipe for boxes, its own. What one of them
            starts from is shown too.
        recipe: Name of a recipe, e.g. msrc14; its schedules are those of all methods.
        seeds: Seeds of other tools to show beside the methods: a name and a folder of .npy or .npz, e.g. irn=irn/cams.
        fuse: Sums of normalised seeds to show, of methods and of the names of --seeds, e.g. cam+bas.
        allow_pickle: Read .npy files that are pickles, as tools based on IRN write them; only NumPy arrays are read.
    """
    from baoseg import pipeline, recipes

    pipeline.compare(
        replace(overrides, values=()).apply(recipes.named(recipe)),
        out,
        methods=methods,
        values=overrides.values,
        seeds=_folders(seeds),
        fuse=fuse,
        refine=overrides.refine or (),
        allow_pickle=allow_pickle,
        hardware=device.resolve(),
    )


def reproduce(
    *,
    table: Table = None,
    recipe: Annotated[str, tyro.conf.arg(metavar="RECIPE")] = "demo",
    out: Annotated[Path | None, optional("RUN")] = None,
    seeds: Seeds = (),
    allow_pickle: Flag = False,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Measure a table or figure of the papers anew, beside the published numbers. The same command continues it.

    Args:
        recipe: Name of a recipe: the data, network and schedules to measure with.
        out: Folder to write, or to continue in. Without it: a folder of the table's name.
        seeds: Seeds of other tools for the rows that have some; an unknown NAME lists those of the table.
        allow_pickle: Read .npy files that are pickles, as tools based on IRN write them; only NumPy arrays are read.
    """
    if table is None:
        for known in published.tables().values():
            print(f"{known.id:<18} {known.title}")
        return
    from baoseg import recipes
    from baoseg.reproduce import tables

    tables.run(
        table,
        replace(overrides, values=()).apply(recipes.named(recipe)),
        out or Path(table),
        seeds=_folders(seeds),
        allow_pickle=allow_pickle,
        values=overrides.values,
        hardware=device.resolve(),
    )


def fuse(
    sources: Annotated[Words, tyro.conf.Positional, optional("SOURCE ...")],
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")],
    out: Out,
    eval_split: Split = None,
    allow_pickle: Flag = False,
) -> None:
    """Add up the seeds of runs and of other tools, or take those of one: masks, table and report.

    Args:
        sources: Each a run folder (its last stage), RUN/STAGE, or a folder of .npy or .npz of another tool.
        data: Folder of the images, with a labels.csv (columns image,labels), or "synthetic" for the demo's scenes.
        out: Folder to write, or to continue in.
        eval_split: Images to label. Without it: val, or all images where there is no such split.
        allow_pickle: Read .npy files that are pickles, as tools based on IRN write them; only NumPy arrays are read.
    """
    from baoseg import pipeline, recipes

    recipe = recipes.named("demo" if data == "synthetic" else "photos")
    base = recipes.override(recipe, data=data, eval_split=eval_split)
    pipeline.fuse_seeds(base, sources, out, allow_pickle=allow_pickle)


def _run(recipe: str, out: Path, overrides: Overrides, device: Device) -> None:
    from baoseg import pipeline, recipes

    pipeline.run(overrides.apply(recipes.named(recipe)), out, hardware=device.resolve())


def _folders(pairs: Sequence[str]) -> dict[str, str]:
    """Folders by name, of words NAME=FOLDER."""
    folders: dict[str, str] = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if not folder or name in folders:
            raise RecipeError(f"--seeds {pair}: write NAME=FOLDER, e.g. irn=irn/cams, and each name once")
        folders[name] = str(Path(folder).expanduser())
    return folders
