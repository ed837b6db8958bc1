"""What other tools take: networks as ONNX files, and masks in the layout of the VOC evaluation server."""

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
from baoseg.core.run_folder import Stage
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
WARNING, FATAL = 2, 4  # how bad a thing must be for onnxruntime to say it: by itself, and while graphs are checked
LOG = "_jit_onnx_log"  # of torch._C: how tracing speaks
TOLERANCE = 1e-3  # of the check, relative to the largest value


class Kind(StrEnum):
    """What the description of an ONNX file calls the network."""

    SEGMENTER = "segmenter"
    LABELER = "labeler"


class SegmenterGraph(nn.Module):
    """Images in 0..1 to logits of the background and the K classes, at the size of the images: one scale."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network
        self.pixels = _Normalise(network.normalisation)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b S h w"]]:
        return (enlarge(self.network(self.pixels(images)), images.shape[-2:], self.network),)


class LabelerGraph(nn.Module):
    """Images in 0..1 and label vectors to what a method gives for one scale, on the feature grid.

    Maps are those of `Method.maps`, before clipping and scaling; those of absent classes are 0. The second of the three
    outputs, the background's map, is there for methods that learn one. The last are the class logits, of
    a second pass through the network; the exporter joins what it recognises as the same, not always all of it.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.pixels = _Normalise(method.network.normalisation)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], labels: Float[Tensor, "b K"]
    ) -> tuple[Float[Tensor, "b _ ..."], ...]:
        pictures = self.pixels(images)
        scores, background = self.method.maps(pictures, labels)
        present = scores * labels[:, :, None, None]
        logits = self.method.classify(pictures)
        return (present, logits) if background is None else (present, background, logits)


class _Normalise(nn.Module):
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        # No plain "mean": the exporter calls results of operations so, and does not keep the two apart.
        self.register_buffer("pixel_mean", torch.tensor(normalisation.mean)[:, None, None])
        self.register_buffer("pixel_std", torch.tensor(normalisation.std)[:, None, None])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        normalised: Tensor = (images - self.pixel_mean) / self.pixel_std
        return normalised


def onnx(model: Labeler | Segmenter, path: Path) -> None:
    """Write `model` as one ONNX file for any number of images of any size. Normalisation is in the graph.

    Segmenter:  images [b 3 h w] in 0..1                  ->  scores [b K+1 h w], logits with the background first
    Labeler:    the same, and labels [b K] of 0 and 1     ->  maps [b K h' w'], background [b 1 h' w'] of methods that
                                                              learn one, logits [b K]

    All are 32-bit floats. The file's metadata hold `kind`, `classes` (a JSON list) and `version`. Scales, mirror
    images and windows, the decision and thresholds of single images (BAS) stay with the caller.

    Before the file is put in place, onnxruntime runs it on a batch of another number and size and the result is
    compared with PyTorch's. Convolutional networks are written by tracing, in seconds; what tracing gets wrong, and
    networks with attention, by symbolic capture, which can take many minutes.

    Raises RecipeError where an extra is missing, the network has a part that ONNX does not know, or the check fails.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise RecipeError(f"export needs {' and '.join(missing)}; run pip install 'baoseg[onnx]'")
    classes = len(model.classes)
    # The example goes the general way, which is right for all sizes: its sides are multiples of no stride, so that
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
                raise RecipeError("this network is another one as ONNX than in PyTorch; use another backbone")
        _describe(temporary, about)


def _traceable(model: Labeler | Segmenter) -> bool:
    """Tracing keeps the numbers of tokens and batches of attention, and does not know BAS's pooling."""
    if isinstance(model, Segmenter):
        return True
    return not model.method.network.backbone.attends and model.method.traceable


def _traced(graph: nn.Module, given: dict[str, Tensor], outputs: list[str], path: Path) -> bool:
    """Whether it could be written."""
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
    """Whether onnxruntime gets what PyTorch gets, for three images of another size than those of the export."""
    import onnxruntime

    fed = {name: _other(value) for name, value in given.items()}
    silent = onnxruntime.SessionOptions()
    silent.log_severity_level = FATAL  # what it says of a wrong graph before it raises an error is no news
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        session = onnxruntime.InferenceSession(path, silent, providers=["CPUExecutionProvider"])
        found = session.run(None, {name: value.cpu().numpy() for name, value in fed.items()})
    except Exception:  # it has no base of its own for what a wrong graph can raise
        return False
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    expected = [value.cpu() for value in graph(**fed)]
    if not all(value.isfinite().all() for value in expected):
        raise RecipeError("the network gives values that are NaN or infinite; export another one, or train it again")
    return all(
        ours.shape == tuple(theirs.shape)
        and bool((torch.from_numpy(ours) - theirs).abs().max() <= TOLERANCE * theirs.abs().max().clamp(min=1))
        for ours, theirs in zip(found, expected, strict=True)
    )


def _other(value: Tensor) -> Tensor:
    """Three images of 97 x 130 in the place of those of the export, or their label vectors."""
    return torch.rand(3, 3, 97, 130, device=value.device) if value.ndim == 4 else value[:1].expand(3, -1)


def _describe(path: Path, about: dict[str, str]) -> None:
    import onnx as files

    model = files.load(str(path))
    files.helper.set_model_props(model, about)
    files.save(model, str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter says about its own insides is for its developers, the graph at which it stopped among it."""
    log = logging.getLogger("torch.onnx")
    level, speak = log.level, getattr(torch._C, LOG)
    log.setLevel(logging.ERROR)
    setattr(torch._C, LOG, lambda *_: None)  # it prints even where it is switched off
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # `_agrees` looks instead
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", module=r"torch\.|onnxscript\.|onnx_ir\.|copyreg")
            yield
    finally:
        log.setLevel(level)
        setattr(torch._C, LOG, speak)


def voc(stage: Stage, dataset: Dataset, out: Path, *, tar: bool = False) -> Path:
    """Copy the masks of a split into the layout that VOC's evaluation server asks for; with `tar` also as results.tgz.

    Every mask is checked before the first is written. Gives the folder of the masks, or the archive. Raises DataError
    for a mask that is missing, of another size than its image, or has an index beyond 20 (255 among them).
    """
    if len(dataset.classes) + 1 > VOC_OUTPUTS:
        raise DataError(f"{len(dataset.classes)} classes; the server of VOC knows {VOC_OUTPUTS - 1}, name no more")
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
        raise DataError(f"{path}: index {mask.max()} is outside 0..{VOC_OUTPUTS - 1}, and the server takes no other")
