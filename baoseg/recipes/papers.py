"""Recipes of the papers, and where each of their numbers comes from.

`paper_settings.json` holds what the papers and their released code print, each number with its source; what it does not
name is ours. `bao_voc` and `bao_voc_reference` have a file of their own.

Where a paper's text and its code differ, the text counts. One thing is ours everywhere: the SGD in the codes of PSA,
IRN, AMN and BAS (and of MCTformer's segmentation network) takes its weight decay for its momentum, so it has next to
none. Ours has 0.9, and with it a rate has the effect of one ten times as high; rates that were chosen for that code are
therefore a tenth of it here. Two exceptions: BAS's own stage has the rate and the momentum that its paper prints, 0.005
and 0.9, of which its code has only the rate; `bas-voc-reference` and `bas-coco-reference` are those recipes with the
momenta and rates of the code throughout. MCTformer's network has its code's momentum and rate everywhere.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from baoseg import nets
from baoseg.data import Config as DataConfig
from baoseg.data import transforms
from baoseg.methods import Settings, amn, bas, bnr, cam, transcam
from baoseg.predict import segment
from baoseg.predict.maps import Config as MapsConfig
from baoseg.recipes.bao_voc import CONFORMER_WEIGHTS, RESNET38_WEIGHTS, bao_voc, large_fov, mctformer
from baoseg.recipes.paths import paths as settings_of
from baoseg.recipes.schema import Fusion, Recipe, Refinement, Segmentation, Stage
from baoseg.refine import crf, irn, psa
from baoseg.seeds.masks import Config as MasksConfig
from baoseg.training import train

VOC = DataConfig(path="VOC2012", train_split="train_aug", eval_split="train")
COCO = DataConfig(path="COCO2014", train_split="train", eval_split="train")
# Images are mostly 500 pixels long in VOC and 640 in COCO. The codes of IRN and DeepLab scale them by 0.5 to 1.5.
VOC_SCALES, COCO_SCALES = (250, 750), (320, 960)
# Half of a VOC image of 500 x 375 pixels, the whole of it, one and a half, and twice that
IRN_MAPS = MapsConfig(sizes=(216, 432, 648, 864), keep_aspect=True)
VOC_LABELS = 21  # that a CRF of label images counts in TransCAM's code, however few are in an image
RESNET50 = nets.Config(backbone="timm:resnet50.tv_in1k", pretrained=True)  # torchvision's weights, as IRN has them
DEEPLAB_CRF = crf.Config(
    gaussian_sxy=1.0, gaussian_compat=3.0, bilateral_sxy=67.0, bilateral_srgb=3.0, bilateral_compat=4.0
)


def transcam_voc() -> Recipe:
    """TransCAM on VOC 2012: seeds of Conformer-S, PSA and a CRF, DeepLab-LargeFOV on ResNet-38."""
    return _on_conformer("transcam-voc", VOC, transcam.Config(), train.Config(epochs=22, batch_size=8))


def transcam_coco() -> Recipe:
    """TransCAM on COCO 2014, as the noise reduction paper trains it."""
    return _on_conformer("transcam-coco", COCO, transcam.Config(), train.Config(epochs=10, batch_size=16))


def bnr_voc() -> Recipe:
    """Noise reduction (BNR) on VOC 2012: TransCAM whose refined maps have to classify too."""
    return _on_conformer("bnr-voc", VOC, bnr.Config(), train.Config(epochs=22, batch_size=8))


def bnr_coco() -> Recipe:
    """Noise reduction (BNR) on COCO 2014."""
    return _on_conformer("bnr-coco", COCO, bnr.Config(), train.Config(epochs=10, batch_size=16))


def bao_coco() -> Recipe:
    """BAO on COCO 2014, with TransCAM's schedule on COCO for both of its stages.

    The text that we have gives no number for COCO but says that BAO is trained as TransCAM. The segmentation network is
    as for VOC but for its start, ImageNet's weights; ten epochs of it are more than twice as many steps as on VOC.
    """
    base = bao_voc()
    schedule = train.Config(epochs=10, batch_size=16)
    return replace(
        base,
        name="bao-coco",
        data=COCO,
        stages=tuple(replace(stage, schedule=schedule) for stage in base.stages),
        segmentations=(
            mctformer("bao+crf", weights=RESNET38_WEIGHTS, epochs=10, resize_long=(448, 832)),  # 0.7 to 1.3
        ),
    )


def amn_voc() -> Recipe:
    """AMN on VOC 2012: CAM on ResNet-50, AMN on its seeds, IRN, DeepLab v2 on ResNet-101.

    Beside what `methods.amn` names: both stages see images whose long side is 320 to 640; AMN's code scales those of
    its second stage by 0.5 to 1.5. Batch norms stay as they are; there their factors and offsets learn.
    """
    return Recipe(
        name="amn-voc",
        data=VOC,
        net=replace(RESNET50, freeze_batch_norm=True),
        augment=transforms.SAME_COLOURS,
        stages=(
            replace(_irn_classifier(), threshold=0.15),
            Stage(
                method=amn.Config(),
                schedule=train.Config(epochs=5, batch_size=16, lr=5e-6, head_lr=1e-4, weight_decay=1e-4),
                start="cam",
                labelled_by="cam",
            ),
        ),
        maps=IRN_MAPS,
        masks=MasksConfig(threshold=0.25),
        refinements=(_irn("amn", irn.Config(background=0.15, foreground=0.45, threshold=0.25, power=1.3), VOC_SCALES),),
        segmentations=(_deeplab_v2_on_voc("amn+irn"),),
    )


def bas_voc() -> Recipe:
    """BAS on VOC 2012: its seeds and CAM's added, IRN, DeepLab v2 on ResNet-101.

    This is "Ours + IRN" of its tables 9 and 11. CAM is trained on the images of BAS, not on those of IRN's code.
    Images keep their shape where the paper makes them squares of 512 pixels.
    """
    schedule = train.sgd(epochs=10, batch_size=16, lr=0.005, weight_decay=1e-4)
    return Recipe(
        name="bas-voc",
        data=VOC,
        net=RESNET50,
        augment=replace(transforms.SAME_COLOURS, resize_long=(512, 512), crop=448),
        stages=(_irn_classifier(), Stage(method=bas.Config(), schedule=schedule)),
        fusions=(Fusion(called="cam+bas", sources=("cam", "bas")),),
        maps=IRN_MAPS,
        masks=MasksConfig(threshold=0.3),
        refinements=(
            _irn("cam+bas", irn.Config(background=0.17, foreground=0.30, threshold=0.22, power=1.5), VOC_SCALES),
        ),
        segmentations=(_deeplab_v2_on_voc("cam+bas+irn"),),
    )


def bas_coco() -> Recipe:
    """BAS on COCO 2014: its seeds and CAM's added, IRN, DeepLab v2 on ResNet-101.

    The segmentation network starts from ImageNet: the weights that the paper names have learned from COCO's masks.
    """
    base = bas_voc()
    classify, suppress = base.stages
    (refinement,), (segmentation,) = base.refinements, base.segmentations
    return replace(
        base,
        name="bas-coco",
        data=COCO,
        stages=(
            classify,
            replace(
                suppress,
                method=bas.Config(alpha=0.5, beta=1.5),
                schedule=replace(suppress.schedule, batch_size=64),
            ),
        ),
        maps=replace(base.maps, sizes=(277, 554, 831, 1108)),  # as IRN_MAPS, of images of 640 x 480
        refinements=(replace(refinement, augment=replace(transforms.SAME_COLOURS, resize_long=COCO_SCALES)),),
        segmentations=(
            replace(
                segmentation,
                net=segment.NetConfig(name="deeplabv2:timm:resnet101.tv_in1k", pretrained=True, freeze_batch_norm=True),
                augment=replace(transforms.SAME_COLOURS, resize_long=COCO_SCALES, crop=321),
            ),
        ),
    )


def bas_voc_reference() -> Recipe:
    """`bas-voc` with the optimiser of the released code: no momentum but the weight decay, given in its place."""
    return _without_momentum(bas_voc(), "bas-voc-reference")


def bas_coco_reference() -> Recipe:
    """`bas-coco` with the optimiser of the released code: no momentum but the weight decay, given in its place."""
    return _without_momentum(bas_coco(), "bas-coco-reference")


def _without_momentum(recipe: Recipe, name: str) -> Recipe:
    """BAS and what it builds on. CAM's and IRN's rates were a tenth for the sake of the momentum, BAS's was not."""
    classify, suppress = recipe.stages
    (refinement,) = recipe.refinements

    def released(schedule: train.Config, *, lr: float, head_lr: float) -> train.Config:
        return replace(schedule, momentum=schedule.weight_decay, lr=lr, head_lr=head_lr)

    assert refinement.schedule is not None
    return replace(
        recipe,
        name=name,
        stages=(
            replace(classify, schedule=released(classify.schedule, lr=0.1, head_lr=1.0)),
            replace(suppress, schedule=released(suppress.schedule, lr=0.005, head_lr=0.05)),
        ),
        refinements=(replace(refinement, schedule=released(refinement.schedule, lr=0.1, head_lr=1.0)),),
    )


