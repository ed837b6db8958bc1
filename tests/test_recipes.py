import json
from dataclasses import replace
from pathlib import Path

import pytest

from baoseg import recipes, settings
from baoseg.errors import RecipeError
from baoseg.maps import Scaling
from baoseg.methods import bao


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
    own["stages"][1]["method"] |= method
    assert own == reference


def test_override_changes_what_is_named_and_nothing_else() -> None:
    recipe = recipes.msrc14()
    changed = recipes.override(recipe, data="here", weights=Path("w.pth"), epochs=7, lr=1e-3, seed=5)
    last = recipe.stages[-1]
    schedule = last.schedule
    assert schedule.head_lr is not None
    rate = 1e-3 * schedule.head_lr / schedule.lr
    assert changed == replace(
        recipe,
        data=replace(recipe.data, path="here"),
        net=replace(recipe.net, weights="w.pth"),
        stages=(*recipe.stages[:-1], replace(last, schedule=replace(schedule, epochs=7, lr=1e-3, head_lr=rate))),
        seed=5,
    )
    assert recipes.override(recipe) == recipe


def test_only_keeps_one_stage() -> None:
    assert [stage.name for stage in recipes.override(recipes.bao_voc(), only="bao").stages] == ["bao"]
    with pytest.raises(RecipeError, match="no stage 'cam'"):
        recipes.override(recipes.bao_voc(), only="cam")


def test_unknown_and_contradicting_recipes() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'voc'; there are demo, "):
        recipes.named("voc")
    recipe = recipes.demo()
    with pytest.raises(RecipeError, match="each method once"):
        replace(recipe, stages=(recipe.stages[0], recipe.stages[0]))
