import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from predict import small_collections
from predict.small_collections import Deadly, Waiting, files, job, picture, seen, wait_for

from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.predict import collection as labelling
from baoseg.predict.collection import Cluster, Part
from baoseg.predict.labeler import load

# --------------------------------------------------------------------------------------------- Ray


MODULES = (sys.modules[__name__], small_collections)


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """A local cluster of two workers; its processes know the tests' models by their content, not by their names."""
    ray = pytest.importorskip("ray")
    for module in MODULES:
        ray.cloudpickle.register_pickle_by_value(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()
    for module in MODULES:
        ray.cloudpickle.unregister_pickle_by_value(module)


def test_a_ray_worker_that_is_killed_midway_costs_nothing(ray: object, source: Path, tmp_path: Path) -> None:
    labelling.run(job(source, tmp_path / "whole"))
    (signs := tmp_path / "signs").mkdir()

    def kill() -> None:
        wait_for(lambda: len(list(signs.iterdir())) == 2)  # both workers are in the middle of their parts
        os.kill(int(next(signs.iterdir()).name), signal.SIGKILL)
        (signs / "killed").touch()

    (killer := threading.Thread(target=kill)).start()
    tally = labelling.run(replace(job(source, tmp_path / "out"), make=partial(Waiting, signs)), cluster=Cluster())
    killer.join()
    assert (signs / "killed").exists()
    assert tally.failed == 0
    assert seen(tmp_path / "out") == files(tmp_path / "whole")


def test_a_part_that_dies_time_and_again_is_listed_and_the_others_are_done(ray: object, tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    parts = {
        name: next(index for index in range(2) if Part(index, 2).has(name)) for name in ("a.png", "b.png", "z.png")
    }
    for number, name in enumerate(parts):
        (source / name).write_bytes(picture(number))
    deadly = next(name for name, part in parts.items() if part == 0)
    (source / deadly).with_suffix(".txt").write_text("red")
    tally = labelling.run(replace(job(source, tmp_path / "out"), make=Deadly), cluster=Cluster(parts=2, retries=0))
    assert tally == labelling.Tally(written=sum(parts.values()), failed=1)
    _, line = (tmp_path / "out/failures-0-of-2.csv").read_text().splitlines()
    assert line.startswith("part 0/2,")


def test_a_cluster_without_what_a_part_takes_is_an_error(ray: object, source: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no machine has 1 CPU and 99 GPU free for a part"):
        labelling.run(job(source, tmp_path / "out"), cluster=Cluster(gpus=99.0))


def test_an_error_on_a_worker_is_the_error_of_the_run(ray: object, source: Path, tmp_path: Path) -> None:
    wanted = replace(job(source, tmp_path / "out"), make=partial(load, tmp_path / "none.safetensors"))
    with pytest.raises(CheckpointError, match=r"none\.safetensors") as caught:
        labelling.run(wanted, cluster=Cluster(parts=2))
    assert "\n" not in str(caught.value)


def test_without_ray_its_engine_is_an_error_of_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"pip install 'baoseg\[ray\]'"):
        labelling.run(job(source, tmp_path / "out"), cluster=Cluster(parts=2))
