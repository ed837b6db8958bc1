"""Reads MXNet's `.params` files without MXNet, and renames the layers of Wide-ResNet-38 in them.

The weights of Wide-ResNet-38 (ilsvrc-cls_rna-a1_cls1000_ep-0001.params) are passed around in this format only. All
numbers in it are little-endian:

    u64 0x112, u64 reserved
    u64 count, then the arrays      an array: u32 version, i32 storage type (version 2 and 3), shape, i32 device type,
                                    i32 device index, i32 type of the numbers, the numbers
    u64 count, then the names       a name: u64 length, UTF-8

A shape is i32 dimensions and i64 sizes. Files from before version 1 have the number of dimensions, u32, in the place of
the version, and sizes of u32.
"""

import math
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from baoseg.core.errors import CheckpointError

FILE = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 0  # storage type
MAX_DIMENSIONS = 32
TYPES = ("<f4", "<f8", "<f2", "|u1", "<i4", "|i1", "<i8")  # by MXNet's number

BLOCK = re.compile(r"(res|bn)(\d)(?:a|b(\d))_(branch\d[ab]?\d?)")
LEAVES = {
    "_weight": "weight",
    "_bias": "bias",
    "_gamma": "weight",
    "_beta": "bias",
    "_moving_mean": "running_mean",
    "_moving_var": "running_var",
}


def read(path: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """Tensors by name, without the marks `arg:` (parameters) and `aux:` (statistics) that MXNet's modules write.

    Raises CheckpointError if the file is missing, damaged, or holds anything but named dense arrays.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Reader(file, size).named_arrays()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights; check the path") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or no MXNet file ({error}); fetch the file again") from None


def to_pytorch(state: dict[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """MXNet's names of Wide-ResNet-38 as those of PSA's PyTorch code; names of other networks stay as they are.

    The first block of level 4 is res4a and bn4a there, b4 here; the next is res4b1 there, b4_1 here.
    """
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for ending, leaf in LEAVES.items():
        if name.endswith(ending):
            layer = name.removesuffix(ending)
            if block := BLOCK.fullmatch(layer):
                kind, level, index, branch = block.groups()
                layer = f"b{level}{f'_{index}' if index else ''}.{'conv' if kind == 'res' else 'bn'}_{branch}"
            return f"{layer}.{leaf}"
    return name


class _Reader:
    """Reads one file from front to back. Raises ValueError that says what is wrong with it."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.left = size  # bytes that are still to come

    def named_arrays(self) -> dict[str, Tensor]:
        if self.number("Q") != FILE:
            raise ValueError("it does not begin as one")
        self.number("Q")
        arrays = [self.array() for _ in range(self.number("Q"))]
        names = [self.take(self.number("Q")).decode() for _ in range(self.number("Q"))]
        if len(set(names)) != len(arrays) or len(names) != len(arrays):
            raise ValueError(f"{len(arrays)} arrays and {len(set(names))} names")
        return {
            name.removeprefix("arg:").removeprefix("aux:"): value for name, value in zip(names, arrays, strict=True)
        }

    def array(self) -> Tensor:
        version = self.number("I")
        if version in (VERSION_2, VERSION_3) and (storage := self.number("i")) != DENSE:
            raise ValueError(f"an array of storage type {storage}, not dense")
        if version in (VERSION_1, VERSION_2, VERSION_3):
            dimensions, size = self.number("i"), "q"
        else:
            dimensions, size = version, "I"
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"an array of {dimensions} dimensions")
        shape = [self.number(size) for _ in range(dimensions)]
        self.number("i")
        self.number("i")
        kind = self.number("i")
        if not 0 <= kind < len(TYPES) or min(shape) < 0:
            raise ValueError(f"an array of type {kind} and shape {shape}")
        numbers = np.dtype(TYPES[kind])
        values = np.frombuffer(bytearray(self.take(math.prod(shape) * numbers.itemsize)), numbers)
        return torch.from_numpy(values.reshape(shape))

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def take(self, size: int) -> bytes:
        if size > self.left:  # before anything so large is asked of the memory
            raise ValueError("it ends too early")
        self.left -= size
        return self.file.read(size)
