"""Weakly supervised localization: a box and a foreground map for each picture, learned from one label a picture.

    begin -> train_stages -> evaluate_stages -> make_report, and make_maps

As in `pipeline`, each step is a function of a run folder and can be run again. Pictures are seen as the field sees them
(BAS sec. 4.1): squashed to a square of 256, random crops of 224 in training, the centre crop for the box, ten crops for
the class. A stage is a method, CAM or BAS, on the same network.

    RUN/run.json              settings and data
    RUN/STAGE/                network.safetensors, losses.csv, costs.json as in every run
    RUN/STAGE/boxes.csv       of each picture its box, IoU and rank, and for BAS its own threshold and the IoU with that
    RUN/STAGE/maps/SPLIT/     seeds of whole pictures (`bao maps`)
    RUN/STAGE/metrics.json    `localization.LocalizationScores`, what the images' own thresholds reach, the top-k curve
    RUN/report.html
"""

import csv
import io
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from jaxtyping import Bool, Float, Integer, UInt8
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

import baoseg
from baoseg import nets, seeds
from baoseg.core import costs, progress, ranks, settings
from baoseg.core.errors import DataError, RecipeError, RunError
from baoseg.core.files import atomic, read_json, write_json
from baoseg.core.run_folder import Run, Stage
from baoseg.core.types import BACKGROUND, IGNORE, Batch
from baoseg.data import TrainSet, transforms
from baoseg.data.transforms import normalise as normalise_image
from baoseg.data.wsol import Boxed, Layout, open_boxed, refuse, squash, squash_mask, summary, truth_problems
from baoseg.evaluate import localization
from baoseg.evaluate.localization import CORRECT, Prediction, Truth, box_at, box_iou, evaluate_localization
from baoseg.methods import Method, bas, heads_of, make
from baoseg.pipeline import manifest
from baoseg.pipeline.checking import say_smaller_batches
from baoseg.pipeline.common import each, not_there, note_cost
from baoseg.pipeline.training import fit
from baoseg.predict import labeler, maps
from baoseg.recipes.box_schema import Config, Localizer
from baoseg.report import page as report
from baoseg.seeds import masks
from baoseg.training import guards, losses
from baoseg.training.learner import Learner
from baoseg.training.train import Hardware

CORNERS = ("x0", "y0", "x1", "y1")
CURVE_POINTS = 20  # of the top-k curve at most


def run(config: Config, out: Path, *, hardware: Hardware) -> Run:
    """All steps in the folder `out`. On a folder that an earlier call left unfinished, it continues."""
    hardware.fabric()  # the processes of other devices start here, and come this way as well
    folder = begin(config, out)
    train_stages(folder, hardware=hardware)
    evaluate_stages(folder, hardware=hardware)
    make_report(folder)
    return folder


def begin(config: Config, out: Path) -> Run:
    """Open the run folder `out`, or make it. Raises RunError if it holds something else."""
    with ranks.first_alone():
        return _begun(config, out)


def _begun(config: Config, out: Path) -> Run:
    folder, config = Run(out), _with_whole_paths(config)
    opened = {"train": open_boxed(config.data, "train"), "eval": open_boxed(config.data, "eval")}
    data = {role: _described(boxed) for role, boxed in opened.items()}
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file, no run folder; choose another folder with --out")
    begun = manifest.begun(folder)
    if begun:
        _require_same(folder, config, data)
    _check(folder, config, opened)
    noted = read_json(folder.manifest) if begun else {"version": baoseg.__version__}
    about = {
        "localization": settings.to_json(config),
        "data": data,
        "stages": [stage.name for stage in config.stages],
        "folder": manifest.absolute(str(folder.root)),
    }
    write_json(folder.manifest, {**noted, **about})  # the data may lie in another place than at the first call
    return folder


def _with_whole_paths(config: Config) -> Config:
    """Paths as they are from anywhere, so that a step may be run from another directory."""
    data = replace(config.data, path=_whole(config.data.path))
    net = config.net if config.net.weights is None else replace(config.net, weights=_whole(config.net.weights))
    return replace(config, data=data, net=net)


