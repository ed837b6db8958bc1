"""What a run notes of its data, to know them again and to say what has changed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from baoseg import data
from baoseg.data import Dataset


def described(dataset: Dataset) -> dict[str, Any]:
    """What a run keeps of the data of a split, to know them again and to say what has changed.

    `fingerprint` is that of an excerpt and counts the ground truth; the other entries are about all images of the
    split, and count it not. `bytes` are the sizes of the image files, where there are files.
    """
    whole = _whole(dataset)
    return {
        "split": dataset.split,
        "images": len(dataset),
        "fingerprint": dataset.fingerprint(),
        "of": len(whole),
        "classes": list(whole.classes.names),
        "inputs": whole.fingerprint(masks=False),
        "names": _digest(list(whole.names)),
        "labels": _digest(data.shown_classes(whole)),
        "bytes": " ".join(str(size) for size in whole.image_bytes()) if isinstance(whole, data.Folder) else "",
    }


def same_inputs(noted: dict[str, Any], dataset: Dataset) -> bool:
    """Whether all is as noted but, maybe, the ground truth."""
    if "inputs" in noted:
        return bool(noted["inputs"] == _whole(dataset).fingerprint(masks=False))
    return noted["fingerprint"] in (dataset.fingerprint(), dataset.fingerprint(masks=False))  # of an earlier version


def difference_of_data(noted: dict[str, Any], dataset: Dataset, used: Callable[[str], bool] = lambda name: True) -> str:
    """In what the data differ from those noted; empty if in nothing that matters.

    The ground truth may differ, and files of images that are not `used` so far, as one that was broken.
    """
    if same_inputs(noted, dataset):
        return ""
    now = described(dataset)
    if difference := _named_difference(noted, now):
        return difference
    if not noted.get("bytes"):
        return "image files changed" if "inputs" in noted else "names, labels or files changed"
    sizes = zip(_whole(dataset).names, noted["bytes"].split(), now["bytes"].split(), strict=True)
    changed = [name for name, before, after in sizes if before != after]
    if not any(map(used, changed)):
        return ""
    return f"{len(changed)} of {now['of']} image files changed, as that of {changed[0]}"


def _named_difference(noted: dict[str, Any], now: dict[str, Any]) -> str:
    """The first difference of two descriptions of data, but for files. An earlier version notes less."""
    before = {**now, **noted}
    for key, title in (("split", "split"), ("of", "images"), ("images", "images")):
        if before[key] != now[key]:
            return f"{title} {before[key]}, now {now[key]}"
    if difference := difference_of_classes(before, now["classes"]):
        return difference
    changed = [key for key in ("names", "labels") if before[key] != now[key]]
    return f"{' and '.join(changed)} changed" if changed else ""


def difference_of_classes(noted: dict[str, Any], names: Sequence[str]) -> str:
    before = noted.get("classes", [*names])
    return "" if before == [*names] else f"classes {', '.join(before)}, now {', '.join(names)}"


def _whole(dataset: Dataset) -> Dataset:
    return dataset.whole if isinstance(dataset, data.Excerpt) else dataset


def _digest(value: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def first_difference(old: object, new: object, at: str = "") -> str:
    """The first place where two JSON values differ, as `path: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return first_difference(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    if isinstance(old, list) and isinstance(new, list):
        for number, (left, right) in enumerate(zip(old, new, strict=False)):
            if left != right:
                return first_difference(left, right, f"{at}[{number}]")
        return f"{at} had {len(old)} entries, now {len(new)}"
    return f"{at} was {old}, now {new}"