def _on_conformer(name: str, data: DataConfig, method: Settings, schedule: train.Config) -> Recipe:
    """What TransCAM and BNR share: the backbone, PSA and a CRF, the segmentation network (noise reduction sec. 4.2)."""
    n_labels = VOC_LABELS if data == VOC else None  # nothing is released for COCO
    stage = Stage(method=method, schedule=schedule)
    walked = _psa(stage.name, n_labels)
    drawn = Refinement(of=walked.name, by=replace(crf.LABELS, n_labels=n_labels))
    return Recipe(
        name=name,
        data=data,
        net=nets.Config(backbone="conformer_small", weights=CONFORMER_WEIGHTS),
        stages=(stage,),
        refinements=(walked, drawn),
        segmentations=((large_fov if data == VOC else _large_fov_on_coco)(drawn.name),),
    )


def _large_fov_on_coco(masks: str) -> Segmentation:
    """No source tells how long it is trained on COCO; ten epochs are four times as many steps as on VOC."""
    return large_fov(masks, epochs=10, resize_long=COCO_SCALES)


def _psa(of: str, n_labels: int | None) -> Refinement:
    """PSA on ResNet-38 with the fixed scores, the rates and the walk of TransCAM's released code.

    Its background is no power of the class maps but 0.25 and 0.60 in the labels, 0.42 in the walk. Deviation from it:
    images are 500 pixels long.
    """
    return Refinement(
        of=of,
        by=psa.Config(
            beta=14.0,
            steps=128,
            fixed_scores=True,
            low_score=0.25,
            high_score=0.60,
            walk_score=0.42,
            n_labels=n_labels,
        ),
        schedule=train.sgd(epochs=8, batch_size=8, lr=1e-3, weight_decay=5e-4),
        augment=transforms.Config(resize_long=(500, 500), crop=448),
        net=nets.Config(backbone=nets.RESNET38, weights=RESNET38_WEIGHTS),
    )


