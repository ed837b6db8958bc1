"""Training of the stages, and the pixel labels that some methods learn from."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from baoseg import data, evaluate, nets, recipes, seeds
from baoseg.core import costs, progress, ranks
from baoseg.core.errors import RecipeError
from baoseg.core.files import atomic
from baoseg.core.run_folder import RunFolder, StageFolder
from baoseg.core.types import Sample
from baoseg.data import Dataset, TrainSet
from baoseg.data.images import write_mask
from baoseg.methods import Method, heads_of, make, method_of
from baoseg.pipeline.checking import check_crop
from baoseg.pipeline.common import KeptLabels, missing_indices, note_cost, sharded
from baoseg.pipeline.manifest import alone_in, recipe_of, split_data, training_data
from baoseg.pipeline.mapping import _seed, maps_of
from baoseg.predict import labeler
from baoseg.recipes import Recipe, Task
from baoseg.training import guards, train
from baoseg.training.learner import Learner
from baoseg.training.train import Hardware


def train_stages(folder: RunFolder, *, hardware: Hardware) -> None:
    """Train each stage of the recipe that is not trained yet. Raises RunError while another process trains here."""
    with alone_in(folder):
        _train_stages(folder, hardware=hardware)


def _train_stages(folder: RunFolder, *, hardware: Hardware) -> None:
    recipe = recipe_of(folder)
    boxes = recipe.task is Task.BOXES
    dataset = training_data(folder)
    progress.say(data.summary(dataset))
    if boxes:
        dataset = data.boxed_of(dataset).squares(recipe.view.side)
    for stage in recipe.stages:
        paths = folder.stage(stage.name)
        if missing_indices([paths.network]):
            network = nets.build(
                recipe.net,
                len(dataset.classes),
                heads=heads_of(stage.method),
                seed=recipe.seed,
            )
            if stage.start is not None:
                labeler.warm_start(network, folder.stage(stage.start).network)
            check_crop(recipe.augment, network.backbone, name=stage.name)
            method = make(stage.method, network, single_label=boxes)
            samples = TrainSet(
                dataset,
                recipe.augment,
                network.normalisation,
                seed=recipe.seed,
                pixel_labels=_pixel_labels(folder, recipe, stage, dataset, hardware=hardware),
            )
            fit(
                paths,
                method,
                samples,
                schedule=stage.schedule,
                seed=recipe.seed + (stage.start is not None and not boxes),
                hardware=hardware,
                after_epoch=_EpochCurve(folder, paths, method, recipe) if recipe.epoch_curves else None,
            )
            if ranks.first():
                model = make(stage.method, method.result())
                own = recipe.masks_of(stage.name)
                kept = labeler.Labeler(model, dataset.classes, maps=recipe.maps, masks=own)
                labeler.save(
                    paths.network,
                    method.result(),
                    method=stage.method,
                    net=recipe.net,
                    maps=recipe.maps,
                    masks=own,
                    classes=dataset.classes,
                    # cross-entropy tells one class from the others; where a logit is 0 says nothing
                    label_cut=labeler.LIKELIEST if boxes else labeler.calibrate(kept, dataset),
                )
                paths.state.unlink(missing_ok=True)
            ranks.barrier()


def fit(
    paths: StageFolder,
    learner: Learner,
    samples: TrainSet,
    *,
    schedule: train.Config,
    seed: int,
    hardware: Hardware,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    with costs.measure(hardware.fabric().device) as cost:
        train.fit(learner, samples, config=schedule, stage=paths, seed=seed, hardware=hardware, after_epoch=after_epoch)
    cost.seconds = train.seconds(paths)  # of all epochs, those before an interruption included
    note_cost(paths, "train", cost, epochs=schedule.epochs)


def _pixel_labels(
    folder: RunFolder, recipe: Recipe, stage: recipes.Stage, dataset: Dataset, *, hardware: Hardware
) -> "KeptLabels | None":
    """Labels of the training images' pixels from the seeds of an earlier stage, for methods that learn from such."""
    method = method_of(stage.method)
    if not method.needs_seeds:
        return None
    if stage.labelled_by is None:
        raise RecipeError(f"stage {stage.name}: learns from seeds; name the stage that makes them (labelled_by)")

    label = functools.partial(method.pixel_labels, stage.method)
    return label_images(folder, recipe, stage.name, stage.labelled_by, dataset, label=label, hardware=hardware)


def label_images(
    folder: RunFolder,
    recipe: Recipe,
    name: str,
    source: str,
    dataset: Dataset,
    *,
    label: Callable[[Sample, seeds.SeedMaps], UInt8[Tensor, "h w"]],
    hardware: Hardware,
) -> "KeptLabels":
    """Make the pixel labels of each image that has none yet, from the seeds of the stage or fusion `source`."""
    paths, maps = folder.stage(name), folder.stage(source)
    maps_of(folder, recipe, source, dataset, hardware=hardware)
    split = dataset.split
    due = missing_indices([paths.label(split, image) for image in dataset.names])
    for index in sharded(due, of=len(dataset), title=f"{name} labels"):
        sample = dataset[index]
        write_mask(paths.label(split, sample.name), label(sample, seeds.load(maps.maps(split, sample.name))))
    return KeptLabels([paths.label(split, image) for image in dataset.names])


class _EpochCurve:
    """Evaluates the network in training after each epoch, with the means of the evaluation (BAO figure 4).

    It shows what training does and chooses nothing. Rows of epochs that are trained again after a crash are replaced.
    """

    def __init__(self, folder: RunFolder, paths: StageFolder, method: Method, recipe: Recipe) -> None:
        self.paths = paths
        self.dataset = split_data(folder)
        own = recipe.masks_of(paths.name)
        self.threshold = own.threshold
        self.labeler = labeler.Labeler(method, self.dataset.classes, maps=recipe.maps, masks=own)

    def __call__(self, epoch: int) -> None:
        if not self.dataset.has_masks:
            return
        pairs = ((self._seed(sample), truth) for sample, truth in judged(self.dataset, self.paths, epoch))
        metrics = evaluate.evaluate_seeds(pairs, len(self.dataset.classes), threshold=self.threshold)
        miou, oracle = evaluate.of_masks(metrics)["miou"], metrics["oracle"]
        row = {"epoch": epoch, "miou": miou, "oracle_miou": oracle["miou"], "oracle_threshold": oracle["threshold"]}
        note_epoch(self.paths, row)

    def _seed(self, sample: Sample) -> seeds.SeedMaps:
        with guards.of_image(f"{self.paths.root}, {sample.name}"):
            return _seed(self.labeler, sample)


def judged(dataset: Dataset, paths: StageFolder, epoch: int) -> Iterator[tuple[Sample, UInt8[Tensor, "h w"]]]:
    """Yields (sample, ground-truth mask) for each image that has a mask."""
    title = f"{paths.name} epoch {epoch} evaluate"
    for index in sharded(range(len(dataset)), of=len(dataset), title=title):
        sample = dataset[index]
        if sample.mask is not None:
            yield sample, sample.mask


def note_epoch(paths: StageFolder, row: dict[str, Any]) -> None:
    """Add a row to epochs.csv, in the place of one of an epoch that is trained again."""
    if not ranks.first():
        return
    text = paths.epochs.read_text(encoding="utf-8") if paths.epochs.exists() else ""
    kept = [line for line in text.splitlines()[1:] if int(line.split(",")[0]) < row["epoch"]]
    lines = [",".join(row), *kept, ",".join(str(value) for value in row.values())]
    with atomic(paths.epochs) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
