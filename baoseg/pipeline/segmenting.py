"""Segmentation networks that learn from masks, and what they see."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg import evaluate, recipes
from baoseg.core import costs, progress, ranks
from baoseg.core.errors import DataError
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.core.types import IGNORE, Sample
from baoseg.data import Dataset, TrainSet, truth
from baoseg.data.images import write_mask
from baoseg.nets.segmentation import SegmentationNetwork
from baoseg.pipeline import manifest
from baoseg.pipeline.checking import check_new, masks_of_others
from baoseg.pipeline.common import KeptLabels, Margins, margins_of, missing_indices, note_cost, outdated, sharded
from baoseg.pipeline.manifest import alone_in, made_or_withdrawn, recipe_of, split_data, training_data
from baoseg.pipeline.refining import masks_of
from baoseg.pipeline.reviewing import reviewed_images
from baoseg.pipeline.training import fit, judged, note_epoch
from baoseg.predict import segment
from baoseg.recipes import Recipe, Rest, Task
from baoseg.training import guards
from baoseg.training.train import Hardware

REVIEWED = "reviewed"  # in the place of a stage: masks that a person has looked at


def add_segmentation(
    folder: RunFolder,
    *,
    called: str | None = None,
    net: str | None = None,
    weights: Path | None = None,
    values: Sequence[str] = (),
    **choices: Any,
) -> None:
    """Note a segmentation network in a run folder for `segment_images`; see `recipes.segmented` for the choices.

    With `masks="reviewed"` it learns from reviewed masks, and from the `rest` as `recipes.Rest` says; in further
    `rounds` from its own predictions.

    `values` change its settings (`recipes.with_values`), and those of the networks of further rounds.

    Where nothing is asked for and the recipe has networks, these are meant. One that is there under this
    name stays as it is where nothing else is asked for. Raises a BaosegError for one that
    cannot be built or has nothing to learn from, and nothing is noted then.
    """

    given = {name: value for name, value in {**choices, "called": called}.items() if value is not None}
    if given.get("masks") == REVIEWED:
        given["rest"] = given.get("rest", Rest.KEEP)
        del given["masks"]
    asked = bool(values or net or weights) or any(value is not False for value in given.values())

    def added(recipe: Recipe) -> Recipe:
        if recipe.segmentations and not asked:
            return recipe
        model = next((one.net for one in recipe.segmentations), segment.NetConfig(pretrained=True))
        if net is not None:
            model = segment.NetConfig(name=net, pretrained=weights is None)
        if weights is not None:
            model = dataclasses.replace(model, weights=str(weights), pretrained=False)
        network = {name: value for name, value in given.items() if name not in ("rounds", "rest")}
        first, rounds = given.get("called", "segment"), given.get("rounds", 1)
        made = recipes.segmented(recipe, net=model, **network)
        if "rest" in given:
            made = recipes.from_reviewed(made, first, Rest(given["rest"]))
        made = recipes.in_rounds(made, first, rounds)
        parts = [f"segmentations.{first}", *(f"segmentations.{first}-{n}" for n in range(2, rounds + 1))]
        return recipes.within(made, values, parts)

    manifest.add(folder, added, to=[*manifest.ADDITIONS], check=check_new)


def segment_images(folder: RunFolder, *, hardware: Hardware, split: str | None = None) -> None:
    """Segment each image of a split without its labels, with each segmentation network of the recipe.

    A network that is not there yet is trained first, on the masks of the training images. Where that fails and leaves
    nothing, it is noted no longer. Masks that are younger than their network stay.
    """
    recipe = recipe_of(folder, task=Task.MASKS)
    with alone_in(folder) if recipe.segmentations else contextlib.nullcontext():
        for segmentation in recipe.segmentations:
            with made_or_withdrawn(folder, segmentation.name):
                _train_segmentation(folder, recipe, segmentation, hardware=hardware)
            _segment_split(folder.stage(segmentation.name), split_data(folder, split), hardware=hardware)


def _segment_split(paths: StageFolder, dataset: Dataset, *, hardware: Hardware) -> None:
    made = [paths.mask(dataset.split, name) for name in dataset.names]
    due = outdated(made, [[paths.network]] * len(made))
    if not due:
        return
    fabric = hardware.fabric()
    model = segment.load(paths.network, device=fabric.device)
    with costs.measure(model.device) as cost:
        for index in sharded(due, of=len(dataset), title=f"{paths.name} masks"):
            sample = dataset[index]
            with fabric.autocast(), guards.of_image(f"{paths.network}, {sample.name}"):
                mask = model.mask(sample.image)
            write_mask(paths.mask(dataset.split, sample.name), mask)
    note_cost(paths, "masks", cost, images=len(due))


def _train_segmentation(
    folder: RunFolder, recipe: Recipe, segmentation: recipes.Segmentation, *, hardware: Hardware
) -> None:
    paths = folder.stage(segmentation.name)
    if not missing_indices([paths.network]):
        return
    learned = learned_pixels(folder, recipe, segmentation, hardware=hardware)
    dataset = learned.dataset
    network = segmentation.net.build(len(dataset.classes), seed=recipe.seed)
    samples = TrainSet(
        dataset,
        segmentation.augment or recipe.augment,
        network.normalisation,
        seed=recipe.seed,
        pixel_labels=learned.labels,
        pixel_weights=learned.weights,
    )
    fit(
        paths,
        segment.SegmentationLearner(network),
        samples,
        schedule=segmentation.schedule,
        seed=recipe.seed,
        hardware=hardware,
        after_epoch=_SegmentationCurve(folder, paths, network),
    )
    if ranks.first():
        net, inference = segmentation.net, segmentation.inference
        segment.save(paths.network, network, net=net, inference=inference, classes=dataset.classes)
        paths.state.unlink(missing_ok=True)
    ranks.barrier()


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a segmentation network learns from: images, and the labels and weights of pixels by the image's index."""

    dataset: Dataset
    labels: KeptLabels
    weights: "_PixelWeights | None"  # in 1/255


