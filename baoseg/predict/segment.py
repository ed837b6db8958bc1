"""The segmentation network: it learns from masks and then segments images without labels."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn

import baoseg
from baoseg.core import settings
from baoseg.core.errors import CheckpointError, RecipeError
from baoseg.core.files import read_json
from baoseg.core.run_folder import RunFolder
from baoseg.core.types import IGNORE, Batch, ClassSet, full_precision
from baoseg.data.images import ImageLike, as_image
from baoseg.data.transforms import Normalisation, normalise
from baoseg.nets import segmentation, weights
from baoseg.nets.base import enlarge_cells
from baoseg.nets.segmentation import Alignment, SegmentationNetwork
from baoseg.refine import crf
from baoseg.training import guards
from baoseg.training.learner import Learner

TASK, FORMAT = "segmentation", 1  # in the description of a network.safetensors


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """The network; see `nets.segmentation.build`."""

    name: str = "smp:segformer/mit_b2"
    weights: str | None = None  # a local file with this network or with its backbone alone
    pretrained: bool = False  # let timm or smp load weights of the backbone
    stride: int = 8  # pixels; of convolutional networks of timm with DeepLab heads
    options: tuple[tuple[str, Any], ...] = ()
    mean: tuple[float, float, float] | None = None  # of the normalisation of images; None: as the weights were trained
    std: tuple[float, float, float] | None = None
    freeze_batch_norm: bool = False  # of the backbone
    alignment: Alignment = Alignment.CELLS  # position of the cells of the logits in the image

    def __post_init__(self) -> None:
        Normalisation.of(self.mean, self.std)  # raises RecipeError for wrong settings
        if self.stride < 1:
            raise RecipeError(f"segmentation network: stride {self.stride}; the stride is at least 1 pixel")

    def build(self, num_classes: int, *, seed: int = 0, initialise: bool = True) -> SegmentationNetwork:
        """Build the network for K classes.

        Without `initialise`, no weights are read, as the caller replaces all values.
        """
        network = segmentation.build(
            self.name,
            num_classes,
            weights=self.weights if initialise else None,
            pretrained=self.pretrained and initialise,
            stride=self.stride,
            options=dict(self.options),
            normalisation=Normalisation.of(self.mean, self.std),
            seed=seed,
        )
        network.frozen_batch_norm = self.freeze_batch_norm
        network.alignment = self.alignment
        network.train()
        return network


class Reduce(StrEnum):
    """How the probabilities of several views are combined; the result is scaled to sum to 1."""

    MEAN = "mean"
    MAX = "max"  # the maximum of each class: MCTformer, BAO


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Inference at several scales, with mirror images, in windows."""

    scales: tuple[float, ...] = (0.75, 1.0, 1.25)  # relative to the size of the image
    flip: bool = True
    reduce: Reduce = Reduce.MEAN
    window: int = 1024  # pixels; larger images are segmented in windows
    margin: int = 128  # pixels; the smallest overlap of windows
    crf_settings: crf.Config = crf.PROBABILITIES
    crf: bool = False  # apply a dense CRF to the probabilities; only for images of one window

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0 or not 0 <= self.margin < self.window:
            raise RecipeError(f"segmentation: {self}; use scales above 0, and a margin that is smaller than the window")

    def windows(self, size: Sequence[int]) -> "list[Window]":
        """The windows that cover an image of this (height, width)."""
        rows, columns = (_spans(side, self.window, self.margin) for side in size)
        return [Window(row, column) for row in rows for column in columns]


class SegmentationLearner(Learner):
    """Trains with the cross-entropy of pixel labels; 255 is ignored, and pixel weights of the batch are applied."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def head_parameters(self) -> Iterator[nn.Parameter]:
        return self.network.head_parameters()

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The weighted mean over the pixels with a label. Raises RecipeError if the batch has no pixel labels."""
        if batch.pixel_labels is None:
            raise RecipeError("a segmentation network learns from masks; the batch has none")
        logits = enlarge(full_precision(self.network(batch.images)), batch.images.shape[-2:], self.network)
        labels = batch.pixel_labels.long()
        errors = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        counts = (labels != IGNORE).to(errors.dtype)
        if batch.pixel_weights is not None:
            counts = counts * batch.pixel_weights
        return {"segmentation": (errors * counts).sum() / counts.sum().clamp(min=1e-6)}


