"""A collection labelled on a Ray cluster."""

import importlib
from dataclasses import replace
from typing import Any

from baoseg.core.errors import RecipeError
from baoseg.predict.collection.job import Cluster, Job, Part, Tally
from baoseg.predict.collection.work import label, list_failure


def label_on_ray(job: Job, cluster: Cluster) -> Tally:
    """Run one task for each part. All machines must see source and output under the same paths."""
    ray = _ray()
    if not ray.is_initialized():
        ray.init()
    places = _places(ray.cluster_resources(), cluster)
    task = ray.remote(label).options(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=cluster.retries)
    whole = replace(job, source=job.source.resolve(), out=job.out.resolve())
    count = cluster.parts or places
    jobs = [replace(whole, part=Part(index, count)) for index in range(count)]
    tally = Tally()
    for part, result in [(part, task.remote(part)) for part in jobs]:
        try:
            tally.add(ray.get(result))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:  # the part died after all retries
            tally.failed += 1
            list_failure(part.failures, f"part {part.part}", error)
    return tally


def _places(resources: dict[str, float], cluster: Cluster) -> int:
    """How many parts the cluster can run at the same time. Raises RecipeError for 0: Ray would wait forever."""
    wanted = {"CPU": cluster.cpus, "GPU": cluster.gpus}
    places = min(int(resources.get(kind, 0.0) / each) for kind, each in wanted.items() if each)
    if places == 0:
        kinds = " and ".join(f"{each:g} {kind}" for kind, each in wanted.items() if each)
        raise RecipeError(
            f"--engine ray: no machine has {kinds} free for a part; add machines, or give --accelerator cpu"
        )
    return places


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise RecipeError("--engine ray: Ray is not installed; pip install 'baoseg[ray]'") from None
