"""Boxes of a run, measured: for each image its box, IoU and rank, and the metrics of all of them.

RUN/STAGE/boxes.csv       of each image its box, IoU and rank; where the method finds thresholds, the image's own
                          and the IoU with that
RUN/STAGE/metrics.json    `localization.LocalizationScores`, what the images' own thresholds reach, the top-k curve
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from baoseg.core import progress, ranks
from baoseg.core.errors import DataError
from baoseg.core.files import write_csv, write_json
from baoseg.core.run_folder import RunFolder
from baoseg.data.boxed import Boxed
from baoseg.evaluate.localization import CORRECT, Prediction, Truth, box_at, box_iou, evaluate_localization
from baoseg.pipeline.common import missing_indices, trained_stages
from baoseg.predict import boxes, labeler
from baoseg.predict.boxes import BoxConfig
from baoseg.recipes import Recipe
from baoseg.recipes.schema import Stage as Settings
from baoseg.report.boxes import CORNERS
from baoseg.seeds import SeedMaps
from baoseg.training import guards
from baoseg.training.train import Hardware

CURVE_POINTS = 20  # of the top-k curve at most
SeedOf = Callable[[labeler.Labeler, int], SeedMaps]  # takes the index of an image


def seeds_by(recipe: Recipe, stage: Settings, dataset: Boxed) -> SeedOf:
    """What makes the seed of an image as its box is drawn: the map of its class, averaged over as many classes, of the
    whole image where the box is drawn on its centre crop.
    """

    def seed(model: labeler.Labeler, index: int) -> SeedMaps:
        target, top_k = _target(model, dataset, index), box_of(stage).top_k
        return boxes.seed_of(model.method, dataset[index].image, target, side=recipe.view.side, top_k=top_k)

    return seed


def box_of(stage: Settings) -> BoxConfig:
    """The settings of a box, which each stage of a recipe for boxes has."""
    assert stage.box is not None, f"{stage.name} draws no box"
    return stage.box


def _target(model: labeler.Labeler, dataset: Boxed, index: int) -> int | None:
    """Number 0..K-1 of an image's class in the network; None where it has not learned that."""
    label = dataset.entries[index].label
    return model.classes.names.index(label) if label in model.classes.names else None


@dataclass(kw_only=True)
class Tally:
    """Collects what the metrics of one stage need, image by image."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # of boxes.csv
    curve: list[list[float]] = field(default_factory=list)  # IoU of each image for each k


def evaluate_boxes(
    folder: RunFolder, recipe: Recipe, dataset: Boxed, *, hardware: Hardware, anew: bool = False
) -> None:
    """Write boxes.csv and metrics.json of each stage that has none yet, or, `anew`, of all. A box is right if its IoU
    is at least 0.5.
    """
    for stage, paths in zip(recipe.stages, trained_stages(folder, recipe), strict=True):
        if not (missing_indices([paths.metrics]) or anew):
            continue
        model = labeler.load(paths.network, device=hardware.fabric().device)
        top = _curve_points(len(model.classes)) if model.method.averages_classes else ()
        tally = Tally()
        pairs = _pairs(model, dataset, recipe=recipe, stage=stage, top=top, tally=tally)
        scores = evaluate_localization(pairs, threshold=box_of(stage).threshold)
        if ranks.first():
            write_csv(paths.root / "boxes.csv", tally.rows)
            about = {"split": dataset.split, "classes": list(dataset.classes.names), "top_k": box_of(stage).top_k}
            own = {"image_specific": _image_specific(tally.rows), "top_k_curve": _top_k_curve(top, tally)}
            write_json(paths.metrics, {**about, **scores.to_json(), **own})
        ranks.barrier()


def _pairs(
    model: labeler.Labeler, dataset: Boxed, *, recipe: Recipe, stage: Settings, top: Sequence[int], tally: Tally
) -> Iterator[tuple[Prediction, Truth]]:
    """What the stage says and the truth, of each image; notes the rest in `tally` on the way.

    Where there are many processes, each localizes some of the images, and all go through the findings on all of them
    in their order. So no process holds the maps of more images at a time than there are processes.
    """
    count, processes = len(dataset), ranks.world()
    own: list[int | None] = [*ranks.own_share(range(count))]
    own += [None] * (-(-count // processes) - len(own))  # all have as many turns
    for index in progress.track(own, title=f"{stage.name} evaluate", total=len(own)):
        found = None if index is None else _measured(model, dataset, index, recipe=recipe, stage=stage, top=top)
        for one in ranks.gathered(found):
            if one is not None:
                tally.rows.append(one.row)
                tally.curve.append(one.curve)
                yield one.prediction, one.truth


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One image: what was found in it, and its line of the tables."""

    prediction: Prediction
    truth: Truth
    row: dict[str, Any]  # of boxes.csv
    curve: list[float]  # IoU for each k


