"""Named settings of whole runs. Numbers that a paper gives are cited; all others are ours, with the reason."""

from dataclasses import replace
from pathlib import Path

from baoseg import nets
from baoseg.data import Config as DataConfig
from baoseg.data import transforms
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.methods import bao, cam, transcam
from baoseg.nets import embedded
from baoseg.predict import segment
from baoseg.predict.maps import Config as MapsConfig
from baoseg.recipes.schema import Recipe, Refinement, Segmentation, Stage
from baoseg.refine import crf
from baoseg.training import train

PLUS = "bao-plus"  # the stage with BAO+ (`bao.PLUS`)


def demo() -> Recipe:
    """A few minutes on two CPU cores, no data and no weights needed: generated scenes, a tiny network from scratch."""
    return Recipe(
        name="demo",
        data=DataConfig(path="synthetic", synthetic=SyntheticConfig(size=96)),
        # The start was chosen on the generated scenes, whose masks are nobody's labels.
        net=nets.Config(backbone="conformer_nano", activation_start=nets.ActivationStart.UNGATED),
        # The scenes differ in colour as they are; jitter would cost a third of the time.
        augment=replace(transforms.SAME_COLOURS, resize_long=(80, 120), crop=96),
        stages=(
            Stage(
                method=transcam.Config(),
                schedule=train.Config(epochs=10, batch_size=16, lr=1e-3, decay=train.Decay.COSINE),
            ),
            Stage(
                method=bao.Config(momentum=0.95),
                start="transcam",
                schedule=train.Config(epochs=4, batch_size=16, lr=1e-4, head_lr=1e-3, decay=train.Decay.COSINE),
            ),
        ),
        maps=MapsConfig(sizes=(96, 144)),
        segmentations=(
            Segmentation(
                masks="bao",
                net=segment.NetConfig(name="smp:unet/resnet18"),
                schedule=train.Config(epochs=6, batch_size=16, lr=1e-3, decay=train.Decay.COSINE),
                inference=segment.Inference(scales=(1.0,)),
            ),
        ),
    )


def msrc14(data: str | Path = "msrc14", weights: str | Path | None = None) -> Recipe:
    """396 photographs, 14 classes, MobileNetV2: a quarter of an hour on two CPU cores.

    No setting is fitted to masks. Batch norm keeps its ImageNet statistics (batches are small). The images are
    320 pixels long; they are enlarged so that training and inference have maps of about as many cells as the papers
    (16 to 32 on a side), and keep their shape at inference as in training. BAO runs for fewer steps than on VOC, so its
    average is shorter: the window 1 / (1 - momentum) stays a sixth of the averaged steps, as in the paper (2,000 of
    11,900). BAO's rate is the paper's.
    """
    return Recipe(
        name="msrc14",
        data=DataConfig(path=str(data)),
        net=nets.Config(
            backbone="timm:mobilenetv2_100",
            weights=None if weights is None else str(weights),
            options=(("pad_type", "same"),),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            freeze_batch_norm=True,
        ),
        augment=transforms.Config(resize_long=(320, 512), crop=320),
        stages=(
            Stage(method=cam.Config(), schedule=train.Config(epochs=6, batch_size=8, lr=5e-5, head_lr=5e-4)),
            Stage(
                method=bao.Config(momentum=0.95),
                start="cam",
                schedule=train.Config(epochs=4, batch_size=8, lr=5e-5, head_lr=5e-4),
            ),
            Stage(
                method=bao.PLUS,
                start="cam",
                schedule=train.Config(epochs=4, batch_size=8, lr=5e-5, head_lr=5e-4),
                called=PLUS,
            ),
        ),
        maps=MapsConfig(sizes=(256, 384, 512), keep_aspect=True),
        refinements=(Refinement(of="bao", by=crf.LABELS), Refinement(of=PLUS, by=crf.LABELS)),
        segmentations=(
            Segmentation(
                masks=f"{PLUS}+crf",
                net=segment.NetConfig(
                    name="smp:fpn/tu-mobilenetv2_100",
                    weights=None if weights is None else str(weights),
                    options=(("pad_type", "same"),),
                    mean=(0.5, 0.5, 0.5),
                    std=(0.5, 0.5, 0.5),
                    freeze_batch_norm=True,
                ),
                schedule=train.Config(epochs=12, batch_size=8, lr=1e-4, head_lr=1e-3, decay=train.Decay.POLY),
                inference=segment.Inference(scales=(1.0, 1.25, 1.5)),  # as enlarged as in training
            ),
        ),
    )


def embedded_net() -> nets.Config:
    """EfficientNet-Lite2 at stride 16 with the ImageNet weights that come with the installation.

    Batch norm keeps its ImageNet statistics (batches are small).
    """
    return nets.Config(backbone="timm:tf_efficientnet_lite2", weights=embedded.DEFAULT, freeze_batch_norm=True)


def _on_embedded(name: str, data: DataConfig, *, classify: int, activate: int, segment_epochs: int) -> Recipe:
    """CAM, BAO+, CRF and an FPN on the embedded network, with so many epochs; all else is that of `msrc14`.

    The segmentation network is called `network`, so that `bao segment RUN --net ...` can add another one under its own
    name.
    """
    base = msrc14()
    first, _, plus = base.stages
    (segmentation,) = base.segmentations
    net = embedded_net()
    return replace(
        base,
        name=name,
        data=data,
        net=net,
        stages=(
            replace(first, schedule=replace(first.schedule, epochs=classify)),
            replace(plus, schedule=replace(plus.schedule, epochs=activate)),
        ),
        refinements=(Refinement(of=PLUS, by=crf.LABELS),),
        segmentations=(
            replace(
                segmentation,
                called="network",
                net=segment.NetConfig(
                    name="smp:fpn/tu-tf_efficientnet_lite2", weights=net.weights, freeze_batch_norm=True
                ),
                schedule=replace(segmentation.schedule, epochs=segment_epochs),
            ),
        ),
    )


def photos() -> Recipe:
    """For one's own photographs and classes, on a network whose weights come with the installation: no hub is needed.

    Few epochs: with few images and classes a classifier soon needs no more than the surroundings, and its maps cover
    them. On 60 photographs of aeroplanes, birds and cats the classification loss is 0.22 after 3 epochs, with maps
    around the things, and 0.001 after 10, with maps all over the sky.
    """
    return _on_embedded("photos", DataConfig(path="."), classify=4, activate=3, segment_epochs=16)


def bao_plus(data: str | Path = "VOC2012") -> Recipe:
    """BAO+ on VOC, from the weights that come with the installation, with the settings of `voc-mini`.

    It was not run on all of VOC.
    """
    config = DataConfig(path=str(data), train_split="train_aug", eval_split="val")
    return _on_embedded("bao-plus", config, classify=6, activate=4, segment_epochs=12)


def voc_mini(data: str | Path = "voc-mini") -> Recipe:
    """About 1,000 photographs of VOC: trained on `train_extra` by image-level labels, evaluated on `val`.

    BAO as in the paper beside BAO+. Settings are those of `msrc14`; the momentum of BAO's target is proportional to its
    training (`teacher.proportional`).
    """
    config = DataConfig(path=str(data), train_split="train_extra", eval_split="val")
    recipe = _on_embedded("voc-mini", config, classify=6, activate=4, segment_epochs=12)
    first, plus = recipe.stages
    paper = replace(plus, method=bao.Config(momentum=None), called=None)
    return replace(
        recipe,
        stages=(first, paper, plus),
        refinements=(Refinement(of="bao", by=crf.LABELS), *recipe.refinements),
    )
