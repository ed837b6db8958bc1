"""Recipes for boxes. Numbers of a paper are cited; all others say where they are from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from baoseg import nets
from baoseg.data import Config as DataConfig
from baoseg.data import transforms
from baoseg.data.boxed import Layout
from baoseg.methods import bas, cam
from baoseg.predict.boxes import BoxConfig
from baoseg.predict.maps import Config as MapsConfig
from baoseg.recipes.schema import Recipe, Stage, Task
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


def for_boxes(
    name: str,
    *,
    data: DataConfig,
    net: nets.Config,
    stages: Sequence[Stage],
    side: int = 256,
    crop: int = 224,
    ten_crops: bool = True,
    seed: int = 0,
) -> Recipe:
    """A recipe for boxes as the field sees images (BAS sec. 4.1): squashed to a square; in training a random crop of
    it, mirrored every second time, with its colours as they are.
    """
    return Recipe(
        name=name,
        task=Task.BOXES,
        data=data,
        net=net,
        stages=tuple(stages),
        augment=replace(transforms.SAME_COLOURS, resize_long=(side, side), crop=crop),
        ten_crops=ten_crops,
        maps=MapsConfig(sizes=(side,)),
        seed=seed,
    )


def published(layout: Layout, backbone: str) -> Recipe:
    """CAM and BAS as in table 1, with the weights that timm fetches.

    Deviations: the rate decays as a polynomial, where the released code divides it by ten once or twice, and the
    momentum is plain, not Nesterov's; the class head is CAM's, w . f, where the released one has two more convolutions
    before it. With our linear head the raw ReLU, which is kept as released, is expected to leave L_bas at 0 after a
    while, as it did for `cub20`; these recipes are not measured. M has 28 x 28 cells as there; the class maps have as
    many on MobileNetV1 and ResNet-50, 14 x 14 on InceptionV3, which is padded (`timm_cnn.pad_inception`), and 7 x
    7 on VGG16, whose last pooling timm keeps, where the paper has 14 x 14.
    """
    chosen, network = PUBLISHED[layout, backbone], BACKBONES[backbone]
    schedule = train.sgd(epochs=EPOCHS[layout], batch_size=chosen.batch_size, lr=0.001)
    method = bas.Config(
        alpha=chosen.alpha,
        beta=chosen.beta,
        generator_after=network.after,
        generator_bias=True,
        guide_classifier=True,
    )
    return for_boxes(
        f"bas-{layout}-{backbone}",
        data=_data(str(layout), layout),
        net=nets.Config(backbone=f"timm:{network.model}", stride=network.stride, pretrained=True),
        stages=(
            _cam(schedule),
            Stage(
                method=method,
                schedule=schedule,
                box=BoxConfig(threshold=chosen.threshold, top_k=chosen.top_k),
            ),
        ),
    )


def _data(path: str, layout: Layout) -> DataConfig:
    eval_split = "val" if layout is Layout.ILSVRC else "test"
    return DataConfig(path=path, layout=layout, train_split="train", eval_split=eval_split)


def _cam(schedule: train.Config) -> Stage:
    return Stage(method=cam.Config(), schedule=schedule, box=BoxConfig(threshold=CAM_THRESHOLD))


def cub20() -> Recipe:
    """CAM and BAS on the first 20 classes of CUB-200-2011, MobileNetV2: half an hour on two CPU cores.

    Trains on the 600 training images and their labels alone. No setting is fitted to boxes by us: alpha, beta, lambda
    and the threshold are those that are published for MobileNetV1, k is the same share of the classes (80 of 200), the
    stride gives M the 28 x 28 cells that it has there. The authors of BAS chose alpha, beta, k and the threshold on the
    test images of CUB-200-2011, of which ours are a part. The generator has no bias, as measured. Batch norm keeps its
    ImageNet statistics (batches are small). Training losses chose the rest:

    - AdamW, as SGD at twice the released rates unlearns the pretrained features (L_cls rises to that of chance).
    - The ReLU of the conference version. Our classifier is one linear layer, and the class logit of what is left of an
      image is soon below 0 for all images: without the ReLU on the class maps L_bas is then 0 and teaches nothing.
    - BAS starts from CAM: with that ReLU and random weights some classes are 0 everywhere and learn nothing (L_cls is
      still above 1 after four epochs, where it is below 0.1 otherwise).
    """
    schedule = train.Config(epochs=6, batch_size=16, lr=1e-4, head_lr=1e-3, decay=train.Decay.POLY)
    method = bas.Config(alpha=0.5, beta=1.9, guide_classifier=True, relu=bas.Relu.CONFERENCE)
    return for_boxes(
        "cub20",
        data=_data("CUB_200_2011", Layout.CUB),
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
            _cam(schedule),
            Stage(method=method, schedule=schedule, start="cam", box=BoxConfig(threshold=0.1, top_k=8)),
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    **{f"bas-{layout}-{backbone}": partial(published, layout, backbone) for layout, backbone in PUBLISHED},
    "cub20": cub20,
}
