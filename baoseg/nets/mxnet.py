"""Reads `.params` files of MXNet without MXNet, and renames the layers of Wide-ResNet-38 in them.

The weights of Wide-ResNet-38 (ilsvrc-cls_rna-a1_cls1000_ep-0001.params) exist in this format only. All numbers are
little-endian:

    u64 0x112, u64 reserved
    u64 count, then the arrays      an array: u32 version, i32 storage type (version 2 and 3), shape, i32 device type,
                                    i32 device index, i32 type of the numbers, the numbers
    u64 count, then the names       a name: u64 length, UTF-8

A shape is the number of dimensions (i32) and the sizes (i64). Files before version 1 have the number of dimensions
(u32) instead of the version, and sizes of u32.
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
    """Read tensors by name, without the prefixes `arg:` (parameters) and `aux:` (statistics) of MXNet.

    Raises CheckpointError if the file is missing, damaged, or holds anything but named dense arrays.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Reader(file, size).named_arrays()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights; check the path") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or not an MXNet file ({error}); fetch the file again") from None


def to_pytorch(state: dict[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """Rename the layers of Wide-ResNet-38 from MXNet's names to the names of PSA's PyTorch code; keep other names.

    The first block of level 4 is res4a and bn4a in MXNet, b4 in PyTorch; the next block is res4b1 and b4_1.
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
    """Reads one file from start to end. Raises ValueError if the file is damaged."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.left = size  # bytes not yet read

    def named_arrays(self) -> dict[str, Tensor]:
        if self.number("Q") != FILE:
            raise ValueError("it does not begin with the number of the format")
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
        if size > self.left:  # before that much memory is allocated
            raise ValueError("it ends too early")
        self.left -= size
        return self.file.read(size)
