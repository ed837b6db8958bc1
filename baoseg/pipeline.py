"""The steps, top to bottom: train -> maps -> masks -> refine -> evaluate -> report.

Each is a function of a run folder, reads what the step before it left there, and can be run again at any time. What
takes long, training and maps, is skipped where it is done already. `run` does all of them from one recipe.
"""

import contextlib
import dataclasses
import math
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

import baoseg
from baoseg import (
    costs,
    data,
    evaluate,
    formats,
    labeler,
    masks,
    nets,
    progress,
    recipes,
    refine,
    report,
    seeds,
    settings,
    train,
)
from baoseg.data import Dataset, TrainSet, transforms
from baoseg.data.images import read_mask, write_mask
from baoseg.errors import DataError, RecipeError, RunError
from baoseg.fusion import fuse as fusion_of
from baoseg.learner import Learner
from baoseg.methods import Method, amn, heads_of, make
from baoseg.nets import weights
from baoseg.recipes import Recipe
from baoseg.refine import affinity_labels, crf
from baoseg.runs import Run, Stage, atomic, read_json, write_json, write_tensors
from baoseg.train import Hardware
from baoseg.types import Sample


def run(recipe: Recipe, out: Path, *, hardware: Hardware) -> Run:
    """All steps of `recipe` in the folder `out`. On a folder that an earlier call left unfinished, it continues."""
    folder = begin(recipe, out)
    train_stages(folder, hardware=hardware)
    make_maps(folder, hardware=hardware)
    make_masks(folder)
    refine_masks(folder, hardware=hardware)
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
    recipe = dataclasses.replace(base, name="fusion", stages=(), fusions=(fusion,), refinements=())
    return run(recipe, out, hardware=Hardware(accelerator="cpu"))


def _network(recipe: Recipe, heads: nets.Heads) -> nets.Network:
    """The recipe's network without its weights, to look at."""
    return nets.build(recipe.net, 1, heads=heads, initialise=False)


def begin(recipe: Recipe, out: Path) -> Run:
    """Open the run folder `out` for `recipe`, or make it. Raises RunError if it holds something else.

    A manifest alone, as a first try leaves it that a mistake ended, holds nothing yet and is written anew.
    """
    folder = Run(out)
    described = {
        role: {"split": dataset.split, "images": len(dataset), "fingerprint": dataset.fingerprint()}
        for role in ("train", "eval")
        for dataset in [data.open_dataset(recipe.data, role)]
    }
    wanted = {"recipe": settings.to_json(dataclasses.replace(recipe, refinements=())), "data": described}
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file, no run folder; choose another folder with --out")
    begun = out.exists() and any(path != folder.manifest for path in out.iterdir())
    if begun and not folder.manifest.exists():
        raise RunError(f"{out}: exists and is no run folder; choose another folder with --out")
    if begun:
        manifest = read_json(folder.manifest)
        for key, value in wanted.items():
            if manifest.get(key) != value:
                raise RunError(
                    f"{out}: holds a run with {'another recipe' if key == 'recipe' else 'other data'} "
                    f"({_difference(manifest.get(key), value)}); choose another folder with --out, or delete this one"
                )
        _note_refinements(folder, recipe.refinements)
        return folder
    environment = {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    about = {"version": baoseg.__version__, "environment": environment}
    write_json(folder.manifest, {**wanted, "refinements": {}, "stages": recipe.names, **about})
    _note_refinements(folder, recipe.refinements)
    return folder


def _note_refinements(folder: Run, refinements: Sequence[recipes.Refinement]) -> None:
    """Refinements may be added to a run at any time. Raises RunError if another one has the same name."""
    manifest = read_json(folder.manifest)
    noted = manifest.setdefault("refinements", {})
    known = len(noted)
    for refinement in refinements:
        described = settings.to_json(refinement)
        if noted.setdefault(refinement.name, described) != described:
            raise RunError(
                f"{folder.root}: holds another refinement {refinement.name} "
                f"({_difference(noted[refinement.name], described)}); choose another folder with --out, or delete it"
            )
    if len(noted) > known:
        write_json(folder.manifest, manifest)


def recipe_of(folder: Run) -> Recipe:
    """The recipe that a run folder was made with, and the refinements that came to it since.

    Raises RunError when it is no run folder.
    """
    manifest, source = read_json(folder.manifest), str(folder.manifest)
    noted = manifest.get("refinements", {}).values()
    refinements = tuple(settings.from_json(value, recipes.Refinement, source=source) for value in noted)
    return dataclasses.replace(settings.from_json(manifest["recipe"], Recipe, source=source), refinements=refinements)


def add_refinements(folder: Run, kinds: Sequence[str], *, of: Sequence[str] = ()) -> None:
    """Note refinements (`recipes.REFINERS`) of stages, or of the last one, in a run folder for `refine_masks`."""
    recipe = recipe_of(folder)
    _note_refinements(folder, recipes.refined(recipe, kinds, of=of).refinements)


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
        metrics = evaluate.evaluate_seeds(self._pairs(epoch), len(self.dataset.classes), threshold=self.threshold)
        oracle = metrics["oracle"]
        row = (epoch, evaluate.of_masks(metrics)["miou"], oracle["miou"], oracle["threshold"])
        text = self.paths.epochs.read_text(encoding="utf-8") if self.paths.epochs.exists() else ""
        kept = [line for line in text.splitlines()[1:] if int(line.split(",")[0]) < epoch]
        lines = ["epoch,miou,oracle_miou,oracle_threshold", *kept, ",".join(str(value) for value in row)]
        with atomic(self.paths.epochs) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _pairs(self, epoch: int) -> Iterator[tuple[seeds.Seed, Tensor]]:
        title = f"{self.paths.name} epoch {epoch} evaluate"
        for index in progress.track(range(len(self.dataset)), title=title, total=len(self.dataset)):
            sample = self.dataset[index]
            if sample.mask is not None:
                yield _seed(self.labeler, sample), sample.mask


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
        for name in progress.track(dataset.names, title=f"{paths.name} masks", total=len(dataset)):
            seed = seeds.load(paths.maps(dataset.split, name))
            cut = recipe.masks.threshold if given is None and not seed.decided else given
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


def _reported(folder: Run, recipe: Recipe) -> list[str]:
    return [paths.name for paths in (*evaluated_stages(folder, recipe), *refined_stages(folder, recipe))]


def open_split(recipe: Recipe, split: str | None) -> Dataset:
    """The evaluation split, or the one named."""
    config = recipe.data if split is None else dataclasses.replace(recipe.data, eval_split=split)
    return data.open_dataset(config, "eval")


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


def _commit() -> str | None:
    """Git commit of the code, where it runs from a checkout of its own."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():  # installed: a repository above would be somebody else's
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _difference(old: object, new: object, at: str = "") -> str:
    """The first place where two JSON values differ, as `path: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    if isinstance(old, list) and isinstance(new, list):
        for number, (left, right) in enumerate(zip(old, new, strict=False)):
            if left != right:
                return _difference(left, right, f"{at}[{number}]")
        return f"{at} had {len(old)} entries, now {len(new)}"
    return f"{at} was {old}, now {new}"
