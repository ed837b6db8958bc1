"""Seeds that other tools made, one file a picture.

- `.npz` of ours (`seeds.save`).
- `.npy` with a dict, as IRN and its relatives save it: `keys` [k], class indices from 0 without the background, and
  maps `high_res` [k H W] of the picture's size or `cam` [k h w] on a coarser grid.
- `.npy` with a dict from class index, again from 0 without the background, to a map [H W] (PSA, SEAM, TransCAM).

A dict in an `.npy` is a pickle, and a pickle is a program: what it names is imported and called. The programs of these
files are therefore read, not run (`_Reader`): nothing is imported, nothing is called, and whatever is not a number, a
string, a plain container or an array of numbers is refused. A `pickle.Unpickler` that admits only the names of NumPy
is not enough: an array of objects that claims to be longer than it is crashes NumPy, and a deeply nested tuple as the
key of a dict crashes Python.
"""

import dataclasses
import io
import math
import pickletools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from baoseg import seeds
from baoseg.errors import DataError
from baoseg.fusion import scaled
from baoseg.seeds import Seed

STRIDE = 4  # pixels of the picture a cell, as in `maps.Config`: keeps other tools' seeds as small as ours

ByClass = Mapping[int, Shaped[np.ndarray, "_ _"]]  # class index from 0 -> map


def read(
    folder: Path,
    name: str,
    *,
    labels: Float[Tensor, "K"],
    size: tuple[int, int],
    allow_pickle: bool = False,
    flat: bool = False,
) -> Seed:
    """The seed of the picture `name` of height and width `size`: `folder/name.npz` or `folder/name.npy`.

    `flat` also admits a file named by the last part of `name` alone, as tools write that do not keep folders; it is
    for data sets in which those parts differ. Maps are brought to [0, 1] on a grid of a quarter of the picture's
    sides. Classes that the picture does not have are dropped; a class that the file lacks has a map of zeros.

    Raises DataError, which names the file, if it is missing, damaged, of another format, of other classes or of
    another picture, and if it is a pickle and `allow_pickle` is not set.
    """
    path = _find(folder, name, flat=flat)
    try:
        if path.suffix == ".npz":
            return _of_ours(seeds.load(path), labels=labels, size=size)
        content = path.read_bytes()
        if not allow_pickle and _HEADER.match(content):
            raise ValueError("the file is a pickle (may run code); if you trust its maker, give --allow-pickle")
        maps = _maps(_unpickle(content), size)
        return Seed(*_select(maps, labels=labels, size=size), None, size)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None


def _find(folder: Path, name: str, *, flat: bool) -> Path:
    stems = [name, name.rpartition("/")[2]] if flat and "/" in name else [name]
    paths = [[folder / f"{stem}{suffix}" for suffix in (".npz", ".npy")] for stem in stems]
    for pair in paths:
        match [path for path in pair if path.is_file()]:
            case [path]:
                return path
            case [one, other]:
                raise DataError(f"{one}: there is {other.name} too; remove the one that is not meant")
    tried = ", ".join(str(path) for pair in paths for path in pair)
    raise DataError(f"{tried}: no such seed; check the folder, or make a seed of every picture")


def _of_ours(seed: Seed, *, labels: Float[Tensor, "K"], size: tuple[int, int]) -> Seed:
    if seed.size != size:
        raise ValueError(f"the seed of a picture of {_sides(seed.size)}, not {_sides(size)}; make it from this picture")
    indices = [index - 1 for index in seed.classes.tolist()]
    classes, scores = _select(_by_class(indices, seed.scores.numpy()), labels=labels, size=size)
    background = None if seed.background is None else scaled(seed.background[None], _grid(size))[0]
    return dataclasses.replace(seed, classes=classes, scores=scores, background=background)


def _maps(content: Any, size: tuple[int, int]) -> ByClass:
    """The maps by class index from 0, of the dict that a tool saved."""
    match content:
        case {"keys": keys, "high_res": np.ndarray() as stack}:
            maps = _by_class(_indices(keys), stack)
            _check_size(stack.shape[1:], size)
        case {"keys": keys, "cam": np.ndarray() as stack}:
            maps = _by_class(_indices(keys), stack)
        case dict() if all(type(key) is int and isinstance(value, np.ndarray) for key, value in content.items()):
            maps = content
            for each in maps.values():
                _check_size(each.shape, size)
        case _:
            raise ValueError(
                "holds neither {class index: map} nor {'keys', 'cam' or 'high_res'} with NumPy arrays; save it so"
            )
    return maps


