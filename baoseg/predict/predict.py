"""Masks for new images without labels, by a segmentation network or a labeler.

    photos/a/cat.jpg    -> OUT/a/cat.png             0 background, 1..K the classes of the model
                           OUT/overlays/a/cat.jpg    the image with the colours of its mask, with --overlays
    cat.jpg             -> OUT/cat.png

Existing masks and overlays are overwritten. If masks of several images would have the same file name, all of these
images fail. Images are processed one by one, so the memory depends on the largest image: some bytes per pixel and, with
a labeler, four bytes per pixel and label for the maps.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from baoseg import refine
from baoseg.core import progress
from baoseg.core.errors import DataError, TargetError
from baoseg.core.files import atomic, check_target
from baoseg.core.types import BACKGROUND
from baoseg.data import walk
from baoseg.data.images import read_image, voc_palette, write_mask
from baoseg.data.table_lines import parse_labels
from baoseg.predict.labeler import Labeler
from baoseg.predict.segment import Inference, Segmenter, Window
from baoseg.refine import crf
from baoseg.training import guards

OVERLAYS = "overlays"
OPACITY = 0.5  # opacity of the colours in an overlay
# share of the probability in a window; a class below it that is nowhere the largest is left out of the CRF
LEAST_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Config:
    crf: bool = False  # refine the masks with a dense CRF
    overlays: bool = False
    labels: str | None = None  # for all images, as in labels.csv; None: the model predicts the classes


def run(model: Labeler | Segmenter, inputs: Sequence[Path], out: Path, *, config: Config = Config()) -> list[Path]:
    """Predict masks for `inputs`, which are images and folders of images. Returns the failures, as `each_image`.

    Raises DataError for unknown labels, before any image is read, and errors as `each_image`.
    """
    labels = None if config.labels is None else _parse(config.labels, model)

    def write(source: Path, mask_path: Path, overlay_path: Path) -> None:
        image = read_image(source)
        with guards.of_image(source):
            mask = predict(model, image, labels=labels, crf=config.crf)
        write_mask(mask_path, mask)
        if config.overlays:
            with atomic(overlay_path) as temporary:
                overlay(image, mask).save(temporary, format="JPEG", quality=90)

    return each_image(inputs, out, write, overlays=".jpg" if config.overlays else None)


def each_image(
    inputs: Sequence[Path], out: Path, write: Callable[[Path, Path, Path], None], *, overlays: str | None
) -> list[Path]:
    """Call `write` with the paths of each image, its mask and its overlay; print the counts and return the failures.

    Images and folders that cannot be read, and images whose masks would have the same file name, are reported on stderr
    and skipped. Files in folders that look like images but cannot be read are counted; if there is nothing else, they
    are failures. `overlays` is the suffix of the overlays; None: no overlays. Raises DataError, before any work, if
    there is nothing to predict or if an image would be overwritten, and RunError if `out` cannot be written.
    """
    walk.check_out(out)
    failed: list[Path] = []
    passed: dict[Path, str] = {}
    written = 0

    def skip(path: Path, problem: str) -> None:
        failed.append(path)
        print(f"bao: {path}: {problem.removeprefix(f'{path}: ')}", file=sys.stderr)

    found = find(inputs, out, overlays=overlays, skip=skip, passed=passed)
    for mask_path, source in progress.track(found.items(), title="predict", total=len(found)):
        over = overlay_path(mask_path, out, overlays or "")
        try:
            for target in [mask_path, over] if overlays else [mask_path]:
                check_target(target)
            write(source, mask_path, over)
            written += 1
        except (DataError, TargetError) as error:
            skip(source, str(error))
        except torch.OutOfMemoryError:
            skip(source, "the image is too large for the memory of the device; use --accelerator cpu")
    also = f"; {walk.ignored_text(Counter(passed.values()))}" if passed else ""
    progress.say(f"{out}: {written} written, {len(failed)} failed{also}")
    return failed if failed or written else list(passed)


def predict(
    model: Labeler | Segmenter,
    image: UInt8[Tensor, "3 h w"],
    *,
    labels: Sequence[str] | None = None,
    crf: bool = False,
) -> UInt8[Tensor, "h w"]:
    """The mask of an image. The CRF is applied in windows, as segmentation networks are.

    Windows overlap, so that a pixel near the border of its window sees 64 pixels beyond the border (half of the
    margin); the largest width of the CRF is 80 pixels.
    """
    match model:
        case Segmenter() if crf or model.inference.crf:
            return _segment_with_crf(model, image, labels)
        case Segmenter():
            return model.mask(image, labels)
        case Labeler():
            mask = torch.from_numpy(model(image, labels).mask)
            if not crf:
                return mask
            return _by_windows(image, Inference(), lambda seen, window: refine.by_crf(seen, mask[window.seen]))


def overlay(image: UInt8[Tensor, "3 h w"], mask: UInt8[Tensor, "h w"]) -> Image.Image:
    """The image with the colours of the classes over it; the background is unchanged."""
    photograph = Image.fromarray(image.permute(1, 2, 0).numpy())
    coloured = Image.blend(photograph, Image.fromarray(voc_palette()[mask.numpy()]), OPACITY)
    return Image.composite(coloured, photograph, Image.fromarray((mask != BACKGROUND).numpy()))


def overlay_path(mask: Path, out: Path, suffix: str) -> Path:
    """Write an overlay. `bao predict` writes JPEG, so that overlays have other names than masks, and are small."""
    return out / OVERLAYS / mask.relative_to(out).with_suffix(suffix)


def find(
    inputs: Sequence[Path],
    out: Path,
    *,
    overlays: str | None,
    skip: Callable[[Path, str], None],
    passed: dict[Path, str],
) -> dict[Path, Path]:
    """The images to predict, by the path of their mask.

    In folders, these are the files with a suffix that Pillow reads, at any depth; a file that is given itself may have
    any suffix. `skip` is called for folders that cannot be read and for images whose masks would have the same file
    name. `passed` gets files that look like images but are not read, with their suffix. Raises DataError as
    `each_image`.
    """
    if not inputs:
        raise DataError("no images to predict; give images, or folders of images")
    sources: dict[Path, dict[Path, Path]] = {}  # by mask, then by resolved path, because an image may be given twice
    for path in inputs:
        pairs = _in_folder(path, out, skip, passed) if _is_folder(path) else [(out / f"{path.stem}.png", path)]
        for mask, source in pairs:
            sources.setdefault(mask, {}).setdefault(source.resolve(), source)
    for candidates in [list(found.values()) for found in sources.values() if len(found) > 1]:
        for source in candidates:
            skip(source, str(walk.clash([str(each) for each in candidates])))
    found = {mask: next(iter(found.values())) for mask, found in sources.items() if len(found) == 1}
    originals = {source.resolve() for source in found.values()}
    targets = [*found, *(overlay_path(mask, out, overlays) for mask in found if overlays)]
    if lost := [target for target in targets if target.resolve() in originals]:
        raise DataError(f"{lost[0]}: an image to predict would be overwritten; choose another folder with --out")
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder without permission: reported when the file is read
        return False


def _in_folder(
    folder: Path, out: Path, skip: Callable[[Path, str], None], passed: dict[Path, str]
) -> list[tuple[Path, Path]]:
    """The masks and images of a folder and its subfolders, sorted. Raises DataError if it holds no image."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{out}: is inside {folder}, whose images are read; choose another folder with --out")
    failed: list[str] = []
    before = len(passed)

    def fail(name: str, error: DataError) -> None:
        failed.append(name)
        skip(folder / name, str(error))

    found = walk.Walk(folder, failed=fail, ignored=lambda name, kind: passed.update({folder / name: kind}))
    names = sorted(found.names())
    if not (names or failed or len(passed) > before):
        raise DataError(
            f"{folder}: holds no images (such as .jpg .png .webp .tif); give files with other suffixes one by one"
        )
    return [((out / name).with_suffix(".png"), folder / name) for name in names]


