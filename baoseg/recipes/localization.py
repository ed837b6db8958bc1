"""Named settings of whole localization runs. Numbers of a paper are cited; all others say where they are from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from baoseg import nets
from baoseg.core.errors import RecipeError
from baoseg.data.wsol import Config as DataConfig
from baoseg.data.wsol import Layout
from baoseg.methods import bas, cam
from baoseg.recipes.box_schema import Config, Localizer
from baoseg.training import train

CAM_THRESHOLD = 0.2  # of the map's maximum (Zhou et al., CVPR 2016, sec. 3.2)
MOBILENETV2_WEIGHTS = "weights/mobilenetv2_100_imagenet.safetensors"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    model: str  # of timm
    after: int  # the stage behind which the generator sits (table 3)
    stride: int


@dataclass(frozen=True, kw_only=True)
class Published:
    """Of one backbone on one data set."""

    alpha: float
    beta: float
    top_k: int
    threshold: float
    batch_size: int


BACKBONES = {
    "vgg16": Backbone(model="vgg16", after=2, stride=32),
    "mobilenetv1": Backbone(model="mobilenetv1_100", after=3, stride=8),
    "resnet50": Backbone(model="resnet50", after=3, stride=8),
    "inceptionv3": Backbone(model="inception_v3", after=3, stride=16),
}
EPOCHS = {Layout.CUB: 120, Layout.ILSVRC: 9, Layout.OPENIMAGES: 50}  # sec. 4.1; OpenImages: the released code
# Of the released code: the paper gives k for two of them (fig. 10) and alpha, beta for ResNet-50 (table 7).
PUBLISHED = {
    (Layout.CUB, "vgg16"): Published(alpha=0.0, beta=0.9, top_k=80, threshold=0.1, batch_size=32),
    (Layout.CUB, "mobilenetv1"): Published(alpha=0.5, beta=1.9, top_k=80, threshold=0.1, batch_size=32),
    (Layout.CUB, "resnet50"): Published(alpha=0.5, beta=1.5, top_k=200, threshold=0.1, batch_size=32),
    (Layout.CUB, "inceptionv3"): Published(alpha=0.5, beta=1.0, top_k=200, threshold=0.1, batch_size=32),
    (Layout.ILSVRC, "vgg16"): Published(alpha=0.05, beta=1.0, top_k=1, threshold=0.45, batch_size=256),
    (Layout.ILSVRC, "mobilenetv1"): Published(alpha=0.5, beta=1.5, top_k=1, threshold=0.5, batch_size=128),
    (Layout.ILSVRC, "resnet50"): Published(alpha=1.0, beta=2.0, top_k=1, threshold=0.25, batch_size=128),
    (Layout.ILSVRC, "inceptionv3"): Published(alpha=1.0, beta=2.5, top_k=1, threshold=0.25, batch_size=128),
    # measured on masks alone, so it has no threshold: that of ILSVRC
    (Layout.OPENIMAGES, "resnet50"): Published(alpha=0.5, beta=1.5, top_k=1, threshold=0.25, batch_size=64),
}


def published(layout: Layout, backbone: str) -> Config:
    """CAM and BAS as in table 1, with the weights that timm fetches.

    Deviations: the rate decays as a polynomial, where the released code divides it by ten once or twice, and the
    momentum is plain, not Nesterov's; the class head is CAM's, w . f, where the released one has two more convolutions
    before it. With our linear head the raw ReLU, which is kept as released, is expected to leave L_bas at 0 after a
    while, as it did for `cub20`; these recipes are not measured. M has 28 x 28 cells as there; the class maps have as
    many on MobileNetV1 and ResNet-50, 14 x 14 on InceptionV3, which is padded (`timm_cnn.pad_inception`), and 7 x
    7 on VGG16, whose last pooling timm keeps, where the paper has 14 x 14.
    """
    chosen, network = PUBLISHED[layout, backbone], BACKBONES[backbone]
    schedule = train.Config(
        epochs=EPOCHS[layout],
        batch_size=chosen.batch_size,
        lr=0.001,
        head_lr=0.01,
        optimizer=train.Optimizer.SGD,
        decay=train.Decay.POLY,
    )
    method = bas.Config(
        alpha=chosen.alpha,
        beta=chosen.beta,
        generator_after=network.after,
        generator_bias=True,
        guide_classifier=True,
    )
    return Config(
        name=f"bas-{layout}-{backbone}",
        data=DataConfig(path=str(layout), layout=layout, eval_split="val" if layout is Layout.ILSVRC else "test"),
        net=nets.Config(backbone=f"timm:{network.model}", stride=network.stride, pretrained=True),
        stages=(
            Localizer(method=cam.Config(), schedule=schedule, threshold=CAM_THRESHOLD),
            Localizer(method=method, schedule=schedule, threshold=chosen.threshold, top_k=chosen.top_k),
        ),
    )


def cub20() -> Config:
    """CAM and BAS on the first 20 classes of CUB-200-2011, MobileNetV2: half an hour on two CPU cores.

    Trains on the 600 training images and their labels alone. No setting is fitted to boxes by us: alpha, beta, lambda
    and the threshold are those that are published for MobileNetV1, k is the same share of the classes (80 of 200), the
    stride gives M the 28 x 28 cells that it has there. The authors of BAS chose alpha, beta, k and the threshold on the
    test images of CUB-200-2011, of which ours are a part. The generator has no bias, as measured. Batch norm keeps its
    ImageNet statistics (batches are small). Training losses chose the rest:

    - AdamW, as SGD at twice the released rates unlearns the pretrained features (L_cls rises to that of chance).
    - The ReLU of the conference version. Our classifier is one linear layer, and the class logit of what is left of a
      image is soon below 0 for all images: without the ReLU on the class maps L_bas is then 0 and teaches nothing.
    - BAS starts from CAM: with that ReLU and random weights some classes are 0 everywhere and learn nothing (L_cls is
      still above 1 after four epochs, where it is below 0.1 otherwise).
    """
    schedule = train.Config(epochs=6, batch_size=16, lr=1e-4, head_lr=1e-3, decay=train.Decay.POLY)
    method = bas.Config(alpha=0.5, beta=1.9, guide_classifier=True, relu=bas.Relu.CONFERENCE)
    return Config(
        name="cub20",
        data=DataConfig(path="CUB_200_2011", layout=Layout.CUB),
        net=nets.Config(
            backbone="timm:mobilenetv2_100",
            weights=MOBILENETV2_WEIGHTS,
            options=(("pad_type", "same"),),
            stride=8,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            freeze_batch_norm=True,
        ),
        stages=(
            Localizer(method=cam.Config(), schedule=schedule, threshold=CAM_THRESHOLD),
            Localizer(method=method, schedule=schedule, threshold=0.1, top_k=8, start="cam"),
        ),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    **{f"bas-{layout}-{backbone}": partial(published, layout, backbone) for layout, backbone in PUBLISHED},
    "cub20": cub20,
}


def named(name: str) -> Config:
    """Raises RecipeError for an unknown name."""
    if name not in RECIPES:
        raise RecipeError(f"unknown recipe for localization {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def only(config: Config, methods: Sequence[str]) -> Config:
    """The recipe with these methods alone, and those that they start from. Raises RecipeError for one it lacks."""
    there = [stage.name for stage in config.stages]
    if unknown := [name for name in methods if name not in there]:
        raise RecipeError(f"{config.name}: has no method {unknown[0]!r}; it has {', '.join(there)}")
    wanted = {*methods, *(stage.start for stage in config.stages if stage.name in methods)}
    return replace(config, stages=tuple(stage for stage in config.stages if stage.name in wanted))


def override(
    config: Config,
    *,
    data: str | None = None,
    layout: str | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    weights: Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
) -> Config:
    """The recipe with a few things changed; None leaves them. `epochs`, `batch_size` and `lr` are those of all stages.

    The rate of the heads keeps its ratio to `lr`.
    """

    net = config.net if weights is None else replace(config.net, weights=str(weights), pretrained=False)
    of_layout = None if layout is None else Layout(layout)
    stages = tuple(
        replace(stage, schedule=train.rescheduled(stage.schedule, epochs=epochs, batch_size=batch_size, lr=lr))
        for stage in config.stages
    )
    at = _replace(config.data, path=data, layout=of_layout, train_split=train_split, eval_split=eval_split)
    changed: Config = _replace(config, data=at, net=net, stages=stages, seed=seed)
    return changed


def _replace(config: Any, **changes: Any) -> Any:
    return replace(config, **{name: value for name, value in changes.items() if value is not None})
