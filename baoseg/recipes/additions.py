"""What is added to a recipe: refinements, and segmentation networks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from baoseg.core.errors import RecipeError
from baoseg.predict import segment
from baoseg.recipes.schema import Recipe, Refinement, Rest, Segmentation, Task
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
    called: str = "segment",
) -> Recipe:
    """`base` with a segmentation network that learns from `masks` (see Segmentation): by default the last refinement's,
    or the last stage's. What is None is as in the first segmentation of `base`, or as `Segmentation` and
    SEGMENTATION_SCHEDULE say.
    """
    last = [*base.names, *(refinement.name for refinement in base.refinements)][-1:]
    if masks is None and not last:
        raise RecipeError("segmentation: no masks to learn from; name a folder of them")
    model = base.segmentations[0] if base.segmentations else Segmentation(masks="", schedule=SEGMENTATION_SCHEDULE)
    schedule = given(model.schedule, epochs=epochs, batch_size=batch_size)
    if lr is not None:
        schedule = replace(schedule, lr=lr, head_lr=10 * lr)
    network = replace(
        model, masks=masks or last[0], net=net or model.net, schedule=schedule, reweight=reweight, called=called
    )
    return _with_networks(base, [network])


def from_reviewed(base: Recipe, called: str, rest: Rest) -> Recipe:
    """`base` with its segmentation network `called` on reviewed masks, and on the `rest` of its masks as said."""
    network = next(one for one in base.segmentations if one.name == called)
    made = {*base.names, *(one.name for one in base.refinements)}
    if network.masks not in made:
        raise RecipeError(f"{called}: reviewed masks stand for those of a stage, and {network.masks} is none")
    return _with_networks(base, [replace(network, reviewed=rest)])


def in_rounds(base: Recipe, called: str, rounds: int) -> Recipe:
    """`base` with further rounds of the segmentation network `called`, e.g. `segment-2` and `segment-3` of `segment`.

    Each learns from the predictions of the one before it, restricted to the image-level labels. `rounds` counts the
    network itself, so 1 adds nothing.
    """
    if rounds < 1:
        raise RecipeError(f"segmentation: {rounds} rounds; choose 1 or more")
    first = next(one for one in base.segmentations if one.name == called)
    names = [called, *(f"{called}-{number}" for number in range(2, rounds + 1))]
    return _with_networks(
        base, [replace(first, masks=before, reweight=False, called=name) for before, name in pairwise(names)]
    )


def _with_networks(base: Recipe, networks: Sequence[Segmentation]) -> Recipe:
    return replace(base, segmentations=tuple({one.name: one for one in (*base.segmentations, *networks)}.values()))


def given(config: Any, **changes: Any) -> Any:
    """Settings with those changes that are not None."""
    return replace(config, **{name: value for name, value in changes.items() if value is not None})
