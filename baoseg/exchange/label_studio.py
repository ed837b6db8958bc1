"""Label Studio: tasks with masks as predictions, and annotations back.

    OUT/SPLIT.json            tasks, a brush region for each instance
    OUT/label_config.xml      the labelling interface; its names must be those of the regions, so use it as it is
    OUT/images/SPLIT/NAME     copies: Label Studio serves files of a folder below its document root, which is OUT

The brush format is run lengths of bits (thi.ng's rle-pack): 32 bits for the number of bytes, 4 a pixel (RGBA), and a
header of word and run sizes. Masks also come back from its bitmask and polygon regions; regions of other kinds are
refused. Pixels to ignore have a label of their own where there are any.
"""

import base64
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from baoseg.core.errors import DataError, first_line
from baoseg.core.files import atomic, read_document
from baoseg.core.types import IGNORE
from baoseg.data.images import DAMAGE, voc_palette
from baoseg.exchange.common import Options, copy_image, copy_name, ignore_name, is_current, sides, track
from baoseg.exchange.outlines import fill
from baoseg.exchange.result import Collection, Drawn, ImageResult, Instance, Layer

LOCAL = "/data/local-files/?d="  # of Label Studio, for files below its document root
FROM, TO = "tag", "image"
RUN_BITS = (3, 4, 8, 16)
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file


def write(results: Collection, out: Path, options: Options) -> None:
    names = dict(enumerate(results.classes.names, start=1))
    ignore, folder = ignore_name(results.classes), out / "images" / results.split
    with atomic(out / f"{results.split}.json") as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, result in enumerate(track(results)):
            if not is_current(folder / copy_name(result), result):
                copy_image(result, folder)
            if (result.mask == IGNORE).any():
                names[IGNORE] = ignore
            file.write(",\n" if number else "\n")
            json.dump(_task(result, results.split, names, options), file, ensure_ascii=False)
        file.write("\n]\n")
    with atomic(out / "label_config.xml") as temporary:
        temporary.write_text(_config(names), encoding="utf-8")


def _config(names: dict[int, str]) -> str:
    colours = voc_palette()
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="#{bytes(colours[index]).hex()}"/>'
        for index, name in names.items()
    )
    return (
        f'<View>\n  <Image name="{TO}" value="$image" zoom="true" smoothing="false"/>\n'
        f'  <BrushLabels name="{FROM}" toName="{TO}">\n{labels}\n  </BrushLabels>\n</View>\n'
    )


def _task(result: ImageResult, split: str, names: dict[int, str], options: Options) -> dict[str, Any]:
    instances = result.instances(min_area=options.min_area)
    scores = [one.score for one in instances if one.score is not None]
    prediction = {
        "model_version": f"bao {result.source}",
        **({"score": round(float(np.mean(scores)), 4)} if scores else {}),
        "result": [
            _region(one, names[one.label], number) for number, one in enumerate([*instances, *result.ignored()])
        ],
    }
    image = f"{LOCAL}{quote(f'images/{split}/{copy_name(result)}')}"
    return {"data": {"image": image}, "predictions": [prediction]}


def _region(instance: Instance, label: str, number: int) -> dict[str, Any]:
    height, width = instance.size
    return {
        **{"id": f"bao{number}", "type": "brushlabels", "from_name": FROM, "to_name": TO, "image_rotation": 0},
        **{"original_width": width, "original_height": height},
        **({} if instance.score is None else {"score": round(instance.score, 4)}),
        "value": {
            "format": "rle",
            "rle": encode(instance.mask).tolist(),
            "brushlabels": [label],
        },
    }


def encode(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "bytes"]:
    """The brush run lengths of a mask: 255 inside and 0 outside, in all four channels."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = 4 * np.diff(starts, append=flat.size)
    bits = [f"{4 * flat.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for inside, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        for run in _runs(length):
            size = next(index for index, size in enumerate(RUN_BITS) if run <= 1 << size)
            bits.append(f"1{size:02b}{run - 1:0{RUN_BITS[size]}b}{255 if inside else 0:08b}")
    joined = "".join(bits)
    return np.packbits(np.frombuffer(joined.encode(), dtype=np.uint8) - ord("0"))


def _runs(length: int) -> Iterator[int]:
    longest = 1 << RUN_BITS[-1]
    while length > 0:
        yield min(length, longest)
        length -= longest


def decode(packed: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of brush run lengths: where the last channel, opacity, is above 0. Raises ValueError."""
    bits = _Bits(np.unpackbits(np.asarray(packed, dtype=np.uint8)))
    count, word = bits.take(32), bits.take(5) + 1
    sizes = [bits.take(4) + 1 for _ in RUN_BITS]
    if count != 4 * size[0] * size[1]:
        raise ValueError(f"a brush of {count} bytes for an image of {size[0]} x {size[1]} pixels")
    values, done = np.empty(count, dtype=np.uint8), 0
    while done < count:
        repeated = bits.take(1)
        end = done + bits.take(sizes[bits.take(2)]) + 1
        if end > count:
            raise ValueError("a brush with more pixels than its image")
        if repeated:
            values[done:end] = bits.take(word)
        else:
            values[done:end] = [bits.take(word) for _ in range(end - done)]
        done = end
    return values[3::4].reshape(size) > 0


