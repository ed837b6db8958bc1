"""BAO on VOC as in its paper and as in its released code."""

from dataclasses import replace

from baoseg import nets
from baoseg.data import Config as DataConfig
from baoseg.data import transforms
from baoseg.methods import bao, transcam
from baoseg.predict import segment
from baoseg.predict.maps import Config as MapsConfig
from baoseg.recipes.schema import Recipe, Refinement, Segmentation, Stage
from baoseg.refine import crf
from baoseg.seeds.normalise import Scaling
from baoseg.training import train

CONFORMER_WEIGHTS = "weights/conformer-small.safetensors"  # of ImageNet; see docs/papers.md


RESNET38_WEIGHTS = "weights/resnet38-imagenet.safetensors"


def large_fov(masks: str, *, epochs: int = 19, resize_long: tuple[int, int] = (250, 750)) -> Segmentation:
    """DeepLab-LargeFOV on ResNet-38, with the settings of TransCAM's released code: 20,000 steps are 19 epochs of VOC.

    Images are scaled by 0.5 to 1.5 there; `resize_long` says so for images that are 500 pixels long. Deviations:
    brightness and saturation change by factors instead of sums of up to 10 in 255; biases have the rate and the weight
    decay of their layer, there twice the rate and none; the CRF takes 10 steps, there 1.
    """
    return Segmentation(
        masks=masks,
        net=segment.NetConfig(name="deeplab-largefov:resnet38", weights=RESNET38_WEIGHTS),
        schedule=train.sgd(epochs=epochs, batch_size=10, lr=1e-3, weight_decay=5e-4),
        augment=transforms.Config(
            resize_long=resize_long, crop=448, brightness=0.04, contrast=0.0, saturation=0.04, hue=0.056
        ),
        inference=segment.Inference(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), crf=True),
    )


RESNET38_VOC_WEIGHTS = "weights/resnet38-voc.safetensors"  # PSA's classifier, learnt from VOC's image-level labels


# MCTformer draws its probabilities with a CRF of its own
MCTFORMER_CRF = crf.Config(
    gaussian_sxy=4.0, gaussian_compat=3.0, bilateral_sxy=83.0, bilateral_srgb=5.0, bilateral_compat=3.0
)


def mctformer(masks: str, *, weights: str, epochs: int = 30, resize_long: tuple[int, int] = (350, 650)) -> Segmentation:
    """MCTformer's segmentation network, two dilated convolutions on ResNet-38, by which BAO's authors report theirs.

    Images are scaled by 0.7 to 1.3 there; `resize_long` says so for images that are 500 pixels long. The momentum
    is the weight decay, which is given in its place; the rates were chosen for that and are kept with it. Deviations:
    the scale is drawn for each image instead of each batch, padding has no label instead of the background's, the
    first layer learns, images are rescaled by cubic instead of linear interpolation, and probabilities are enlarged
    instead of logits.
    """
    return Segmentation(
        masks=masks,
        net=segment.NetConfig(name="mctformer:resnet38", weights=weights, freeze_batch_norm=True),
        schedule=train.sgd(epochs=epochs, batch_size=4, lr=7e-4, momentum=1e-5, weight_decay=1e-5),
        augment=replace(transforms.SAME_COLOURS, resize_long=resize_long, crop=321),
        inference=segment.Inference(
            scales=(0.5, 0.75, 1.0, 1.25, 1.5),
            flip=False,
            reduce=segment.Reduce.MAX,
            crf=True,
            crf_settings=MCTFORMER_CRF,
        ),
    )


def bao_voc() -> Recipe:
    """BAO on VOC 2012: Conformer-S, TransCAM for 22 epochs (noise reduction sec. 4.2), then BAO for 10.

    The paper starts BAO from trained TransCAM weights; give them (`--weights`, `--only bao`) or let the run train them.
    Masks are refined by a dense CRF alone (table 1). The segmentation network is MCTformer's, as the released code says
    (74.1 on val and 74.6 on test in the paper).
    """
    return Recipe(
        name="bao-voc",
        data=DataConfig(path="VOC2012", train_split="train_aug", eval_split="train"),
        net=nets.Config(backbone="conformer_small", weights=CONFORMER_WEIGHTS),
        stages=(
            Stage(method=transcam.Config(), schedule=train.Config(epochs=22, batch_size=8)),
            Stage(method=bao.Config(), start="transcam", schedule=train.Config(epochs=10, batch_size=8)),
        ),
        refinements=(Refinement(of="bao", by=crf.LABELS),),
        segmentations=(mctformer("bao+crf", weights=RESNET38_VOC_WEIGHTS),),
    )


BAO_LABELS = 91  # that the CRF of the released code counts, a default that suits COCO and is used on VOC as well


def bao_voc_reference() -> Recipe:
    """`bao-voc` with the behaviour of the released code wherever ours differs on purpose."""
    recipe = bao_voc()
    (classifier, own), (segmentation,) = recipe.stages, recipe.segmentations
    reference = bao.Config(
        momentum_restarts=True, target_trains=True, scaling=Scaling.PEAK, background=bao.Background.RELEASED
    )
    return Recipe(
        name="bao-voc-reference",
        data=recipe.data,
        net=replace(recipe.net, activation_start=nets.ActivationStart.RELEASED),
        augment=transforms.Config(mark_padding=False),
        stages=(classifier, replace(own, method=reference)),
        refinements=(Refinement(of="bao", by=replace(crf.LABELS, n_labels=BAO_LABELS)),),
        segmentations=(replace(segmentation, net=replace(segmentation.net, alignment=segment.Alignment.STRETCHED)),),
        maps=MapsConfig(scaling=Scaling.RELEASED, stride=1),
    )
