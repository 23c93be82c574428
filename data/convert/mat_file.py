"""Files of MATLAB (level 5), as far as label maps need them: tables of numbers, cells and structs.

scipy reads them too, but ends the process on some damaged files. Here every length is checked against the bytes that
are there, and nothing in a file is run.
"""

import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError

LIMIT = 64 << 20
"""Bytes of the longest file and of the longest unpacked variable; ground truth of one image is a tenth of it."""
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""How values are stored."""
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT = 1, 2
_NUMERIC = range(6, 16)
"""Classes of arrays: double to 64 bits without a sign."""
_DEEPEST = 4


class _Damaged(ValueError):
    """What the bytes say cannot be."""


def read_variable(path: Path, name: str) -> Any:
    """A variable of a file: a table of numbers as an array, a cell as a list, a struct as a list of dicts.

    Lists have the elements in MATLAB's order, column by column. Text, functions and objects are None.

    Raises:
        InputError: the file is missing, damaged or of another level, or has no such variable.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(LIMIT + 1)
    except OSError as problem:
        raise InputError(f"{path}: cannot be read ({problem.strerror}); fetch the file again") from None
    if len(content) > LIMIT:
        raise InputError(f"{path}: is longer than {LIMIT} bytes, so it is no annotation; fetch the file again")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise InputError(f"{path}: is no file of MATLAB's level 5; fetch the file again")
    if content[125 if order == "<" else 124] == 2:
        raise InputError(f"{path}: is of MATLAB 7.3 (HDF5), not of level 5; fetch the published file")
    try:
        rest = memoryview(content)[128:]
        while rest:
            kind, data, rest = _element(rest, order)
            if kind == _COMPRESSED:
                kind, data, _ = _element(memoryview(_unpacked(data)), order)
            if kind == _MATRIX and (found := _array(data, order, name))[0] == name:
                return found[1]
    except (_Damaged, zlib.error) as problem:
        raise InputError(f"{path}: damaged ({problem}); fetch the file again") from None
    raise InputError(f'{path}: has no variable "{name}"; fetch the file again')


def _unpacked(data: memoryview) -> bytes:
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(data, LIMIT)
    if not unpacking.eof:
        raise _Damaged("a variable that does not end" if len(unpacked) < LIMIT else f"more than {LIMIT} bytes")
    return unpacked


def _element(content: memoryview, order: str) -> tuple[int, memoryview, memoryview]:
    """The kind and the data of the element at the beginning, and what follows it."""
    if len(content) < 8:
        raise _Damaged("it ends within an element")
    first, second = (int(word) for word in np.frombuffer(content[:8], f"{order}u4"))
    if first >> 16:
        # Up to four bytes stand in the tag itself.
        kind, length, start, after = first & 0xFFFF, first >> 16, 4, 8
        if length > 4:
            raise _Damaged("a short element of more than 4 bytes")
    else:
        kind, length, start = first, second, 8
        after = 8 + length if kind == _COMPRESSED else 8 + -(-length // 8) * 8
    if start + length > len(content):
        raise _Damaged("it ends within an element")
    return kind, content[start : start + length], content[after:]


def _numbers(content: memoryview, order: str) -> tuple[Any, memoryview]:
    kind, data, rest = _element(content, order)
    if kind not in _NUMBERS:
        raise _Damaged(f"values of the unknown kind {kind}")
    stored = np.dtype(f"{order}{_NUMBERS[kind]}")
    if len(data) % stored.itemsize:
        raise _Damaged("a part of a value")
    return np.frombuffer(data, stored).astype(stored.newbyteorder("=")), rest


def _array(content: memoryview, order: str, expected: str | None = None, depth: int = 0) -> tuple[str, Any]:
    """The name and the value of an array; None for the value of one that has another name than is looked for."""
    if not content:
        return "", np.zeros((0, 0))
    if depth > _DEEPEST:
        raise _Damaged(f"more than {_DEEPEST} arrays in each other")
    flags, rest = _numbers(content, order)
    dims, rest = _numbers(rest, order)
    letters, rest = _numbers(rest, order)
    if not len(flags) or dims.dtype.kind != "i" or (dims < 0).any() or letters.dtype.itemsize != 1:
        raise _Damaged("an array without class, size or name")
    name, kind = letters.tobytes().decode("latin-1"), int(flags[0]) & 0xFF
    shape = [int(side) for side in dims]
    if expected is not None and name != expected:
        return name, None
    if kind == _CELL:
        return name, _arrays(rest, order, prod(shape), depth)
    if kind == _STRUCT:
        longest, rest = _numbers(rest, order)
        letters, rest = _numbers(rest, order)
        if longest.size != 1 or (length := int(longest[0])) <= 0 or len(letters) % length:
            raise _Damaged("a struct without names")
        text = letters.tobytes()
        fields = [text[at : at + length].partition(b"\0")[0].decode("latin-1") for at in range(0, len(text), length)]
        values = _arrays(rest, order, prod(shape) * len(fields), depth)
        return name, [dict(zip(fields, values[at:], strict=False)) for at in range(0, len(values), len(fields) or 1)]
    if kind not in _NUMERIC:
        return name, None
    values, _ = _numbers(rest, order)
    if prod(shape) != len(values):
        raise _Damaged(f"{len(values)} values in an array of {' x '.join(map(str, shape))}")
    return name, values.reshape(shape, order="F")


def _arrays(content: memoryview, order: str, count: int, depth: int) -> list[Any]:
    # Each has a tag of eight bytes at least.
    if count > len(content) // 8:
        raise _Damaged(f"{count} arrays in {len(content)} bytes")
    found = []
    for _ in range(count):
        kind, data, content = _element(content, order)
        if kind != _MATRIX:
            raise _Damaged("something else than an array in an array")
        found.append(_array(data, order, depth=depth + 1)[1])
    return found