def _measured(
    model: labeler.Labeler, dataset: Boxed, index: int, *, recipe: Recipe, stage: Settings, top: Sequence[int]
) -> _Measured:
    sample, target, box = dataset[index], _target(model, dataset, index), box_of(stage)
    size = (int(sample.image.shape[1]), int(sample.image.shape[2]))
    try:
        truth = boxes.truth_on_crop(dataset.boxes(index), sample.mask, size, view=recipe.view)
    except DataError as error:
        raise DataError(f"{dataset.split}/{sample.name}: {error}") from error
    with guards.of_image(f"{dataset.split}/{sample.name}"):
        found = boxes.localize(
            model.method, sample.image, target, view=recipe.view, top=(box.top_k, *top), fixed=box.threshold
        )
    drawn = [box_at(scores, threshold=box.threshold) for scores in found.averages]
    ious = box_iou(np.stack(drawn), truth.boxes).max(axis=1).tolist()
    row = {"name": sample.name, "rank": found.rank, "iou": ious[0]}
    row |= dict(zip(CORNERS, drawn[0].tolist(), strict=True))
    if found.threshold is not None:
        own = box_at(found.averages[0], threshold=found.threshold)
        row |= {"image_threshold": found.threshold, "image_iou": float(box_iou(own[None], truth.boxes).max())}
    # a copy: pickled, a part of a tensor takes all of it along
    prediction = Prediction(name=sample.name, scores=found.averages[0].clone(), box=drawn[0], rank=found.rank)
    return _Measured(prediction=prediction, truth=truth, row=row, curve=ious[1:])


def _curve_points(classes: int) -> list[int]:
    """Numbers k of classes from 1 to all, evenly spread."""
    return sorted({round(k) for k in np.linspace(1, classes, min(classes, CURVE_POINTS)).tolist()})


def _top_k_curve(top: Sequence[int], tally: Tally) -> dict[str, list[int] | list[float]] | None:
    """GT-known, Top-1 and Top-5 Loc for each k (figure 10). It shows; k is chosen beforehand."""
    if not top:
        return None
    shares = _shares(np.array(tally.curve) >= CORRECT, tally.rows)
    return {"k": list(top), **{name: share.tolist() for name, share in shares.items()}}


def _image_specific(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """GT-known, Top-1 and Top-5 Loc with each image's own threshold, which L_bas + L_ac chose (sec. 5.5)."""
    if "image_iou" not in rows[0]:
        return None
    right = np.array([[row["image_iou"]] for row in rows]) >= CORRECT
    return {name: share.item() for name, share in _shares(right, rows).items()}


def _shares(right: Bool[np.ndarray, "n k"], rows: Sequence[dict[str, Any]]) -> dict[str, Float[np.ndarray, "k"]]:
    """Percentages of images with a right box, and whose class is among the one and five most probable as well."""
    rank = np.array([[np.inf if row["rank"] is None else row["rank"]] for row in rows])
    parts = {"gt_known": right, "top1": right & (rank < 1), "top5": right & (rank < 5)}
    return {name: 100 * part.mean(axis=0) for name, part in parts.items()}
