import json
from dataclasses import replace
from pathlib import Path

import pytest

from baoseg import recipes
from baoseg.core import settings
from baoseg.core.errors import RecipeError
from baoseg.methods import bao
from baoseg.methods import bas as bas_method
from baoseg.nets import embedded
from baoseg.predict.segment import NetConfig
from baoseg.recipes import boxes
from baoseg.seeds.normalise import Scaling


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_json_brings_a_recipe_back(name: str) -> None:
    recipe = recipes.named(name)
    text = json.dumps(settings.to_json(recipe))
    assert settings.from_json(json.loads(text), recipes.Recipe, source="here") == recipe


def test_json_with_an_unknown_field_is_refused_in_one_line() -> None:
    value = settings.to_json(recipes.demo()) | {"colour": "red"}
    with pytest.raises(RecipeError, match=r"^run\.json: written by another version.*") as caught:
        settings.from_json(value, recipes.Recipe, source="run.json")
    assert "\n" not in str(caught.value)


def test_reference_differs_from_the_default_in_the_named_switches_alone() -> None:
    own, reference = settings.to_json(recipes.bao_voc()), settings.to_json(recipes.bao_voc_reference())
    method = settings.to_json(
        bao.Config(momentum_restarts=True, target_trains=True, scaling=Scaling.PEAK, background=bao.Background.RELEASED)
    )
    own["name"] = "bao-voc-reference"
    own["augment"]["mark_padding"] = False
    own["maps"] |= {"scaling": "released", "stride": 1}
    own["net"]["activation_start"] = "released"
    own["stages"][1]["method"] |= method
    own["refinements"][0]["by"]["n_labels"] = 91
    own["segmentations"][0]["net"]["alignment"] = "stretched"
    assert own == reference


def test_override_changes_what_is_named_and_nothing_else() -> None:
    recipe = recipes.msrc14()
    changed = recipes.override(recipe, data="here", weights=Path("w.pth"), epochs=7, lr=1e-3, seed=5)
    stages = []
    for stage in recipe.stages:
        schedule = stage.schedule
        assert schedule.head_lr is not None
        rate = 1e-3 * schedule.head_lr / schedule.lr
        stages.append(replace(stage, schedule=replace(schedule, epochs=7, lr=1e-3, head_lr=rate)))
    assert changed == replace(
        recipe,
        data=replace(recipe.data, path="here"),
        net=replace(recipe.net, weights="w.pth"),
        segmentations=tuple(replace(one, net=replace(one.net, weights="w.pth")) for one in recipe.segmentations),
        stages=tuple(stages),
        seed=5,
    )
    assert recipes.override(recipe) == recipe


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_of_the_maps_range_is_refused(threshold: float) -> None:
    with pytest.raises(RecipeError, match=r"cam: threshold is .*; maps lie in 0\.\.1"):
        replace(recipes.msrc14().stages[0], threshold=threshold)


def test_only_keeps_one_stage_which_then_starts_from_the_weights_given() -> None:
    (stage,) = recipes.override(recipes.bao_voc(), only="bao").stages
    assert (stage.name, stage.start) == ("bao", None)
    with pytest.raises(RecipeError, match="no stage 'cam'"):
        recipes.override(recipes.bao_voc(), only="cam")


def test_unknown_and_contradicting_recipes() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'voc'; there are demo, "):
        recipes.named("voc")
    recipe = recipes.demo()
    with pytest.raises(RecipeError, match="name each once"):
        replace(recipe, stages=(recipe.stages[0], recipe.stages[0]))


# ------------------------------------------------------------------------------- several methods side by side


def test_a_comparison_trains_what_is_asked_and_what_that_starts_from() -> None:
    base = recipes.msrc14()
    recipe = recipes.comparison(base, ["bao", "amn", "bas"])
    assert [(stage.name, stage.start, stage.labelled_by) for stage in recipe.stages] == [
        ("cam", None, None),
        ("amn", "cam", "cam"),
        ("bas", None, None),
        ("bao", "cam", None),
    ]
    cam, amn, bas, bao = (stage.schedule for stage in recipe.stages)
    assert (cam, amn, bao) == (base.stages[0].schedule, base.stages[1].schedule, base.stages[1].schedule)
    assert bas == replace(cam, epochs=cam.epochs + bao.epochs)
    (suppressing,) = (stage.method for stage in recipe.stages if stage.name == "bas")
    assert suppressing == bas_method.Config(threshold=bas_method.Threshold.FIXED)
    assert (recipe.net, recipe.data, recipe.augment, recipe.maps) == (base.net, base.data, base.augment, base.maps)


def test_the_stages_of_the_base_recipe_keep_their_settings() -> None:
    base = recipes.demo()
    recipe = recipes.comparison(base, ["transcam", "bao"])
    assert recipe.stages == base.stages


def test_every_comparable_method_is_built_and_kept_in_json() -> None:
    methods = [stage.name for stage in recipes.comparable(recipes.demo())]
    assert methods == ["cam", "transcam", "bnr", "amn", "transcam+amn", "bas", "bao", "bao-plus"]
    recipe = recipes.comparison(recipes.demo(), methods, seeds={"other": "there"}, fuse=["cam+other"])
    assert recipe.names == [*methods, "other", "cam+other"]
    assert settings.from_json(settings.to_json(recipe), recipes.Recipe, source="here") == recipe
    starts = {stage.name: stage.start for stage in recipe.stages}
    assert starts["transcam+amn"] == "transcam"
    assert starts["bao"] == "transcam"  # as in the base recipe


