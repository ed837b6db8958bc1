"""COCO's run lengths of a mask, by columns: the lengths of runs outside and inside in turn, as a list or as text.

Read here and not by pycocotools, which reads on past the end of text that ends early: files come from anywhere.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import Bool

_COUNT = re.compile(r"[P-o]{0,6}[0-O]")  # a run length as text: six bits a character, of which one says: more follow


def decode(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of `{"size": [h, w], "counts": ...}` for an image of `size`, its height and width.

    Raises ValueError for run lengths of another size, or that do not fill the image, and KeyError or TypeError for what
    has neither.
    """
    if list(segmentation["size"]) != list(size):
        raise ValueError(f"a mask of {segmentation['size']} for an image of {list(size)}")
    counts = segmentation["counts"]
    counts = counts if isinstance(counts, list) else _lengths(counts)
    if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError("run lengths that do not fill the image")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order="F")


def _lengths(text: str) -> list[int]:
    """The run lengths that pycocotools packs into text: from the third on, what each is more than the last but one."""
    found: list[int] = []
    for packed in _COUNT.findall(text):
        bits = [ord(letter) - ord("0") for letter in packed]
        value = sum((five & 31) << (5 * place) for place, five in enumerate(bits))
        value -= (bits[-1] & 16 > 0) << (5 * len(bits))
        found.append(value + (found[-2] if len(found) > 2 else 0))
    return found
