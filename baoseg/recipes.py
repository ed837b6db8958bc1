"""Named settings of whole runs. Numbers that a paper gives are cited; all others are ours, with the reason."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from baoseg import nets, refine, segment, train
from baoseg.data import SYNTHETIC, transforms
from baoseg.data import Config as DataConfig
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.errors import RecipeError
from baoseg.maps import Config as MapsConfig
from baoseg.maps import Scaling
from baoseg.masks import Config as MasksConfig
from baoseg.methods import Settings, amn, bao, bas, bnr, cam, name_of, transcam
from baoseg.nets import embedded
from baoseg.refine import crf, irn, psa
from baoseg.report import Config as ReportConfig
from baoseg.teacher import Follow

RESERVED = ("run.json", "report.html")  # files of a run folder, in which stages are folders
LONGEST = 200  # bytes of a stage's name, which file systems and our own suffixes leave room for


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One method and how long it is trained."""

    method: Settings
    schedule: train.Config
    start: str | None = None  # the earlier stage whose weights it starts from; None: the network's own weights
    labelled_by: str | None = None  # the earlier stage whose seeds label the training pictures, where the method asks
    called: str | None = None  # None: the method's name
    threshold: float | None = None  # at which its maps are cut, where no background is learned; None: the recipe's

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise RecipeError(
                f"{self.name}: threshold is {self.threshold}; maps lie in 0..1, choose a value in between"
            )

    @property
    def name(self) -> str:
        return self.called or name_of(self.method)


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """The normalised sum of seeds (BAS tables 9, 14), or, of a single source, the seeds of another tool as they are."""

    called: str
    sources: tuple[str, ...]  # stages of this recipe, run folders (their last stage), RUN/STAGE, or folders of maps
    allow_pickle: bool = False  # whether .npy files that hold pickles are read, by a reader that admits arrays alone

    def __post_init__(self) -> None:
        if not self.sources:
            raise RecipeError(f"{self.called}: no seeds to fuse; name one source at least")

    @property
    def name(self) -> str:
        return self.called


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Masks of a stage or fusion, drawn to the edges of the pictures."""

    of: str  # a stage or fusion; where nothing is learned, a refinement too
    by: refine.Settings
    schedule: train.Config | None = None  # of the network, where there is one to train (PSA, IRN)
    augment: transforms.Config | None = None  # of its training; None: the recipe's
    net: nets.Config | None = None  # a convolutional network; None: the recipe's

    @property
    def name(self) -> str:
        return f"{self.of}+{refine.name_of(self.by)}"

    def __post_init__(self) -> None:
        if (self.learned is None) != (self.schedule is None):
            raise RecipeError(f"{self.name}: what is trained needs a schedule, and nothing else has one")

    @property
    def learned(self) -> refine.LearnedSettings | None:
        """Settings of the network that learns from the seeds and works on them, where the way has one."""
        return None if isinstance(self.by, crf.Config) else self.by


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A segmentation network, and the masks of the training pictures that it learns from."""

    masks: str  # a stage, fusion, refinement or earlier segmentation of this recipe, or a folder of masks NAME.png
    schedule: train.Config
    net: segment.NetConfig = field(default_factory=segment.NetConfig)
    inference: segment.Inference = field(default_factory=segment.Inference)
    augment: transforms.Config | None = None  # None: the recipe's
    reweight: bool = False  # pixels count by the margin of the maps that the masks go back to (`masks.margin`)
    called: str = "segment"

    @property
    def name(self) -> str:
        return self.called


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a run, but for the hardware."""

    name: str
    data: DataConfig
    net: nets.Config
    stages: tuple[Stage, ...]
    fusions: tuple[Fusion, ...] = ()
    refinements: tuple[Refinement, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()
    epoch_curves: bool = False  # evaluate the network in training after each epoch (BAO figure 4)
    augment: transforms.Config = field(default_factory=transforms.Config)
    maps: MapsConfig = field(default_factory=MapsConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        everything = [*self.names, *(segmentation.name for segmentation in self.segmentations)]
        if not 0 <= self.seed < 2**32:
            raise RecipeError(f"recipe {self.name}: the seed is {self.seed}; choose one of 0 to {2**32 - 1}")
        if not everything or len(set(everything)) != len(everything):
            raise RecipeError(f"recipe {self.name}: its stages are {everything}; name each once, and at least one")
        if odd := [name for name in everything if not re.fullmatch(r"\w[\w+.=-]*", name)]:
            raise RecipeError(f"recipe {self.name}: {odd[0]!r} cannot name a folder; use letters, digits and . + - = _")
        if odd := [name for name in everything if len(name.encode()) > LONGEST or name in RESERVED]:
            raise RecipeError(f"recipe {self.name}: {odd[0]!r} cannot name a folder of the run; choose another name")
        known: set[str | None] = {None}
        for stage in self.stages:
            if missing := {stage.start, stage.labelled_by} - known:
                raise RecipeError(
                    f"recipe {self.name}: {stage.name} needs the stage {missing.pop()}, which does not come before it"
                )
            known.add(stage.name)
        refinable = set(self.names)
        for refinement in self.refinements:
            if refinement.of not in refinable or refinement.name in refinable:
                raise RecipeError(
                    f"recipe {self.name}: cannot refine {refinement.of} to {refinement.name}; there are masks of "
                    f"{', '.join(sorted(refinable))}, and each refinement is made once"
                )
            if refinement.learned and refinement.of not in self.names:
                raise RecipeError(f"recipe {self.name}: {refinement.name} works on maps, and {refinement.of} has none")
            refinable.add(refinement.name)
        if taken := refinable & {segmentation.name for segmentation in self.segmentations}:
            raise RecipeError(f"recipe {self.name}: {taken.pop()} is there already; choose another name (--called)")

    @property
    def names(self) -> list[str]:
        """Of the stages and fusions, which have maps, in their order."""
        return [*(stage.name for stage in self.stages), *(fusion.name for fusion in self.fusions)]

    def masks_of(self, name: str) -> MasksConfig:
        """How the maps of a stage or fusion become masks: with the stage's own threshold where it has one."""
        own = next((stage.threshold for stage in self.stages if stage.name == name), None)
        return self.masks if own is None else replace(self.masks, threshold=own)


