import copy
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor, nn

from baoseg import nets
from baoseg.core.errors import DataError, RecipeError
from baoseg.core.run_folder import StageFolder
from baoseg.core.types import ClassSet
from baoseg.data import Dataset, open_dataset
from baoseg.data.images import write_mask
from baoseg.methods import bao, heads_of, make, transcam
from baoseg.predict import export, maps
from baoseg.predict.labeler import Labeler
from baoseg.predict.segment import Inference, NetConfig, Segmenter
from baoseg.seeds import masks

CLASSES = ClassSet(("red", "green", "blue"))
SHAPES = ((1, 64, 64), (3, 97, 330))  # batch, height, width: whole cells, and sides that are padded
NET = nets.Config(backbone="timm:test_resnet", stride=16)


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """Exporters trace with sizes that are symbols, which annotations of int do not know."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    network = NetConfig(name="deeplab-largefov:timm:test_resnet", stride=16).build(3)
    return Segmenter(network, CLASSES, inference=Inference())


@pytest.fixture(scope="module")
def labeler() -> Labeler:
    network = nets.build(NET, 3, heads=heads_of(bao.Config()))
    assert network.activation_head is not None
    for head in (network.class_head, network.activation_head):
        nn.init.normal_(head.weight, std=5.0)  # maps that differ by more than the tolerance
    return Labeler(make(bao.Config(), network), CLASSES, maps=maps.Config(), masks=masks.Config())


@pytest.fixture(scope="module")
def segmenter_file(segmenter: Segmenter, unchecked: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "segmenter.onnx"
    export.onnx(segmenter, path)
    return path


@pytest.fixture(scope="module")
def labeler_file(labeler: Labeler, unchecked: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "labeler.onnx"
    export.onnx(labeler, path)
    return path


def pictures(shape: tuple[int, int, int]) -> Tensor:
    batch, height, width = shape
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def normalised(images: Tensor, network: nn.Module) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in vars(network.normalisation).values())
    return (images - mean) / std


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def close(actual: np.ndarray, expected: Tensor) -> bool:
    return actual.shape == tuple(expected.shape) and np.allclose(actual, expected.numpy(), rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_segmenter_gives_the_same_scores_under_onnxruntime(segmenter: Segmenter, segmenter_file: Path) -> None:
    runtime = session(segmenter_file)
    for shape in SHAPES:
        images = pictures(shape)
        (scores,) = runtime.run(["scores"], {"images": images.numpy()})
        logits = segmenter.network(normalised(images, segmenter.network))
        assert logits.std() > 0.1  # else all would be close
        cells = [16 * count for count in logits.shape[2:]]  # they cover the padded images
        enlarged = nn.functional.interpolate(logits, size=cells, mode="bilinear")
        assert close(scores, enlarged[..., : shape[1], : shape[2]])
    about = runtime.get_modelmeta().custom_metadata_map
    assert about["kind"] == "segmenter" and json.loads(about["classes"]) == list(CLASSES.names)


@torch.no_grad()
def test_a_labeler_gives_the_same_maps_under_onnxruntime(labeler: Labeler, labeler_file: Path) -> None:
    runtime = session(labeler_file)
    for shape in SHAPES:
        images = pictures(shape)
        labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])[: shape[0]]
        fed = {"images": images.numpy(), "labels": labels.numpy()}
        found, background, logits = runtime.run(["maps", "background", "logits"], fed)
        views = normalised(images, labeler.method.network)
        scores, expected = labeler.raw_maps(views, labels)
        assert close(found, scores * labels[:, :, None, None]) and (found[labels.numpy() == 0] == 0).all()
        assert expected is not None and min(expected.std(), scores.std()) > 0.05
        assert close(background, expected)
        assert close(logits, labeler.method.classify(views))
    assert runtime.get_modelmeta().custom_metadata_map["kind"] == "labeler"


@torch.no_grad()
def test_a_network_with_attention_gives_the_same_maps(unchecked: None, tmp_path: Path) -> None:
    network = nets.build(nets.Config(backbone="timm:test_vit"), 3, heads=heads_of(transcam.Config()))
    nn.init.normal_(network.class_head.weight, std=1.0)
    model = Labeler(make(transcam.Config(), network), CLASSES, maps=maps.Config(), masks=masks.Config())
    export.onnx(model, tmp_path / "vit.onnx")
    images, labels = pictures((3, 96, 200)), torch.eye(3)
    fed = {"images": images.numpy(), "labels": labels.numpy()}
    found, logits = session(tmp_path / "vit.onnx").run(["maps", "logits"], fed)
    views = normalised(images, network)
    scores = model.raw_maps(views, labels).scores * labels[:, :, None, None]
    assert scores.std() > 0.05 and close(found, scores)
    assert close(logits, model.method.classify(views))


def test_a_graph_that_fails_at_other_sizes_is_noticed_in_silence(
    segmenter: Segmenter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime prints an error of its own before it raises one; damaged files are none of its business either."""
    shape = onnx.numpy_helper.from_array(np.array([1, 4, 64, 64]), "shape")  # of one size alone
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("images", "scores")]
    node = onnx.helper.make_node("Reshape", ["images", "shape"], ["scores"])
    graph = onnx.helper.make_graph([node], "fixed", ends[:1], ends[1:], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", export.OPSET)], ir_version=8)
    onnx.save(model, tmp_path / "fixed.onnx")
    (tmp_path / "damaged.onnx").write_bytes((tmp_path / "fixed.onnx").read_bytes()[:-20])
    capfd.readouterr()
    given = {"images": torch.rand(1, 3, 64, 64)}
    for name in ("fixed", "damaged", "absent"):
        assert not export._agrees(tmp_path / f"{name}.onnx", export.SegmenterGraph(segmenter.network), given)
    assert capfd.readouterr() == ("", "")


class Pooled(torch.nn.Module):
    """Pools to a grid that tracing cannot write for every size."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 6)


def test_what_cannot_be_traced_is_noticed_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """PyTorch prints the whole graph at which it stops."""
    given = {"images": torch.rand(1, 3, 64, 64)}
    with export._quiet():
        assert not export._traced(Pooled(), given, ["scores"], tmp_path / "x.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_network_that_gives_no_numbers_is_not_written(segmenter: Segmenter, unchecked: None, tmp_path: Path) -> None:
    broken = copy.deepcopy(segmenter)
    broken.network.head.cls_conv.bias.data[1] = float("nan")
    with pytest.raises(RecipeError, match="the network gives values that are NaN or infinite"):
        export.onnx(broken, tmp_path / "x.onnx")
    assert not any(tmp_path.iterdir())


def test_a_file_that_says_something_else_is_not_written(
    segmenter: Segmenter, unchecked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_captured", lambda graph, given, sizes, outputs, path: None)
    assert not export._agrees(tmp_path / "none.onnx", export.SegmenterGraph(segmenter.network), {})
    monkeypatch.setattr(export, "_agrees", lambda path, graph, given: False)
    with pytest.raises(RecipeError, match=r"other results in ONNX than in PyTorch"):
        export.onnx(segmenter, tmp_path / "x.onnx")
    assert not any(tmp_path.iterdir())


def test_without_the_extra_a_line_says_what_to_install(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "NEEDED", ("json", "no_such_module"))
    with pytest.raises(RecipeError, match=r"export needs no_such_module; run pip install 'baoseg\[onnx\]'"):
        export.onnx(segmenter, tmp_path / "x.onnx")
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- voc


@pytest.fixture
def scenes() -> Dataset:
    return open_dataset(tiny.RECIPE.data, "eval")


@pytest.fixture
def stage(scenes: Dataset, tmp_path: Path) -> StageFolder:
    made = StageFolder(tmp_path / "run" / "segment")
    for index, name in enumerate(scenes.names):
        write_mask(made.mask(scenes.split, name), torch.full((64, 64), index, dtype=torch.uint8))
    return made


def test_the_server_gets_every_mask_in_its_layout(stage: StageFolder, scenes: Dataset, tmp_path: Path) -> None:
    archive = export.voc(stage, scenes, tmp_path / "out", tar=True)
    expected = [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in scenes.names]
    with tarfile.open(archive) as file:
        assert file.getnames() == expected
    for index, path in enumerate(expected):
        with Image.open(tmp_path / "out" / path) as picture:
            assert picture.mode == "P" and picture.size == (64, 64) and picture.getextrema() == (index, index)
    assert export.voc(stage, scenes, tmp_path / "plain") == (tmp_path / "plain" / expected[0]).parent
    assert not (tmp_path / "plain" / "results.tgz").exists()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "no such mask; make the masks of this split first"),
        (torch.zeros(64, 63, dtype=torch.uint8), "63 x 64 pixels, its image 64 x 64"),
        (torch.full((64, 64), 21, dtype=torch.uint8), r"index 21 is outside 0\.\.20"),
        (torch.full((64, 64), 255, dtype=torch.uint8), r"index 255 is outside 0\.\.20"),
    ],
)
def test_a_mask_that_the_server_would_refuse_is_named(
    mask: Tensor | None, message: str, stage: StageFolder, scenes: Dataset, tmp_path: Path
) -> None:
    path = stage.mask(scenes.split, scenes.names[3])
    path.unlink()
    if mask is not None:
        write_mask(path, mask)
    with pytest.raises(DataError, match=rf"{scenes.names[3]}\.png: {message}"):
        export.voc(stage, scenes, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # all are checked before the first is written