def _indices(keys: Any) -> list[int]:
    """Class indices, one a map. A background of -1 in front of them has no map; see `_by_class`."""
    values = keys.tolist() if isinstance(keys, np.ndarray) and keys.ndim == 1 else keys
    if not isinstance(values, list | tuple) or not all(type(value) is int for value in values):
        raise ValueError("'keys' are no list of class indices; save one integer for each map")
    return list(values)


def _by_class(indices: list[int], stack: Shaped[np.ndarray, "..."]) -> ByClass:
    """Pairs indices and maps [k h w]. IRN's relatives write a background in front; -1 is one beyond doubt, and 0 with
    one index too many may mean that all indices are shifted, so it is refused.
    """
    if stack.ndim != 3 or 0 in stack.shape[1:]:
        raise ValueError(f"maps of shape {stack.shape}; save them as [classes, height, width]")
    if len(indices) == len(stack) + 1 and indices[0] == -1:
        indices = indices[1:]
    if len(indices) != len(stack):
        raise ValueError(
            f"{len(indices)} class indices for {len(stack)} maps; save one from 0 for each map, the background left out"
        )
    if len(set(indices)) != len(indices):
        raise ValueError("a class has two maps; save one for each class")
    return dict(zip(indices, stack, strict=True))


def _check_size(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if shape != size:
        raise ValueError(f"maps of {_sides(shape)} for a picture of {_sides(size)}; make them from this picture")


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + " pixels"


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    return math.ceil(size[0] / STRIDE), math.ceil(size[1] / STRIDE)


def _select(maps: ByClass, *, labels: Float[Tensor, "K"], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Classes [k] and scores [k h w] of the present classes."""
    for index in maps:
        if not 0 <= index < len(labels):
            raise ValueError(
                f"class index {index} is outside 0..{len(labels) - 1} (the background left out); "
                "use seeds of the same classes"
            )
    present = labels.nonzero()[:, 0]
    scores = torch.zeros(len(present), *_grid(size))
    for row, index in enumerate(present.tolist()):
        if index in maps:
            with np.errstate(all="ignore"):  # what does not fit into single precision is infinite, and refused
                values = torch.from_numpy(maps[index].astype(np.float32))
            if not values.isfinite().all():
                raise ValueError(f"the map of class index {index} has values that are no numbers; make it again")
            scores[row] = scaled(values[None], _grid(size))[0]
    return present + 1, scores


# What numpy.save writes before a dict, in all its versions.
_HEADER = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '\|O', 'fortran_order': False, 'shape': \(\), \} *\n", re.DOTALL)


def _unpickle(content: bytes) -> Any:
    """What a dict was when numpy.save wrote it. Raises ValueError for anything else."""
    header = _HEADER.match(content)
    if header is None:
        raise ValueError("not a dict saved with numpy.save; save the seed again")
    try:
        return _Reader(content[header.end() :]).read()
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"damaged, or holds more than plain arrays ({error}); save dicts, numbers and NumPy arrays only "
            "(of a torch tensor, .numpy())"
        ) from None


class _Named(Enum):
    """What a pickle of arrays names. These stand for the functions and classes; none is ever called."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()  # an empty array, whose content follows
    SCALAR = auto()
    ENCODE = auto()  # protocol 2 writes bytes as text in latin1


_NAMES = {
    "numpy ndarray": _Named.NDARRAY,
    "numpy dtype": _Named.DTYPE,
    "numpy.core.multiarray _reconstruct": _Named.RECONSTRUCT,  # NumPy 1
    "numpy.core.multiarray scalar": _Named.SCALAR,
    "numpy._core.multiarray _reconstruct": _Named.RECONSTRUCT,  # NumPy 2
    "numpy._core.multiarray scalar": _Named.SCALAR,
    "_codecs encode": _Named.ENCODE,
}


@dataclass
class _DType:
    code: str
    order: str = "="

    def array(self, shape: tuple[int, ...], content: bytes, *, fortran: bool = False) -> Shaped[np.ndarray, "..."]:
        """An array on the bytes of the file: no shape is larger than they can fill."""
        if not re.fullmatch("b1|[iu][1248]|f[248]", self.code):
            raise ValueError(f"it has an array of {self.code[:60]!r}")
        return np.ndarray(shape, self.order + self.code, content, order="F" if fortran else "C")


@dataclass
class _Array:
    content: Any = None


_LONGEST = 20_000  # opcodes; a dict of 254 maps, as many as masks can hold, has at most 12,000
_MARK = object()
_CONSTANTS = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
# how many values an opcode takes from the stack; None: all down to the last mark
_TAKES = {
    **{"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3},
    **{"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None},
    **{"STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1},
}


class _Reader:
    """Follows the opcodes that numpy.save writes for a dict, protocols 2 to 4, and does what they mean by itself.

    Raises ValueError, TypeError, IndexError, KeyError or OverflowError for anything else.
    """

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)
        self.left = len(content)  # bytes that may still be decoded: each byte of the file once
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            if count == _LONGEST:
                raise ValueError(f"more than {_LONGEST} opcodes")
            self._step(opcode.name, argument)
        if self.file.read(1):
            raise ValueError("bytes after its end")
        match self.stack:
            case [_Array(content=dict() as result)]:
                return {key: value.content if isinstance(value, _Array) else value for key, value in result.items()}
        raise ValueError("no dict")

    def _step(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self.stack.append(_named(argument))
            case _ if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            case _ if name in _VALUES:
                self.stack.append(argument)
            case _ if name in _TAKES:
                self._combine(name, self._take(_TAKES[name]))
            case _:
                raise ValueError(f"it has the opcode {name}")

    def _take(self, count: int | None) -> list[Any]:
        if count is not None:
            return [self.stack.pop() for _ in range(count)][::-1]
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _combine(self, name: str, values: list[Any]) -> None:
        match name, values:
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3", _:
                self.stack.append(tuple(values))
            case "APPEND" | "APPENDS", _ if isinstance(self.stack[-1], list):
                self.stack[-1].extend(values)
            case "SETITEM" | "SETITEMS", _ if isinstance(self.stack[-1], dict):
                _update(self.stack[-1], values)
            case "STACK_GLOBAL", [str() as module, str() as attribute]:
                self.stack.append(_named(f"{module} {attribute}"))
            case "REDUCE", [function, arguments]:
                self.stack.append(self._result(function, arguments))
            case "BUILD", [state]:
                _fill(self.stack[-1], state)
            case _:
                raise ValueError(f"it has {name} where none belongs")

    def _result(self, function: Any, arguments: Any) -> Any:
        """What NumPy's function would return for the arguments that NumPy writes."""
        match function, arguments:
            case _Named.RECONSTRUCT, (_Named.NDARRAY, (0,), b"b"):
                return _Array()
            case _Named.DTYPE, (str() as code, _, _):
                return _DType(code)
            case _Named.SCALAR, (_DType() as dtype, bytes() as content):
                return dtype.array((), content).item()
            case _Named.ENCODE, (str() as text, "latin1") if len(text) <= self.left:
                self.left -= len(text)
                return text.encode("latin1")
        raise ValueError("it calls what no array needs")


def _named(name: str) -> _Named:
    if name not in _NAMES:
        raise ValueError(f"it names {name[:60]!r}")
    return _NAMES[name]


def _update(target: dict[Any, Any], values: list[Any]) -> None:
    for key, value in zip(values[::2], values[1::2], strict=True):
        if type(key) not in (int, str):  # hashing others could take forever
            raise ValueError("a dict has keys that are neither integers nor strings")
        if key in target:
            raise ValueError("a dict has a key twice")
        target[key] = value


def _fill(target: Any, state: Any) -> None:
    """Give an array or a dtype the state that NumPy writes for it."""
    match target, state:
        case _DType(), (3, "<" | ">" | "|" as order, *_):
            target.order = order
        case _Array(), (1, (), _DType(code="O8"), bool(), [content]):
            target.content = content  # the dict itself: numpy.save wraps it in an array of one object
        case _Array(), (1, tuple() as shape, _DType() as dtype, bool() as fortran, bytes() as content) if all(
            type(side) is int and side >= 0 for side in shape
        ):
            target.content = dtype.array(shape, content, fortran=fortran)
        case _:
            raise ValueError("it has a state that no array has")
