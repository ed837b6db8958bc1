"""A trained network that labels images: the Python API, and the file that keeps it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

import baoseg
from baoseg import nets
from baoseg.core import progress, settings
from baoseg.core.errors import CheckpointError
from baoseg.core.files import read_json
from baoseg.core.run_folder import Run
from baoseg.core.types import ClassSet, Maps
from baoseg.data import Dataset
from baoseg.data.images import ImageLike, as_image
from baoseg.data.voc import CLASSES as VOC_CLASSES
from baoseg.methods import Method, Settings, bao, heads_of, make, transcam
from baoseg.nets import weights
from baoseg.nets.network import Network
from baoseg.predict import maps
from baoseg.seeds import SeedMaps, masks
from baoseg.training import guards

LIKELIEST = 1e9  # a label cut that no logit reaches: the likeliest class alone is predicted
FORMAT = 1  # of the description in a network.safetensors; a reader refuses what it does not know


@dataclass(frozen=True)
class Result:
    """What a labeler says about one image, at the image's size.

    `mask`: 0 background, 1..K the classes of the labeler; `class_maps`: a map in [0, 1] by class name, for the labels
    given (or predicted); `background`: the learned background map in [0, 1], None for methods without one.
    """

    labels: tuple[str, ...]
    mask: UInt8[np.ndarray, "h w"]
    class_maps: dict[str, Float32[np.ndarray, "h w"]]
    background: Float32[np.ndarray, "h w"] | None


class Labeler:
    """Labels the pixels of images whose classes are known: `labeler(image, labels=["dog"]).mask`.

    `label_cut` is the class logit from which on a class counts as present where no labels are given; see `calibrate`.
    """

    def __init__(
        self,
        method: Method,
        classes: ClassSet,
        *,
        maps: maps.Config,
        masks: masks.Config,
        label_cut: float = 0.0,
    ) -> None:
        self.method = method.eval()
        self.classes = classes
        self.maps = maps
        self.masks = masks
        self.label_cut = label_cut

    def __call__(
        self, image: ImageLike, labels: Sequence[str] | None = None, *, threshold: float | None = None
    ) -> Result:
        """Label an image: a path, PIL image, uint8 array [h w 3] or tensor [3 h w].

        Without `labels` the classifier's own are used, see `predict_labels`.
        `threshold` replaces the learned background by a cut of the class maps. Raises DataError for an unknown label,
        an empty list, an unreadable image, and maps that are NaN or infinite.
        """
        pixels = as_image(image)
        vector = self.predict_labels(pixels) if labels is None else self.classes.encode(labels)
        seed = self.seed(pixels, vector).upsample()
        if threshold is None and not seed.decided:
            threshold = self.masks.threshold
        names = [self.classes.names[index - 1] for index in seed.classes.tolist()]
        return Result(
            labels=tuple(names),
            mask=masks.label_image(seed, threshold=threshold).numpy(),
            class_maps={name: scores.numpy() for name, scores in zip(names, seed.scores, strict=True)},
            background=None if seed.background is None else seed.background.numpy(),
        )

    def seed(self, image: UInt8[Tensor, "3 h w"], labels: Float[Tensor, "K"]) -> SeedMaps:
        """Normalised multi-scale maps on the seeds' grid. Raises DataError for an empty label vector."""
        backbone = self.method.network.backbone
        return maps.infer(
            self.method,
            image,
            labels,
            config=self.maps,
            normalisation=backbone.normalisation,
            stride=backbone.stride,
            fixed=self.masks.threshold,
        )

    def predict_labels(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "K"]:
        """Label vector of the classes whose logit is at least `label_cut`, or else of the likeliest."""
        logits = self.class_logits(image)
        return (logits >= logits.max().clamp(max=self.label_cut)).float()

    @torch.inference_mode()
    def class_logits(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "K"]:
        """Of the classifier at the middle scale of inference, without labels; the mean over the mirror images.

        Raises DataError where they are NaN or infinite.
        """
        logits = self.method.classify(self.views(image)).mean(dim=0).cpu()
        guards.numbers(logits, "class logits")
        return logits

    def views(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "v 3 h2 w2"]:
        """The image, normalised, at the middle scale of inference; its mirror image after it, where flips are on."""
        backbone = self.method.network.backbone
        return maps.views(
            image.to(self.device),
            maps.middle(self.maps),
            config=self.maps,
            normalisation=backbone.normalisation,
            stride=backbone.stride,
        )

    @torch.inference_mode()
    def raw_maps(self, images: Float[Tensor, "b 3 h w"], labels: Float[Tensor, "b K"]) -> Maps:
        """Refined class scores [b K h' w'] and background score [b 1 h' w'] (None for methods without one).

        Images are normalised (mean and deviation of `labeler.method.network.normalisation`), labels are label
        vectors; the maps are those of one forward pass, before any clipping or normalisation. Unpacks as a pair.
        """
        return self.method.maps(images.to(self.device), labels.to(self.device))

    @property
    def device(self) -> torch.device:
        return next(self.method.parameters()).device


