"""The steps, top to bottom: train -> maps -> masks -> refine -> segment -> evaluate -> report.

Each is a function of a run folder, reads what the step before it left there, and can be run again at any time. What
takes long, training and maps, is skipped where it is done already. `run` does all of them from one recipe.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from baoseg import (
    costs,
    data,
    evaluate,
    formats,
    labeler,
    manifest,
    masks,
    nets,
    progress,
    recipes,
    refine,
    report,
    seeds,
    segment,
    train,
)
from baoseg.data import Dataset, TrainSet, transforms
from baoseg.data.images import read_mask, write_mask
from baoseg.errors import DataError, RecipeError, RunError
from baoseg.fusion import fuse as fusion_of
from baoseg.learner import Learner
from baoseg.manifest import begin, open_split, recipe_of
from baoseg.methods import Method, amn, heads_of, make
from baoseg.nets import weights
from baoseg.nets.deeplab import SegmentationNetwork
from baoseg.recipes import Recipe
from baoseg.refine import affinity_labels, crf
from baoseg.runs import Run, Stage, atomic, read_json, write_json, write_tensors
from baoseg.train import Hardware
from baoseg.types import IGNORE, Sample


def run(recipe: Recipe, out: Path, *, hardware: Hardware) -> Run:
    """All steps of `recipe` in the folder `out`. On a folder that an earlier call left unfinished, it continues."""
    folder = begin(recipe, out)
    train_stages(folder, hardware=hardware)
    make_maps(folder, hardware=hardware)
    make_masks(folder)
    refine_masks(folder, hardware=hardware)
    segment_pictures(folder, hardware=hardware)
    evaluate_stages(folder)
    make_report(folder)
    return folder


def compare(
    base: Recipe,
    out: Path,
    *,
    methods: Sequence[str],
    hardware: Hardware,
    seeds: Mapping[str, str] | None = None,
    fuse: Sequence[str] = (),
    refine: Sequence[str] = (),
    allow_pickle: bool = False,
) -> Run:
    """Methods side by side on the data, network and schedules of `base`: see `recipes.comparison`.

    `refine` are ways (`recipes.REFINERS`) to refine the masks of each of them.

    On a network without attention TransCAM is CAM, so it is not trained a second time: a line says so.
    """
    if "transcam" in methods and not _network(base, nets.NO_HEADS).backbone.attends:
        progress.say("transcam: the same as cam on a network without attention; left out")
        methods = [name for name in methods if name != "transcam"] or ["cam"]
    recipe = recipes.comparison(base, methods, seeds=seeds, fuse=fuse, allow_pickle=allow_pickle)
    recipe = recipes.refined(recipe, refine, of=recipe.names)
    for heads in {heads_of(stage.method) for stage in recipe.stages}:
        _network(recipe, heads)  # what cannot be built is refused before hours of training
    return run(recipe, out, hardware=hardware)


def fuse_seeds(base: Recipe, sources: Sequence[str], out: Path, *, allow_pickle: bool = False) -> Run:
    """The normalised sum of seeds, or those of a single source: masks, metrics and a report on the data of `base`."""
    fusion = recipes.Fusion(called="fused", sources=tuple(sources), allow_pickle=allow_pickle)
    recipe = dataclasses.replace(base, name="fusion", stages=(), fusions=(fusion,), refinements=(), segmentations=())
    return run(recipe, out, hardware=Hardware(accelerator="cpu"))


def _network(recipe: Recipe, heads: nets.Heads) -> nets.Network:
    """The recipe's network without its weights, to look at."""
    return nets.build(recipe.net, 1, heads=heads, initialise=False)


def add_refinements(folder: Run, kinds: Sequence[str], *, of: Sequence[str] = ()) -> None:
    """Note refinements (`recipes.REFINERS`) of stages, or of the last one, in a run folder for `refine_masks`."""
    manifest.add(folder, recipes.refined(recipe_of(folder), kinds, of=of))


