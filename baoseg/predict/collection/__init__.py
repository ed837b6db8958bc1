"""Masks for a collection of any size: folders of images, WebDataset shards, or a shard on stdin.

The unit of work is one image of a folder or one whole shard. The masks of a unit have a temporary file name until all
of them are written. So a crash loses only the units in progress, and afterwards the same command labels the units that
are not done. A killed process leaves at most one hidden file, which nothing reads. Memory does not grow with the
collection, but for one hash for each image of the current folder or shard.

    SRC/a/cat.jpg       -> OUT/a/cat.png
    SRC/a/0007.tar      -> OUT/a/0007.tar           key.png, and key.json with the labels, for each image
    a shard on stdin    -> OUT/stdin.tar
                           OUT/failures.csv         name,problem

Each image and each shard is written, failed, skipped as done, or ignored and counted. Images with the same name fail,
because their masks would have the same file name. A shard without any mask fails, and nothing is written for it.
"""

from pathlib import Path

from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError
from baoseg.data import shards
from baoseg.data.shards import STDIN as STDIN
from baoseg.data.walk import check_out, ignored_text
from baoseg.predict import loading
from baoseg.predict.collection.job import PIPED, is_done, is_shard
from baoseg.predict.collection.job import Cluster as Cluster
from baoseg.predict.collection.job import Job as Job
from baoseg.predict.collection.job import Model as Model
from baoseg.predict.collection.job import Part as Part
from baoseg.predict.collection.job import Tally as Tally
from baoseg.predict.collection.on_ray import label_on_ray
from baoseg.predict.collection.work import FAILURES_IN_A_ROW as FAILURES_IN_A_ROW
from baoseg.predict.collection.work import label as label
from baoseg.predict.labeler import Labeler
from baoseg.predict.segment import Segmenter
from baoseg.training.train import Hardware


def trained(path: Path, hardware: Hardware) -> Labeler | Segmenter:
    """The trained network of a run folder or a file (see `baoseg.load`), on this machine's device."""
    return loading.load(path, device=hardware.fabric().device)


def run(job: Job, *, cluster: Cluster | None = None) -> Tally:
    """Label a collection in this process or on a Ray cluster; print the counts and return them.

    A failed image or shard is listed in failures.csv and does not stop the job; a further run may list it again. Raises
    DataError if the source cannot be labelled at all. Raises RunError if OUT cannot be written, or if the model fails
    on `FAILURES_IN_A_ROW` units in a row, as on a broken device.
    """
    _check(job, cluster)
    tally = label(job) if cluster is None else label_on_ray(job, cluster)
    listed = f": {job.out}/failures*.csv" if tally.failed else ""
    ignored = f"; {ignored_text(tally.ignored)}" if tally.ignored else ""
    progress.say(f"{tally}{listed}{ignored}")
    return tally


def _check(job: Job, cluster: Cluster | None) -> None:
    check_out(job.out)
    divided = job.part.count > 1
    if divided and cluster is not None:
        raise RecipeError(
            "--shard and --engine ray: Ray divides the collection itself; give only one of the two options"
        )
    if job.source == STDIN:
        if divided or cluster is not None:
            raise RecipeError("- (a shard on stdin): a stream cannot be divided; leave out --shard and --engine")
        if is_done(done := job.target(PIPED)):
            raise DataError(f"{done}: exists already, of this or of another stream; choose another folder with --out")
        return
    if not (job.source.is_dir() or (job.source.is_file() and is_shard(job.source.name))):
        raise DataError(
            f"{job.source}: is neither a folder nor a {shards.SUFFIX} file; give one of them, or - for a shard on stdin"
        )
    source, out = job.source.resolve(), job.out.resolve()
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise DataError(
            f"{job.out}: the output folder and the source contain each other; choose a folder beside {job.source}"
        )
