"""A labeler for the 1,000 ImageNet classes and for groups of them, with embedded weights and without training.

    labeler = baoseg.load("imagenet")
    result = labeler("photo.jpg", labels=["dog", "sofa"])

A name is an ImageNet class or a group of classes: `dog` means all breeds below it in the hypernym tree of WordNet
(`imagenet_groups.json`, made by tools/imagenet_groups.py). Maps are class activation maps. The background threshold of
an image is Otsu's threshold of its strongest map, and a dense CRF refines the mask.
"""

import difflib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from baoseg import nets, refine
from baoseg.core import progress
from baoseg.core.errors import DataError
from baoseg.core.files import atomic
from baoseg.core.text import tidy
from baoseg.core.types import ClassSet, Maps
from baoseg.data.images import ImageLike, as_image, read_image, write_mask
from baoseg.methods.base import Method
from baoseg.methods.components.decisions import Cut, find_cut
from baoseg.nets import embedded
from baoseg.nets.network import Network
from baoseg.predict import maps, predict
from baoseg.predict.labeler import Labeler, Result
from baoseg.seeds import masks
from baoseg.training import losses

MAPS = maps.Config(sizes=(256, 384), keep_aspect=True)  # the network was trained at 260 pixels
LONGEST = 1024  # largest long side in pixels for the CRF; larger images are made smaller, and their masks enlarged


@dataclass(frozen=True)
class Group:
    """A name for one or several ImageNet classes: their indices 0..999, and the meaning of the name in WordNet."""

    name: str
    meaning: str
    classes: tuple[int, ...]