class Segmentation(NamedTuple):
    """The result for one image, at its size:

    `mask` (0 background, 1..K) and `scores` (probabilities, background first).
    """

    mask: UInt8[Tensor, "h w"]
    scores: Float32[Tensor, "S h w"]


class Segmenter:
    """Segments images without labels: `segmenter(image).mask`, or `mask, scores = segmenter(image)`."""

    def __init__(self, network: SegmentationNetwork, classes: ClassSet, *, inference: Inference) -> None:
        self.network = network.eval()
        self.classes = classes
        self.inference = inference

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def __call__(self, image: ImageLike, labels: Sequence[str] | None = None) -> Segmentation:
        """Segment an image: a path, a PIL image, a uint8 array [h w 3] or a uint8 tensor [3 h w].

        With `labels`, no other classes are considered. The scores need S x h x w x 4 bytes; `mask` does not store them.
        Raises DataError for an unreadable image, and if the logits of the network are NaN or infinite.
        """
        pixels = as_image(image)
        scores = torch.empty(len(self.classes) + 1, *pixels.shape[-2:])
        for window in self.inference.windows(pixels.shape[-2:]):
            scores[:, *window.kept] = self._probabilities(pixels, window, self._absent(labels)).cpu()
        if self.inference.crf:
            scores = crf.from_probabilities(pixels.permute(1, 2, 0), scores, config=self.inference.crf_settings)
        return Segmentation(scores.argmax(dim=0).to(torch.uint8), scores)

    def mask(self, image: ImageLike, labels: Sequence[str] | None = None) -> UInt8[Tensor, "h w"]:
        """The mask without scores, in windows: the memory grows by a few bytes per pixel of the image."""
        pixels = as_image(image)
        windows = self.inference.windows(pixels.shape[-2:])
        if self.inference.crf and len(windows) == 1:
            return self(pixels, labels).mask
        mask = torch.empty(pixels.shape[-2:], dtype=torch.uint8)
        for window in windows:
            mask[window.kept] = self._probabilities(pixels, window, self._absent(labels)).argmax(dim=0).byte().cpu()
        return mask

    def _absent(self, labels: Sequence[str] | None) -> Int[Tensor, "a"]:
        """The indices of the classes that the labels exclude."""
        if labels is None:
            return torch.empty(0, dtype=torch.int64)
        return (self.classes.encode(labels) == 0).nonzero()[:, 0] + 1

    @torch.inference_mode()
    def _probabilities(
        self, pixels: UInt8[Tensor, "3 h w"], window: "Window", absent: Int[Tensor, "a"]
    ) -> Float[Tensor, "S y x"]:
        view = normalise(pixels[:, *window.seen].to(self.device), self.network.normalisation)[None]
        size = (view.shape[2], view.shape[3])
        joined = torch.zeros((), device=self.device)
        for scale in self.inference.scales:
            scaled = view if scale == 1 else _rescale(view, scale)
            joined = self._joined(joined, self._look(scaled, size, absent))
            if self.inference.flip:  # after the image and not in one batch with it, which would take twice the memory
                joined = self._joined(joined, self._look(scaled.flip(-1), size, absent).flip(-1))
        guards.numbers(joined, "probabilities")
        kept = joined[:, *window.kept_of_seen]
        if self.inference.reduce == Reduce.MAX:
            return kept / kept.sum(dim=0)
        return kept / (len(self.inference.scales) * (1 + self.inference.flip))

    def _joined(self, before: Float[Tensor, "..."], look: Float[Tensor, "S y x"]) -> Float[Tensor, "S y x"]:
        return torch.maximum(before, look) if self.inference.reduce == Reduce.MAX else before + look

    def _look(
        self, view: Float[Tensor, "1 3 h w"], size: tuple[int, int], absent: Int[Tensor, "a"]
    ) -> Float[Tensor, "S y x"]:
        logits = full_precision(self.network(view))
        logits = logits.where(logits > -math.inf, math.nan)  # before the softmax, for which -inf is an excluded class
        logits[:, absent] = -math.inf
        return enlarge(logits.softmax(dim=1), size, self.network, view=view.shape[-2:])[0]


class _Span(NamedTuple):
    """Along one axis: the part that a window reads, and the part that it keeps. Each pixel is kept by one window."""

    start: int
    stop: int
    first: int
    last: int