def add_segmentation(
    folder: Run, *, called: str, net: str | None = None, weights: Path | None = None, **choices: Any
) -> None:
    """Note a segmentation network in a run folder for `segment_pictures`; see `recipes.segmented` for the choices.

    One that is there under this name stays as it is where nothing else is asked for.
    """
    recipe = recipe_of(folder)
    model = next((one.net for one in recipe.segmentations), segment.NetConfig())
    if net is not None:
        model = segment.NetConfig(name=net, pretrained=weights is None)
    if weights is not None:
        model = dataclasses.replace(model, weights=str(weights), pretrained=False)
    manifest.add(folder, recipes.segmented(recipe, called=called, net=model, **choices))


def train_stages(folder: Run, *, hardware: Hardware) -> None:
    """Train each stage of the recipe that is not trained yet."""
    recipe = recipe_of(folder)
    pictures = data.open_dataset(recipe.data, "train")
    for stage in recipe.stages:
        paths = folder.stage(stage.name)
        if not paths.network.exists():
            network = nets.build(
                recipe.net,
                len(pictures.classes),
                heads=heads_of(stage.method),
                seed=recipe.seed,
            )
            if stage.start is not None:
                labeler.warm_start(network, folder.stage(stage.start).network)
            _check_crop(recipe.augment, network.backbone, name=stage.name)
            method = make(stage.method, network)
            samples = TrainSet(
                pictures,
                recipe.augment,
                network.normalisation,
                seed=recipe.seed,
                pixel_labels=_pixel_labels(folder, recipe, stage, pictures, hardware=hardware),
            )
            _fit(
                paths,
                method,
                samples,
                schedule=stage.schedule,
                seed=recipe.seed + (stage.start is not None),
                hardware=hardware,
                after_epoch=_EpochCurve(paths, method, recipe) if recipe.epoch_curves else None,
            )
            labeler.save(paths.network, method, recipe=recipe, stage=stage, classes=pictures.classes)
            paths.state.unlink(missing_ok=True)


