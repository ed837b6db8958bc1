"""From miniatures of the official archives to the report, by the commands that a person types one after the other."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
from data.prepare import test_coco, test_voc

from baoseg import cli, recipes
from baoseg.core.run_folder import RunFolder
from baoseg.data import prepare
from baoseg.data.images import read_mask
from baoseg.data.prepare import coco, coco14, voc12
from baoseg.recipes import Recipe, papers

DECISIONS = {"transcam": "fixed", "bao": "threshold_free", "bao+crf": "refined", "segment": "predicted"}


def narrow(make: Callable[[], Recipe]) -> Recipe:
    """The same recipe on networks of the same kinds with fewer channels."""
    recipe = make()
    segmentations = tuple(replace(one, net=replace(one.net, options=(("width", 16),))) for one in recipe.segmentations)
    return replace(recipe, net=replace(recipe.net, options=tiny.NET.options), segmentations=segmentations)


@pytest.fixture
def bao(tmp_path, monkeypatch, capsys):
    """Types a command in an empty folder, and returns the lines that it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(recipes.RECIPES, "bao-voc", partial(narrow, recipes.bao_voc))
    monkeypatch.setitem(papers.RECIPES, "bao-coco", partial(narrow, papers.bao_coco))

    def command(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["bao", *words])
        cli.main()
        return capsys.readouterr().out.splitlines()

    return command


def run_what_was_proposed(bao: Callable[..., list[str]], lines: list[str]) -> RunFolder:
    """The last command that `bao prepare` prints, in its smoke size."""
    program, *words = shlex.split(lines[-1])
    assert (program, words[0]) == ("bao", "run")
    bao(*words, "--smoke", "--accelerator", "cpu", "--workers", "0")
    return RunFolder(Path(words[words.index("--out") + 1]))


def masks_of(run: RunFolder, stage: str, split: str) -> dict[str, np.ndarray]:
    return {path.stem: read_mask(path).numpy() for path in run.stage(stage).masks(split).iterdir()}


def mean_iou(masks: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray], classes: int) -> float:
    """In percent, over the classes that occur, the background too; pixels of 255 do not count."""
    found = np.concatenate([masks[name][truths[name] != 255] for name in truths])
    true = np.concatenate([truths[name][truths[name] != 255] for name in truths])
    present = [index for index in range(classes + 1) if index in found or index in true]
    return 100 * np.mean([np.sum((found == i) & (true == i)) / np.sum((found == i) | (true == i)) for i in present])


def check(run: RunFolder, truths: Mapping[str, np.ndarray], labels: Mapping[str, set[int]], *, classes: int) -> None:
    """Every stage has masks, and metrics that follow from them and from the ground truth of the archives."""
    page = run.report.read_text(encoding="utf-8")
    assert f"{run.root.name}-smoke" in page
    for stage, decision in DECISIONS.items():
        assert stage in page
        metrics = json.loads(run.stage(stage).metrics.read_text(encoding="utf-8"))
        assert (metrics["split"], metrics["images"], len(metrics["classes"])) == ("train", len(truths), classes + 1)
        masks = masks_of(run, stage, "train")
        assert masks.keys() == truths.keys()
        assert metrics[decision]["miou"] == pytest.approx(mean_iou(masks, truths, classes))
        if stage != "segment":  # which does without labels
            assert all({*np.unique(masks[name])} <= {0, *labels[name]} for name in masks)


def test_from_the_archives_of_voc_to_the_report(bao, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "voc12", partial(voc12, config=test_voc.config(tmp_path / "packs")))
    lines = bao("prepare", "voc12", "--root", "data", "--archives", "packs", "--workers", "0")
    run = run_what_was_proposed(bao, lines)
    truths = {name: test_voc.MASKS[name] for name in test_voc.LISTS["train"]}
    labels = {name: {test_voc.CLASS[label] for label, _ in test_voc.OBJECTS[name]} for name in truths}
    check(run, truths, labels, classes=20)
    assert masks_of(run, "bao+crf", "train_aug").keys() == {"s1", "s2", "t1", "t2"}  # learned from: SBD's too


def test_from_the_archives_of_coco_to_the_report(bao, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "coco14", partial(coco14, config=test_coco.config(tmp_path / "packs")))
    lines = bao("prepare", "coco14", "--root", "data", "--archives", "packs", "--workers", "0")
    run = run_what_was_proposed(bao, lines)
    tool = test_coco.read_by_pycocotools("data/COCO2014/annotations/instances_train2014.json", capsys)
    images = {Path(image["file_name"]).stem: image for image in tool.loadImgs([7, 9, 12])}
    truths = {name: test_coco.slow(tool, image) for name, image in images.items()}
    annotations = {name: tool.imgToAnns[image["id"]] for name, image in images.items()}
    labels = {name: {coco.INDEX[entry["category_id"]] for entry in entries} for name, entries in annotations.items()}
    check(run, truths, labels, classes=80)
