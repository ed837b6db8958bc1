import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from PIL import Image

from baoseg import nets, pipeline, recipes
from baoseg.core import settings
from baoseg.core.errors import CheckpointError
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask, write_mask
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.data.synthetic import Synthetic
from baoseg.methods import amn, bao
from baoseg.predict import segment
from baoseg.recipes import Recipe, boxes, papers
from baoseg.refine import crf, irn, psa

PAPERS = ["bao-voc", "bao-voc-reference", *papers.RECIPES]
OF_BOXES = [name for name in boxes.RECIPES if name != "cub20"]


# ------------------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize("name", [*PAPERS, *OF_BOXES])
def test_what_is_published_is_what_runs(name: str) -> None:
    own = papers.settings_of(recipes.named(name))
    stated = papers.published(name)
    assert stated
    assert {path: entry.value for path, entry in stated.items()} == {path: own[path] for path in stated}


@pytest.mark.parametrize("name", PAPERS)
def test_the_settings_that_every_paper_prints_have_a_source(name: str) -> None:
    recipe, stated = recipes.named(name), papers.published(name)
    for stage in recipe.stages:
        assert {f"stages.{stage.name}.schedule.{key}" for key in ("epochs", "batch_size", "weight_decay")} <= set(
            stated
        )
    assert {"data.train_split", "net.backbone", "augment.crop", "maps.sizes"} <= set(stated)
    for entry in stated.values():
        for source in entry.source.split("; "):
            assert source.split()[0] in papers.sources(), source


def test_amn_learns_at_the_thresholds_of_its_first_step_and_irn_at_those_of_the_second() -> None:
    """scripts/generate_pseudo_mask.sh of the released code; CAM is evaluated at 0.15 there, AMN at 0.25."""
    recipe = papers.amn_voc()
    learned, (walked,) = recipe.stages[1].method, recipe.refinements
    assert isinstance(learned, amn.Config) and isinstance(walked.by, irn.Config)
    assert (learned.background_below, learned.foreground_above) == (0.05, 0.30)
    assert (walked.by.background, walked.by.foreground, walked.by.threshold) == (0.15, 0.45, 0.25)
    assert {name: recipe.masks_of(name).threshold for name in recipe.names} == {"cam": 0.15, "amn": 0.25}


def test_maps_go_to_a_power_before_the_walk_where_the_released_code_has_one() -> None:
    powers = {
        refinement.name: refinement.by.power
        for recipe in (papers.amn_voc(), papers.bas_voc(), papers.transcam_voc(), recipes.refined(tiny.RECIPE, ["irn"]))
        for refinement in recipe.refinements
        if not isinstance(refinement.by, crf.Config)
    }
    assert powers == {"amn+irn": 1.3, "cam+bas+irn": 1.5, "transcam+psa": 1.0, "bao+irn": 1.0}


def test_no_settings_are_published_of_recipes_that_are_not_there() -> None:
    content = json.loads((Path(papers.__file__).parent / "paper_settings.json").read_text(encoding="utf-8"))
    assert set(content["recipes"]) == {*PAPERS, *OF_BOXES}
    cited = {entry["source"].split()[0] for entries in content["recipes"].values() for entry in entries.values()}
    assert cited <= set(content["sources"])


@pytest.mark.parametrize("name", papers.RECIPES)
def test_json_brings_a_recipe_back(name: str) -> None:
    recipe = recipes.named(name)
    assert recipe.name == name
    assert settings.from_json(json.loads(json.dumps(settings.to_json(recipe))), Recipe, source="here") == recipe


def test_every_setting_goes_by_a_path() -> None:
    own = papers.settings_of(tiny.RECIPE)
    assert own["stages.bao.schedule.epochs"] == 3
    assert own["stages.bao.method.method"] == "bao"
    assert own["maps.sizes"] == [64, 96]
    assert own["seed"] == 0
    assert not any(isinstance(value, dict) for value in own.values())