@pytest.mark.parametrize(
    ("fuse", "sources"),
    [
        ("cam+bas", ("cam", "bas")),
        ("bas+bas", ("bas", "bas")),
        ("transcam+amn+bas", ("transcam+amn", "bas")),
        ("cam+transcam+amn+other", ("cam", "transcam", "amn", "other")),
    ],
)
def test_sums_are_read_by_their_names(fuse: str, sources: tuple[str, ...]) -> None:
    methods = ["cam", "transcam", "amn", "transcam+amn", "bas"]
    recipe = recipes.comparison(recipes.demo(), methods, seeds={"other": "there"}, fuse=[fuse])
    fusion = recipe.fusions[-1]
    assert fusion.called == fuse
    assert "+".join(fusion.sources) == fuse
    assert set(fusion.sources) <= set(recipe.names)


@pytest.mark.parametrize("fuse", ["cam", "cam+", "+cam", "cam+seam", "cambas"])
def test_a_sum_of_what_is_not_there_is_refused(fuse: str) -> None:
    with pytest.raises(RecipeError, match=r"is no sum of two or more of cam, bas; write e\.g\. cam\+bas"):
        recipes.comparison(recipes.demo(), ["cam", "bas"], fuse=[fuse])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown method 'sam'; there are cam, transcam"):
        recipes.comparison(recipes.demo(), ["sam"])


def test_a_stage_needs_what_it_starts_from_before_it() -> None:
    recipe = recipes.demo()
    with pytest.raises(RecipeError, match="bao needs the stage transcam, which does not come before it"):
        replace(recipe, stages=recipe.stages[::-1])


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    recipe = recipes.demo()
    with pytest.raises(RecipeError, match="cannot name a folder"):
        replace(recipe, stages=(), fusions=(recipes.Fusion(called=name, sources=("here",)),))


def test_the_ablation_of_figure_4_differs_in_how_the_target_follows() -> None:
    recipe = recipes.follow_ablation(recipes.demo())
    assert recipe.names == ["transcam", "amn", "share", "ema", "share+ema"]
    assert recipe.epoch_curves
    methods = [stage.method for stage in recipe.stages[2:]]
    assert all(isinstance(method, bao.Config) and method.keep is bao.Keep.ONLINE for method in methods)
    assert len({replace(method, follow=bao.Config().follow) for method in methods}) == 1  # type: ignore[type-var]
    assert all(stage.start == "transcam" for stage in recipe.stages[1:])


def test_epochs_mean_the_same_in_both_halves() -> None:
    """Those of each stage; refinements and segmentation networks keep theirs."""
    own, of_boxes = recipes.msrc14(), boxes.cub20()
    changed = recipes.override(own, epochs=3, batch_size=5, lr=1e-3)
    boxed = recipes.override(of_boxes, epochs=3, batch_size=5, lr=1e-3)
    for before, after in ((own, changed), (of_boxes, boxed)):
        assert {stage.schedule.epochs for stage in after.stages} == {3}
        assert {stage.schedule.batch_size for stage in after.stages} == {5}
        for old, new in zip(before.stages, after.stages, strict=True):
            assert old.schedule.head_lr is not None and new.schedule.head_lr is not None
            assert new.schedule.lr == 1e-3
            assert new.schedule.head_lr / new.schedule.lr == pytest.approx(old.schedule.head_lr / old.schedule.lr)
    assert changed.segmentations == own.segmentations


def test_a_recipe_of_the_other_half_is_named_with_its_verb() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'photo'; there are demo, photos.*for boxes bas-cub"):
        recipes.named("photo")


def test_photos_start_from_weights_that_are_here_in_all_their_networks() -> None:
    recipe = recipes.photos()
    assert recipe.net.weights == recipe.segmentations[0].net.weights == embedded.DEFAULT
    assert not recipe.net.pretrained
    assert recipes.segmented(recipe, net=NetConfig(name="smp:unet/resnet18")).segmentations[1].name == "segment"


def test_another_backbone_of_photos_starts_from_its_own_weights_of_imagenet() -> None:
    net = recipes.override(recipes.photos(), backbone="timm:resnet50").net
    assert (net.weights, net.pretrained) == (None, True)
    net = recipes.override(recipes.photos(), backbone="timm:resnet50", weights=Path("own.pth")).net
    assert (net.weights, net.pretrained) == ("own.pth", False)


def test_embedded_weights_are_a_backbone() -> None:
    net = recipes.override(recipes.msrc14(), backbone=embedded.DEFAULT).net
    assert (net.backbone, net.weights, net.pretrained) == ("timm:tf_efficientnet_lite2", embedded.DEFAULT, False)


# --------------------------------------------------------------------------------------------- BAO+


def test_bao_and_bao_plus_can_be_compared() -> None:
    recipe = recipes.comparison(recipes.photos(), ["bao", "bao-plus"])
    assert [(stage.name, stage.method) for stage in recipe.stages[1:]] == [
        ("bao", bao.Config(momentum=None)),
        ("bao-plus", bao.PLUS),
    ]
