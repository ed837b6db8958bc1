"""Recipes made from others: overrides, comparisons, a smoke test."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.data import SYNTHETIC
from baoseg.data.boxed import Layout
from baoseg.methods import METHODS, Learns, Settings, amn, bao, method_of
from baoseg.methods.components.teacher import Follow
from baoseg.nets import embedded
from baoseg.recipes.additions import given, refined
from baoseg.recipes.schema import Fusion, Recipe, Stage, Task
from baoseg.training import train


def with_paths(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    """The recipe with `change` applied to each path of a file or folder that it names, and to nothing else."""

    def weights(net: Any) -> Any:
        named = net is not None and net.weights is not None and not embedded.is_embedded(net.weights)
        return replace(net, weights=change(net.weights)) if named else net

    made = {*recipe.masked}
    return replace(
        recipe,
        data=recipe.data if recipe.data.path == SYNTHETIC else replace(recipe.data, path=change(recipe.data.path)),
        net=weights(recipe.net),
        fusions=tuple(
            replace(
                one,
                sources=tuple(
                    source if source in {*recipe.names} - {one.name} else change(source) for source in one.sources
                ),
            )
            for one in recipe.fusions
        ),
        refinements=tuple(replace(one, net=weights(one.net)).with_paths(change) for one in recipe.refinements),
        segmentations=tuple(
            replace(one, net=weights(one.net), masks=one.masks if one.masks in made - {one.name} else change(one.masks))
            for one in recipe.segmentations
        ),
    )


def paths_of(recipe: Recipe) -> list[str]:
    """The paths of files and folders that a recipe names."""
    found: list[str] = []

    def note(path: str) -> str:
        found.append(path)
        return path

    with_paths(recipe, note)
    return found


CLASSIFIER, ON_TRANSCAM = "cam", "transcam"  # whose seeds a method learns from, and may learn from, that needs some


def comparison(
    base: Recipe,
    methods: Sequence[str],
    *,
    seeds: Mapping[str, str] | None = None,
    fuse: Sequence[str] = (),
    refine: Sequence[str] = (),
    allow_pickle: bool = False,
) -> Recipe:
    """`methods` (see `comparable`) side by side on the data, network and schedules of `base`.

    A stage that another starts from is trained too. BAS has the recipe's threshold: one for each image
    (`bas.Threshold.IMAGE`) is not better so far. `seeds` are seeds of other tools by name (see Fusion.sources), `fuse`
    are sums of methods and such seeds, written as a+b. `refine` are ways (of REFINERS) to refine the masks of each.

    Of a recipe for boxes its own methods are compared (`only`): each has its threshold and top_k in the recipe alone.

    Raises RecipeError for an unknown method or way, and for a sum of what is not there.
    """
    if base.task is Task.BOXES:
        if seeds or fuse or allow_pickle:
            raise RecipeError(f"{base.name}: draws boxes; seeds and sums of seeds are for masks, leave them out")
        return refined(only(base, methods), refine)
    own = {stage.name: stage for stage in base.stages}
    known = {stage.name: own.get(stage.name, stage) for stage in comparable(base)}
    if unknown := [name for name in methods if name not in known]:
        raise RecipeError(f"unknown method {unknown[0]!r}; there are {', '.join(known)}")
    needed = {before for name in methods for before in (known[name].start, known[name].labelled_by)}
    wanted = [name for name in known if name in methods or name in needed]
    outside = [
        Fusion(called=name, sources=(folder,), allow_pickle=allow_pickle) for name, folder in (seeds or {}).items()
    ]
    there = [*wanted, *(fusion.name for fusion in outside)]
    sums = [_sum(name, there) for name in fuse]
    made = replace(
        base,
        name=f"{base.name}-comparison",
        stages=tuple(known[name] for name in wanted),
        fusions=(*outside, *sums),
        refinements=(),
        segmentations=(),
    )
    return refined(made, refine, of=made.names)


def comparable(base: Recipe) -> Iterator[Stage]:
    """A stage of each method with its default settings, and of its variants.

    The first stage of `base` gives the schedule of methods that learn to classify, its last that of methods that learn
    from labels of pixels; methods that learn both at once get the epochs of both. A method that needs a trained
    classifier starts from the first stage; one that needs seeds from CAM, whose seeds are its labels, or from TransCAM.
    """
    classify, activate = base.stages[0].schedule, _activating(base).schedule
    schedules = {
        Learns.CLASSES: classify,
        Learns.PIXELS: activate,
        Learns.BOTH: replace(classify, epochs=classify.epochs + activate.epochs),
    }
    given: dict[type[Settings], Settings] = {type(stage.method): stage.method for stage in base.stages}
    for name, method in METHODS.items():
        config = method.as_published(given.get(method.config_class, method.config_class()))
        start = base.stages[0].name if method.starts_trained else None
        stage = Stage(method=config, schedule=schedules[method.learns], start=start)
        if not method.needs_seeds:
            yield stage
            yield from (replace(stage, method=variant, called=called) for called, variant in method.variants.items())
            continue
        yield replace(stage, start=CLASSIFIER, labelled_by=CLASSIFIER)
        yield replace(stage, start=ON_TRANSCAM, labelled_by=ON_TRANSCAM, called=f"{ON_TRANSCAM}+{name}")


def _activating(base: Recipe) -> Stage:
    """The stage of BAO as in its paper, or the last one."""
    return next((stage for stage in base.stages if stage.name == "bao"), base.stages[-1])


def _sum(name: str, there: Sequence[str]) -> Fusion:
    """The fusion that `a+b` stands for; the names of its parts may have a plus themselves."""
    for mark in range(1, len(name)):
        first, rest = name[:mark], name[mark + 1 :]
        if name[mark] == "+" and first in there:
            if rest in there:
                return Fusion(called=name, sources=(first, rest))
            if "+" in rest:
                return Fusion(called=name, sources=(first, *_sum(rest, there).sources))
    raise RecipeError(
        f"{name!r} is no sum of two or more of {', '.join(there)}; write e.g. {'+'.join([*there, 'other'][:2])}"
    )


def follow_ablation(base: Recipe) -> Recipe:
    """BAO's figure 4: ways for the target to follow, and AMN; the online network is evaluated after each epoch."""
    classify = base.stages[0]
    activate = _activating(base)
    config: Any = activate.method if activate.name == "bao" else bao.Config()
    variants = {"share": Follow.SHARE, "ema": Follow.EMA, "share+ema": Follow.SHARE_THEN_EMA}
    fixed = Stage(
        method=amn.Config(), schedule=activate.schedule, start=classify.name, labelled_by=classify.name, called="amn"
    )
    online = tuple(
        replace(activate, method=replace(config, follow=follow, keep=bao.Keep.ONLINE), start=classify.name, called=name)
        for name, follow in variants.items()
    )
    stages = (classify, fixed, *online)
    return replace(base, name=f"{base.name}-follow", stages=stages, refinements=(), segmentations=(), epoch_curves=True)


