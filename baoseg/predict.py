"""Masks for new pictures that have no labels, by a segmentation network or by a labeler.

    photos/a/cat.jpg    -> OUT/a/cat.png             0 background, 1..K the classes of the model
                           OUT/overlays/a/cat.jpg    the picture under the colours of its mask, where asked for
    cat.jpg             -> OUT/cat.png

Masks and overlays that are there already are written anew. Each picture is handled by itself, so memory depends on the
largest one alone: on some bytes for each of its pixels, and with a labeler on its maps, which are four for each label.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from baoseg import guards, progress, refine
from baoseg.data.images import read_image, voc_palette, write_mask
from baoseg.data.table import parse_labels
from baoseg.errors import DataError
from baoseg.labeler import Labeler
from baoseg.refine import crf
from baoseg.runs import atomic
from baoseg.segment import Inference, Segmenter, Window
from baoseg.types import BACKGROUND

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")  # what is taken of folders
OVERLAYS = "overlays"
OPACITY = 0.5  # of the colours in an overlay
LEAST_SHARE = 0.01  # of the probability in a window: a class with less, and nowhere the best, stays out of the CRF


@dataclass(frozen=True, kw_only=True)
class Config:
    crf: bool = False  # draw the masks to the edges of the pictures
    overlays: bool = False
    labels: str | None = None  # of all pictures, as in a labels.csv; None: the model finds them itself


def run(model: Labeler | Segmenter, inputs: Sequence[Path], out: Path, *, config: Config = Config()) -> list[Path]:
    """Predict the pictures among `inputs` and those in the folders among them. Gives what failed.

    A picture or folder that cannot be read is named on stderr and skipped. Raises DataError before any work where there
    is nothing to predict, labels are unknown, or two results would have one name; RunError where `out` cannot be
    written.
    """
    labels = None if config.labels is None else _parse(config.labels, model)
    failed: list[Path] = []
    written = 0

    def skip(path: Path, problem: str) -> None:
        failed.append(path)
        print(f"bao: {problem}", file=sys.stderr)

    pictures = find(inputs, out, overlays=config.overlays, skip=skip)
    for mask_path, source in progress.track(pictures.items(), title="predict", total=len(pictures)):
        try:
            picture = read_image(source)
            with guards.of_image(source):
                mask = predict(model, picture, labels=labels, crf=config.crf)
        except DataError as error:
            skip(source, str(error))
            continue
        except torch.OutOfMemoryError:
            skip(source, f"{source}: too large for the memory of the device; use --accelerator cpu")
            continue
        write_mask(mask_path, mask)
        written += 1
        if config.overlays:
            with atomic(overlay_path(mask_path, out)) as temporary:
                overlay(picture, mask).save(temporary, format="JPEG", quality=90)
    progress.say(f"{out}: {written} written, {len(failed)} failed")
    return failed


def predict(
    model: Labeler | Segmenter,
    picture: UInt8[Tensor, "3 h w"],
    *,
    labels: Sequence[str] | None = None,
    crf: bool = False,
) -> UInt8[Tensor, "h w"]:
    """The mask of a picture. The CRF goes by windows, those of the segmentation network or the same for a labeler.

    Pixels near the border of a window see half its margin beyond it: 64 pixels, where the CRF's longest width is 80.
    """
    match model:
        case Segmenter() if crf or model.inference.crf:
            return _segment_with_crf(model, picture, labels)
        case Segmenter():
            return model.mask(picture, labels)
        case Labeler():
            mask = torch.from_numpy(model(picture, labels).mask)
            if not crf:
                return mask
            return _by_windows(picture, Inference(), lambda seen, window: refine.by_crf(seen, mask[window.seen]))


def overlay(picture: UInt8[Tensor, "3 h w"], mask: UInt8[Tensor, "h w"]) -> Image.Image:
    """The picture under the colours of the classes. The background is as it was."""
    photograph = Image.fromarray(picture.permute(1, 2, 0).numpy())
    coloured = Image.blend(photograph, Image.fromarray(voc_palette()[mask.numpy()]), OPACITY)
    return Image.composite(coloured, photograph, Image.fromarray((mask != BACKGROUND).numpy()))


def overlay_path(mask: Path, out: Path) -> Path:
    """JPEG, so that no overlay has the name of a mask, and a whole photograph stays a small file."""
    return out / OVERLAYS / mask.relative_to(out).with_suffix(".jpg")


def find(inputs: Sequence[Path], out: Path, *, overlays: bool, skip: Callable[[Path, str], None]) -> dict[Path, Path]:
    """The pictures to predict, by the path of their mask. `skip` is told of folders that cannot be read.

    Of folders the files with a suffix of PICTURES, at any depth; files that are named themselves may be of any kind.
    Raises DataError as `run`, and where a result would take the place of a picture.
    """
    found: dict[Path, Path] = {}
    for mask, source in _pairs(inputs, out, skip):
        if (other := found.setdefault(mask, source)) != source:
            raise DataError(f"{other} and {source}: both masks would be {mask}; predict them into different folders")
    if not found:
        raise DataError("no pictures to predict; name some, or folders of them")
    sources = {source.resolve() for source in found.values()}
    targets = [*found, *(overlay_path(mask, out) for mask in found if overlays)]
    if lost := [target for target in targets if target.resolve() in sources]:
        raise DataError(f"{lost[0]}: a picture to predict would be overwritten; choose another folder with --out")
    return found


def _pairs(inputs: Sequence[Path], out: Path, skip: Callable[[Path, str], None]) -> Iterator[tuple[Path, Path]]:
    for path in inputs:
        if not path.is_dir():
            yield out / f"{path.stem}.png", path
            continue
        if out.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{out}: lies in {path}, whose pictures are read; choose a folder beside it with --out")
        pictures = sorted(_walk(path, skip))
        if not pictures:
            raise DataError(f"{path}: holds no pictures ({' '.join(PICTURES)}); name other files one by one")
        for picture in pictures:
            yield (out / picture.relative_to(path)).with_suffix(".png"), picture


def _walk(root: Path, skip: Callable[[Path, str], None]) -> Iterator[Path]:
    """The pictures below a folder. Hidden ones are left out, and what lies behind links to folders."""

    def cannot_be_read(error: OSError) -> None:
        skip(Path(error.filename), f"{error.filename}: cannot be read ({error.strerror}); change its permissions")

    for folder, folders, files in os.walk(root, onerror=cannot_be_read):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURES:
                yield Path(folder, name)


def _parse(labels: str, model: Labeler | Segmenter) -> list[str]:
    names = parse_labels([labels], model.classes.names)[0]
    model.classes.encode(names)  # refuses unknown ones
    if not names:
        raise DataError("--labels: names no class; leave it out where the model is to find the classes")
    return names


def _segment_with_crf(
    model: Segmenter, picture: UInt8[Tensor, "3 h w"], labels: Sequence[str] | None
) -> UInt8[Tensor, "h w"]:
    plain = Segmenter(model.network, model.classes, inference=replace(model.inference, crf=False))

    def drawn(seen: UInt8[Tensor, "3 y x"], window: Window) -> UInt8[Tensor, "y x"]:
        scores = candidates(plain(seen, labels).scores)
        settings = model.inference.crf_settings
        return crf.from_probabilities(seen.permute(1, 2, 0), scores, config=settings).argmax(dim=0).byte()

    return _by_windows(picture, model.inference, drawn)


def candidates(scores: Float[Tensor, "S h w"]) -> Float[Tensor, "S h w"]:
    """The scores, 0 for a class that is nowhere the best and has less than LEAST_SHARE of them: few others remain."""
    best = scores.argmax(dim=0).flatten().bincount(minlength=len(scores)) > 0
    kept = best | (scores.mean(dim=(1, 2)) >= LEAST_SHARE)
    return scores.where(kept[:, None, None], 0)


def _by_windows(
    picture: UInt8[Tensor, "3 h w"],
    inference: Inference,
    function: Callable[[UInt8[Tensor, "3 y x"], Window], UInt8[Tensor, "y x"]],
) -> UInt8[Tensor, "h w"]:
    """A mask from those of the windows: of each the part that no other keeps."""
    mask = torch.empty(picture.shape[-2:], dtype=torch.uint8)
    for window in inference.windows(picture.shape[-2:]):
        mask[window.kept] = function(picture[:, *window.seen], window)[window.kept_of_seen]
    return mask