def demo() -> Recipe:
    """A few minutes on two CPU cores, no data and no weights needed: generated scenes, a tiny network from scratch."""
    return Recipe(
        name="demo",
        data=DataConfig(path="synthetic", synthetic=SyntheticConfig(size=96)),
        # The start was chosen on the generated scenes, whose masks are nobody's labels.
        net=nets.Config(backbone="conformer_nano", activation_start=nets.ActivationStart.UNGATED),
        # The scenes differ in colour as they are; jitter would cost a third of the time.
        augment=transforms.Config(
            resize_long=(80, 120), crop=96, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
        ),
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

    No setting is fitted to masks. Batch norm keeps its ImageNet statistics (batches are small). The pictures are
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
        ),
        maps=MapsConfig(sizes=(256, 384, 512), keep_aspect=True),
        refinements=(Refinement(of="bao", by=crf.LABELS),),
        segmentations=(
            Segmentation(
                masks="bao+crf",
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
    """CAM, BAO, CRF and an FPN on the embedded network, with so many epochs; all else is that of `msrc14`.

    The momentum of BAO's target is proportional to its training (`teacher.proportional`), as the number of images is
    not known here.
    """
    base = msrc14()
    first, last = base.stages
    (segmentation,) = base.segmentations
    net = embedded_net()
    return replace(
        base,
        name=name,
        data=data,
        net=net,
        stages=(
            replace(first, schedule=replace(first.schedule, epochs=classify)),
            replace(last, method=bao.Config(momentum=None), schedule=replace(last.schedule, epochs=activate)),
        ),
        segmentations=(
            replace(
                segmentation,
                net=segment.NetConfig(
                    name="smp:fpn/tu-tf_efficientnet_lite2", weights=net.weights, freeze_batch_norm=True
                ),
                schedule=replace(segmentation.schedule, epochs=segment_epochs),
            ),
        ),
    )


def photos() -> Recipe:
    """For one's own photographs and classes, on a network whose weights come with the installation: no hub is needed.

    More epochs than `msrc14`, as people's folders are smaller.
    """
    return _on_embedded("photos", DataConfig(path="."), classify=10, activate=6, segment_epochs=16)


def voc_mini(data: str | Path = "voc-mini") -> Recipe:
    """About 1,000 photographs of VOC: trained on `train_extra` by image-level labels, evaluated on `val`.

    Settings are those of `msrc14`, the training of BAO counted in epochs too.
    """
    config = DataConfig(path=str(data), train_split="train_extra", eval_split="val")
    return _on_embedded("voc-mini", config, classify=6, activate=4, segment_epochs=12)


CONFORMER_WEIGHTS = "weights/conformer-small.safetensors"  # of ImageNet; see docs/papers.md
RESNET38_WEIGHTS = "weights/resnet38-imagenet.safetensors"


def large_fov(masks: str, *, epochs: int = 19, resize_long: tuple[int, int] = (250, 750)) -> Segmentation:
    """DeepLab-LargeFOV on ResNet-38, with the settings of TransCAM's released code: 20,000 steps are 19 epochs of VOC.

    Pictures are scaled by 0.5 to 1.5 there; `resize_long` says so for pictures that are 500 pixels long. Deviations:
    brightness and saturation change by factors instead of sums of up to 10 in 255; biases have the rate and the weight
    decay of their layer, there twice the rate and none; the CRF takes 10 steps, there 1.
    """
    return Segmentation(
        masks=masks,
        net=segment.NetConfig(name="deeplab-largefov:resnet38", weights=RESNET38_WEIGHTS),
        schedule=train.Config(
            epochs=epochs,
            batch_size=10,
            lr=1e-3,
            head_lr=1e-2,
            optimizer=train.Optimizer.SGD,
            weight_decay=5e-4,
            decay=train.Decay.POLY,
        ),
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

    Pictures are scaled by 0.7 to 1.3 there; `resize_long` says so for pictures that are 500 pixels long. The momentum
    is the weight decay, which is given in its place; the rates were chosen for that and are kept with it. Deviations:
    the scale is drawn for each picture instead of each batch, padding has no label instead of the background's, the
    first layer learns, pictures are rescaled by cubic instead of linear interpolation, and probabilities are enlarged
    instead of logits.
    """
    return Segmentation(
        masks=masks,
        net=segment.NetConfig(name="mctformer:resnet38", weights=weights, freeze_batch_norm=True),
        schedule=train.Config(
            epochs=epochs,
            batch_size=4,
            lr=7e-4,
            head_lr=7e-3,
            optimizer=train.Optimizer.SGD,
            momentum=1e-5,
            weight_decay=1e-5,
            decay=train.Decay.POLY,
        ),
        augment=transforms.Config(
            resize_long=resize_long, crop=321, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
        ),
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


def _crf(of: str, base: Recipe) -> Refinement:
    return Refinement(of=of, by=crf.LABELS)


def _psa(of: str, base: Recipe) -> Refinement:
    """Epochs and decay are those of the released code; optimizer and rates are those of the last stage of `base`.

    The released rates belong to ResNet-38. Of SGD at 0.1 and 1.0 with our momentum a pretrained MobileNetV2 learns next
    to nothing: affinities stay hardly better than one half everywhere, and the walk averages over all within reach.
    """
    schedule = replace(base.stages[-1].schedule, epochs=8, decay=train.Decay.POLY)
    return Refinement(of=of, by=psa.Config(), schedule=schedule)


def _irn(of: str, base: Recipe) -> Refinement:
    """Epochs, rates (the displacement field learns ten times as fast) and decay are those of the released code.

    Its SGD has next to no momentum (it is given the weight decay in that place); ours has 0.9, which multiplies what
    all gradients move by ten, so the rates are a tenth.
    """
    schedule = train.Config(
        epochs=3,
        batch_size=base.stages[-1].schedule.batch_size,
        lr=0.01,
        head_lr=0.1,
        optimizer=train.Optimizer.SGD,
        weight_decay=1e-4,
        decay=train.Decay.POLY,
    )
    return Refinement(of=of, by=irn.Config(), schedule=schedule)


REFINERS: dict[str, Callable[[str, Recipe], Refinement]] = {"crf": _crf, "psa": _psa, "irn": _irn}


def refined(base: Recipe, kinds: Sequence[str], *, of: Sequence[str] = ()) -> Recipe:
    """`base` with the masks of `of`, or of its last stage, refined in each of the ways `kinds` (of REFINERS).

    Raises RecipeError for an unknown way and for masks that are not there.
    """
    if unknown := [kind for kind in kinds if kind not in REFINERS]:
        raise RecipeError(f"unknown refinement {unknown[0]!r}; there are {', '.join(REFINERS)}")
    wanted = [REFINERS[kind](source, base) for source in (of or base.names[-1:]) for kind in kinds]
    return replace(base, refinements=tuple({one.name: one for one in (*base.refinements, *wanted)}.values()))


SEGMENTATION_SCHEDULE = train.Config(
    epochs=20, batch_size=8, lr=1e-4, head_lr=1e-3, decay=train.Decay.POLY, warmup=0.05
)


def segmented(
    base: Recipe,
    *,
    masks: str | None = None,
    net: segment.NetConfig | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    reweight: bool = False,
    rounds: int = 1,
    called: str = "segment",
) -> Recipe:
    """`base` with a segmentation network that learns from `masks` (see Segmentation): by default the last refinement's,
    or the last stage's. What is None is as in the first segmentation of `base`, or as `Segmentation` and
    SEGMENTATION_SCHEDULE say.

    In further rounds it learns from its own predictions, restricted to the image-level labels: `segment-2` from those
    of `segment`.
    """
    if rounds < 1:
        raise RecipeError(f"segmentation: {rounds} rounds; choose 1 or more")
    last = [*base.names, *(refinement.name for refinement in base.refinements)][-1:]
    if masks is None and not last:
        raise RecipeError("segmentation: no masks to learn from; name a folder of them")
    model = base.segmentations[0] if base.segmentations else Segmentation(masks="", schedule=SEGMENTATION_SCHEDULE)
    schedule = _replace(model.schedule, epochs=epochs, batch_size=batch_size)
    if lr is not None:
        schedule = replace(schedule, lr=lr, head_lr=10 * lr)
    first = replace(
        model,
        masks=masks or last[0],
        net=net or model.net,
        schedule=schedule,
        reweight=reweight,
        called=called,
    )
    more = [
        replace(first, masks=called if n == 2 else f"{called}-{n - 1}", reweight=False, called=f"{called}-{n}")
        for n in range(2, rounds + 1)
    ]
    return replace(base, segmentations=tuple({one.name: one for one in (*base.segmentations, first, *more)}.values()))


def with_paths(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    """The recipe with `change` applied to each path of a file or folder that it names, and to nothing else."""

    def weights(net: Any) -> Any:
        named = net is not None and net.weights is not None and not embedded.is_embedded(net.weights)
        return replace(net, weights=change(net.weights)) if named else net

    made = {*recipe.names, *(one.name for one in recipe.refinements), *(one.name for one in recipe.segmentations)}
    return replace(
        recipe,
        data=recipe.data if recipe.data.path == SYNTHETIC else replace(recipe.data, path=change(recipe.data.path)),
        net=weights(recipe.net),
        fusions=tuple(
            replace(
                one,
                sources=tuple(
                    source if source in {*recipe.names} - {one.name} else change(source) for source in one.sources
                ),
            )
            for one in recipe.fusions
        ),
        refinements=tuple(replace(one, net=weights(one.net)) for one in recipe.refinements),
        segmentations=tuple(
            replace(one, net=weights(one.net), masks=one.masks if one.masks in made - {one.name} else change(one.masks))
            for one in recipe.segmentations
        ),
    )


def paths_of(recipe: Recipe) -> list[str]:
    """The paths of files and folders that a recipe names."""
    found: list[str] = []

    def note(path: str) -> str:
        found.append(path)
        return path

    with_paths(recipe, note)
    return found


COMPARABLE = ("cam", "transcam", "bnr", "amn", "transcam+amn", "bas", "bao")


def comparison(
    base: Recipe,
    methods: Sequence[str],
    *,
    seeds: Mapping[str, str] | None = None,
    fuse: Sequence[str] = (),
    allow_pickle: bool = False,
) -> Recipe:
    """`methods` (of COMPARABLE) side by side on the data, network and schedules of `base`.

    The first stage of `base` gives the schedule of what learns to classify (CAM, TransCAM, BNR), its last that of what
    learns from labelled pixels (AMN, BAO), and the stage that BAO starts from. BAS, which learns both at once, gets the
    epochs of both, and the recipe's threshold: one for each image (`bas.Threshold.IMAGE`) is not better so far. AMN
    starts from a trained classifier, whose seeds are its labels: CAM's or, as `transcam+amn`, TransCAM's. A stage that
    another starts from is trained too. `seeds` are seeds of other tools by name (see Fusion.sources), `fuse` are sums
    of methods and such seeds, written as a+b.

    Raises RecipeError for an unknown method and for a sum of what is not there.
    """
    classify, activate = base.stages[0], base.stages[-1]
    bas_schedule = replace(classify.schedule, epochs=classify.schedule.epochs + activate.schedule.epochs)
    own: dict[str, Stage] = {stage.name: stage for stage in base.stages}
    known = {
        "cam": Stage(method=cam.Config(), schedule=classify.schedule),
        "transcam": Stage(method=transcam.Config(), schedule=classify.schedule),
        "bnr": Stage(method=bnr.Config(), schedule=classify.schedule),
        "amn": Stage(method=amn.Config(), schedule=activate.schedule, start="cam", labelled_by="cam"),
        "transcam+amn": Stage(
            method=amn.Config(),
            schedule=activate.schedule,
            start="transcam",
            labelled_by="transcam",
            called="transcam+amn",
        ),
        "bas": Stage(method=bas.Config(), schedule=bas_schedule),
        "bao": Stage(method=bao.Config(), schedule=activate.schedule, start=classify.name),
    }
    known |= {name: stage for name, stage in own.items() if name in known}
    if unknown := [name for name in methods if name not in known]:
        raise RecipeError(f"unknown method {unknown[0]!r}; there are {', '.join(known)}")
    needed = {before for name in methods for before in (known[name].start, known[name].labelled_by)}
    wanted = [name for name in known if name in methods or name in needed]
    outside = [
        Fusion(called=name, sources=(folder,), allow_pickle=allow_pickle) for name, folder in (seeds or {}).items()
    ]
    there = [*wanted, *(fusion.name for fusion in outside)]
    sums = [_sum(name, there) for name in fuse]
    return replace(
        base,
        name=f"{base.name}-comparison",
        stages=tuple(known[name] for name in wanted),
        fusions=(*outside, *sums),
        refinements=(),
        segmentations=(),
    )


def _sum(name: str, there: Sequence[str]) -> Fusion:
    """The fusion that `a+b` stands for; the names of its parts may have a plus themselves."""
    for mark in range(1, len(name)):
        first, rest = name[:mark], name[mark + 1 :]
        if name[mark] == "+" and first in there:
            if rest in there:
                return Fusion(called=name, sources=(first, rest))
            if "+" in rest:
                return Fusion(called=name, sources=(first, *_sum(rest, there).sources))
    raise RecipeError(
        f"{name!r} is no sum of two or more of {', '.join(there)}; write e.g. {'+'.join([*there, 'other'][:2])}"
    )


def follow_ablation(base: Recipe) -> Recipe:
    """BAO's figure 4: ways for the target to follow, and AMN; the online network is evaluated after each epoch."""
    classify, activate = base.stages[0], base.stages[-1]
    config = activate.method if isinstance(activate.method, bao.Config) else bao.Config()
    variants = {"share": Follow.SHARE, "ema": Follow.EMA, "share+ema": Follow.SHARE_THEN_EMA}
    fixed = Stage(
        method=amn.Config(), schedule=activate.schedule, start=classify.name, labelled_by=classify.name, called="amn"
    )
    online = tuple(
        replace(activate, method=replace(config, follow=follow, keep=bao.Keep.ONLINE), start=classify.name, called=name)
        for name, follow in variants.items()
    )
    stages = (classify, fixed, *online)
    return replace(base, name=f"{base.name}-follow", stages=stages, refinements=(), segmentations=(), epoch_curves=True)


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe().name: recipe for recipe in (demo, photos, msrc14, voc_mini, bao_voc, bao_voc_reference)
}


def known() -> dict[str, Callable[[], Recipe]]:
    """All recipes by name: those of this file, and those of `papers`."""
    from baoseg import papers  # noqa: PLC0415  (it builds on this module)

    return RECIPES | papers.RECIPES


def named(name: str) -> Recipe:
    """Raises RecipeError for an unknown name."""
    from baoseg import localize_recipes  # noqa: PLC0415  (it builds on this module)

    there, of_boxes = known(), localize_recipes.RECIPES
    if name in of_boxes:
        raise RecipeError(f"{name}: is a recipe for localization; `bao localize {name}` takes it")
    if name not in there:
        names = f"{', '.join(there)}, and for localization {', '.join(of_boxes)}"
        raise RecipeError(f"unknown recipe {name!r}; there are {names}")
    return there[name]()


def smoke(base: Recipe) -> Recipe:
    """`base` in about a minute on a CPU, to see that all of it runs: the same steps and networks, on 4 small pictures
    of each split, with crops of 64 pixels, for one epoch, without weights. What comes out means nothing.

    BAO shares during half of the epoch, so that its average has a turn too.
    """
    bare: Any = {"weights": None, "pretrained": False}

    def brief(schedule: train.Config) -> train.Config:
        return replace(schedule, epochs=1, batch_size=2)

    def small(augment: transforms.Config | None) -> transforms.Config | None:
        return None if augment is None else replace(augment, resize_long=(48, 96), crop=64)

    def halved(method: Settings) -> Settings:
        return replace(method, share_epochs=0.5) if isinstance(method, bao.Config) else method

    return replace(
        base,
        name=f"{base.name}-smoke",
        data=replace(base.data, limit=4, long_side=64),
        net=replace(base.net, **bare),
        stages=tuple(
            replace(stage, method=halved(stage.method), schedule=brief(stage.schedule)) for stage in base.stages
        ),
        refinements=tuple(
            replace(
                one,
                schedule=None if one.schedule is None else brief(one.schedule),
                augment=small(one.augment),
                net=None if one.net is None else replace(one.net, **bare),
            )
            for one in base.refinements
        ),
        segmentations=tuple(
            replace(
                one,
                schedule=brief(one.schedule),
                augment=small(one.augment),
                net=replace(one.net, **bare),
                inference=replace(one.inference, scales=one.inference.scales[:2]),
            )
            for one in base.segmentations
        ),
        augment=replace(base.augment, resize_long=(48, 96), crop=64),
        maps=replace(base.maps, sizes=tuple(max(32, side // 8) for side in base.maps.sizes)),
    )


def override(
    recipe: Recipe,
    *,
    data: str | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    only: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    refine: Sequence[str] | None = None,
) -> Recipe:
    """The recipe with a few things changed; None leaves them. `epochs`, `batch_size` and `lr` are those of all
    stages, as in `localize_recipes.override`, and the rate of a stage's heads keeps its ratio to `lr`.

    Another backbone does without the weights of the one before it; where those were ImageNet's, it starts from its own,
    through timm's loader. `embedded:NAME` as a backbone is a network with its embedded weights. `weights` are those of
    the backbone, also under the segmentation networks that have the same one.
    `refine` are ways (REFINERS) to refine the masks of the last stage, in the place of the recipe's own.
    """
    stages, refinements = recipe.stages, recipe.refinements
    if only is not None:
        stages = tuple(replace(stage, start=None) for stage in stages if stage.name == only)
        if not stages:
            raise RecipeError(f"recipe {recipe.name} has no stage {only!r}; it has {[s.name for s in recipe.stages]}")
        refinements = tuple(one for one in refinements if one.of == only or one.of.startswith(f"{only}+"))
    given = None if weights is None else str(weights)
    net = recipe.net
    if backbone is not None and embedded.is_embedded(backbone):
        backbone, given = f"{nets.TIMM}{embedded.find(backbone).network}", given or backbone
    if backbone not in (None, net.backbone):
        starts = net.pretrained or (net.weights is not None and embedded.is_embedded(net.weights))
        net = replace(net, weights=None, pretrained=starts)
    net = _replace(net, backbone=backbone, weights=given)
    same = net.backbone.removeprefix(nets.TIMM)
    segmentations = tuple(
        replace(one, net=_replace(one.net, weights=given)) if one.net.name.endswith(same) else one
        for one in recipe.segmentations
    )
    if given is not None:
        net = replace(net, pretrained=False)
    changed: Recipe = _replace(
        recipe,
        data=_replace(recipe.data, path=data, train_split=train_split, eval_split=eval_split),
        net=net,
        stages=tuple(
            replace(stage, schedule=train.rescheduled(stage.schedule, epochs=epochs, batch_size=batch_size, lr=lr))
            for stage in stages
        ),
        refinements=refinements if refine is None else (),
        segmentations=segmentations if only is None and refine is None else (),
        seed=seed,
    )
    return changed if refine is None else refined(changed, refine)


def _replace(config: Any, **changes: Any) -> Any:
    return replace(config, **{name: value for name, value in changes.items() if value is not None})