def _irn_classifier() -> Stage:
    """CAM as IRN's code trains it, which AMN and BAS build on."""
    return Stage(
        method=cam.Config(),
        schedule=train.sgd(epochs=5, batch_size=16, lr=0.01, weight_decay=1e-4),
    )


def _irn(of: str, by: irn.Config, resize_long: tuple[int, int]) -> Refinement:
    return Refinement(
        of=of,
        by=by,
        schedule=train.sgd(epochs=3, batch_size=32, lr=0.01, weight_decay=1e-4),
        augment=replace(transforms.SAME_COLOURS, resize_long=resize_long),
    )


def _deeplab_v2_on_voc(masks: str) -> Segmentation:
    """DeepLab v2 with the settings of the code that AMN and BAS use: 20,000 steps are 19 epochs.

    Its weights have learned from masks of COCO. Deviations: probabilities of the three scales are averaged, and losses
    summed over none, where there the scales take part in training and the highest logit counts; losses are those of
    logits on the pixels, there of labels on the cells.
    """
    return Segmentation(
        masks=masks,
        net=segment.NetConfig(
            name="deeplabv2:resnet101-caffe", weights="weights/deeplabv2-coco.safetensors", freeze_batch_norm=True
        ),
        schedule=train.sgd(epochs=19, batch_size=10, lr=2.5e-4, weight_decay=5e-4),
        augment=replace(transforms.SAME_COLOURS, resize_long=VOC_SCALES, crop=321),
        inference=segment.Inference(scales=(0.5, 0.75, 1.0), flip=False, crf=True, crf_settings=DEEPLAB_CRF),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe().name: recipe
    for recipe in (
        *(transcam_voc, transcam_coco, bnr_voc, bnr_coco, bao_coco, amn_voc),
        *(bas_voc, bas_voc_reference, bas_coco, bas_coco_reference),
    )
}


# ------------------------------------------------------------------------------------------- where numbers come from

OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A setting as a paper or its released code has it."""

    value: Any
    source: str  # begins with a key of `sources`, e.g. "BNR sec. 4.2"


def published(recipe: str) -> dict[str, Published]:
    """What is published of a recipe, by the path of each setting, e.g. stages.bao.schedule.epochs."""
    return {path: Published(**entry) for path, entry in _file()["recipes"].get(recipe, {}).items()}


def sources() -> dict[str, str]:
    """The papers and codes that settings are from, by the key that their sources begin with."""
    texts: dict[str, str] = _file()["sources"]
    return texts


def describe(recipe: Recipe) -> str:
    """A line for each setting: path, value, source. Below them, what the sources are."""
    known = published(recipe.name)
    rows = [
        (path, json.dumps(value, ensure_ascii=False), _source(value, known.get(path)))
        for path, value in settings_of(recipe).items()
    ]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{path:<{first}} = {value:<{second}}  {source}" for path, value, source in rows]
    words = {word for *_, source in rows for word in source.split()}
    cited = {key: text for key, text in sources().items() if key in words}
    return "\n".join([*lines, *([""] if cited else []), *(f"{key}: {text}" for key, text in cited.items())])


def _source(value: Any, stated: Published | None) -> str:
    if stated is None:
        return OURS
    if value != stated.value:
        return f"{OURS}, in place of {json.dumps(stated.value, ensure_ascii=False)}: {stated.source}"
    return stated.source


def _file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        files("baoseg.recipes").joinpath("paper_settings.json").read_text(encoding="utf-8")
    )
    return content
