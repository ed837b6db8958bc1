"""Recipes made from others: overrides, comparisons, refinements, segmentation networks, a smoke test."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.data import SYNTHETIC
from baoseg.data.boxed import Layout
from baoseg.methods import METHODS, Learns, Settings, amn, bao, method_of
from baoseg.methods.components.teacher import Follow
from baoseg.nets import embedded
from baoseg.predict import segment
from baoseg.recipes.schema import Fusion, Recipe, Refinement, Segmentation, Stage, Task
from baoseg.refine import crf, irn, psa, vote
from baoseg.training import train


def _crf(of: str, base: Recipe) -> Refinement:
    return Refinement(of=of, by=crf.LABELS)


def _regions(of: str, base: Recipe) -> Refinement:
    return Refinement(of=of, by=vote.Config())


def _psa(of: str, base: Recipe) -> Refinement:
    """Epochs and decay are those of the released code; optimizer and rates are those of the last stage of `base`.

    The released rates belong to ResNet-38. Of SGD at 0.1 and 1.0 with our momentum a pretrained MobileNetV2 learns next
    to nothing: affinities stay hardly better than one half everywhere, and the walk averages over all within reach.
    """
    schedule = replace(base.stages[-1].schedule, epochs=8, decay=train.Decay.POLY)
    return Refinement(of=of, by=psa.Config(), schedule=schedule)


def _irn(of: str, base: Recipe) -> Refinement:
    """Epochs, rates (the displacement field learns ten times as fast) and decay are those of the released code.

    Its SGD has next to no momentum (it is given the weight decay in that place); ours has 0.9, which multiplies what
    all gradients move by ten, so the rates are a tenth.
    """
    schedule = train.Config(
        epochs=3,
        batch_size=base.stages[-1].schedule.batch_size,
        lr=0.01,
        head_lr=0.1,
        optimizer=train.Optimizer.SGD,
        weight_decay=1e-4,
        decay=train.Decay.POLY,
    )
    return Refinement(of=of, by=irn.Config(), schedule=schedule)


REFINERS: dict[str, Callable[[str, Recipe], Refinement]] = {
    "crf": _crf,
    "regions": _regions,
    "psa": _psa,
    "irn": _irn,
}


def refined(base: Recipe, kinds: Sequence[str], *, of: Sequence[str] = (), regions: str | None = None) -> Recipe:
    """`base` with the masks of `of`, or of its last stage, refined in each of the ways `kinds` (of REFINERS).

    `regions` is the source of the regions that vote; without it, superpixels. Raises RecipeError for an unknown way and
    for masks that are not there.
    """
    if unknown := [kind for kind in kinds if kind not in REFINERS]:
        raise RecipeError(f"unknown refinement {unknown[0]!r}; there are {', '.join(REFINERS)}")
    if base.task is Task.BOXES and kinds:
        raise RecipeError(f"{base.name}: draws boxes, and masks alone are refined; leave --refine out")
    wanted = [REFINERS[kind](source, base) for source in (of or base.names[-1:]) for kind in kinds]
    if regions is not None:
        wanted = [one.of_regions(regions) for one in wanted]
    return replace(base, refinements=tuple({one.name: one for one in (*base.refinements, *wanted)}.values()))


SEGMENTATION_SCHEDULE = train.Config(
    epochs=20, batch_size=8, lr=1e-4, head_lr=1e-3, decay=train.Decay.POLY, warmup=0.05
)


def segmented(
    base: Recipe,
    *,
    masks: str | None = None,
    net: segment.NetConfig | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    reweight: bool = False,
    rounds: int = 1,
    called: str = "segment",
) -> Recipe:
    """`base` with a segmentation network that learns from `masks` (see Segmentation): by default the last refinement's,
    or the last stage's. What is None is as in the first segmentation of `base`, or as `Segmentation` and
    SEGMENTATION_SCHEDULE say.

    In further rounds it learns from its own predictions, restricted to the image-level labels: `segment-2` from those
    of `segment`.
    """
    if rounds < 1:
        raise RecipeError(f"segmentation: {rounds} rounds; choose 1 or more")
    last = [*base.names, *(refinement.name for refinement in base.refinements)][-1:]
    if masks is None and not last:
        raise RecipeError("segmentation: no masks to learn from; name a folder of them")
    model = base.segmentations[0] if base.segmentations else Segmentation(masks="", schedule=SEGMENTATION_SCHEDULE)
    schedule = _replace(model.schedule, epochs=epochs, batch_size=batch_size)
    if lr is not None:
        schedule = replace(schedule, lr=lr, head_lr=10 * lr)
    first = replace(
        model,
        masks=masks or last[0],
        net=net or model.net,
        schedule=schedule,
        reweight=reweight,
        called=called,
    )
    more = [
        replace(first, masks=called if n == 2 else f"{called}-{n - 1}", reweight=False, called=f"{called}-{n}")
        for n in range(2, rounds + 1)
    ]
    return replace(base, segmentations=tuple({one.name: one for one in (*base.segmentations, first, *more)}.values()))


def with_paths(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    """The recipe with `change` applied to each path of a file or folder that it names, and to nothing else."""

    def weights(net: Any) -> Any:
        named = net is not None and net.weights is not None and not embedded.is_embedded(net.weights)
        return replace(net, weights=change(net.weights)) if named else net

    made = {*recipe.names, *(one.name for one in recipe.refinements), *(one.name for one in recipe.segmentations)}
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


def override(
    recipe: Recipe,
    *,
    data: str | None = None,
    layout: str | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    only: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    refine: Sequence[str] | None = None,
) -> Recipe:
    """The recipe with a few things changed; None leaves them. `epochs`, `batch_size` and `lr` are those of all
    stages, and the rate of a stage's heads keeps its ratio to `lr`. `layout` is that of a data set with boxes.

    Another backbone does without the weights of the one before it; where those were ImageNet's, it starts from its own,
    through timm's loader. `embedded:NAME` as a backbone is a network with its embedded weights. `weights` are those of
    the backbone, also under the segmentation networks that have the same one.
    `refine` are ways (REFINERS) to refine the masks of the last stage, in the place of the recipe's own.
    """
    stages, refinements = recipe.stages, recipe.refinements
    of_layout = None if layout is None else Layout(layout)
    if only is not None:
        stages = tuple(replace(stage, start=None) for stage in stages if stage.name == only)
        if not stages:
            raise RecipeError(f"recipe {recipe.name} has no stage {only!r}; it has {[s.name for s in recipe.stages]}")
        refinements = tuple(one for one in refinements if one.of == only or one.of.startswith(f"{only}+"))
    given = None if weights is None else str(weights)
    net = recipe.net
    if backbone is not None and embedded.is_embedded(backbone):
        backbone, given = f"{nets.TIMM}{embedded.find(backbone).network}", given or backbone
    if backbone not in (None, net.backbone):
        starts = net.pretrained or (net.weights is not None and embedded.is_embedded(net.weights))
        net = replace(net, weights=None, pretrained=starts)
    net = _replace(net, backbone=backbone, weights=given)
    same = net.backbone.removeprefix(nets.TIMM)
    segmentations = tuple(
        replace(one, net=_replace(one.net, weights=given)) if one.net.name.endswith(same) else one
        for one in recipe.segmentations
    )
    if given is not None:
        net = replace(net, pretrained=False)
    changed: Recipe = _replace(
        recipe,
        data=_replace(recipe.data, path=data, layout=of_layout, train_split=train_split, eval_split=eval_split),
        net=net,
        stages=tuple(
            replace(stage, schedule=train.rescheduled(stage.schedule, epochs=epochs, batch_size=batch_size, lr=lr))
            for stage in stages
        ),
        refinements=refinements if refine is None else (),
        segmentations=segmentations if only is None and refine is None else (),
        seed=seed,
    )
    return changed if refine is None else refined(changed, refine)


def _replace(config: Any, **changes: Any) -> Any:
    return replace(config, **{name: value for name, value in changes.items() if value is not None})