def test_a_description_has_each_setting_and_names_its_source() -> None:
    recipe = papers.bnr_voc()
    lines = papers.describe(recipe).splitlines()
    found = {line.split()[0]: line for line in lines if line and ": " not in line}
    assert set(papers.settings_of(recipe)) == set(found)
    assert found["stages.bnr.schedule.epochs"].split(maxsplit=1)[1].split("  ")[0] == "= 22"
    assert found["stages.bnr.schedule.epochs"].endswith("BNR sec. 4.2")
    assert found["seed"].endswith(papers.OURS)
    assert f"BNR: {papers.sources()['BNR']}" in lines
    assert not any(line.startswith("BAS:") for line in lines)  # not cited
    assert papers.describe(tiny.RECIPE).splitlines()[-1].endswith(papers.OURS)


@pytest.mark.parametrize("data", ["voc", "coco"])
def test_noise_reduction_differs_from_transcam_by_the_method_alone(data: str) -> None:
    transcam = json.dumps(settings.to_json(recipes.named(f"transcam-{data}")))
    bnr = settings.to_json(recipes.named(f"bnr-{data}"))
    assert bnr["stages"][0]["method"] == {"method": "bnr", "noise": 1, "strength": "applied"}
    bnr["stages"][0]["method"] = {"method": "bnr"}
    assert json.dumps(bnr) == transcam.replace("transcam", "bnr")


def test_masks_are_drawn_with_as_many_labels_as_the_released_codes_count() -> None:
    counts = {
        name: [
            one.by.n_labels for one in recipes.named(name).refinements if isinstance(one.by, crf.Config | psa.Config)
        ]
        for name in PAPERS
    }
    assert counts == {
        "bao-voc": [None],
        "bao-voc-reference": [91],
        "bao-coco": [None],
        **{name: [21, 21] for name in ("transcam-voc", "bnr-voc")},
        **{name: [None, None] for name in ("transcam-coco", "bnr-coco")},
        **{name: [] for name in PAPERS if name.startswith(("amn", "bas"))},
    }
    assert recipes.refined(tiny.RECIPE, ["crf"]).refinements[-1].by == crf.LABELS


@pytest.mark.parametrize("data", ["voc", "coco"])
def test_the_two_recipes_of_bas_differ_by_the_optimiser_alone(data: str) -> None:
    """SGD at 0.9 as the paper prints it, or as the code runs: the weight decay in the place of the momentum."""
    own, released = (papers.settings_of(recipes.named(f"bas-{data}{end}")) for end in ("", "-reference"))
    changed = {path: (own[path], released[path]) for path in own if own[path] != released[path]}
    assert own.keys() == released.keys()
    assert changed == {
        "name": (f"bas-{data}", f"bas-{data}-reference"),
        "stages.bas.schedule.momentum": (0.9, 1e-4),
        "stages.cam.schedule.momentum": (0.9, 1e-4),
        "stages.cam.schedule.lr": (0.01, 0.1),
        "stages.cam.schedule.head_lr": (0.1, 1.0),
        "refinements.cam+bas+irn.schedule.momentum": (0.9, 1e-4),
        "refinements.cam+bas+irn.schedule.lr": (0.01, 0.1),
        "refinements.cam+bas+irn.schedule.head_lr": (0.1, 1.0),
    }


def test_bao_is_reported_by_mctformers_segmentation_network() -> None:
    for name in ("bao-voc", "bao-voc-reference", "bao-coco"):
        (segmentation,) = recipes.named(name).segmentations
        inference = segmentation.inference
        assert segmentation.net.name == "mctformer:resnet38" and segmentation.net.freeze_batch_norm
        assert (inference.scales, inference.flip) == ((0.5, 0.75, 1.0, 1.25, 1.5), False)
        assert inference.reduce == segment.Reduce.MAX and inference.crf
    shown = {line.split()[0]: line for line in papers.describe(recipes.bao_voc()).splitlines() if line}
    assert "MCTformer-code run_seg.sh" in shown["segmentations.segment.schedule.epochs"]
    assert '"max"' in shown["segmentations.segment.inference.reduce"]