def _parse(labels: str, model: Labeler | Segmenter) -> list[str]:
    names = parse_labels([labels], model.classes.names)[0]
    model.classes.encode(names)  # refuses unknown ones
    if not names:
        raise DataError("--labels: names no class; leave it out to let the model predict the classes")
    return names


def _segment_with_crf(
    model: Segmenter, image: UInt8[Tensor, "3 h w"], labels: Sequence[str] | None
) -> UInt8[Tensor, "h w"]:
    plain = Segmenter(model.network, model.classes, inference=replace(model.inference, crf=False))

    def drawn(seen: UInt8[Tensor, "3 y x"], window: Window) -> UInt8[Tensor, "y x"]:
        scores = candidates(plain(seen, labels).scores)
        settings = model.inference.crf_settings
        return crf.from_probabilities(seen.permute(1, 2, 0), scores, config=settings).argmax(dim=0).byte()

    return _by_windows(image, model.inference, drawn)


def candidates(scores: Float[Tensor, "S h w"]) -> Float[Tensor, "S h w"]:
    """The scores, with 0 for classes that are nowhere the largest and have a share below LEAST_SHARE."""
    best = scores.argmax(dim=0).flatten().bincount(minlength=len(scores)) > 0
    kept = best | (scores.mean(dim=(1, 2)) >= LEAST_SHARE)
    return scores.where(kept[:, None, None], 0)


def _by_windows(
    image: UInt8[Tensor, "3 h w"],
    inference: Inference,
    function: Callable[[UInt8[Tensor, "3 y x"], Window], UInt8[Tensor, "y x"]],
) -> UInt8[Tensor, "h w"]:
    """The mask of the image from the masks of its windows; each pixel comes from one window."""
    mask = torch.empty(image.shape[-2:], dtype=torch.uint8)
    for window in inference.windows(image.shape[-2:]):
        mask[window.kept] = function(image[:, *window.seen], window)[window.kept_of_seen]
    return mask
