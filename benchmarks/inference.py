"""Maps of one image at 256, 512 and 768 squares plus flips: ours beside the published way, and ours in bfloat16.

    python benchmarks/inference.py [--backbone timm:vit_small_patch14_dinov2.lvd142m] [--json FILE]

All ways run in this one process on the same weights, which nobody trained; the numbers of the first two are checked to
be equal. What bfloat16 does to maps and masks of a trained network, `precision.py` tells.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import published
import torch
import tyro
from figures import compare, largest_relative_difference, publish_results, tflop, with_about, with_work
from torch import Tensor

from baoseg.methods.bao import BAO, Background, Config
from baoseg.nets import Config as NetConfig
from baoseg.nets import Heads, build

CLASSES = 20
PRESENT = (4, 8)  # two classes, as VOC images have on average one and a half
WAYS = ("ours", "published", "ours in bf16")
LARGEST_DIFFERENCE = 1e-3  # relative, in single precision

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Options:
    backbone: str = "conformer_small"
    sizes: tuple[int, ...] = (256, 512, 768)  # to the nearest multiple of the network's stride
    rounds: int = 2
    json: Path | None = None


def method(backbone: str, *, classes: int = CLASSES) -> BAO:
    network = build(NetConfig(backbone=backbone), classes, heads=Heads(backgrounds=1))
    return BAO(network, Config(background=Background.RELEASED)).eval()


def labels(device: torch.device) -> Tensor:
    vector = torch.zeros(1, CLASSES, device=device)
    vector[0, [index - 1 for index in PRESENT]] = 1
    return vector


def test_images(sizes: tuple[int, ...], stride: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [round(size / stride) * stride for size in sizes]
    return [torch.randn(1, 3, side, side, generator=generator) for side in sides]


@torch.no_grad()
def ours(model: BAO, images: list[Tensor]) -> list[Pair]:
    classes = torch.tensor(PRESENT, device=images[0].device)
    results = []
    for image in images:
        views = torch.cat([image, image.flip(-1)])
        maps = model.maps(views, labels(image.device).expand(2, -1), classes=classes)
        assert maps.background is not None
        results.append((maps.scores, maps.background))
    return results


def ours_in_bf16(model: BAO, images: list[Tensor]) -> list[Pair]:
    with torch.autocast(images[0].device.type, torch.bfloat16):
        return ours(model, images)


@torch.no_grad()
def the_published_way(model: BAO, images: list[Tensor]) -> list[Pair]:
    chosen = [index - 1 for index in PRESENT]
    results = []
    for image in images:
        parts = [published.maps(model.network, view, labels(view.device)) for view in (image, image.flip(-1))]
        results.append((torch.cat([part[0][:, chosen] for part in parts]), torch.cat([part[1] for part in parts])))
    return results


RUNS = {"ours": ours, "published": the_published_way, "ours in bf16": ours_in_bf16}


def prepare(way: str, options: Options) -> Callable[[], list[Pair]]:
    model = method(options.backbone)
    images = test_images(options.sizes, model.network.backbone.stride)
    return lambda: RUNS[way](model, images)


def difference(found: list[Pair], expected: list[Pair]) -> float:
    pairs = zip(sum(found, ()), sum(expected, ()), strict=True)
    return max(largest_relative_difference(mine, theirs) for mine, theirs in pairs)


def main(options: Options) -> None:
    result, outcomes = compare(prepare, options, rounds=options.rounds, ways=WAYS)
    if (found := difference(outcomes["ours"], outcomes["published"])) > LARGEST_DIFFERENCE:
        raise SystemExit(f"the two ways differ by {found:g}")
    result = with_work(result, tflop=tflop(prepare("ours", options)))
    result = with_about(result, largest_relative_difference=found)
    sizes = " + ".join(str(size) for size in options.sizes)
    publish_results({f"maps of an image, {options.backbone}, {sizes} with flips": result}, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))
