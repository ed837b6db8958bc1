"""A run from end to end, trained and labelled as it was when these numbers were written down.

No other test tells that the result of a run has changed although each of its parts still does what it should. Change
the numbers only together with something that is meant to change results, and say so in the changelog.

Rounding differs between processors, thread counts and versions of PyTorch, a pixel where two maps are equal can go
either way, and training carries rounding on: with two threads in the place of one up to 7 % of an image change. Hence
one thread here, 10 % of an image for each class, and no hash of the masks. AdamW makes whole steps out of gradients
that are nothing but rounding: after 15 of them half an image had changed between AVX-512 and AVX2; after 12 of SGD, as
here, no pixel had. Without AVX2 the first step is another already.
"""

import csv
from dataclasses import replace

import pytest
import tiny
import torch

from baoseg import pipeline, seeds
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.training.train import Config, Optimizer

TOLERANCE = 0.1
SCHEDULE = Config(epochs=2, batch_size=4, lr=0.02, optimizer=Optimizer.SGD)
RECIPE = replace(tiny.RECIPE, stages=tuple(replace(stage, schedule=SCHEDULE) for stage in tiny.RECIPE.stages))

LOSSES = {"transcam": {"classification": 0.646738}, "bao": {"classification": 0.682902, "pcl": 1.694082}}
PIXELS = {  # of BAO's background and of each class
    "val_00000": [3814, 0, 282, 0, 0, 0],
    "val_00001": [3106, 0, 990, 0, 0, 0],
    "val_00002": [4096, 0, 0, 0, 0, 0],
    "val_00003": [3770, 0, 0, 0, 326, 0],
    "val_00004": [4096, 0, 0, 0, 0, 0],
}
BACKGROUND = {"val_00000": 0.8663, "val_00001": 0.4694, "val_00002": 0.605, "val_00003": 0.7628, "val_00004": 0.683}

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}, reason="recorded on a processor with AVX2"
)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = pipeline.begin(RECIPE, tmp_path_factory.mktemp("golden") / "run")
    pipeline.train_stages(run, hardware=tiny.HARDWARE)
    pipeline.make_maps(run, hardware=tiny.HARDWARE)
    pipeline.make_masks(run)
    torch.set_num_threads(threads)
    return run


@pytest.mark.parametrize("stage", LOSSES)
def test_the_losses_of_the_last_epoch(golden: RunFolder, stage: str) -> None:
    with golden.stage(stage).losses.open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    assert {name: float(last[name]) for name in LOSSES[stage]} == pytest.approx(LOSSES[stage], rel=0.02)


@pytest.mark.parametrize("name", PIXELS)
def test_the_masks(golden: RunFolder, name: str) -> None:
    mask = read_mask(golden.stage("bao").mask("val", name))
    counts = torch.bincount(mask.flatten().long(), minlength=len(PIXELS[name]))
    assert counts.tolist() == pytest.approx(PIXELS[name], abs=TOLERANCE * mask.numel())


@pytest.mark.parametrize("name", BACKGROUND)
def test_the_background_maps(golden: RunFolder, name: str) -> None:
    background = seeds.load(golden.stage("bao").maps("val", name)).background
    assert background is not None
    assert float(background.mean()) == pytest.approx(BACKGROUND[name], abs=TOLERANCE)