def _spans(length: int, window: int, margin: int) -> list[_Span]:
    """Windows of one size that overlap by at least `margin`; each overlap is divided in its middle."""
    if length <= window:
        return [_Span(0, length, 0, length)]
    count = math.ceil((length - margin) / (window - margin))
    starts = [i * (length - window) // (count - 1) for i in range(count)]
    cuts = [0, *((left + window + right) // 2 for left, right in itertools.pairwise(starts)), length]
    return [_Span(start, start + window, cuts[i], cuts[i + 1]) for i, start in enumerate(starts)]


class Window(NamedTuple):
    rows: _Span
    columns: _Span

    @property
    def seen(self) -> tuple[slice, slice]:
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def kept(self) -> tuple[slice, slice]:
        return slice(self.rows.first, self.rows.last), slice(self.columns.first, self.columns.last)

    @property
    def kept_of_seen(self) -> tuple[slice, slice]:
        (top, _, first, last), (left, _, begin, end) = self.rows, self.columns
        return slice(first - top, last - top), slice(begin - left, end - left)


def enlarge(
    maps: Float[Tensor, "b S h w"],
    size: Sequence[int],
    network: SegmentationNetwork,
    *,
    view: Sequence[int] | None = None,
) -> Float[Tensor, "b S H W"]:
    """The logits of a view of an image, resized (bilinear) to `size`, the size of the image.

    `view` is the size of the view, which is the whole image at another scale; None: the size of the image. The position
    of the cells in the view is `network.alignment`.
    """
    size, seen = tuple(size), tuple(size if view is None else view)
    if tuple(maps.shape[-2:]) == seen:  # a cell is a pixel
        return maps if seen == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    if network.alignment == Alignment.CORNERS:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    if network.alignment == Alignment.STRETCHED:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    if seen == size:
        return enlarge_cells(maps, network.stride, size)
    if all(cells * network.stride == side for cells, side in zip(maps.shape[-2:], seen, strict=True)):
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)  # the cells cover exactly the view
    # The centres of the pixels in coordinates of the grid, whose ends are -1 and 1. (F.interpolate with a scale factor
    # near 1 takes it for 1 where that changes no size.)
    rows, columns = (
        (2 * torch.arange(pixels, device=maps.device, dtype=maps.dtype) + 1)
        * (side / (pixels * cells * network.stride))
        - 1
        for pixels, side, cells in zip(size, seen, maps.shape[-2:], strict=True)
    )
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    places = places.expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, places, mode="bilinear", padding_mode="border", align_corners=False)


def _rescale(view: Float[Tensor, "1 3 h w"], scale: float) -> Float[Tensor, "1 3 H W"]:
    size = [max(1, round(side * scale)) for side in view.shape[-2:]]
    return F.interpolate(view, size=size, mode="bicubic", align_corners=False, antialias=True)


def save(path: Path, network: SegmentationNetwork, *, net: NetConfig, inference: Inference, classes: ClassSet) -> None:
    """Write a safetensors file for `baoseg.load`: the weights, and network, classes and inference in its header."""
    about = {
        "format": FORMAT,
        "task": TASK,
        "version": baoseg.__version__,
        "classes": list(classes.names),
        "net": settings.to_json(net),
        "inference": settings.to_json(inference),
    }
    weights.save(path, network, about)


def trained(run: RunFolder) -> list[Path]:
    """The files of the segmentation networks of a run folder."""
    if not run.manifest.exists():
        return []
    names = read_json(run.manifest).get("segmentations", {})
    return [stage.network for name in names if (stage := run.stage(name)).network.exists()]


def load(path: Path, *, device: str | torch.device = "cpu") -> Segmenter:
    """Load a segmenter from a file of `save`. Raises CheckpointError for any other file."""
    state, about = weights.read_checkpoint(path), weights.read_metadata(path) or {}
    if about.get("task") != TASK:
        raise CheckpointError(f"{path}: holds no segmentation network; train one with `bao segment`")
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by another version of baoseg; load it with that version")
    classes = ClassSet(tuple(about["classes"]))
    net = settings.from_json(about["net"], NetConfig, source=str(path))
    network = net.build(len(classes), initialise=False)
    weights.compare(network.state_dict(), state).require_complete(path, remedy="train the network again")
    network.load_state_dict(state)
    inference = settings.from_json(about["inference"], Inference, source=str(path))
    return Segmenter(network.to(device), classes, inference=inference)
