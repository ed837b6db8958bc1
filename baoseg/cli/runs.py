"""Verbs that run all steps: demo, run, compare, reproduce, fuse."""

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
    """Run all steps in a few minutes on generated scenes with a tiny network; no data and no weights are needed.

    Args:
        out: Folder to write; the same command continues an interrupted run there.
        smoke: Only check that all steps run: a few small images and 1 epoch, in seconds.
        values: Change a setting by its path; `bao recipes show demo` prints all paths.
    """
    _run("demo", out, Overrides(smoke=smoke, values=values), device)


def run(
    recipe: RecipeName,
    out: Out,
    overrides: tyro.conf.OmitArgPrefixes[Overrides] = Overrides(),
    device: tyro.conf.OmitArgPrefixes[Device] = Device(),
) -> None:
    """Run all steps of a recipe, from train to report. The same command continues an interrupted run.

    A recipe for boxes has the steps train, evaluate (which draws the boxes) and report.

    Args:
        recipe: Name of a recipe, e.g. photos for your own images; an unknown name lists all recipes.
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
    """Compare methods on the data and the network of one recipe. The same command continues a comparison.

    Args:
        out: Folder to write, or to continue in.
        methods: Some of cam transcam bnr amn transcam+amn bas bao bao-plus; for a recipe for boxes, some of its own
            methods. A method from which another method starts is compared too.
        recipe: Name of a recipe, e.g. msrc14; all methods use its schedules.
        seeds: Seeds of other tools to compare with the methods: a name and a folder of .npy or .npz, e.g. irn=irn/cams.
        fuse: Sums of normalised seeds to compare, written with names of methods and of --seeds, e.g. cam+bas.
        allow_pickle: Read .npy files that hold pickles, as tools based on IRN write them; only arrays are read.
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
    """Reproduce a table or figure of the papers beside the published numbers. The same command continues it.

    Args:
        recipe: Name of the recipe whose data, network and schedules are used.
        out: Folder to write, or to continue in. Without it: a folder with the name of the table.
        seeds: Seeds of other tools for rows of the table; an unknown NAME lists the names that the table takes.
        allow_pickle: Read .npy files that hold pickles, as tools based on IRN write them; only arrays are read.
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
    """Add the seeds of runs and of other tools, or read the seeds of one source, and make masks, table and report.

    Args:
        sources: Run folders (the last stage is read), RUN/STAGE, or folders of .npy or .npz files of other tools.
        data: Folder of the images, with a labels.csv (columns image,labels), or "synthetic" for generated scenes.
        out: Folder to write, or to continue in.
        eval_split: Split to label. Without it: val, or all images if there is no split val.
        allow_pickle: Read .npy files that hold pickles, as tools based on IRN write them; only arrays are read.
    """
    from baoseg import pipeline, recipes

    recipe = recipes.named("demo" if data == "synthetic" else "photos")
    base = recipes.override(recipe, data=data, eval_split=eval_split)
    pipeline.fuse_seeds(base, sources, out, allow_pickle=allow_pickle)


def _run(recipe: str, out: Path, overrides: Overrides, device: Device) -> None:
    from baoseg import pipeline, recipes

    pipeline.run(overrides.apply(recipes.named(recipe)), out, hardware=device.resolve())


def _folders(pairs: Sequence[str]) -> dict[str, str]:
    """The folders of words NAME=FOLDER, by name."""
    folders: dict[str, str] = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if not folder or name in folders:
            raise RecipeError(f"--seeds {pair}: write NAME=FOLDER, e.g. irn=irn/cams, and use each name once")
        folders[name] = str(Path(folder).expanduser())
    return folders
