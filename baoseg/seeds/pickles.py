"""Dicts of arrays in .npy files, read without running anything.

`numpy.save` writes a dict as a pickle, and a pickle is a program: unpickling imports and calls what it names. `_Reader`
reads the opcodes of the program and does not run it: it imports nothing, calls nothing, and refuses whatever is not a
number, a string, a plain container or an array of numbers.

A `pickle.Unpickler` that admits only the names of NumPy is not enough: an array of objects that claims to be longer
than it is crashes NumPy, and a deeply nested tuple as the key of a dict crashes Python.
"""

import io
import pickletools
import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
from jaxtyping import Shaped

# What numpy.save writes before a dict, in all its versions.
_HEADER = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '\|O', 'fortran_order': False, 'shape': \(\), \} *\n", re.DOTALL)


def is_pickle(content: bytes) -> bool:
    """Whether the bytes of an .npy file hold a pickled dict."""
    return _HEADER.match(content) is not None


def unpickle(content: bytes) -> Any:
    """The dict that numpy.save wrote. Raises ValueError for any other content."""
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
    """Placeholders for the functions and classes that a pickle of arrays names; they are never called."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()  # makes an empty array, whose content follows
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
    """A data type: its code, such as f4, and its byte order."""

    code: str
    order: str = "="

    def array(self, shape: tuple[int, ...], content: bytes, *, fortran: bool = False) -> Shaped[np.ndarray, "..."]:
        """An array on these bytes. NumPy raises an error for a shape that needs more bytes."""
        if not re.fullmatch("b1|[iu][1248]|f[248]", self.code):
            raise ValueError(f"it has an array of {self.code[:60]!r}")
        return np.ndarray(shape, self.order + self.code, content, order="F" if fortran else "C")


@dataclass
class _Array:
    """An array, or a zero-dimensional array of one object."""

    content: Any = None


_LONGEST = 20_000  # largest number of opcodes; a dict of 254 maps, the most for 8-bit masks, has at most 12,000
_MARK = object()
_CONSTANTS = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
# number of values that an opcode takes from the stack; None: all values above the last mark
_TAKES = {
    **{"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3},
    **{"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None},
    **{"STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1},
}


class _Reader:
    """Reads the opcodes that numpy.save writes for a dict (protocols 2 to 4) and builds the dict itself.

    Raises ValueError, TypeError, IndexError, KeyError or OverflowError for anything else.
    """

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)
        # bytes that may still be decoded, so that each byte of the file is decoded at most once
        self.left = len(content)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The dict."""
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
                raise ValueError(f"it has the opcode {name} in the wrong place")

    def _result(self, function: Any, arguments: Any) -> Any:
        """The result of a NumPy function for the arguments that NumPy writes."""
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
        raise ValueError("it calls a function that no array needs")


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