def smoke(base: Recipe) -> Recipe:
    """`base` in about a minute on a CPU, to see that all of it runs: the same steps and networks, on 4 small images
    of each split, with crops of 64 pixels, for one epoch, without weights. What comes out means nothing.
    """
    bare: Any = {"weights": None, "pretrained": False}

    def brief(schedule: train.Config) -> train.Config:
        return replace(schedule, epochs=1, batch_size=2)

    boxed = base.task is Task.BOXES

    def small(augment: Any) -> Any:
        return None if augment is None else replace(augment, resize_long=(72, 72) if boxed else (48, 96), crop=64)

    def shortened(stage: Stage) -> Stage:
        method = method_of(stage.method).for_one_epoch(stage.method)
        return replace(stage, method=method, schedule=brief(stage.schedule))

    return replace(
        base,
        name=f"{base.name}-smoke",
        data=replace(base.data, limit=4, long_side=None if boxed else 64),
        net=replace(base.net, **bare),
        stages=tuple(map(shortened, base.stages)),
        refinements=tuple(
            replace(
                one,
                schedule=None if one.schedule is None else brief(one.schedule),
                augment=small(one.augment),
                net=None if one.net is None else replace(one.net, **bare),
            )
            for one in base.refinements
        ),
        segmentations=tuple(
            replace(
                one,
                schedule=brief(one.schedule),
                augment=small(one.augment),
                net=replace(one.net, **bare),
                inference=replace(one.inference, scales=one.inference.scales[:2]),
            )
            for one in base.segmentations
        ),
        augment=small(base.augment),
        maps=replace(base.maps, sizes=tuple(max(32, side // 8) for side in base.maps.sizes)),
    )


def only(base: Recipe, methods: Sequence[str]) -> Recipe:
    """`base` with these of its methods alone, and those that they start from. Raises RecipeError for one it lacks."""
    there = [stage.name for stage in base.stages]
    if unknown := [name for name in methods if name not in there]:
        raise RecipeError(f"{base.name}: has no method {unknown[0]!r}; it has {', '.join(there)}")
    wanted = {*methods, *(stage.start for stage in base.stages if stage.name in methods)}
    return replace(base, stages=tuple(stage for stage in base.stages if stage.name in wanted))


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The settings of a recipe that people change most; None leaves them."""

    data: str | None = None  # folder of the data set
    layout: str | None = None  # of a data set with boxes
    train_split: str | None = None
    eval_split: str | None = None
    backbone: str | None = None  # `embedded:NAME`: a network with its embedded weights
    weights: Path | None = None  # of the backbone, also under the segmentation networks that have the same one
    only: str | None = None  # a stage; the others are left out
    epochs: int | None = None  # of all stages, as the next two
    batch_size: int | None = None
    lr: float | None = None  # the rate of a stage's heads keeps its ratio to it
    seed: int | None = None
    refine: Sequence[str] | None = None  # ways (REFINERS) to refine the masks of the last stage, not the recipe's


def override(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with a few settings changed: the keywords are the fields of `Changes`.

    Another backbone does without the weights of the one before it; where those were ImageNet's, it starts from its own,
    through timm's loader.
    """
    wanted = Changes(**changes)
    if wanted.only is not None:
        recipe = _alone(recipe, wanted.only)
    recipe = _on_backbone(recipe, wanted.backbone, None if wanted.weights is None else str(wanted.weights))
    changed: Recipe = given(
        recipe,
        data=given(
            recipe.data,
            path=wanted.data,
            layout=None if wanted.layout is None else Layout(wanted.layout),
            train_split=wanted.train_split,
            eval_split=wanted.eval_split,
        ),
        stages=tuple(
            replace(
                stage,
                schedule=train.rescheduled(
                    stage.schedule, epochs=wanted.epochs, batch_size=wanted.batch_size, lr=wanted.lr
                ),
            )
            for stage in recipe.stages
        ),
        seed=wanted.seed,
    )
    if wanted.refine is None:
        return changed
    return refined(replace(changed, refinements=(), segmentations=()), wanted.refine)


def _alone(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one stage and its refinements, and without segmentation networks."""
    stages = tuple(replace(stage, start=None) for stage in recipe.stages if stage.name == name)
    if not stages:
        raise RecipeError(f"recipe {recipe.name} has no stage {name!r}; it has {[s.name for s in recipe.stages]}")
    refinements = tuple(one for one in recipe.refinements if one.of == name or one.of.startswith(f"{name}+"))
    return replace(recipe, stages=stages, refinements=refinements, segmentations=())


def _on_backbone(recipe: Recipe, backbone: str | None, weights: str | None) -> Recipe:
    net = recipe.net
    if backbone is not None and embedded.is_embedded(backbone):
        backbone, weights = f"{nets.TIMM}{embedded.find(backbone).network}", weights or backbone
    if backbone not in (None, net.backbone):
        starts = net.pretrained or (net.weights is not None and embedded.is_embedded(net.weights))
        net = replace(net, weights=None, pretrained=starts)
    net = given(net, backbone=backbone, weights=weights, pretrained=None if weights is None else False)
    same = net.backbone.removeprefix(nets.TIMM)
    segmentations = tuple(
        replace(one, net=given(one.net, weights=weights)) if one.net.name.endswith(same) else one
        for one in recipe.segmentations
    )
    return replace(recipe, net=net, segmentations=segmentations)