# ------------------------------------------------------------------------------------------- weights


def test_a_recipe_without_its_weights_says_which_file_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^weights/conformer-small\.safetensors: no such weights"):
        nets.build(recipes.bao_voc().net, 20)


def test_weights_go_to_the_networks_that_have_that_backbone() -> None:
    recipe = recipes.override(recipes.bao_voc(), weights=Path("mine.pth"))
    assert recipe.net.weights == "mine.pth"
    assert recipe.segmentations == recipes.bao_voc().segmentations  # a ResNet-38
    other = recipes.override(recipes.bao_voc(), backbone="timm:resnet50")
    assert (other.net.backbone, other.net.weights) == ("timm:resnet50", None)
    same = recipes.override(recipes.bao_voc(), backbone="conformer_small")
    assert same == recipes.bao_voc()


# ------------------------------------------------------------------------------------------- the smoke size


@pytest.mark.parametrize("name", recipes.known())
def test_smoke_changes_sizes_and_nothing_of_what_runs(name: str) -> None:
    recipe, small = recipes.named(name), recipes.smoke(recipes.named(name))
    assert small.name == f"{name}-smoke"
    sizes = {"data.limit", "data.long_side", "name"}
    ends = (
        "epochs",
        "share_epochs",
        "batch_size",
        "resize_long",
        "crop",
        "weights",
        "pretrained",
        "sizes",
        "inference.scales",
    )
    before, after = papers.settings_of(recipe), papers.settings_of(small)
    assert before.keys() == after.keys()
    changed = {path for path in before if before[path] != after[path]}
    assert all(path in sizes or path.endswith(tuple(f".{end}" for end in ends)) for path in changed)
    assert len(after["maps.sizes"]) == len(before["maps.sizes"])
    for path, value in after.items():
        match path.rpartition(".")[2]:
            case "epochs":
                assert value == 1, path
            case "weights":
                assert value is None, path
            case "pretrained":
                assert value is False, path
            case "crop":
                assert value == 64, path
    assert all(
        stage.method.share_epochs < stage.schedule.epochs
        for stage in small.stages
        if isinstance(stage.method, bao.Config)
    )  # the average has a turn


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of VOC with 12 scenes."""
    root = tmp_path_factory.mktemp("data") / "VOC2012"
    scenes = Synthetic(SyntheticConfig(size=96, train_images=12), "train")
    lines = ["image,labels"]
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for index in range(len(scenes)):
        sample = scenes[index]
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(root / f"JPEGImages/{index}.jpg")
        assert sample.mask is not None
        write_mask(root / f"SegmentationClass/{index}.png", sample.mask)
        lines.append(f"JPEGImages/{index}.jpg,{' '.join(scenes.classes.decode(sample.labels))}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("\n".join(scenes.classes.names) + "\n")
    for split, count in {"train": 10, "train_aug": 12, "val": 2}.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{index}\n" for index in range(count)))
    return root


def test_bao_voc_runs_from_images_to_the_report(voc: Path, tmp_path: Path) -> None:
    """The smoke size of the recipe, on networks of the same kinds with fewer channels."""
    small = recipes.override(recipes.smoke(recipes.bao_voc()), data=str(voc))
    narrow = tuple(replace(one, net=replace(one.net, options=(("width", 16),))) for one in small.segmentations)
    run = pipeline.run(replace(small, net=tiny.NET, segmentations=narrow), tmp_path / "run", hardware=tiny.HARDWARE)
    assert run.root == RunFolder(tmp_path / "run").root
    for name in ("transcam", "bao", "bao+crf", "segment"):
        metrics = json.loads(run.stage(name).metrics.read_text(encoding="utf-8"))
        assert (metrics["split"], metrics["images"]) == ("train", 4)
        assert len(list((run.stage(name).root / "masks/train").glob("*.png"))) == 4
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "bao-voc-smoke" in page
    assert read_mask(run.stage("bao").mask("train", "0")).shape == (64, 64)  # shrunk from 96
