import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Any, Literal

import hypothesis
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baoseg import recipes
from baoseg.core import settings
from baoseg.core.errors import RecipeError
from baoseg.data import transforms
from baoseg.methods import amn, bao, bas
from baoseg.recipes import paths
from baoseg.recipes.paths import with_values
from baoseg.refine import irn
from baoseg.training import train

RECIPES: dict[str, Callable[[], Any]] = {**recipes.known()}
EPOCHS = "stages.bao.schedule.epochs"


class Colour(StrEnum):
    RED = "red"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Inner:
    low: int = 1
    high: int = 2

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise RecipeError(f"low {self.low} is above high {self.high}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    called: str
    count: int = 0

    @property
    def name(self) -> str:
        return self.called


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A field of each kind."""

    count: int = 1
    share: float = 0.5
    on: bool = True
    text: str = "a"
    maybe: str | None = None
    colour: Colour = Colour.RED
    tint: Colour | None = Colour.NONE
    way: Literal["up", "down"] = "up"
    pair: tuple[int, float] = (1, 0.5)
    words: tuple[str, ...] = ("a", "b")
    options: tuple[tuple[str, Any], ...] = (("pad", "same"),)
    inner: Inner = Inner()
    other: Inner | None = None
    entries: tuple[Entry, ...] = (Entry(called="first"), Entry(called="a.b=c"))


def refusal(recipe: Any, *assignments: str) -> str:
    with pytest.raises(RecipeError) as caught:
        with_values(recipe, assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("name", RECIPES)
def test_setting_everything_to_what_is_printed_changes_nothing(name: str) -> None:
    recipe = RECIPES[name]()
    printed = [f"{path}={json.dumps(value)}" for path, value in paths.paths(recipe).items()]
    assert with_values(recipe, printed) == recipe
    for assignment in printed:
        assert with_values(recipe, [assignment]) == recipe


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """The leaves of JSON by their places; independent of names, which a change may change."""
    if isinstance(value, dict) and value:
        return {key: leaf for name, one in value.items() for key, leaf in flat(one, f"{at}.{name}").items()}
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return {key: leaf for n, one in enumerate(value) for key, leaf in flat(one, f"{at}[{n}]").items()}
    return {at: value}


def others(value: Any) -> st.SearchStrategy[Any]:
    """Values of JSON of the kind of a given one; of null, all kinds."""
    if isinstance(value, list):
        items = others(value[0]) if value else st.sampled_from(["x", "y"])
        return st.lists(items, min_size=len(value), max_size=len(value) or 2)
    words = ["poly", "sgd", "mean", "margin", "relative", "val", "x", "cam", "bao", "released"]
    kinds: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(0, 2000),
        float: st.floats(0, 2),
        str: st.sampled_from(words),
    }
    return kinds.get(type(value), st.one_of(*kinds.values()))


@hypothesis.settings(deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(RECIPES)))
def test_setting_one_path_to_another_value_changes_that_field_alone(data: st.DataObject, name: str) -> None:
    recipe = RECIPES[name]()
    known = paths.paths(recipe)
    path = data.draw(st.sampled_from([path for path in known if not path.endswith((".method.method", ".refiner"))]))
    value = data.draw(others(known[path]))
    try:
        changed = with_values(recipe, [f"{path}={json.dumps(value)}"])
    except RecipeError:  # of another type, or what the settings refuse
        assume(False)
        return
    before, after = flat(settings.to_json(recipe)), flat(settings.to_json(changed))
    assert before.keys() == after.keys()
    different = [(at, after[at]) for at in before if before[at] != after[at]]
    field = path.rpartition(".")[2]
    assert len(different) == (value != known[path])
    assert all(at.endswith(f".{field}") and new in (value, json.dumps(value)) for at, new in different)  # as text


@hypothesis.settings(deadline=None)
@given(text=st.text(max_size=20), data=st.data())
def test_any_text_is_taken_or_refused_in_one_line(text: str, data: st.DataObject) -> None:
    recipe = recipes.voc_mini()
    path = data.draw(st.sampled_from(sorted(paths.paths(recipe))))
    try:
        changed = with_values(recipe, [f"{path}={text}"])
    except RecipeError as error:
        assert path.rpartition(".")[0] in str(error) or f"recipe {recipe.name}: " in str(error)
    else:
        assert settings.from_json(settings.to_json(changed), recipes.Recipe, source="here") == changed


# ------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("count=7", "count", 7),
        ("count=-7", "count", -7),
        ("share=3", "share", 3.0),
        ("share=1e-4", "share", 1e-4),
        ("on=false", "on", False),
        ("on=True", "on", True),
        ("text=2012", "text", "2012"),
        ('text="null"', "text", "null"),
        ("text=a=b,c", "text", "a=b,c"),
        ("text=", "text", ""),
        ("maybe=here", "maybe", "here"),
        ("maybe=null", "maybe", None),
        ("colour=none", "colour", Colour.NONE),
        ("tint=null", "tint", None),
        ("tint=red", "tint", Colour.RED),
        ("way=down", "way", "down"),
        ("pair=[3, 1]", "pair", (3, 1.0)),
        ("pair=3,0.25", "pair", (3, 0.25)),
        ("words=x", "words", ("x",)),
        ("words=x, y", "words", ("x", "y")),
        ("words=1,2", "words", ("1", "2")),
        ("words=[]", "words", ()),
        ('options=[["width", 16]]', "options", (("width", 16),)),
        ('other={"high": 5}', "other", Inner(high=5)),
        ("other=null", "other", None),
        ("inner.high=5", "inner", Inner(high=5)),
        ("entries.first.count=3", "entries", (Entry(called="first", count=3), Entry(called="a.b=c"))),
        ("entries.a.b=c.count=3", "entries", (Entry(called="first"), Entry(called="a.b=c", count=3))),
        ("entries=[]", "entries", ()),
    ],
)
def test_values_as_they_are_typed(text: str, field: str, value: Any) -> None:
    changed = with_values(Toy(), [text])
    assert changed == replace(Toy(), **{field: value})
    kept = getattr(changed, field)
    assert type(kept) is type(value)
    assert isinstance(kept, Enum) == isinstance(value, Enum)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("count=x", "--set count: 'x' is not an integer"),
        ("count=1.0", "--set count: '1.0' is not an integer"),
        ("count=true", "--set count: 'true' is not an integer"),
        ("share=nan", "--set share: 'nan' is not a number"),
        ("share=NaN", "--set share: 'NaN' is not a number"),
        ("share=1e999", "--set share: '1e999' is not a number"),
        (f"share=1{'0' * 400}", "0' is not a number"),
        ("on=1", "--set on: '1' is not true or false"),
        ("text=null", "--set text: 'null' is not text"),
        ("colour=blue", "--set colour: 'blue' is not one of red, none"),
        ("tint=blue", "--set tint: 'blue' is not one of red, none or null"),
        ("way=left", "--set way: 'left' is not one of up, down"),
        ("pair=1", "--set pair: '1' is not a list of 2 (an integer, a number)"),
        ("pair=1,2,3", "--set pair: '1,2,3' is not a list of 2 (an integer, a number)"),
        ("words=[1, 2]", "--set words: '[1, 2]' is not a list (each item: text)"),
        ("words=[a", "--set words: '[a' is not a list (each item: text)"),
        ("options=a,b", "--set options: 'a,b' is not a list (each item: a list of 2 (text, a value of JSON))"),
        ("inner=3", "--set inner: '3' is not an object of low, high"),
        ('inner={"hihg": 3}', "is not an object of low, high"),
        ('entries=[{"count": 3}]', "is not a list (each item: an object of called, count)"),
        ("inner.low=3", "inner: low 3 is above high 2"),
        ('inner={"low": 3}', "inner: low 3 is above high 2"),
        ("other.low=3", "--set other.low: other is null; set that to an object first, e.g. other={}"),
        ("counts=3", "--set counts: no such setting; did you mean count? `bao recipes show RECIPE` prints all"),
        ("low=3", "--set low: no such setting; did you mean inner.low?"),
        ("entries.frist.count=3", "did you mean entries.first.count?"),
        ("count", "--set count: write PATH=VALUE, e.g. count=1"),
        ("text", '--set text: write PATH=VALUE, e.g. text="a"'),
        ("", "--set : write PATH=VALUE, e.g. "),
    ],
)
def test_what_cannot_be_is_refused_with_path_value_and_type(text: str, expected: str) -> None:
    assert expected in refusal(Toy(), text)


def test_all_changes_are_made_before_any_is_checked() -> None:
    assert with_values(Toy(), ["inner.low=5", "inner.high=9"]).inner == Inner(low=5, high=9)
    assert with_values(Toy(), ["other={}", "other.high=9"]).other == Inner(high=9)
    assert refusal(Toy(), "count=1", "count=2") == "--set count: is given twice; give each path once"


def test_stages_go_by_the_names_that_they_had() -> None:
    recipe = recipes.override(recipes.msrc14(), refine=["crf"])
    recipe = replace(recipe, stages=recipe.stages[:2], refinements=())
    changes = ["stages.cam.called=first", "stages.bao.start=first", "stages.cam.schedule.epochs=9"]
    changed = with_values(recipe, changes)
    assert [(stage.name, stage.start, stage.schedule.epochs) for stage in changed.stages] == [
        ("first", None, 9),
        ("bao", "first", recipe.stages[1].schedule.epochs),
    ]
    assert "bao needs the stage cam, which does not come before it" in refusal(recipe, changes[0])


def test_names_that_are_there_already_are_left_to_the_checks_of_the_recipe() -> None:
    assert "name each once" in refusal(recipes.msrc14(), "stages.cam.called=bao")
    stages = '[{"method": {"method": "cam"}, "schedule": {"epochs": 1, "batch_size": 2}}]'
    recipe = replace(recipes.msrc14(), refinements=(), segmentations=())
    assert [stage.name for stage in with_values(recipe, [f"stages={stages}"]).stages] == ["cam"]
    assert "name each once" in refusal(recipe, f"stages={stages[:-1]},{stages[1:]}")


# ---------------------------------------------------------------------------------- unions of settings


def test_another_method_has_its_defaults_which_further_changes_change() -> None:
    recipe = recipes.demo()
    name = recipe.stages[-1].name
    changes = [f"stages.{name}.method.method=bas", f"stages.{name}.method.alpha=0.7"]
    bare = replace(recipe, refinements=(), segmentations=())
    changed = with_values(bare, changes)
    assert changed.stages[-1] == replace(bare.stages[-1], method=bas.Config(alpha=0.7))
    assert (changed.stages[:-1], changed.stages[-1].name) == (bare.stages[:-1], "bas")
    same = with_values(bare, [f"stages.{name}.method.method=bao", f"stages.{name}.method.doubt=0.25"])
    assert same.stages[-1].method == replace(bare.stages[-1].method, doubt=0.25)


def test_the_class_of_a_union_is_set_by_its_name_or_as_an_object() -> None:
    recipe = replace(recipes.demo(), refinements=(), segmentations=())
    path = f"stages.{recipe.stages[-1].name}.method"
    changed = with_values(recipe, [f'{path}={{"method": "amn", "smoothing": 0.1}}'])
    assert changed.stages[-1].method == amn.Config(smoothing=0.1)
    assert "is not one of cam, transcam, bnr, amn, bas, bao" in refusal(recipe, f"{path}.method=sam")
    assert """'3' is not an object such as {"method": "cam"}""" in refusal(recipe, f"{path}=3")
    assert "is not an object such as" in refusal(recipe, f'{path}={{"method": "cam", "alpha": 1}}')


def test_a_refinement_gets_what_its_new_way_needs() -> None:
    recipe = replace(recipes.photos(), segmentations=())
    by = "refinements.bao-plus+crf.by.refiner=irn"
    assert "what is trained needs a schedule" in refusal(recipe, by)
    schedule = 'refinements.bao-plus+crf.schedule={"epochs": 2, "batch_size": 4}'
    (refinement,) = with_values(recipe, [by, schedule, "refinements.bao-plus+crf.augment={}"]).refinements
    assert refinement.name == "bao-plus+irn"
    assert (refinement.by, refinement.augment) == (irn.Config(), transforms.Config())
    assert refinement.schedule == train.Config(epochs=2, batch_size=4)


def test_paths_are_what_json_has() -> None:
    known = paths.paths(recipes.photos())
    assert known["stages.bao-plus.schedule.epochs"] == 3
    assert known["stages.bao-plus.method.method"] == "bao"
    assert known["stages.bao-plus.method.follow"] == str(bao.Config().follow)
    assert known["refinements.bao-plus+crf.by.refiner"] == "crf"
    assert known["refinements.bao-plus+crf.schedule"] is None
    assert known["maps.sizes"] == [256, 384, 512]
    assert not any(isinstance(value, dict) for value in known.values())
    assert not any(path.startswith("fusions") for path in known)


# ---------------------------------------------------------------------------- recipes made of others


def test_a_comparison_takes_settings_of_the_recipe_and_its_own() -> None:
    base = recipes.msrc14()

    def compared(recipe: recipes.Recipe) -> recipes.Recipe:
        return recipes.comparison(recipe, ["bas", "bao"], refine=["crf"])

    plain = compared(base)
    changed = paths.through(base, [f"{EPOCHS}=9", "stages.bas.method.alpha=0.7"], compared)
    cam, bas_stage, bao_stage = changed.stages
    assert bao_stage == replace(plain.stages[2], schedule=replace(plain.stages[2].schedule, epochs=9))
    assert cam == plain.stages[0]
    assert bas_stage.schedule.epochs == cam.schedule.epochs + 9  # BAS has the epochs of both
    assert bas_stage.method == replace(plain.stages[1].method, alpha=0.7)
    crf = "refinements.bas+crf.by.steps=3"
    assert {one.name: one.by.steps for one in paths.through(base, [crf], compared).refinements} == {
        "cam+crf": 10,
        "bas+crf": 3,
        "bao+crf": 10,
    }


def test_a_change_that_is_lost_on_the_way_is_refused() -> None:
    base = recipes.voc_mini()

    def compared(recipe: recipes.Recipe) -> recipes.Recipe:
        return recipes.comparison(recipe, ["cam"])

    for lost in ("refinements.bao+crf.by.steps=3", "stages.bao.method.doubt=0.25"):
        with pytest.raises(RecipeError, match=r"changes nothing of what is to run here; leave it out"):
            paths.through(base, ["stages.cam.schedule.epochs=9", lost], compared)
    with pytest.raises(RecipeError, match=r"--set stages\.bas\.method\.alpha: no such setting; did you mean"):
        paths.through(base, ["stages.bas.method.alpha=1"], compared)
    unchanged = f"{EPOCHS}={paths.paths(base)[EPOCHS]}"
    assert paths.through(base, [unchanged], compared) == compared(base)


def test_what_is_fixed_in_a_run_is_not_set() -> None:
    recipe = recipes.voc_mini()
    changed = paths.within(recipe, ["segmentations.network.reweight=true"], ["segmentations.network"])
    assert changed.segmentations[0].reweight
    with pytest.raises(
        RecipeError, match=r"stages\.bao\.schedule\.epochs: is fixed in this run; .* segmentations\.network\."
    ):
        paths.within(recipe, [f"{EPOCHS}=9"], ["segmentations.network"])


@pytest.mark.parametrize(
    "assignment",
    [
        "stages.bao.schedule.warmup=1",
        "stages.bao.schedule.warmup=-0.1",
        "stages.bao.schedule.weight_decay=-1e-4",
        "stages.bao.schedule.epochs=0",
        "stages.bao.method.pcl_weight=-1",
        "stages.bao.threshold=1.5",
        "net.stride=0",
        "net.head_kernel=2",
        "net.head_kernel=-1",
        "net.mean=0.5,0.5,0.5",
        "segmentations.network.net.stride=0",
        "segmentations.network.inference.window=0",
        "refinements.bao+crf.by.gaussian_compat=-1",
        "data.synthetic.body_hint=1.5",
        "maps.sizes=[]",
        "report.gallery=-1",
        "augment.hue=0.6",
    ],
)
def test_a_value_out_of_its_range_is_refused_under_its_path(assignment: str) -> None:
    above = assignment.partition("=")[0].rpartition(".")[0]
    assert refusal(recipes.voc_mini(), assignment).startswith(f"{above}: ")


@pytest.mark.parametrize("part", ["net", "segmentations.network.net"])
def test_a_deviation_of_zero_is_refused(part: str) -> None:
    assert f"{part}: " in refusal(recipes.voc_mini(), f"{part}.mean=0,0,0", f"{part}.std=1,0,1")
    assert with_values(recipes.voc_mini(), [f"{part}.mean=0,0,0", f"{part}.std=1,1,1"])
