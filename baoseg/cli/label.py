"""The verb that labels a collection of any size."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from baoseg.cli.options import Count, Flag
from baoseg.core.errors import RecipeError


def label(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")],
    *,
    model: Annotated[Path, tyro.conf.arg(metavar="RUN|FILE")],
    out: Annotated[Path, tyro.conf.arg(metavar="DST")],
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1",
    engine: Literal["local", "ray"] = "local",
    parts: Count = None,
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 4,
    no_labels: Flag = False,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> None:
    """Make masks for a collection of any size. The same command continues it; exit code 1 if an image failed.

    Args:
        source: Folder of images and WebDataset shards (.tar), one shard, or - for a shard on stdin.
        model: Run folder, folder of a stage, or network.safetensors: a labeler or a segmentation network.
        out: Folder to write: a PNG for each image, a shard of masks for each shard, and failures.csv.
        shard: Label only one of N parts; the first part is 0/N. N processes or machines can share the work.
        engine: ray divides the work over a Ray cluster that sees SRC, RUN and DST under the same paths.
        parts: Number of parts with --engine ray. Without it: as many as the cluster can work on at the same time.
        threads: Threads that read and decode images ahead of the network.
        no_labels: Do not read the labels beside images (NAME.json, .txt, .cls); the network predicts them.
        accelerator: auto uses a GPU if the machine has one; on Ray, cuda gives each part a GPU and auto gives none.
    """
    from baoseg.predict import collection as labelling
    from baoseg.training.train import Hardware

    if parts is not None and engine == "local":
        raise RecipeError(f"--parts {parts}: is for --engine ray; start each part by itself with --shard I/N")
    job = labelling.Job(
        source=source,
        out=out,
        make=partial(labelling.trained, model.resolve(), Hardware(accelerator=accelerator)),
        part=labelling.Part.parse(shard),
        threads=threads,
        read_labels=not no_labels,
    )
    on_ray = labelling.Cluster(parts=parts, gpus=1.0 if accelerator == "cuda" else 0.0)
    tally = labelling.run(job, cluster=on_ray if engine == "ray" else None)
    if not tally.complete:
        sys.exit(1)
