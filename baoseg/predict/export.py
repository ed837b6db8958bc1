"""Export for other tools: networks as ONNX files, and masks in the layout of the VOC evaluation server."""

import contextlib
import importlib.util
import json
import logging
import tarfile
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

import baoseg
from baoseg.core import progress
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.files import atomic
from baoseg.core.run_folder import StageFolder
from baoseg.data import Dataset
from baoseg.data.images import read_mask, write_mask
from baoseg.data.transforms import Normalisation
from baoseg.methods import Method
from baoseg.nets.segmentation import SegmentationNetwork
from baoseg.predict.labeler import Labeler
from baoseg.predict.segment import Segmenter, enlarge

OPSET = 17  # of traced networks
COMP6 = Path("results/VOC2012/Segmentation/comp6_test_cls")  # comp6: trained on data other than VOC's masks
VOC_OUTPUTS = 21  # the server's indices end at 20
NEEDED = ("onnx", "onnxscript", "onnxruntime")
WARNING, FATAL = 2, 4  # log levels of onnxruntime: the default, and during the check
LOG = "_jit_onnx_log"  # of torch._C: how tracing speaks
TOLERANCE = 1e-3  # tolerance of the check, relative to the largest value


class Kind(StrEnum):
    """The kind of a network in the metadata of an ONNX file."""

    SEGMENTER = "segmenter"
    LABELER = "labeler"


class SegmenterGraph(nn.Module):
    """Computes, from images in 0..1, logits of background and K classes at the size of the images, at one scale."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network
        self.pixels = _Normalise(network.normalisation)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b S h w"]]:
        return (enlarge(self.network(self.pixels(images)), images.shape[-2:], self.network),)


class LabelerGraph(nn.Module):
    """Computes, from images in 0..1 and label vectors, the maps of a method at one scale on the feature grid.

    The outputs are the maps of `Method.maps`, before clipping and scaling, with 0 for absent classes; the background
    map, if the method learns one; and the class logits, from a second pass through the network. (The exporter merges
    equal parts of the two passes, but not always all of them.)
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.pixels = _Normalise(method.network.normalisation)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], labels: Float[Tensor, "b K"]
    ) -> tuple[Float[Tensor, "b _ ..."], ...]:
        normalised = self.pixels(images)
        scores, background = self.method.maps(normalised, labels)
        present = scores * labels[:, :, None, None]
        logits = self.method.classify(normalised)
        return (present, logits) if background is None else (present, background, logits)


class _Normalise(nn.Module):
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        # Not named "mean": the exporter gives this name to results of operations and would confuse them.
        self.register_buffer("pixel_mean", torch.tensor(normalisation.mean)[:, None, None])
        self.register_buffer("pixel_std", torch.tensor(normalisation.std)[:, None, None])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        normalised: Tensor = (images - self.pixel_mean) / self.pixel_std
        return normalised