def _whole(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  (Path.resolve would follow links)


def _described(boxed: Boxed) -> dict[str, Any]:
    return {"split": boxed.split, "images": len(boxed), "fingerprint": boxed.fingerprint()}


def _require_same(folder: Run, config: Config, data: Mapping[str, Any]) -> None:
    """Raises RunError unless the folder holds a run with these settings on these data, wherever they lie now."""
    if not folder.manifest.exists():
        raise RunError(f"{folder.root}: exists and is no run folder; choose another folder with --out")
    noted = config_of(folder)  # refuses one for segmentation
    before, now = (settings.to_json(replace(one, data=replace(one.data, path=""))) for one in (noted, config))
    if before != now:
        raise RunError(
            f"{folder.root}: holds a run with other settings ({manifest._difference(before, now)}); choose another "
            "folder with --out, or delete this one"
        )
    if (found := read_json(folder.manifest)["data"]) != data:
        raise RunError(
            f"{folder.root}: holds a run with other data ({_difference(found, data)}); choose another folder with "
            "--out, or restore the data"
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what the data differ, in words: a hash says nothing."""
    found = manifest._difference(before, now)
    return "labels, boxes or files changed" if "fingerprint was" in found else found


def _check(folder: Run, config: Config, opened: Mapping[str, Boxed]) -> None:
    """What training and evaluation would fail at is refused before them; weights that timm fetches are then there."""
    stages = [folder.stage(stage.name) for stage in config.stages]
    if not all(paths.metrics.exists() for paths in stages):
        refuse(truth_problems(opened["eval"], strict=config.data.layout is Layout.FOLDER))
    due = [stage for stage, paths in zip(config.stages, stages, strict=True) if not paths.network.exists()]
    say_smaller_batches(due, len(opened["train"]))
    for heads in {heads_of(stage.method) for stage in due}:
        network = nets.build(config.net, len(opened["train"].classes), heads=heads, seed=config.seed)
        _check_crop(config, network)


def _check_crop(config: Config, network: nets.Network) -> None:
    if config.crop % network.backbone.stride:
        raise RecipeError(
            f"crops of {config.crop} pixels are no multiple of the backbone's stride {network.backbone.stride}; "
            "choose another crop"
        )


def holds(folder: Run) -> bool:
    """Whether a run folder is one for localization. Raises RunError for a folder that is no run."""
    return "localization" in read_json(folder.manifest)


def config_of(folder: Run) -> Config:
    """The settings that a run folder was made with, with paths as they are today.

    Raises RunError when it is no localization run.
    """
    noted = read_json(folder.manifest)
    if "localization" not in noted:
        raise RunError(f"{folder.root}: is a run for segmentation; name one that `bao localize` made")
    config = settings.from_json(noted["localization"], Config, source=str(folder.manifest))
    net, data = config.net, replace(config.data, path=manifest.place(folder, config.data.path))
    if net.weights is not None:
        net = replace(net, weights=manifest.place(folder, net.weights))
    return replace(config, data=data, net=net)


def _opened(folder: Run, config: Config, role: Literal["train", "eval"]) -> Boxed:
    """The data of a run, which may have been moved with it. Raises RunError for others than it was begun on."""
    manifest.require_data(folder, config.data.path)
    boxed = open_boxed(config.data, role)
    if (noted := read_json(folder.manifest)["data"][role]) != (now := _described(boxed)):
        raise RunError(
            f"{folder.root}: {config.data.path} holds other data than this run was made on "
            f"({_difference(noted, now)}); restore the data, or begin a run on them in another folder"
        )
    return boxed


# --- training ------------------------------------------------------------------------------------------------------


class Classifier(Learner):
    """CAM's network with the cross-entropy of one label (eq. 7), where `methods.cam` is trained for several."""

    def __init__(self, network: nets.Network) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        logits = losses.pool(self.network.class_maps(self.network(batch.images)))
        return {"classification": F.cross_entropy(logits, batch.labels)}

    def head_parameters(self) -> Iterator[nn.Parameter]:
        return self.network.head_parameters()


def train_stages(folder: Run, *, hardware: Hardware) -> None:
    """Train each stage that is not trained yet. Raises RunError while another process trains here."""
    with manifest.alone_in(folder):
        _train_stages(folder, hardware=hardware)


def _train_stages(folder: Run, *, hardware: Hardware) -> None:
    config = config_of(folder)
    pictures = _opened(folder, config, "train").squares(config.side)
    progress.say(summary(pictures))
    for stage in config.stages:
        paths = folder.stage(stage.name)
        if not not_there([paths.network]):
            continue
        heads = heads_of(stage.method)
        network = nets.build(config.net, len(pictures.classes), heads=heads, seed=config.seed)
        if stage.start is not None:
            labeler.warm_start(network, folder.stage(stage.start).network)
        _check_crop(config, network)
        learner = make(stage.method, network) if isinstance(stage.method, bas.Config) else Classifier(network)
        samples = TrainSet(pictures, augmentation(config), network.normalisation, seed=config.seed)
        fit(paths, learner, samples, schedule=stage.schedule, seed=config.seed, hardware=hardware)
        if ranks.first():
            labeler.save(
                paths.network,
                network,
                method=stage.method,
                net=config.net,
                maps=maps.Config(sizes=(config.side,)),
                masks=masks.Config(threshold=stage.threshold),
                classes=pictures.classes,
                label_cut=labeler.LIKELIEST,  # cross-entropy tells one class from the others; where 0 is says nothing
            )
            paths.state.unlink(missing_ok=True)
        ranks.barrier()


def augmentation(config: Config) -> transforms.Config:
    """A random crop of the square, and its mirror image every second time (sec. 4.1); colours stay."""
    return transforms.Config(
        resize_long=(config.side, config.side),
        crop=config.crop,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
    )


# --- inference -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a method says of one picture, on its centre crop."""

    averages: Float[Tensor, "k c c"]  # the map for each k asked for, in [0, 1]
    rank: int | None  # classes more probable than the true one; None where the network does not know it
    threshold: float | None  # image-specific, for the first of the maps


@torch.inference_mode()
def localize_picture(
    method: Method,
    image: UInt8[Tensor, "3 h w"],
    target: int | None,
    *,
    config: Config,
    top: Sequence[int],
    fixed: float | None = None,
) -> Found:
    """Maps and class of one picture whose true class is `target` (0..K-1), or None if the network does not know it.

    The map for k is the mean over k classes (`bas.top_averages`), enlarged to the crop, bilinear, and brought to
    [0, 1] by its minimum and maximum; CAM's negative values stay in their order (Choe et al.). The true class is among
    the k; without one the most probable takes its place. As released, k classes are chosen on the centre crop, and the
    rank is that of the mean softmax over ten crops (sec. 4.1).

    With `fixed`, BAS chooses a threshold for this picture too; `fixed` stands for it where nothing tells it.
    """
    device = next(method.parameters()).device
    square, crop = squash(image.to(device), config.side), [config.crop, config.crop]
    crops = TF.ten_crop(square, crop) if config.ten_crops else (TF.center_crop(square, crop),)
    views = normalise_image(torch.stack(tuple(crops)), method.network.normalisation)
    logits = method.classify(views)
    guards.numbers(logits, "class logits")
    middle = slice(4, 5) if config.ten_crops else slice(1)  # the corners come before the centre
    centre, of_centre = views[middle], logits[middle]
    known, averages = _averages(method, centre, of_centre, target)
    chosen = averages[[min(k, len(averages)) - 1 for k in top]]
    large = F.interpolate(chosen[None].float(), size=crop, mode="bilinear", align_corners=False)
    large = maps.normalise(large - large.amin(dim=(2, 3), keepdim=True))[0]

    probabilities = logits.softmax(dim=1).mean(dim=0)
    rank = None if target is None else int((probabilities > probabilities[target]).sum())
    threshold = None
    if fixed is not None and isinstance(method, bas.BAS):
        labels = F.one_hot(torch.tensor(known, device=device), logits.shape[1]).float()
        threshold = bas.image_threshold(method.network, centre, labels, large[:1], config=method.config, fixed=fixed)
    return Found(large.cpu(), rank, threshold)


@torch.inference_mode()
def _seed(method: Method, image: UInt8[Tensor, "3 h w"], target: int | None, *, side: int, top_k: int) -> seeds.Seed:
    """The map of a whole picture, as `localize_picture` makes that of its centre crop, on the seeds' grid."""
    size = (int(image.shape[1]), int(image.shape[2]))
    device = next(method.parameters()).device
    view = normalise_image(squash(image.to(device), side)[None], method.network.normalisation)
    known, averages = _averages(method, view, method.classify(view), target)
    stride = maps.Config().stride
    grid = (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    chosen = averages[None, min(top_k, len(averages)) - 1, None].float()
    scores = F.interpolate(chosen, size=grid, mode="bilinear", align_corners=False, antialias=True)
    scores = maps.normalise(scores - scores.amin(dim=(2, 3), keepdim=True))[0].cpu()
    return seeds.Seed(torch.tensor([known + 1]), scores, None, size)


def _averages(
    method: Method, view: Float[Tensor, "1 3 h w"], logits: Float[Tensor, "1 K"], target: int | None
) -> tuple[int, Float[Tensor, "K h2 w2"]]:
    """The class looked for, and its map averaged with those of k - 1 others, for each k."""
    if isinstance(method, bas.BAS):
        scores = method.generated(view)
    else:
        scores = method.maps(view, torch.zeros_like(logits)).scores
    guards.numbers(logits, "class logits")
    guards.numbers(scores, "maps")
    known = int(logits.argmax()) if target is None else target
    return known, bas.top_averages(scores, logits, torch.tensor([known], device=logits.device))[0]


def truth_on_crop(
    boxes: Integer[Tensor, "m 4"], mask: UInt8[Tensor, "h w"] | None, size: tuple[int, int], *, config: Config
) -> Truth:
    """Boxes and mask of a picture of `size` (height, width) on its centre crop; boxes end at its sides, as released.

    Raises DataError for a box that lies outside the picture.
    """
    height, width = size
    outside = (boxes[:, :2] >= torch.tensor([width, height])).any(dim=1) | (boxes[:, 2:] < 0).any(dim=1)
    if outside.any():
        raise DataError(
            f"the box {boxes[outside][0].tolist()} lies outside the picture of {width}x{height} pixels; correct it"
        )
    margin = (config.side - config.crop) // 2
    scaled = (boxes * config.side).div(torch.tensor([width, height, width, height]), rounding_mode="floor")
    on_crop = (scaled - margin).clamp(0, config.crop - 1)
    if mask is None:
        return Truth(boxes=on_crop)
    square = TF.center_crop(squash_mask(mask, config.side)[None], [config.crop, config.crop])[0]
    return Truth(boxes=on_crop, mask=square.where(square == IGNORE, (square > BACKGROUND).to(torch.uint8)))


# --- maps ----------------------------------------------------------------------------------------------------------


def make_maps(folder: Run, *, hardware: Hardware, split: str | None = None) -> None:
    """Write the seed of each picture of a split (the evaluation split by default) for each stage: the map of its class,
    averaged over as many classes as for the box, of the whole picture where boxes are drawn on its centre crop.
    """
    config = config_of(folder)
    dataset = _opened(folder, config, "eval")
    if split is not None:
        dataset = open_boxed(replace(config.data, eval_split=split), "eval")
    for stage in config.stages:
        paths = _trained(folder, stage)
        missing = not_there([paths.maps(dataset.split, name) for name in dataset.names])
        if not missing:
            continue
        model = labeler.load(paths.network, device=hardware.fabric().device)
        with costs.measure(model.device) as cost:
            for index in each(missing, of=len(dataset), title=f"{paths.name} maps"):
                target = _target(model, dataset, index)
                with guards.of_image(f"{dataset.split}/{dataset.names[index]}"):
                    seed = _seed(model.method, dataset[index].image, target, side=config.side, top_k=stage.top_k)
                seeds.save(paths.maps(dataset.split, dataset.names[index]), seed)
        note_cost(paths, "maps", cost, pictures=len(missing))


def _trained(folder: Run, stage: Localizer) -> Stage:
    paths = folder.stage(stage.name)
    if not paths.network.exists():
        raise RunError(f"{paths.network}: not trained yet; run `bao localize` on {folder.root} again")
    return paths


def _target(model: labeler.Labeler, dataset: Boxed, index: int) -> int | None:
    """Number 0..K-1 of a picture's class in the network; None where it has not learned that."""
    label = dataset.entries[index].label
    return model.classes.names.index(label) if label in model.classes.names else None


# --- evaluation ----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Tally:
    """Collects what the metrics of one stage need, picture by picture."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # of boxes.csv
    curve: list[list[float]] = field(default_factory=list)  # IoU of each picture for each k


def evaluate_stages(folder: Run, *, hardware: Hardware) -> None:
    """Write boxes.csv and metrics.json of each stage that has none yet. A box is right if its IoU is at least 0.5."""
    config = config_of(folder)
    dataset = _opened(folder, config, "eval")
    for stage in config.stages:
        paths = _trained(folder, stage)
        if not not_there([paths.metrics]):
            continue
        model = labeler.load(paths.network, device=hardware.fabric().device)
        top = _curve_points(len(model.classes)) if isinstance(stage.method, bas.Config) else ()
        tally = Tally()
        pairs = _pairs(model, dataset, config=config, stage=stage, top=top, tally=tally)
        scores = evaluate_localization(pairs, threshold=stage.threshold)
        if ranks.first():
            _write_boxes(paths, tally.rows)
            metrics = {"split": dataset.split, "classes": list(dataset.classes.names), "top_k": stage.top_k}
            write_json(
                paths.metrics,
                {
                    **metrics,
                    **scores.to_json(),
                    "image_specific": _image_specific(tally.rows),
                    "top_k_curve": _top_k_curve(top, tally),
                },
            )
        ranks.barrier()
    progress.say(table(folder))


def _pairs(
    model: labeler.Labeler, dataset: Boxed, *, config: Config, stage: Localizer, top: Sequence[int], tally: Tally
) -> Iterator[tuple[Prediction, Truth]]:
    """What the stage says and the truth, of each picture; notes the rest in `tally` on the way.

    Where there are many processes, each localizes some of the pictures, and all go through the findings on all of them
    in their order. So no process holds the maps of more pictures at a time than there are processes.
    """
    count, processes = len(dataset), ranks.world()
    own: list[int | None] = [*ranks.own_share(range(count))]
    own += [None] * (-(-count // processes) - len(own))  # all have as many turns
    for index in progress.track(own, title=f"{stage.name} evaluate", total=len(own)):
        found = None if index is None else _measured(model, dataset, index, config=config, stage=stage, top=top)
        for one in ranks.gathered(found):
            if one is not None:
                tally.rows.append(one.row)
                tally.curve.append(one.curve)
                yield one.prediction, one.truth


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One picture: what was found in it, and its line of the tables."""

    prediction: Prediction
    truth: Truth
    row: dict[str, Any]  # of boxes.csv
    curve: list[float]  # IoU for each k


def _measured(
    model: labeler.Labeler, dataset: Boxed, index: int, *, config: Config, stage: Localizer, top: Sequence[int]
) -> _Measured:
    sample, target = dataset[index], _target(model, dataset, index)
    size = (int(sample.image.shape[1]), int(sample.image.shape[2]))
    try:
        truth = truth_on_crop(dataset.boxes(index), sample.mask, size, config=config)
    except DataError as error:
        raise DataError(f"{dataset.split}/{sample.name}: {error}") from error
    with guards.of_image(f"{dataset.split}/{sample.name}"):
        found = localize_picture(
            model.method, sample.image, target, config=config, top=(stage.top_k, *top), fixed=stage.threshold
        )
    boxes = [box_at(scores, threshold=stage.threshold) for scores in found.averages]
    ious = box_iou(np.stack(boxes), truth.boxes).max(axis=1).tolist()
    row = {"name": sample.name, "rank": found.rank, "iou": ious[0]}
    row |= dict(zip(CORNERS, boxes[0].tolist(), strict=True))
    if found.threshold is not None:
        own = box_at(found.averages[0], threshold=found.threshold)
        row |= {"image_threshold": found.threshold, "image_iou": float(box_iou(own[None], truth.boxes).max())}
    # a copy: pickled, a part of a tensor takes all of it along
    prediction = Prediction(name=sample.name, scores=found.averages[0].clone(), box=boxes[0], rank=found.rank)
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
    """GT-known, Top-1 and Top-5 Loc with each picture's own threshold, which L_bas + L_ac chose (sec. 5.5)."""
    if "image_iou" not in rows[0]:
        return None
    right = np.array([[row["image_iou"]] for row in rows]) >= CORRECT
    return {name: share.item() for name, share in _shares(right, rows).items()}


def _shares(right: Bool[np.ndarray, "n k"], rows: Sequence[dict[str, Any]]) -> dict[str, Float[np.ndarray, "k"]]:
    """Percentages of pictures with a right box, and whose class is among the one and five most probable as well."""
    rank = np.array([[np.inf if row["rank"] is None else row["rank"]] for row in rows])
    parts = {"gt_known": right, "top1": right & (rank < 1), "top5": right & (rank < 5)}
    return {name: 100 * part.mean(axis=0) for name, part in parts.items()}


def _write_boxes(paths: Stage, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(paths.root / "boxes.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


# --- report --------------------------------------------------------------------------------------------------------

OWN_COLUMNS = ("method", "GT-known", "Top-1", "Top-5", "median IoU", "own threshold", "PxAP", "training, minutes")
ORACLE_COLUMNS = ("MaxBoxAccV2", "0.3", "0.5", "0.7", "all contours", "PIoU")
TRUTH_COLOUR = report.COLOURS[3]
STAGE_COLOURS = [colour for colour in report.COLOURS if colour != TRUTH_COLOUR]
GALLERY = 24


def table(folder: Run) -> Table:
    """The summary for the terminal, 80 columns wide."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0), caption="MaxBoxAccV2 and PIoU: oracle")
    for column in (*OWN_COLUMNS[:-1], "MaxBox\nAccV2", ORACLE_COLUMNS[-1]):
        result.add_column(column, justify="left" if column == OWN_COLUMNS[0] else "right")
    for name, own, oracle in _rows(folder):
        result.add_row(name, *own[:-1], oracle[0], oracle[-1])
    return result


def _rows(folder: Run) -> list[tuple[str, list[str], list[str]]]:
    """Name of each stage, and its cells of OWN_COLUMNS (but the name) and of ORACLE_COLUMNS."""
    rows = []
    for name in read_json(folder.manifest)["stages"]:
        metrics, cost = _metrics(folder, name), read_json(folder.stage(name).costs)["train"]
        own, oracle = metrics["image_specific"] or {}, metrics["oracle"]
        levels, peak = oracle["max_box_accuracy"], oracle["peak_iou"] or {}
        shown = [*(metrics[key] for key in ("gt_known", "top1", "top5", "median_iou")), own.get("gt_known")]
        best = [_mean(levels), *levels, _mean(oracle["max_box_accuracy_multi_contour"]), peak.get("iou")]
        rows.append(
            (
                name,
                [report.number(value) for value in (*shown, metrics["pixel_average_precision"], cost["seconds"] / 60)],
                [report.number(value) for value in best],
            )
        )
    return rows


def _metrics(folder: Run, name: str) -> dict[str, Any]:
    """Of an evaluated stage. Raises RunError for one that is not."""
    path = folder.stage(name).metrics
    if not path.exists():
        raise RunError(f"{path}: not evaluated yet; run `bao evaluate {folder.root}` first")
    found: dict[str, Any] = read_json(path)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def make_report(folder: Run, *, gallery: int = GALLERY) -> Path:
    """Write the HTML page: the table, the curves, and `gallery` pictures with their boxes. Gives its path."""
    if ranks.first():
        _write_report(folder, gallery=gallery)
    ranks.barrier()
    progress.say(f"Report: {folder.report.resolve()}")
    return folder.report


def _write_report(folder: Run, *, gallery: int) -> None:
    config, noted = config_of(folder), read_json(folder.manifest)
    dataset = _opened(folder, config, "eval")
    metrics = {stage.name: _metrics(folder, stage.name) for stage in config.stages}
    colours = dict(zip(metrics, itertools.cycle(STAGE_COLOURS), strict=False))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("baoseg.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = report.number
    html = environment.get_template("localize.html.j2").render(
        title=config.name,
        facts={
            "data set": config.data.path,
            "split": dataset.split,
            "images": f"{len(dataset):,}",
            "classes": str(len(dataset.classes)),
            "version": f"baoseg {noted['version']}",
        },
        manifest=json.dumps(noted, indent=2, ensure_ascii=False),
        own_columns=OWN_COLUMNS,
        oracle_columns=ORACLE_COLUMNS,
        rows=_rows(folder),
        images=len(dataset),
        colours=colours,
        figures=_figures(metrics, colours),
        drawn={"true box": TRUTH_COLOUR, **colours},
        crop=config.crop,
        pictures=_gallery(folder, dataset, config, colours, count=gallery),
    )
    with atomic(folder.report) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _figures(metrics: dict[str, dict[str, Any]], colours: dict[str, str]) -> list[tuple[str, Markup]]:
    """Captions and figures; those without anything to show are left out."""

    def lines(curves: Mapping[str, tuple[Sequence, Sequence]], *, x: str, y: str) -> Figure:
        figure, axes = report._axes(x=x, y=y, size=(4.6, 2.9))
        for name, (positions, values) in curves.items():
            axes.plot(positions, values, linewidth=2, color=colours[name])
        return figure

    thresholds, pixels = localization.THRESHOLDS[::10], localization.PIXEL_THRESHOLDS[::10]
    boxes = {name: (thresholds.tolist(), result["box_curve"][1]) for name, result in metrics.items()}
    accuracy = lines(boxes, x="threshold", y="boxes in %")
    for name, result in metrics.items():
        accuracy.axes[0].plot(result["threshold"], result["gt_known"], "o", markersize=7, color=colours[name])
    centres = ((np.arange(localization.BINS) + 0.5) * 100 / localization.BINS).tolist()
    shares = {
        name: (centres, [100 * count / result["images"] for count in result["iou_histogram"]])
        for name, result in metrics.items()
    }
    figures = [
        ("Boxes with an IoU of at least 0.5, and the fixed threshold", accuracy),
        ("IoU of the boxes", lines(shares, x="IoU in %", y="pictures in %")),
    ]
    if masked := {name: result["iou_curve"] for name, result in metrics.items() if result["iou_curve"] is not None}:
        curves = {name: (pixels.tolist(), values) for name, values in masked.items()}
        figures.append(("IoU of the pixels", lines(curves, x="threshold", y="IoU in %")))
    if top := {name: result["top_k_curve"] for name, result in metrics.items() if result["top_k_curve"] is not None}:
        curves = {name: (values["k"], values["gt_known"]) for name, values in top.items()}
        by_classes = lines(curves, x="k", y="GT-known Loc in %")
        by_classes.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        figures.append(("Maps of k classes averaged", by_classes))
    for name, result in metrics.items():
        figure, axes = report._axes(x="relative size of the object", y="IoU", size=(4.6, 2.9))
        axes.imshow(np.array(result["density"]).T, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap="viridis")
        axes.grid(visible=False)
        figures.append((f"{name}: pictures by size of the object and IoU", figure))
    return [(caption, report._svg(figure, caption)) for caption, figure in figures]


def _gallery(
    folder: Run, dataset: Boxed, config: Config, colours: dict[str, str], *, count: int
) -> list[dict[str, Any]]:
    """Pictures spread evenly over the split, as crops, with the true boxes and each stage's."""
    tables = {name: _read_boxes(folder.stage(name)) for name in colours}
    pictures = []
    for index in report._spread(len(dataset), count):
        sample = dataset[index]
        crop = TF.center_crop(squash(sample.image, config.side), [config.crop, config.crop])
        size = (int(sample.image.shape[1]), int(sample.image.shape[2]))
        truth = truth_on_crop(dataset.boxes(index), None, size, config=config)
        found = {name: rows[index] for name, rows in tables.items()}
        boxes = [(TRUTH_COLOUR, box.tolist()) for box in truth.boxes]
        boxes += [(colours[name], [int(row[corner]) for corner in CORNERS]) for name, row in found.items()]
        pictures.append(
            {
                "name": sample.name.rpartition("/")[2],
                "image": report._uri(Image.fromarray(crop.permute(1, 2, 0).numpy()), "JPEG", quality=82),
                "boxes": boxes,
                "ious": [(name, float(row["iou"])) for name, row in found.items()],
            }
        )
    return pictures


def _read_boxes(paths: Stage) -> list[dict[str, str]]:
    with (paths.root / "boxes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