def group(name: str) -> Group:
    """The group of classes with this name. Raises DataError, with the nearest names, for an unknown name."""
    content = _table()
    wanted = tidy(name.replace("_", " ")).lower()
    if wanted not in content["names"]:
        near = difflib.get_close_matches(wanted, content["names"], n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise DataError(
            f"{name!r} is neither a class of ImageNet nor a group of its classes; {hint}"
            "`bao run photos` trains classes of your own"
        )
    meaning, ranges = content["groups"][content["names"][wanted]]
    return Group(wanted, meaning, tuple(index for part in ranges.split() for index in _indices(part)))


@functools.cache
def _table() -> dict:
    table: dict = json.loads(files("baoseg.predict").joinpath("imagenet_groups.json").read_text(encoding="utf-8"))
    return table


def _indices(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


@functools.cache
def _info() -> ImageNetInfo:
    return ImageNetInfo()


def of_class(index: int) -> Group:
    """The group of one ImageNet class, by its index 0..999, with its first name."""
    name, _, meaning = _info().index_to_description(index, detailed=True).partition(": ")
    return Group(name.split(",")[0], meaning, (index,))


class GroupCAM(Method):
    """Class activation maps of groups of ImageNet classes.

    The logit of a group is the log-sum-exp of the logits of its classes. The map of a group weights the maps of its
    classes by their probabilities in the group, as the gradient of this logit does: M_g = sum_{c in g} p(c | g) M_c.
    The mean over all classes is subtracted from the maps, because the softmax does not depend on it.
    """

    chooses_threshold = True

    def __init__(self, network: Network, groups: Sequence[Group]) -> None:
        super().__init__()
        self.network = network
        self.groups = tuple(list(one.classes) for one in groups)

    def maps(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Float[Tensor, "b K"],
        *,
        classes: Int[Tensor, "k"] | None = None,
    ) -> Maps:
        """The maps of all groups, or of the groups with the indices `classes` in 1..K."""
        class_maps = self.network.class_maps(self.network(images))
        logits, mean = losses.pool(class_maps), class_maps.mean(dim=1)
        groups = self.groups if classes is None else [self.groups[index - 1] for index in classes.tolist()]
        scores = [torch.einsum("b c, b c h w -> b h w", logits[:, g].softmax(dim=1), class_maps[:, g]) for g in groups]
        return Maps(torch.stack([score - mean for score in scores], dim=1))

    def threshold(
        self,
        images: Float[Tensor, "v 3 h w"],
        labels: Float[Tensor, "K"],
        scores: Float[Tensor, "k H W"],
        *,
        fixed: float,
    ) -> float:
        """Otsu's threshold of the largest map at each cell."""
        strongest = scores.amax(dim=0)[None, None]
        return float(find_cut(strongest, torch.ones_like(strongest, dtype=torch.bool), cut=Cut.OTSU))

    def classify(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b K"]:
        """The logarithm of the probability of each group."""
        logits = losses.pool(self.network.class_maps(self.network(images))).log_softmax(dim=1)
        return torch.stack([logits[:, group].logsumexp(dim=1) for group in self.groups], dim=1)


class ImageNetLabeler:
    """Labels the pixels of photographs: `labeler(image, labels=["dog"]).mask`. Use `load` to make one."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()

    def __call__(self, image: ImageLike, labels: Sequence[str | Group] | None = None, *, crf: bool = True) -> Result:
        """Label an image: a path, a PIL image, a uint8 array [h w 3] or a uint8 tensor [3 h w].

        `labels` are groups or names of ImageNet classes or groups; in the mask they have the values 1, 2, ... in this
        order. Without `labels`, the label is the likeliest class. With `crf`, a dense CRF refines the mask.

        Raises DataError for an unknown name and an unreadable image.
        """
        pixels = as_image(image)
        wanted = [self.likeliest(pixels, count=1)[0][0]] if labels is None else labels
        groups = [one if isinstance(one, Group) else group(one) for one in wanted]
        seen = _reduced(pixels)
        result = self.of(groups)(seen, [one.name for one in groups])
        mask = torch.from_numpy(result.mask)
        if crf:
            mask = refine.by_crf(seen, mask)
        size = tuple(pixels.shape[-2:])
        return replace(
            result,
            mask=_resize(mask[None], size, InterpolationMode.NEAREST_EXACT)[0].numpy(),
            class_maps={
                name: _resize(torch.from_numpy(scores)[None], size, InterpolationMode.BILINEAR)[0].numpy()
                for name, scores in result.class_maps.items()
            },
        )

    def of(self, groups: Sequence[Group]) -> Labeler:
        """The labeler for these groups, without CRF."""
        names = ClassSet(tuple(one.name for one in groups))
        return Labeler(GroupCAM(self.network, groups), names, maps=MAPS, masks=masks.Config())

    @torch.inference_mode()
    def likeliest(self, image: ImageLike, *, count: int = 5) -> list[tuple[Group, float]]:
        """The `count` likeliest classes of an image with their probabilities, in descending order."""
        backbone = self.network.backbone
        views = maps.views(
            _reduced(as_image(image)).to(self.device),
            maps.middle(MAPS),
            config=MAPS,
            normalisation=backbone.normalisation,
            stride=backbone.stride,
        )
        logits = losses.pool(self.network.class_maps(self.network(views))).mean(dim=0)
        values, order = logits.softmax(dim=0).topk(count)
        return [(of_class(index), value) for index, value in zip(order.tolist(), values.tolist(), strict=True)]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


def load(*, device: str | torch.device = "cpu") -> ImageNetLabeler:
    """The labeler with the embedded weights. Raises CheckpointError if they are not installed."""
    entry = embedded.find(embedded.DEFAULT)
    config = nets.Config(backbone=f"{nets.TIMM}{entry.network}")
    state = embedded.read(embedded.DEFAULT)
    weight, bias = state["classifier.weight"], state["classifier.bias"]
    network = nets.build(config, len(weight), initialise=False)
    nets.load_backbone(network.backbone, state, source=embedded.locate(embedded.DEFAULT))
    # the bias, and a background output that is not used
    network.class_head = nn.Conv2d(weight.shape[1], 1 + len(weight), 1)
    values = {"weight": F.pad(weight, (0, 0, 1, 0))[:, :, None, None], "bias": F.pad(bias, (1, 0))}
    network.class_head.load_state_dict(values)
    return ImageNetLabeler(network.to(device))


def try_photos(photos: Sequence[Path], out: Path, *, labels: Sequence[str] = ()) -> list[Path]:
    """Write masks and overlays of photographs into the folder `out`, and print the classes. Returns the failures.

    Raises DataError for an unknown label, and errors as `predict.each_image`.
    """
    groups = [group(name) for name in labels]
    for one in groups:
        progress.say(f"{one.name}: {one.meaning} ({len(one.classes)} of ImageNet's classes)")
    labeler = load()
    written: list[Path] = []

    def write(source: Path, mask_path: Path, overlay_path: Path) -> None:
        image, shown = read_image(source), groups
        if not groups:
            likeliest = labeler.likeliest(image)
            progress.say(f"{source}: {', '.join(f'{one.name} {share:.2f}' for one, share in likeliest)}")
            shown = [likeliest[0][0]]
        mask = torch.from_numpy(labeler(image, shown).mask)
        write_mask(mask_path, mask)
        with atomic(overlay_path) as temporary:
            predict.overlay(image, mask).save(temporary, format="PNG")
        written.append(overlay_path)

    failed = predict.each_image(photos, out, write, overlays=".png")
    if written:
        progress.say(f"overlays of photographs and masks are in {out / predict.OVERLAYS}")
    return failed


def _reduced(image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 y x"]:
    """The image, made smaller if its long side is above LONGEST pixels."""
    height, width = image.shape[-2:]
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return _resize(image, size, InterpolationMode.BICUBIC)


def _resize(images: Tensor, size: Sequence[int], interpolation: InterpolationMode) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return TF.resize(images, list(size), interpolation=interpolation, antialias=True)