def onnx(model: Labeler | Segmenter, path: Path) -> None:
    """Write `model` as one ONNX file for any number of images of any size. Normalisation is in the graph.

    Segmenter:  images [b 3 h w] in 0..1                  ->  scores [b K+1 h w]: logits, the background first
    Labeler:    the same, and labels [b K] of 0 and 1     ->  maps [b K h' w'], background [b 1 h' w'] of methods that
                                                              learn one, logits [b K]

    All values are 32-bit floats. The metadata of the file are `kind`, `classes` (a JSON list) and `version`. The caller
    must combine scales, mirror images and windows, decide on the masks, and choose thresholds for single images (BAS).

    Before the file is renamed to its final name, onnxruntime runs it on a batch of another size, and the result is
    compared with PyTorch. Convolutional networks are exported by tracing, in seconds. Networks with attention, and
    networks for which tracing gives wrong results, are exported by symbolic capture, which can take many minutes.

    Raises RecipeError if an extra is missing, if ONNX does not support a part of the network, or if the check fails.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise RecipeError(f"export needs {' and '.join(missing)}; run pip install 'baoseg[onnx]'")
    classes = len(model.classes)
    # The sides of the example are not multiples of any stride, so that the graph is right for all sizes:
    # padding is in the graph.
    images, labels = torch.rand(2, 3, 301, 403, device=model.device), torch.ones(2, classes, device=model.device)
    free = torch.export.Dim.DYNAMIC
    sizes = {"images": {0: free, 2: free, 3: free}, "labels": {0: free}}
    graph: nn.Module
    if isinstance(model, Segmenter):
        graph, kind = SegmenterGraph(model.network), Kind.SEGMENTER
        given, outputs = {"images": images}, ["scores"]
    else:
        graph, kind = LabelerGraph(model.method), Kind.LABELER
        given, outputs = {"images": images, "labels": labels}, ["maps", "logits"]
        if model.method.learns_background:
            outputs.insert(1, "background")
    about = {"kind": kind.value, "classes": json.dumps(model.classes.names), "version": baoseg.__version__}
    graph.eval()
    with atomic(path) as temporary, _quiet(), torch.no_grad():
        if not (_traceable(model) and _traced(graph, given, outputs, temporary) and _agrees(temporary, graph, given)):
            _captured(graph, given, {name: sizes[name] for name in given}, outputs, temporary)
            if not _agrees(temporary, graph, given):
                raise RecipeError("this network gives other results in ONNX than in PyTorch; use another backbone")
        _describe(temporary, about)


def _traceable(model: Labeler | Segmenter) -> bool:
    """Whether tracing would be wrong: it fixes the sizes in attention, and does not know the pooling of BAS."""
    if isinstance(model, Segmenter):
        return True
    return not model.method.network.backbone.attends and model.method.traceable


def _traced(graph: nn.Module, given: dict[str, Tensor], outputs: list[str], path: Path) -> bool:
    """Write the file; returns whether that was possible."""
    free = {
        name: {0: "batch", **({2: f"{name}_h", 3: f"{name}_w"} if value.ndim == 4 else {})}
        for name, value in given.items()
    }
    free |= {name: {0: "batch"} if name == "logits" else {0: "batch", 2: "rows", 3: "columns"} for name in outputs}
    try:
        torch.onnx.export(
            graph,
            tuple(given.values()),
            path,
            input_names=list(given),
            output_names=outputs,
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError):
        return False
    return True


def _captured(
    graph: nn.Module, given: dict[str, Tensor], sizes: dict[str, Any], outputs: list[str], path: Path
) -> None:
    try:
        program = torch.onnx.export(
            graph,
            kwargs=given,
            input_names=list(given),
            output_names=outputs,
            dynamic_shapes=sizes,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise RecipeError(f"this network cannot be written as ONNX ({cause}); use another backbone") from error
    assert program is not None
    program.save(path, external_data=False)


def _agrees(path: Path, graph: nn.Module, given: dict[str, Tensor]) -> bool:
    """Whether onnxruntime and PyTorch agree for three images of another size than in the export."""
    import onnxruntime

    fed = {name: _other(value) for name, value in given.items()}
    silent = onnxruntime.SessionOptions()
    silent.log_severity_level = FATAL  # its messages about a wrong graph would only repeat the error
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        session = onnxruntime.InferenceSession(path, silent, providers=["CPUExecutionProvider"])
        found = session.run(None, {name: value.cpu().numpy() for name, value in fed.items()})
    except Exception:  # its errors about a wrong graph have no common base class
        return False
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    expected = [value.cpu() for value in graph(**fed)]
    if not all(value.isfinite().all() for value in expected):
        raise RecipeError(
            "the network gives values that are NaN or infinite; export another network, or train it again"
        )
    return all(
        ours.shape == tuple(theirs.shape)
        and bool((torch.from_numpy(ours) - theirs).abs().max() <= TOLERANCE * theirs.abs().max().clamp(min=1))
        for ours, theirs in zip(found, expected, strict=True)
    )


def _other(value: Tensor) -> Tensor:
    """Three images of 97 x 130 pixels, or their label vectors, in place of the example of the export."""
    return torch.rand(3, 3, 97, 130, device=value.device) if value.ndim == 4 else value[:1].expand(3, -1)


def _describe(path: Path, about: dict[str, str]) -> None:
    import onnx as files

    model = files.load(str(path))
    files.helper.set_model_props(model, about)
    files.save(model, str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages of the exporter, which are for its developers."""
    log = logging.getLogger("torch.onnx")
    level, speak = log.level, getattr(torch._C, LOG)
    log.setLevel(logging.ERROR)
    setattr(torch._C, LOG, lambda *_: None)  # it prints even if it is disabled
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # `_agrees` checks instead
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", module=r"torch\.|onnxscript\.|onnx_ir\.|copyreg")
            yield
    finally:
        log.setLevel(level)
        setattr(torch._C, LOG, speak)


def voc(stage: StageFolder, dataset: Dataset, out: Path, *, tar: bool = False) -> Path:
    """Copy the masks of a split into the layout of the VOC evaluation server; with `tar`, also write results.tgz.

    All masks are checked before the first is written. Returns the folder of the masks, or the archive. Raises DataError
    if a mask is missing, differs in size from its image, or has an index above 20 (also 255).
    """
    if len(dataset.classes) + 1 > VOC_OUTPUTS:
        raise DataError(
            f"{len(dataset.classes)} classes, but the VOC server knows only {VOC_OUTPUTS - 1}; use the classes of VOC"
        )
    split = dataset.split
    for index, name in progress.track(enumerate(dataset.names), title=f"{stage.name} masks", total=len(dataset)):
        _check_for_server(stage.mask(split, name), dataset[index].image)
    for name in dataset.names:
        write_mask(out / COMP6 / f"{name}.png", read_mask(stage.mask(split, name)))
    if not tar:
        return out / COMP6
    archive = out / "results.tgz"
    with atomic(archive) as temporary, tarfile.open(temporary, "w:gz") as file:
        for name in dataset.names:
            file.add(out / COMP6 / f"{name}.png", arcname=str(COMP6 / f"{name}.png"))
    return archive


def _check_for_server(path: Path, image: UInt8[Tensor, "3 h w"]) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such mask; make the masks of this split first (--split of `bao segment`)")
    mask = read_mask(path)
    (rows, columns), (height, width) = image.shape[-2:], mask.shape
    if (rows, columns) != (height, width):
        raise DataError(f"{path}: {width} x {height} pixels, its image {columns} x {rows}; make the mask again")
    if mask.max() >= VOC_OUTPUTS:
        raise DataError(f"{path}: index {mask.max()} is outside 0..{VOC_OUTPUTS - 1}, which the server does not accept")