def _fit(
    paths: Stage,
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
    _note_cost(paths, "train", cost, epochs=schedule.epochs)


def _check_crop(augment: transforms.Config, backbone: nets.Backbone, *, name: str) -> None:
    if augment.crop % backbone.stride:
        raise RecipeError(
            f"{name}: crops of {augment.crop} pixels are no multiple of the backbone's stride {backbone.stride}, "
            "so cells would mix picture and padding; choose another crop"
        )


def _pixel_labels(
    folder: Run, recipe: Recipe, stage: recipes.Stage, pictures: Dataset, *, hardware: Hardware
) -> "_KeptLabels | None":
    """Labels of the training pictures' pixels from the seeds of an earlier stage, for methods that learn from such."""
    config = stage.method
    if not isinstance(config, amn.Config):
        return None
    if stage.labelled_by is None:
        raise RecipeError(f"stage {stage.name}: learns from seeds; name the stage that makes them (labelled_by)")

    def label(sample: Sample, seed: seeds.Seed) -> UInt8[Tensor, "h w"]:
        low, high = config.background_below, config.foreground_above
        if config.crf:
            return affinity_labels.from_thresholds(sample.image, seed, background=low, foreground=high)
        return masks.confident_labels(seed, background=low, foreground=high)

    return _label(folder, recipe, stage.name, stage.labelled_by, pictures, label=label, hardware=hardware)


def _label(
    folder: Run,
    recipe: Recipe,
    name: str,
    source: str,
    pictures: Dataset,
    *,
    label: Callable[[Sample, seeds.Seed], UInt8[Tensor, "h w"]],
    hardware: Hardware,
) -> "_KeptLabels":
    """Make the pixel labels of each picture that has none yet, from the seeds of the stage or fusion `source`."""
    paths, maps = folder.stage(name), folder.stage(source)
    _maps_of(folder, recipe, source, pictures, hardware=hardware)
    split = pictures.split
    due = [i for i, picture in enumerate(pictures.names) if not paths.label(split, picture).exists()]
    done = len(pictures) - len(due)
    for index in progress.track(due, title=f"{name} labels", total=len(pictures), done=done):
        sample = pictures[index]
        write_mask(paths.label(split, sample.name), label(sample, seeds.load(maps.maps(split, sample.name))))
    return _KeptLabels([paths.label(split, picture) for picture in pictures.names])


@dataclasses.dataclass(frozen=True)
class _KeptLabels:
    """Pixel labels on disk, by the index of the picture; travels to the processes that load pictures."""

    paths: Sequence[Path]

    def __call__(self, index: int) -> UInt8[Tensor, "h w"]:
        return read_mask(self.paths[index])


def _maps_of(folder: Run, recipe: Recipe, name: str, dataset: Dataset, *, hardware: Hardware) -> None:
    """The seeds of one stage or fusion, and of what it is made of."""
    fusion = next((fusion for fusion in recipe.fusions if fusion.name == name), None)
    if fusion is None:
        _make_maps(folder.stage(name), dataset, hardware=hardware)
        return
    for source in {*fusion.sources} & {stage.name for stage in recipe.stages}:
        _make_maps(folder.stage(source), dataset, hardware=hardware)
    _fuse_maps(folder, fusion, dataset)


def make_maps(folder: Run, *, hardware: Hardware, split: str | None = None) -> None:
    """Write the seed of each picture of a split (the evaluation split by default), for each stage."""
    recipe = recipe_of(folder)
    dataset = open_split(recipe, split)
    for paths in trained_stages(folder, recipe):
        _make_maps(paths, dataset, hardware=hardware)
    for fusion in recipe.fusions:
        _fuse_maps(folder, fusion, dataset)


def _make_maps(paths: Stage, dataset: Dataset, *, hardware: Hardware) -> None:
    missing = _without_maps(paths, dataset)
    if not missing:
        return
    model = labeler.load(paths.network, device=hardware.fabric().device)
    if model.classes != dataset.classes:
        raise DataError(
            f"the classes of the pictures are {', '.join(dataset.classes.names)}, but {paths.network} was "
            f"trained for {', '.join(model.classes.names)}; restore the class list, or train in another folder"
        )
    done = len(dataset) - len(missing)
    with costs.measure(model.device) as cost:
        for index in progress.track(missing, title=f"{paths.name} maps", total=len(dataset), done=done):
            sample = dataset[index]
            seeds.save(paths.maps(dataset.split, sample.name), _seed(model, sample))
    _note_cost(paths, "maps", cost, pictures=len(missing))


def _seed(model: labeler.Labeler, sample: Sample) -> seeds.Seed:
    return model.seed(sample.image, sample.labels) if sample.labels.any() else _background_only(model, sample)


def _note_cost(paths: Stage, step: str, cost: costs.Cost, **about: int) -> None:
    """Keep what a step took in costs.json, beside what the other steps took."""
    noted = read_json(paths.costs) if paths.costs.exists() else {}
    write_json(paths.costs, {**noted, step: {"seconds": cost.seconds, "peak_mb": cost.peak_mb, **about}})


class _EpochCurve:
    """Evaluates the network in training after each epoch, with the means of the evaluation (BAO figure 4).

    It shows what training does and chooses nothing. Rows of epochs that are trained again after a crash are replaced.
    """

    def __init__(self, paths: Stage, method: Method, recipe: Recipe) -> None:
        self.paths = paths
        self.dataset = open_split(recipe, None)
        self.threshold = recipe.masks.threshold
        self.labeler = labeler.Labeler(method, self.dataset.classes, maps=recipe.maps, masks=recipe.masks)

    def __call__(self, epoch: int) -> None:
        if not self.dataset.has_masks:
            return
        pairs = ((_seed(self.labeler, sample), truth) for sample, truth in _judged(self.dataset, self.paths, epoch))
        metrics = evaluate.evaluate_seeds(pairs, len(self.dataset.classes), threshold=self.threshold)
        miou, oracle = evaluate.of_masks(metrics)["miou"], metrics["oracle"]
        row = {"epoch": epoch, "miou": miou, "oracle_miou": oracle["miou"], "oracle_threshold": oracle["threshold"]}
        _note_epoch(self.paths, row)


class _SegmentationCurve:
    """The same for a segmentation network, on pictures as they are: one scale, no mirror image."""

    def __init__(self, paths: Stage, network: SegmentationNetwork, recipe: Recipe) -> None:
        self.paths = paths
        self.dataset = open_split(recipe, None)
        plain = segment.Inference(scales=(1.0,), flip=False)
        self.segmenter = segment.Segmenter(network, self.dataset.classes, inference=plain)

    def __call__(self, epoch: int) -> None:
        if not self.dataset.has_masks:
            return
        judged = _judged(self.dataset, self.paths, epoch)
        pairs = ((self.segmenter.mask(sample.image), truth) for sample, truth in judged)
        metrics = evaluate.evaluate_masks(pairs, len(self.dataset.classes), decision="predicted")
        _note_epoch(self.paths, {"epoch": epoch, "miou": evaluate.of_masks(metrics)["miou"]})


def _judged(dataset: Dataset, paths: Stage, epoch: int) -> Iterator[tuple[Sample, UInt8[Tensor, "h w"]]]:
    """The pictures that have ground truth, and that."""
    title = f"{paths.name} epoch {epoch} evaluate"
    for index in progress.track(range(len(dataset)), title=title, total=len(dataset)):
        sample = dataset[index]
        if sample.mask is not None:
            yield sample, sample.mask


def _note_epoch(paths: Stage, row: dict[str, Any]) -> None:
    """Add a row to epochs.csv, in the place of one of an epoch that is trained again."""
    text = paths.epochs.read_text(encoding="utf-8") if paths.epochs.exists() else ""
    kept = [line for line in text.splitlines()[1:] if int(line.split(",")[0]) < row["epoch"]]
    lines = [",".join(row), *kept, ",".join(str(value) for value in row.values())]
    with atomic(paths.epochs) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _fuse_maps(folder: Run, fusion: recipes.Fusion, dataset: Dataset) -> None:
    """The seeds of a fusion, from stages of this run, other runs, and folders of other tools."""
    paths = folder.stage(fusion.name)
    missing = _without_maps(paths, dataset)
    sources = [_source(folder, fusion, source, dataset) for source in fusion.sources]
    done = len(dataset) - len(missing)
    for index in progress.track(missing, title=f"{fusion.name} maps", total=len(dataset), done=done):
        sample = dataset[index]
        seeds.save(paths.maps(dataset.split, sample.name), fusion_of([read(sample) for read in sources]))


def _source(folder: Run, fusion: recipes.Fusion, source: str, dataset: Dataset) -> Callable[[Sample], seeds.Seed]:
    """What reads a picture's seed from a stage of this run, a run folder, RUN/STAGE, or a folder of maps."""
    path = Path(source)
    if source != fusion.name and source in recipe_of(folder).names:
        stage = folder.stage(source)
    elif (path / "run.json").exists():
        stage = Run(path).stage(read_json(Run(path).manifest)["stages"][-1])
    elif (path / "maps").is_dir():
        stage = Stage(path)
    elif path.is_dir():
        flat = len({name.rpartition("/")[2] for name in dataset.names}) == len(dataset)
        return lambda sample: formats.read(
            path,
            sample.name,
            labels=sample.labels,
            size=(int(sample.image.shape[1]), int(sample.image.shape[2])),
            allow_pickle=fusion.allow_pickle,
            flat=flat,
        )
    else:
        raise DataError(
            f"{source}: neither a stage of this run nor a folder; name a run, RUN/STAGE or a folder of maps"
        )
    return lambda sample: seeds.load(stage.maps(dataset.split, sample.name))


def _without_maps(paths: Stage, dataset: Dataset) -> list[int]:
    return [i for i, name in enumerate(dataset.names) if not paths.maps(dataset.split, name).exists()]


def make_masks(folder: Run, *, split: str | None = None, threshold: float | None = None) -> None:
    """Write the mask of each picture of a split as a palette PNG, for each stage.

    A `threshold` is used by every stage; without one, stages that learned a background use that, others the recipe's.
    """
    recipe = recipe_of(folder)
    dataset = open_split(recipe, split)
    given = None if threshold is None else masks.Config(threshold=threshold).threshold
    for paths in evaluated_stages(folder, recipe):
        _make_masks(paths, dataset, fixed=recipe.masks.threshold, given=given)


def _make_masks(paths: Stage, dataset: Dataset, *, fixed: float, given: float | None = None) -> None:
    for name in progress.track(dataset.names, title=f"{paths.name} masks", total=len(dataset)):
        seed = seeds.load(paths.maps(dataset.split, name))
        cut = fixed if given is None and not seed.decided else given
        _write_if_new(paths.mask(dataset.split, name), masks.label_image(seed, threshold=cut))


def _write_if_new(path: Path, mask: UInt8[Tensor, "h w"]) -> None:
    """Leave a mask that says the same alone: what was made from it is then known to be up to date."""
    if not (path.exists() and torch.equal(read_mask(path), mask)):
        write_mask(path, mask)


def refine_masks(folder: Run, *, hardware: Hardware, split: str | None = None) -> None:
    """Write the refined mask of each picture of a split, for each refinement of the recipe.

    The network of PSA or IRN is trained first, on the training pictures and the seeds of what is refined. Masks that
    are younger than what they are made from stay.
    """
    recipe = recipe_of(folder)
    for refinement in recipe.refinements:
        _train_affinity(folder, recipe, refinement, hardware=hardware)
        _refine(folder, recipe, refinement, open_split(recipe, split), hardware=hardware)


def _refine(
    folder: Run, recipe: Recipe, refinement: recipes.Refinement, dataset: Dataset, *, hardware: Hardware
) -> None:
    source, paths = folder.stage(refinement.of), folder.stage(refinement.name)
    made_from, network = (source.mask, []) if refinement.learned is None else (source.maps, [paths.network])
    names, split = dataset.names, dataset.split
    due = [
        i for i, name in enumerate(names) if not _up_to_date(paths.mask(split, name), made_from(split, name), *network)
    ]
    if not due:
        return
    device = hardware.fabric().device
    refined = _refiner(recipe, refinement, source, paths, split=split, device=device)
    with costs.measure(device) as cost:
        done = len(names) - len(due)
        for index in progress.track(due, title=f"{paths.name} masks", total=len(names), done=done):
            sample = dataset[index]
            try:
                write_mask(paths.mask(split, sample.name), refined(sample).cpu())
            except DataError as error:
                raise DataError(f"{split}/{sample.name}: {error}") from error
    _note_cost(paths, "masks", cost, pictures=len(due))


def _refiner(
    recipe: Recipe, refinement: recipes.Refinement, source: Stage, paths: Stage, *, split: str, device: torch.device
) -> Callable[[Sample], UInt8[Tensor, "h w"]]:
    config = refinement.by
    if isinstance(config, crf.Config):
        return lambda sample: refine.by_crf(
            sample.image.to(device), read_mask(source.mask(split, sample.name)).to(device), config
        )
    model = _affinity_network(recipe, refinement, config, initialise=False)
    state = weights.read_checkpoint(paths.network)
    weights.compare(model.state_dict(), state).require_complete(paths.network, remedy="delete it and refine again")
    model.load_state_dict(state)
    model.to(device).eval()
    return lambda sample: model.refine(sample.image, seeds.load(source.maps(split, sample.name)))


def _up_to_date(made: Path, *sources: Path) -> bool:
    if missing := [path for path in sources if not path.exists()]:
        raise RunError(f"{missing[0]}: no such file; run `bao maps` and `bao masks` on the run folder first")
    return made.exists() and all(made.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in sources)


def _train_affinity(folder: Run, recipe: Recipe, refinement: recipes.Refinement, *, hardware: Hardware) -> None:
    """The network that learns which pixels belong together, from the sure pixels of the seeds, where there is one."""
    paths, config = folder.stage(refinement.name), refinement.learned
    if config is None or refinement.schedule is None or paths.network.exists():
        return
    pictures = data.open_dataset(recipe.data, "train")
    learner = _affinity_network(recipe, refinement, config)
    augment = refinement.augment or recipe.augment
    _check_crop(augment, learner.backbone, name=refinement.name)

    def label(sample: Sample, seed: seeds.Seed) -> UInt8[Tensor, "h w"]:
        return refine.labels(sample.image, seed, config)

    samples = TrainSet(
        pictures,
        augment,
        learner.backbone.normalisation,
        seed=recipe.seed,
        pixel_labels=_label(folder, recipe, refinement.name, refinement.of, pictures, label=label, hardware=hardware),
    )
    _fit(paths, learner, samples, schedule=refinement.schedule, seed=recipe.seed, hardware=hardware)
    write_tensors(paths.network, learner.state_dict(), {})
    paths.state.unlink(missing_ok=True)


def _affinity_network(
    recipe: Recipe, refinement: recipes.Refinement, config: refine.LearnedSettings, *, initialise: bool = True
) -> refine.AffinityNetwork:
    """PSA's or IRN's network on the refinement's backbone, or on the recipe's, as it is before training."""
    network = nets.build(refinement.net or recipe.net, 1, seed=recipe.seed, initialise=initialise)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        return refine.network(config, network.backbone)


def _masks_of(folder: Run, recipe: Recipe, name: str, dataset: Dataset, *, hardware: Hardware) -> None:
    """The masks of one stage, fusion or refinement, and what they are made from."""
    refinement = next((refinement for refinement in recipe.refinements if refinement.name == name), None)
    if refinement is None:
        _maps_of(folder, recipe, name, dataset, hardware=hardware)
        _make_masks(folder.stage(name), dataset, fixed=recipe.masks.threshold)
        return
    _masks_of(folder, recipe, refinement.of, dataset, hardware=hardware)
    _train_affinity(folder, recipe, refinement, hardware=hardware)
    _refine(folder, recipe, refinement, dataset, hardware=hardware)


def segment_pictures(folder: Run, *, hardware: Hardware, split: str | None = None) -> None:
    """Segment each picture of a split without its labels, with each segmentation network of the recipe.

    A network that is not there yet is trained first, on the masks of the training pictures. Masks that are younger than
    their network stay.
    """
    recipe = recipe_of(folder)
    for segmentation in recipe.segmentations:
        _train_segmentation(folder, recipe, segmentation, hardware=hardware)
        dataset, paths = open_split(recipe, split), folder.stage(segmentation.name)
        due = [
            i for i, name in enumerate(dataset.names) if not _up_to_date(paths.mask(dataset.split, name), paths.network)
        ]
        if not due:
            continue
        model = segment.load(paths.network, device=hardware.fabric().device)
        with costs.measure(model.device) as cost:
            done = len(dataset) - len(due)
            for index in progress.track(due, title=f"{paths.name} masks", total=len(dataset), done=done):
                sample = dataset[index]
                write_mask(paths.mask(dataset.split, sample.name), model.mask(sample.image))
        _note_cost(paths, "masks", cost, pictures=len(due))


def _train_segmentation(folder: Run, recipe: Recipe, segmentation: recipes.Segmentation, *, hardware: Hardware) -> None:
    paths = folder.stage(segmentation.name)
    if paths.network.exists():
        return
    pictures = data.open_dataset(recipe.data, "train")
    pixel_labels = _training_masks(folder, recipe, segmentation, pictures, hardware=hardware)
    _check_masks(pixel_labels, pictures)
    pixel_weights = _margins(folder, recipe, segmentation, pictures) if segmentation.reweight else None
    network = segmentation.net.build(len(pictures.classes), seed=recipe.seed)
    samples = TrainSet(
        pictures,
        segmentation.augment or recipe.augment,
        network.normalisation,
        seed=recipe.seed,
        pixel_labels=pixel_labels,
        pixel_weights=pixel_weights,
    )
    _fit(
        paths,
        segment.SegmentationLearner(network),
        samples,
        schedule=segmentation.schedule,
        seed=recipe.seed,
        hardware=hardware,
        after_epoch=_SegmentationCurve(paths, network, recipe),
    )
    segment.save(
        paths.network,
        network,
        net=segmentation.net,
        inference=segmentation.inference,
        classes=pictures.classes,
    )
    paths.state.unlink(missing_ok=True)


def _training_masks(
    folder: Run, recipe: Recipe, segmentation: recipes.Segmentation, pictures: Dataset, *, hardware: Hardware
) -> "_KeptLabels":
    source, split = segmentation.masks, pictures.split
    if source in {*recipe.names, *(refinement.name for refinement in recipe.refinements)}:
        _masks_of(folder, recipe, source, pictures, hardware=hardware)
        return _KeptLabels([folder.stage(source).mask(split, name) for name in pictures.names])
    if source in {earlier.name for earlier in recipe.segmentations} - {segmentation.name}:
        return _own_predictions(folder, segmentation, pictures, hardware=hardware)
    root = Path(source)
    files = [root / f"{name}.png" for name in pictures.names]
    if not root.is_dir() or not any(path.exists() for path in files):
        raise DataError(
            f"{source}: neither a stage of this run nor a folder with masks of its training pictures; "
            f"masks are called as their pictures, e.g. {files[0].name}"
        )
    return _KeptLabels(files)


def _own_predictions(
    folder: Run, segmentation: recipes.Segmentation, pictures: Dataset, *, hardware: Hardware
) -> "_KeptLabels":
    """Masks for a further round: what the network of the round before sees of the classes that the labels name."""
    paths, before = folder.stage(segmentation.name), folder.stage(segmentation.masks)
    files = [paths.label(pictures.split, name) for name in pictures.names]
    model = segment.load(before.network, device=hardware.fabric().device)
    due = [i for i, path in enumerate(files) if not path.exists()]
    done = len(files) - len(due)
    for index in progress.track(due, title=f"{paths.name} labels", total=len(files), done=done):
        sample = pictures[index]
        write_mask(files[index], model.mask(sample.image, pictures.classes.decode(sample.labels)))
    return _KeptLabels(files)


def _check_masks(pixel_labels: "_KeptLabels", pictures: Dataset) -> None:
    """Every mask has classes that are known; a line for classes that no mask has."""
    seen: set[int] = set()
    classes = len(pictures.classes)
    for path in progress.track(pixel_labels.paths, title="masks", total=len(pictures)):
        values = set(read_mask(path).unique().tolist()) - {IGNORE}
        if values and max(values) > classes:
            raise DataError(f"{path}: label {max(values)} is outside 0..{classes}; use {IGNORE} for pixels to ignore")
        seen |= values
    absent = [name for index, name in enumerate(pictures.classes.names, start=1) if index not in seen]
    if absent:
        progress.say(f"No mask shows {', '.join(absent)}: the network will not learn it.")


def _margins(folder: Run, recipe: Recipe, segmentation: recipes.Segmentation, pictures: Dataset) -> "_Margins":
    of = {refinement.name: refinement.of for refinement in recipe.refinements}
    source = segmentation.masks
    while source in of:
        source = of[source]
    if source not in recipe.names:
        raise RecipeError(f"{segmentation.name}: only masks of this run have maps to weight pixels by; do not reweight")
    stage = folder.stage(source)
    return _Margins([stage.maps(pictures.split, name) for name in pictures.names], recipe.masks.threshold)


@dataclasses.dataclass(frozen=True)
class _Margins:
    """How sure the maps are of each pixel, by the index of the picture."""

    paths: Sequence[Path]
    threshold: float

    def __call__(self, index: int) -> UInt8[Tensor, "h w"]:
        return masks.margin(seeds.load(self.paths[index]), threshold=self.threshold)


def evaluate_stages(folder: Run) -> bool:
    """Write metrics.json of each stage and print the table. False, and a line, where there is no ground truth."""
    recipe = recipe_of(folder)
    dataset = open_split(recipe, None)
    if not dataset.has_masks:
        progress.say(f"No ground truth for the {len(dataset)} pictures of {dataset.split}: nothing to evaluate.")
        return False
    classes, split = len(dataset.classes), dataset.split
    for paths in evaluated_stages(folder, recipe):
        pairs = _Pairs(paths, dataset, lambda stage, name: seeds.load(stage.maps(split, name)))
        with pairs.named():
            metrics = evaluate.evaluate_seeds(pairs, classes, threshold=recipe.masks.threshold)
        _note_metrics(pairs, metrics)
    for paths in refined_stages(folder, recipe):
        pairs = _Pairs(paths, dataset, lambda stage, name: read_mask(stage.mask(split, name)))
        with pairs.named():
            metrics = evaluate.evaluate_masks(pairs, classes, decision="refined")
        _note_metrics(pairs, metrics)
    for paths in segmentation_stages(folder, recipe):
        pairs = _Pairs(paths, dataset, lambda stage, name: read_mask(stage.mask(split, name)))
        with pairs.named():
            metrics = evaluate.evaluate_masks(pairs, classes, decision="predicted")
        _note_metrics(pairs, metrics)
    progress.say(report.table(folder, _reported(folder, recipe)))
    return True


def _note_metrics(pairs: "_Pairs", metrics: dict[str, Any]) -> None:
    dataset = pairs.dataset
    about = {"split": dataset.split, "images": pairs.count, "classes": ["background", *dataset.classes.names]}
    write_json(pairs.paths.metrics, {**about, **metrics})


def make_report(folder: Run) -> Path:
    """Write the HTML page and say where it is."""
    recipe = recipe_of(folder)
    names = _reported(folder, recipe)
    page = report.build(folder, stages=names, dataset=open_split(recipe, None), config=recipe.report, title=recipe.name)
    progress.say(f"Report: {page.resolve()}")
    return page


def trained_stages(folder: Run, recipe: Recipe) -> list[Stage]:
    stages = [folder.stage(stage.name) for stage in recipe.stages]
    for paths in stages:
        if not paths.network.exists():
            raise RunError(f"{paths.network}: not trained yet; run `bao train` on {folder.root} first")
    return stages


def evaluated_stages(folder: Run, recipe: Recipe) -> list[Stage]:
    """All that has maps: the trained stages and the fusions."""
    return [*trained_stages(folder, recipe), *(folder.stage(fusion.name) for fusion in recipe.fusions)]


def refined_stages(folder: Run, recipe: Recipe) -> list[Stage]:
    """The refinements, which have masks and no maps."""
    return [folder.stage(refinement.name) for refinement in recipe.refinements]


def segmentation_stages(folder: Run, recipe: Recipe) -> list[Stage]:
    return [folder.stage(segmentation.name) for segmentation in recipe.segmentations]


def _reported(folder: Run, recipe: Recipe) -> list[str]:
    stages = (evaluated_stages, refined_stages, segmentation_stages)
    return [paths.name for of_kind in stages for paths in of_kind(folder, recipe)]


def _background_only(model: labeler.Labeler, sample: Sample) -> seeds.Seed:
    """The seed of a picture that shows none of the classes, as its labels say: there is nothing to look for."""
    height, width = (int(side) for side in sample.image.shape[-2:])
    grid = (math.ceil(height / model.maps.stride), math.ceil(width / model.maps.stride))
    return seeds.Seed(
        classes=torch.empty(0, dtype=torch.int64),
        scores=torch.empty(0, *grid),
        background=torch.ones(grid) if model.method.learns_background else None,
        size=(height, width),
        threshold=1.0 if model.method.chooses_threshold else None,
    )


class _Pairs:
    """What a stage says and the ground truth, for each picture that has some; remembers where it is, for errors."""

    def __init__(self, paths: Stage, dataset: Dataset, read: Callable[[Stage, str], Any]) -> None:
        self.paths = paths
        self.dataset = dataset
        self.read = read
        self.current = ""
        self.count = 0

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        names = self.dataset.names
        for index, name in progress.track(enumerate(names), title=f"{self.paths.name} evaluate", total=len(names)):
            mask = self.dataset.mask(index)
            if mask is not None:
                self.current = name
                self.count += 1
                yield self.read(self.paths, name), mask

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors inside name the picture at which they came up."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.dataset.split}/{self.current}: {error}") from error
