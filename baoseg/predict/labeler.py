"""A trained network that labels images: its Python API and its file."""

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
from baoseg.core.run_folder import RunFolder
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

LIKELIEST = 1e9  # a label cut that no logit reaches, so that only the likeliest class is predicted
FORMAT = 1  # version of the description in network.safetensors; unknown versions are refused


@dataclass(frozen=True)
class Result:
    """The result for one image, at the size of the image.

    `mask` has 0 for the background and 1..K for the classes of the labeler. `class_maps` has a map in [0, 1] for the
    name of each given (or predicted) label. `background` is the background map in [0, 1]; None if the method learns
    none.
    """

    labels: tuple[str, ...]
    mask: UInt8[np.ndarray, "h w"]
    class_maps: dict[str, Float32[np.ndarray, "h w"]]
    background: Float32[np.ndarray, "h w"] | None


class Labeler:
    """Labels the pixels of images with image-level labels: `labeler(image, labels=["dog"]).mask`.

    If no labels are given, classes with a logit of at least `label_cut` count as present; see `calibrate`.
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
        """Label an image: a path, a PIL image, a uint8 array [h w 3] or a uint8 tensor [3 h w].

        Without `labels`, the labels are predicted (`predict_labels`). With `threshold`, the mask is made from the class
        maps and this threshold instead of the background map. Raises DataError for an unknown label, an empty list of
        labels, an unreadable image, and maps that are NaN or infinite.
        """
        pixels = as_image(image)
        vector = self.predict_labels(pixels) if labels is None else self.classes.encode(labels)
        seed = self.seed(pixels, vector).upsample()
        if threshold is None and not seed.decided:
            threshold = self.masks.threshold
        names = [self.classes.names[index - 1] for index in seed.classes.tolist()]
        return Result(
            labels=tuple(names),
            mask=masks.to_mask(seed, threshold=threshold).numpy(),
            class_maps={name: scores.numpy() for name, scores in zip(names, seed.scores, strict=True)},
            background=None if seed.background is None else seed.background.numpy(),
        )

    def seed(self, image: UInt8[Tensor, "3 h w"], labels: Float[Tensor, "K"]) -> SeedMaps:
        """The seed: normalised multi-scale maps. Raises DataError for a label vector without a class."""
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
        """The label vector of the classes with a logit of at least `label_cut`, or else of the likeliest class."""
        logits = self.class_logits(image)
        return (logits >= logits.max().clamp(max=self.label_cut)).float()

    @torch.inference_mode()
    def class_logits(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "K"]:
        """The class logits [K] at the middle scale of inference, averaged over the image and its mirror image.

        Raises DataError if they are NaN or infinite.
        """
        logits = self.method.classify(self.views(image)).mean(dim=0).cpu()
        guards.numbers(logits, "class logits")
        return logits

    def views(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "v 3 h2 w2"]:
        """The normalised image at the middle scale of inference and, if inference uses flips, its mirror image."""
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
        """Refined class scores [b K h' w'] and background scores [b 1 h' w'] (None if the method learns none).

        Images must be normalised (`labeler.method.network.normalisation`); `labels` are label vectors. The maps are
        those of one forward pass, before clipping and normalisation. The result unpacks as a pair.
        """
        return self.method.maps(images.to(self.device), labels.to(self.device))

    @property
    def device(self) -> torch.device:
        return next(self.method.parameters()).device


def calibrate(labeler: Labeler, dataset: Dataset, *, images: int = 500) -> float:
    """The `label_cut` for which the predicted labels of `dataset` agree best with its labels (`best_cut`).

    At most `images` images, evenly spaced, are used, with their image-level labels only. If these are the training
    images, the cut is optimistic, because the classifier is more certain about training images than about new images.
    """
    chosen = range(0, len(dataset), math.ceil(len(dataset) / images))
    bar = progress.track(chosen, title="label cut", total=len(chosen))
    logits = []
    for index in bar:
        with guards.of_image(dataset.names[index]):
            logits.append(labeler.class_logits(dataset[index].image))
    return best_cut(torch.stack(logits), torch.stack([dataset.labels(index) for index in chosen]))


def best_cut(logits: Float[Tensor, "n K"], labels: Float[Tensor, "n K"]) -> float:
    """The cut with the highest F1 over all pairs of image and class (micro-F1), 2 TP / (predicted + present).

    As in `Labeler.predict_labels`, the likeliest class of an image is always predicted. The cut is the mean of the
    lowest logit that it keeps and the highest logit that it drops (if it drops any). Of equally good cuts, it is the
    highest.
    """
    logits = logits.double()
    likeliest = logits == logits.amax(dim=1, keepdim=True)
    values, order = logits[~likeliest].sort(descending=True)
    truths = labels[~likeliest][order]
    hits = labels[likeliest].sum() + F.pad(truths.cumsum(0), (1, 0))  # if the first 0, 1, 2, ... values are kept
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
    """Write a safetensors file for `load`: the weights, and network, method, classes and inference in its header."""
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
    """Load a labeler from a run folder (its last stage), a network.safetensors, or an official checkpoint.

    Official checkpoints are Conformers in the key names of TransCAM and BAO (`.pth` state dicts or safetensors). They
    do not contain class names and the number of attention heads: `classes` defaults to the 20 VOC classes or to
    numbers, and `heads` to one head per 64 channels, as in all official models. Raises CheckpointError, and RunError
    for a folder that is not a run.
    """
    path = Path(source)
    if path.is_dir():
        if not (files := trained(RunFolder(path))):
            raise CheckpointError(f"{path}: has no trained network yet; run `bao train` on it first")
        path = files[-1]
    state = weights.read_checkpoint(path)
    about = weights.read_metadata(path)
    if about is not None and "task" in about:
        raise CheckpointError(f"{path}: a network for {about['task']}, not a labeler; open it with baoseg.load")
    made = _published(path, state, classes, heads) if about is None else _own(path, state, about, classes)
    made.method.to(device)
    return made


def trained(run: RunFolder) -> list[Path]:
    """The files of the labelers of a run folder. Raises RunError for a folder that is not a run."""
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
        raise CheckpointError(f"{path}: trained for {len(about['classes'])} classes, but {len(names)} are given")
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
        label_cut=about.get("label_cut", 0.0),  # files of earlier versions have no version
    )


def _published(path: Path, state: dict[str, Tensor], classes: Sequence[str] | None, heads: int | None) -> Labeler:
    network = weights.official_conformer(state, heads=heads, source=str(path))
    count = network.num_classes
    if classes is None:
        classes = VOC_CLASSES if count == len(VOC_CLASSES) else [f"class {index}" for index in range(1, count + 1)]
    if len(classes) != count:
        raise CheckpointError(f"{path}: a network of {count} classes, but {len(classes)} names are given")
    method = bao.Config(background=bao.Background.RELEASED) if network.activation_heads else transcam.Config()
    return Labeler(make(method, network), ClassSet(tuple(classes)), maps=maps.Config(), masks=masks.Config())