class _Bits:
    """A stream of bits, highest first. Raises ValueError past its end."""

    def __init__(self, bits: UInt8[np.ndarray, "n"]) -> None:
        self._bits, self._at = (bits + ord("0")).tobytes().decode(), 0

    def take(self, count: int) -> int:
        taken = self._bits[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("a brush that ends early")
        self._at += count
        return int(taken, 2)


def read(source: Path) -> Iterator[Drawn]:
    """The tasks of an export as JSON: of each the newest annotation, or its first prediction without one.

    An annotation without a region says that the image shows none of the classes.
    """
    tasks = read_document(source)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "data" in task for task in tasks):
        raise DataError(f"{source}: no list of tasks; export the project of Label Studio as JSON (not JSON-MIN)")
    for task in tasks:
        try:
            if (drawn := _drawn(source, task)) is not None:
                yield drawn
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise DataError(f"{source}: task {task.get('id')} cannot be read ({error!r}); export it again") from None


def _drawn(source: Path, task: dict[str, Any]) -> Drawn | None:
    done = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
    done.sort(key=lambda one: str(one.get("updated_at", one.get("created_at", ""))))
    chosen = done[-1] if done else next(iter(task.get("predictions", [])), None)
    if chosen is None:
        return None
    regions = [one for one in chosen["result"] if "original_width" in one]  # others are about the image as a whole
    size = sides(regions[0]["original_height"], regions[0]["original_width"]) if regions else None

    def paint() -> Iterator[Layer]:
        for one in regions:
            try:
                yield name_of(one), _mask(one, size)
            except (KeyError, TypeError, ValueError, IndexError, OverflowError, *DAMAGE) as error:
                raise DataError(
                    f"{source}: task {task.get('id')} cannot be read ({first_line(error)}); export it again"
                ) from None

    return Drawn(_image_of(task["data"]), size, paint)


def _image_of(data: dict[str, Any]) -> str:
    """The path of a task's image, without what Label Studio put before it."""
    texts = [value for value in data.values() if isinstance(value, str)]
    if not texts:
        raise ValueError("no image among its data")
    address = data.get(TO) if isinstance(data.get(TO), str) else texts[0]
    path = unquote(str(address).rpartition("?d=")[2])
    folder, slash, last = path.rpartition("/")
    return f"{folder}{slash}{_UPLOADED.sub('', last)}"


def name_of(region: dict[str, Any]) -> str:
    """The class of a region."""
    labels = region["value"].get(region["type"])
    if not labels:
        raise ValueError("a region without a label")
    return str(labels[0])


def _brush(value: dict[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    return decode(value["rle"], size)


def _bitmask(value: dict[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Black where the region is, on a transparent ground."""
    content = base64.b64decode(value["imageDataURL"].partition(",")[2], validate=True)
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if (image.height, image.width) != size:
            raise ValueError(f"a bitmask of {image.height} x {image.width} pixels for an image of {size}")
        return np.asarray(image.convert("RGBA"))[..., 3] > 0


def _polygon(value: dict[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Points in percent of width and height."""
    points = np.asarray(value["points"], dtype=np.float64) / 100 * (size[1], size[0])
    return fill([points], size)


_KINDS = {"brushlabels": _brush, "bitmasklabels": _bitmask, "polygonlabels": _polygon}


def _mask(region: dict[str, Any], size: tuple[int, int] | None) -> Bool[np.ndarray, "h w"]:
    if region["type"] not in _KINDS:
        raise ValueError(f"a region of the kind {region['type']}; draw it with {', '.join(_KINDS)}")
    if size is None or (region["original_height"], region["original_width"]) != size:
        raise ValueError("regions of images of several sizes")
    return _KINDS[region["type"]](region["value"], size)
