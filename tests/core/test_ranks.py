"""A run that is spread over two processes is the run of one."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from baoseg import cli, nets, pipeline
from baoseg.core import ranks
from baoseg.core.errors import RecipeError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import Batch
from baoseg.data import transforms
from baoseg.methods import bao
from baoseg.training import train

# Nothing random but the images, and means that do not depend on how a batch is divided: no padding, no batch norm.
RECIPE = replace(
    tiny.RECIPE,
    net=nets.Config(
        backbone="conformer_nano",
        options=(("channel_ratio", 0.25), ("embed_dim", 32), ("depth", 3), ("heads", 2), ("drop_path", 0.0)),
        freeze_batch_norm=True,
    ),
    augment=transforms.Config(resize_long=(64, 80), crop=64),
)
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiny, torch
from core import test_ranks
from baoseg import pipeline
torch.set_num_threads(1)
pipeline.run(test_ranks.RECIPE, Path(sys.argv[1]), hardware=replace(tiny.HARDWARE, devices=2))
"""


def run_on_two(out: Path, script: Path) -> str:
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, str(script), str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return pipeline.run(RECIPE, tmp_path_factory.mktemp("alone") / "run", hardware=tiny.HARDWARE)


def losses(run: RunFolder, stage: str) -> torch.Tensor:
    with run.stage(stage).losses.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return torch.tensor([[float(value) for key, value in row.items() if key != "seconds"] for row in rows])


def assert_same(run: RunFolder, other: RunFolder) -> None:
    """To rounding; BAO decides which class a cell has, so that rounding can change the label of one."""
    for stage, tolerance in (("transcam", 1e-4), ("bao", 1e-2)):
        torch.testing.assert_close(losses(run, stage), losses(other, stage), rtol=tolerance, atol=1e-5)
        ours, theirs = (load_file(each.stage(stage).network) for each in (run, other))
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance)
        ours, theirs = (read_json(each.stage(stage).metrics) for each in (run, other))
        assert ours["images"] == theirs["images"] == 5
        assert ours["oracle"]["miou"] == pytest.approx(theirs["oracle"]["miou"], abs=1.0)


def test_two_processes_train_and_label_as_one_does(alone: RunFolder, tmp_path: Path) -> None:
    said = run_on_two(tmp_path / "run", tmp_path / "script.py")
    assert said.count("Report: ") == 1  # the first process talks
    both = RunFolder(tmp_path / "run")
    assert_same(alone, both)
    files = [{path.relative_to(run.root) for path in run.root.rglob("*") if path.is_file()} for run in (alone, both)]
    assert files[0] == files[1]


def test_a_run_goes_on_with_another_number_of_devices(
    alone: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def stop(learner: bao.BAO, progress: object) -> None:
        steps.append(progress)
        if len(steps) == 5:  # in the second of three epochs
            raise KeyboardInterrupt
        original(learner, progress)

    original = bao.BAO.after_step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bao.BAO, "after_step", stop)
        pipeline.run(RECIPE, tmp_path / "run", hardware=tiny.HARDWARE)
    run_on_two(tmp_path / "run", tmp_path / "script.py")
    assert_same(alone, RunFolder(tmp_path / "run"))


def test_batches_in_parts_train_the_same_network(alone: RunFolder, tmp_path: Path) -> None:
    hardware = replace(tiny.HARDWARE, accumulate=2)
    assert_same(alone, pipeline.run(RECIPE, tmp_path / "run", hardware=hardware))


def test_parts_of_a_batch_are_the_batch() -> None:
    batch = Batch(torch.rand(5, 3, 4, 4), torch.rand(5, 2), torch.rand(5, 1, 4, 4) > 0.5)
    parts = batch.parts(2)
    assert [len(part.images) for part in parts] == [3, 2]
    for name in ("images", "labels", "valid"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert all(part.pixel_labels is None and part.pixel_weights is None for part in parts)
    assert len(batch.parts(9)) == 5


def test_where_the_first_process_fails_the_others_end_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bool] = []
    monkeypatch.setattr(ranks, "_told", lambda value: said.append(value) or False)
    with pytest.raises(RecipeError), ranks.first_alone():
        raise RecipeError("no such network")
    with ranks.first_alone():
        pass
    assert said == [False, True]
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    with pytest.raises(SystemExit) as ended, ranks.first_alone():
        pytest.fail("the block of a process that is told to end")
    assert ended.value.code == 2
    monkeypatch.setattr(ranks, "_told", lambda value: True)
    with ranks.first_alone():
        said.append(True)
    assert said[-1]


def test_that_another_process_is_gone_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")

    monkeypatch.setattr(cli, "_choose", gone)
    monkeypatch.setattr(sys, "argv", ["bao", "demo"])
    with pytest.raises(RuntimeError):  # of one process it would be a bug
        cli.main()
    monkeypatch.setattr(ranks, "world", lambda: 2)
    for number, words in ((0, "bao: another process of this run has ended, and said why; all end\n"), (1, "")):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code, capsys.readouterr().err) == (2, words)


def test_alone_all_work_is_ones_own() -> None:
    assert (ranks.rank(), ranks.world(), ranks.first()) == (0, 1, True)
    assert ranks.own_share([4, 2, 7]) == [4, 2, 7]
    assert ranks.gathered("word") == ["word"]
    counts = torch.tensor([1, 2])
    assert torch.equal(ranks.total(counts), counts)
    ranks.barrier()


def test_the_work_of_many_is_dealt_out_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append(ranks.own_share([0, 1, 2, 5, 6, 7]))
    assert shares == [[0, 6], [1, 7], [2, 5]]


def test_batches_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"batches of 5 images cannot be divided by 2 devices"):
        train.divided(5, 2)
    with pytest.raises(RecipeError, match=r"--devices 0"):
        train.Hardware(devices=0)
