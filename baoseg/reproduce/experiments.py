"""The tables and figures about masks: what each trains, and what of ours stands beside a published row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from matplotlib.figure import Figure

from baoseg.core.errors import RecipeError
from baoseg.core.run_folder import RunFolder
from baoseg.methods import bas, heads_of
from baoseg.recipes import Recipe, comparison, follow_ablation
from baoseg.reproduce import exploration
from baoseg.reproduce.figures import (
    BAS_GRID,
    VOC,
    draw_activations,
    draw_epochs,
    draw_thresholds,
    draw_weights,
    grid_name,
)
from baoseg.reproduce.lines import Measure, Source
from baoseg.training.train import Hardware

BAS_WEIGHTS = ((0.2, 1.2), (0.5, 1.5), (0.7, 1.7), (1.0, 2.0), (1.5, 2.5))  # alpha, beta of table 7; lambda is 1
# Variants of BAS by the names of their stages, for tables about masks and about boxes.
WITHOUT_SUPPRESSION: dict[str, dict[str, float]] = {"bas-without-suppression": {"weight": 0.0}, "bas": {}}
LAYERS = {f"bas-layer-{layer}": {"generator_after": layer} for layer in (1, 2, 3, 4)}
PAIRS = {f"bas-alpha-{a}-beta-{b}": {"alpha": a, "beta": b, "weight": 1.0} for a, b in BAS_WEIGHTS}
ROWS_OF_PAIRS = {f"bas alpha={a} beta={b} lambda=1.0": f"bas-alpha-{a}-beta-{b}" for a, b in BAS_WEIGHTS}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure. The recipe is made of the one that it is reproduced with; `sources` says, by the key of a
    published row, what of ours stands beside its seeds. Where the paper prints no numbers the keys are our own.
    """

    recipe: Callable[[Recipe], Recipe]
    sources: Callable[[Recipe], Mapping[str, Source]] = lambda base: {}
    reasons: Mapping[str, str] = field(default_factory=dict)  # why a row has no number of ours
    attends: bool = False  # whether it is about self-attention
    split_after: int | None = None  # the stage at which its figure cuts the backbone
    others: bool = False  # whether rows are of seeds that other tools made, or of their sums with ours
    judge: str | None = None  # the stage whose losses choose a threshold for each image, for all seeds of the table
    draw: Callable[[RunFolder, Hardware], Figure] | None = None


def _variants(base: Recipe, methods: Sequence[str], variants: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`methods` side by side, the last of them once for each variant of its settings."""
    recipe = comparison(base, methods)
    *first, last = recipe.stages
    varied = (replace(last, method=replace(last.method, **changes), called=name) for name, changes in variants.items())
    return replace(recipe, stages=(*first, *varied))


def _bas(variants: Mapping[str, Mapping[str, Any]]) -> Callable[[Recipe], Recipe]:
    return lambda base: _variants(base, ["bas"], variants)


def _oracle(*stages: str) -> Callable[[Recipe], Mapping[str, Source]]:
    """Rows that are called as the stages whose best threshold stands beside them."""
    return lambda base: {stage: Source(stage, Measure.ORACLE) for stage in stages}


def _classifier(base: Recipe) -> str:
    """The stage in the place of the papers' TransCAM, from which BAO starts."""
    first = base.stages[0]
    if heads_of(first.method).backgrounds:
        raise RecipeError(f"recipe {base.name} begins with {first.name}; BAO is compared with the classifier before it")
    return first.name


def _bao_table(base: Recipe) -> Mapping[str, Source]:
    return {"transcam": Source(_classifier(base), Measure.ORACLE), "bao": Source("bao", Measure.MASKS)}


def _bao_figure(base: Recipe) -> Mapping[str, Source]:
    return {
        "transcam": Source(_classifier(base), Measure.ORACLE),
        "transcam+amn": Source("amn", Measure.ORACLE),
        "bao-share": Source("share", Measure.MASKS),
        "bao-ema": Source("ema", Measure.MASKS),
        "bao": Source("share+ema", Measure.MASKS),
    }


def _bas_weights(base: Recipe) -> Mapping[str, Source]:
    return {key: Source(stage, Measure.ORACLE) for key, stage in ROWS_OF_PAIRS.items()}


def _without_suppression(base: Recipe) -> Mapping[str, Source]:
    return {
        "bas w/o L_bas": Source("bas-without-suppression", Measure.ORACLE),
        "bas": Source("bas", Measure.ORACLE),
    }


_NOISE = {f"bnr-{noise}": {"noise": noise} for noise in (0, 1, 2)}
_GRID = {grid_name(weight, value): {**VOC, weight: value} for weight, values in BAS_GRID.items() for value in values}
_FOREGROUND = {
    "bas": {"foreground": bas.Foreground.NONE},
    "bas+foreground-replace": {"foreground": bas.Foreground.REPLACE},
    "bas+foreground-average": {"foreground": bas.Foreground.AVERAGE},
}

_NOISE_REDUCTION = Experiment(
    recipe=lambda base: comparison(base, ["transcam", "bnr"]), sources=_oracle("transcam", "bnr"), attends=True
)
_ACTIVATIONS = Experiment(
    recipe=lambda base: comparison(base, ["cam"]), split_after=exploration.Config().after, draw=draw_activations
)
_SUMS = Experiment(recipe=lambda base: comparison(base, ["bas"]), sources=_oracle("bas"), others=True)

EXPERIMENTS: dict[str, Experiment] = {
    "bao-table-1": Experiment(
        recipe=lambda base: comparison(base, [_classifier(base), "bao"]),
        sources=_bao_table,
    ),
    "bao-figure-4": Experiment(recipe=follow_ablation, sources=_bao_figure, draw=draw_epochs),
    "bnr-table-1": _NOISE_REDUCTION,
    "bnr-table-2-val": _NOISE_REDUCTION,
    "bnr-table-2-test": _NOISE_REDUCTION,
    "bnr-table-5": Experiment(
        recipe=lambda base: _variants(base, ["transcam", "bnr"], _NOISE),
        sources=_oracle("transcam", *_NOISE),
        attends=True,
    ),
    "bnr-figure-4": replace(_NOISE_REDUCTION, draw=draw_thresholds),
    "bas-figure-1": _ACTIVATIONS,
    "bas-figure-6": _ACTIVATIONS,
    "bas-table-6": Experiment(recipe=_bas(WITHOUT_SUPPRESSION), sources=_without_suppression),
    "bas-figure-18": Experiment(recipe=_bas(_GRID), sources=_oracle(*_GRID), draw=draw_weights),
    "bas-table-7": Experiment(
        recipe=_bas(PAIRS), sources=_bas_weights, reasons={"bas": "the best of each column, not a setting"}
    ),
    "bas-table-8": Experiment(recipe=_bas(LAYERS), sources=_oracle(*LAYERS)),
    "bas-table-9": _SUMS,
    "bas-table-10": _SUMS,
    "bas-table-13": Experiment(recipe=_bas(_FOREGROUND), sources=_oracle(*_FOREGROUND)),
    "bas-table-14": _SUMS,
    "bas-table-15": Experiment(
        recipe=lambda base: _variants(base, ["cam", "bas"], {"bas": {"threshold": bas.Threshold.IMAGE}}),
        sources=_oracle("cam", "bas"),
        others=True,
        judge="bas",
    ),
}