def learned_pixels(
    folder: RunFolder, recipe: Recipe, segmentation: recipes.Segmentation, *, hardware: Hardware
) -> Learned:
    """The training images with their masks, which are made where they are missing; reviewed masks stand for others.

    Raises DataError for masks that do not go with their images, and if a reviewed mask is asked for and there is none.
    """
    dataset = training_data(folder)
    corrected: dict[str, Path] = {}
    if segmentation.reviewed is not None:
        dataset, corrected = reviewed_images(folder, segmentation.reviewed, dataset)
    labels = _training_masks(folder, recipe, segmentation, dataset, hardware=hardware)
    masks = [corrected.get(name, path) for name, path in zip(dataset.names, labels.paths, strict=True)]
    labels = dataclasses.replace(labels, paths=masks)
    _check_masks(labels, dataset)
    weights = None
    if segmentation.reweight or segmentation.reviewed is Rest.WEIGH:
        margins = margins_of(folder, recipe, segmentation.masks, dataset.split)
        assert margins is not None, "checked when the network was noted"
        weights = _PixelWeights(margins, dataset.names, labels, frozenset(corrected))
    return Learned(dataset, labels, weights)


def _training_masks(
    folder: RunFolder, recipe: Recipe, segmentation: recipes.Segmentation, dataset: Dataset, *, hardware: Hardware
) -> "KeptLabels":
    source, split = segmentation.masks, dataset.split
    if source in {*recipe.names, *(refinement.name for refinement in recipe.refinements)}:
        masks_of(folder, recipe, source, dataset, hardware=hardware)
        return KeptLabels([folder.stage(source).mask(split, name) for name in dataset.names])
    if source in {earlier.name for earlier in recipe.segmentations} - {segmentation.name}:
        return _own_predictions(folder, segmentation, dataset, hardware=hardware)
    return masks_of_others(source, dataset)


def _own_predictions(
    folder: RunFolder, segmentation: recipes.Segmentation, dataset: Dataset, *, hardware: Hardware
) -> "KeptLabels":
    """Masks for a further round: what the network of the round before sees of the classes that the labels name."""
    paths, before = folder.stage(segmentation.name), folder.stage(segmentation.masks)
    files = [paths.label(dataset.split, name) for name in dataset.names]
    model = segment.load(before.network, device=hardware.fabric().device)
    for index in sharded(missing_indices(files), of=len(files), title=f"{paths.name} labels"):
        sample = dataset[index]
        with guards.of_image(f"{before.network}, {sample.name}"):
            write_mask(files[index], model.mask(sample.image, dataset.classes.decode(sample.labels)))
    return KeptLabels(files)


def _check_masks(pixel_labels: "KeptLabels", dataset: Dataset) -> None:
    """Every mask has classes that are known, and those of others go with the labels.

    Says which classes no mask has.
    """
    classes, agreement = len(dataset.classes), truth.Agreement(dataset.classes.names)
    for index, path in progress.track(enumerate(pixel_labels.paths), title="masks", total=len(dataset)):
        mask = pixel_labels(index)
        if len(beyond := mask[(mask > classes) & (mask != IGNORE)]):
            raise DataError(f"{path}: label {beyond.max()} is outside 0..{classes}; use {IGNORE} for pixels to ignore")
        agreement.add(dataset.names[index], mask, truth.named_by(dataset.labels(index)))
    if isinstance(pixel_labels.read, truth.Reader):  # ours are made from the labels
        folder = pixel_labels.paths[0].parent
        if refusal := agreement.refusal():
            raise DataError(f"{folder}: {refusal}")
        if said := pixel_labels.read.remark(folder, dataset.classes.names):
            progress.say(said)
        for remark in agreement.remarks():
            progress.say(f"{folder}: {remark}")
    names = enumerate(dataset.classes.names, start=1)
    absent = [name for index, name in names if index not in agreement.shown]
    if absent:
        progress.say(f"No mask shows {', '.join(absent)}: the network will not learn it.")


@dataclasses.dataclass(frozen=True)
class _PixelWeights:
    """How sure the masks are of each pixel, by the index of the image; in full where a mask was reviewed."""

    margins: Margins
    names: Sequence[str]
    labels: KeptLabels
    reviewed: frozenset[str]

    def __call__(self, index: int) -> UInt8[Tensor, "h w"]:
        name = self.names[index]
        return torch.full_like(self.labels(index), 255) if name in self.reviewed else self.margins(name)


class _SegmentationCurve:
    """The same for a segmentation network, on images as they are: one scale, no mirror image."""

    def __init__(self, folder: RunFolder, paths: StageFolder, network: SegmentationNetwork) -> None:
        self.paths = paths
        self.dataset = split_data(folder)
        plain = segment.Inference(scales=(1.0,), flip=False)
        self.segmenter = segment.Segmenter(network, self.dataset.classes, inference=plain)

    def __call__(self, epoch: int) -> None:
        if not self.dataset.has_masks:
            return
        judged_images = judged(self.dataset, self.paths, epoch)
        pairs = ((self._mask(sample), truth) for sample, truth in judged_images)
        metrics = evaluate.evaluate_masks(pairs, len(self.dataset.classes), decision="predicted")
        note_epoch(self.paths, {"epoch": epoch, "miou": evaluate.of_masks(metrics)["miou"]})

    def _mask(self, sample: Sample) -> UInt8[Tensor, "h w"]:
        with guards.of_image(f"{self.paths.root}, {sample.name}"):
            return self.segmenter.mask(sample.image)