def calibrate(labeler: Labeler, dataset: Dataset, *, pictures: int = 500) -> float:
    """The `label_cut` with which the labels that the labeler predicts for `dataset` come closest to its own.

    At most so many images are looked at, evenly spaced; of their labels those of the whole image alone. On the
    images that the network was trained on, which are all that there is without a split for it, the classifier is
    surer than on new ones, so the cut is an optimistic one.
    """
    chosen = range(0, len(dataset), math.ceil(len(dataset) / pictures))
    bar = progress.track(chosen, title="label cut", total=len(chosen))
    logits = []
    for index in bar:
        with guards.of_image(dataset.names[index]):
            logits.append(labeler.class_logits(dataset[index].image))
    return best_cut(torch.stack(logits), torch.stack([dataset.labels(index) for index in chosen]))


def best_cut(logits: Float[Tensor, "n K"], labels: Float[Tensor, "n K"]) -> float:
    """The cut of highest F1 over all pairs of image and class (micro-F1), 2 TP / (predicted + present).

    The likeliest class of each image is predicted with any cut, as in `Labeler.predict_labels`. The cut lies halfway
    between the lowest logit that it keeps and the highest that it drops, where it drops any; of equally good cuts it is
    the highest.
    """
    logits = logits.double()
    likeliest = logits == logits.amax(dim=1, keepdim=True)
    values, order = logits[~likeliest].sort(descending=True)
    truths = labels[~likeliest][order]
    hits = labels[likeliest].sum() + F.pad(truths.cumsum(0), (1, 0))  # with the first 0, 1, 2, .. of the values kept
    predicted = likeliest.sum() + torch.arange(len(values) + 1)
    f1 = 2 * hits.double() / (predicted + labels.sum())
    ends = torch.cat([logits.max()[None], values, logits.min()[None] - 1])
    best = int(f1.where(ends.diff() < 0, -1).argmax())  # equal logits are kept together
    return float(ends[best : best + 2].mean())


def save(
    path: Path,
    network: Network,
    *,
    method: Settings,
    net: nets.Config,
    maps: maps.Config,
    masks: masks.Config,
    classes: ClassSet,
    label_cut: float = 0.0,
) -> None:
    """Write a self-describing safetensors file that `load` reads: weights, network, method, classes, inference."""
    about = {
        "format": FORMAT,
        "version": baoseg.__version__,
        "classes": list(classes.names),
        "method": settings.to_json(method, Settings),
        "net": settings.to_json(net),
        "maps": settings.to_json(maps),
        "masks": settings.to_json(masks),
        "label_cut": label_cut,
    }
    weights.save(path, network, about)


def load(
    source: str | Path,
    *,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
    device: str | torch.device = "cpu",
) -> Labeler:
    """A labeler from a run folder (its last stage), a network.safetensors of a run, or a published checkpoint.

    Published checkpoints are Conformers in the key names of TransCAM and BAO, as a `.pth` state dict or safetensors.
    They do not say their class names and attention heads: `classes` defaults to the 20 of VOC or to numbers, `heads`
    to one for 64 channels, as all published models have it. Raises CheckpointError, and RunError for a folder that
    is no run.
    """
    path = Path(source)
    if path.is_dir():
        if not (files := trained(Run(path))):
            raise CheckpointError(f"{path}: nothing trained yet; run `bao train` on it first")
        path = files[-1]
    state = weights.read_checkpoint(path)
    about = weights.read_metadata(path)
    if about is not None and "task" in about:
        raise CheckpointError(f"{path}: a network for {about['task']}, no labeler; open it with baoseg.load")
    made = _published(path, state, classes, heads) if about is None else _own(path, state, about, classes)
    made.method.to(device)
    return made


def trained(run: Run) -> list[Path]:
    """The labelers of a run folder. Raises RunError for a folder that is no run."""
    stages = read_json(run.manifest)["stages"]
    return [stage.network for name in stages if (stage := run.stage(name)).network.exists()]


def warm_start(network: Network, path: Path) -> None:
    """Fill `network` with the weights of a trained stage; heads that it lacks keep their initial values."""
    weights.load_into(network, weights.read_checkpoint(path), allow_missing_heads=True, source=path)


def _own(path: Path, state: dict[str, Tensor], about: dict, classes: Sequence[str] | None) -> Labeler:
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by another version of baoseg; load it with that version")
    names = ClassSet(tuple(about["classes"] if classes is None else classes))
    if len(names) != len(about["classes"]):
        raise CheckpointError(f"{path}: trained for {len(about['classes'])} classes, {len(names)} given")
    source = str(path)
    method_settings = settings.from_json(about["method"], Settings, source=source)
    config = settings.from_json(about["net"], nets.Config, source=source)
    network = nets.build(config, len(names), heads=heads_of(method_settings), initialise=False)
    weights.load_into(network, state, source=path)
    return Labeler(
        make(method_settings, network),
        names,
        maps=settings.from_json(about["maps"], maps.Config, source=source),
        masks=settings.from_json(about["masks"], masks.Config, source=source),
        label_cut=about.get("label_cut", 0.0),  # files of earlier versions have none
    )


def _published(path: Path, state: dict[str, Tensor], classes: Sequence[str] | None, heads: int | None) -> Labeler:
    network = weights.official_conformer(state, heads=heads, source=str(path))
    count = network.num_classes
    if classes is None:
        classes = VOC_CLASSES if count == len(VOC_CLASSES) else [f"class {index}" for index in range(1, count + 1)]
    if len(classes) != count:
        raise CheckpointError(f"{path}: a network of {count} classes, {len(classes)} names given")
    method = bao.Config(background=bao.Background.RELEASED) if network.activation_heads else transcam.Config()
    return Labeler(make(method, network), ClassSet(tuple(classes)), maps=maps.Config(), masks=masks.Config())
