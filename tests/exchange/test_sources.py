"""Masks of a run: which stage, which split, how sure."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from baoseg import pipeline, seeds
from baoseg.core.errors import RunError
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.exchange import sources
from baoseg.seeds import masks

VAL = [f"val_{index:05d}" for index in range(5)]


def test_the_last_stage_that_has_masks_is_taken_with_its_margins(tiny_run: RunFolder) -> None:
    results = sources.of_run(tiny_run)
    assert (results.names, results.split) == (tuple(VAL), "val")
    for name, result in zip(VAL, results, strict=True):
        assert np.array_equal(result.mask, read_mask(tiny_run.stage("bao").mask("val", name)))
        margin = masks.margin(seeds.load(tiny_run.stage("bao").maps("val", name))).numpy()
        assert np.array_equal(result.margin, margin)
        assert (result.file_name, result.source) == (f"{name}.png", "bao")
        assert result.pixels().shape == (64, 64, 3)
        for one in result.instances():
            assert one.score == pytest.approx(margin[one.mask].mean() / 255)


def test_a_refined_stage_is_as_sure_as_its_maps_or_its_vote(tiny_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(tiny_run.root, tmp_path / "run"))
    pipeline.add_refinements(run, ["crf", "regions"], of=["bao"])
    pipeline.refine_masks(run, hardware=tiny.HARDWARE)
    of_maps = masks.margin(seeds.load(run.stage("bao").maps("val", VAL[1]))).numpy()
    assert np.array_equal(sources.of_run(run, stage="bao+crf").read(1).margin, of_maps)
    voted = sources.of_run(run)
    assert voted.read(1).source == "bao+regions"
    assert not np.array_equal(voted.read(1).margin, of_maps)


def test_what_a_run_lacks_is_named(tiny_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no stage 'cam' with masks; it has transcam, bao"):
        sources.of_run(tiny_run, stage="cam")
    with pytest.raises(RunError, match="has no stage None with masks; it has none"):
        sources.of_run(tiny_run, split="train")
    run = RunFolder(shutil.copytree(tiny_run.root, tmp_path / "run"))
    run.stage("bao").mask("val", VAL[3]).unlink()
    with pytest.raises(RunError, match=r"1 of 5 images of the split val have no mask, e\.g\. val_00003"):
        sources.of_run(run)
