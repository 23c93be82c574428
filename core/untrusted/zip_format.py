"""The zip file that ``torch.save`` writes: its members, and the tensors in it, by byte counts that are checked."""

import contextlib
import io
import math
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.errors import InputError

# The pickle of a whole SAM takes a tenth of a megabyte; each byte of it may become an object.
PICKLE_LIMIT = 2 << 20
# A member takes about a hundred bytes of it, and five times that once it is an object.
_DIRECTORY_LIMIT = 1 << 20
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
_MOST_AXES = 8


@dataclass(frozen=True, eq=False, repr=False)
class Storage:
    """The values ``[n]`` that tensors are views of."""

    values: Tensor


def pickle_members(archive: zipfile.ZipFile) -> list[str]:
    """Names of the members that could be the pickle: ``data.pkl`` in a folder."""
    return [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]


class _ShortReads(io.FileIO):
    """A file of which little may be read at once: zipfile reads the list of members whole."""

    limit: int | None = _DIRECTORY_LIMIT

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file.

        Raises:
            InputError: more is requested than is allowed for now.
        """
        if self.limit is not None and size is not None and size > self.limit:
            raise InputError(f"lists its members in {size} bytes, more than {self.limit}; not made by torch.save")
        return super().read(size) or b""


@contextlib.contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose list of members is not longer than a checkpoint's can be.

    Raises:
        InputError: it is longer; the message does not name the file.
        BadZipFile, OSError: not a zip file, or it cannot be read.
    """
    with _ShortReads(path) as stream, zipfile.ZipFile(stream) as archive:
        stream.limit = None
        yield archive


def sizes_of(archive: zipfile.ZipFile, file_size: int) -> dict[str, int]:
    """Bytes of every member by its name.

    Raises:
        InputError: members are compressed, encrypted, unsafely named or named twice, or claim more bytes than the file
            has.
    """
    sizes: dict[str, int] = {}
    for member in archive.infolist():
        name = member.filename
        # zipfile cuts a name at a zero byte; orig_filename is what the file says.
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or name != member.orig_filename:
            raise InputError(f"has a member named {one_line(member.orig_filename)}, which is refused")
        if member.flag_bits & 1:
            raise InputError(f"member {one_line(name)} is encrypted")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise InputError(f"member {one_line(name)} is compressed, which torch.save never does")
        if name in sizes:
            raise InputError(f"has two members named {one_line(name)}")
        sizes[name] = member.file_size
    claimed = sum(sizes.values())
    if claimed > file_size:
        raise InputError(f"its members claim {claimed} bytes, the file has {file_size}")
    return sizes


class TorchZip:
    """Reads members of a zip file of ``torch.save``, which stores them uncompressed under one folder.

    Args:
        archive: the opened file.
        file_size: its size in bytes, which bounds what is read into memory.

    Raises:
        InputError: members are compressed, encrypted, unsafely named, or claim more bytes than the file has; there is
            not one pickle; numbers are of another byte order. Messages do not name the file.
    """

    def __init__(self, archive: zipfile.ZipFile, file_size: int) -> None:
        self._archive = archive
        self._sizes = sizes_of(archive, file_size)
        self._storages: dict[str, Storage] = {}
        pickles = pickle_members(archive)
        if len(pickles) != 1:
            raise InputError(f"a zip file with {len(pickles)} members */data.pkl, expected one; not made by torch.save")
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in self._sizes and self._read("byteorder", 64) != sys.byteorder.encode():
            raise InputError(f"its numbers are not {sys.byteorder}-endian, as they are on this machine")

    def pickle(self) -> bytes:
        """The pickle, which refers to the storages by their keys."""
        return self._read("data.pkl", PICKLE_LIMIT)

    def storage(self, dtype: torch.dtype, key: str, count: int) -> Storage:
        """The storage ``key``, the same object each time.

        Raises:
            InputError: there is none, it has not the bytes of ``count`` values, or was requested with another dtype.
        """
        name = f"data/{key}"
        size = self._size(name)
        if size != count * dtype.itemsize:
            raise InputError(f"storage {one_line(key)} has {size} bytes, but claims {count} values of {dtype}")
        if key not in self._storages:
            raw = bytearray(self._read(name, size))
            values = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            self._storages[key] = Storage(values)
        if self._storages[key].values.dtype != dtype:
            raise InputError(f"storage {one_line(key)} is claimed to be of two types")
        return self._storages[key]

    def _size(self, name: str) -> int:
        if self._folder + name not in self._sizes:
            raise InputError(f"has no member {one_line(self._folder + name)}")
        return self._sizes[self._folder + name]

    def _read(self, name: str, limit: int) -> bytes:
        size = self._size(name)
        if size > limit:
            raise InputError(f"member {one_line(self._folder + name)} has {size} bytes, more than {limit}")
        return self._archive.read(self._folder + name)


def view(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The tensor of shape ``size`` that starts at element ``offset`` of a storage.

    Raises:
        InputError: it would leave the storage or repeat its elements, or size and stride do not fit each other.
    """
    if len(size) != len(stride) or len(size) > _MOST_AXES:
        raise InputError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    numbers = (offset, *size, *stride)
    # Checked before they are multiplied: a pickle may hold numbers of a million digits.
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise InputError("a tensor has an offset, size or stride that is negative, no integer or beyond any storage")
    available, count = len(storage.values), math.prod(size)
    end = offset
    if count:
        end += 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > available or end > available:
        raise InputError(f"a tensor of shape {size} reaches element {end} of a storage of {available}")
    return torch.as_strided(storage.values, size, stride, offset)


def one_line(text: str) -> str:
    """At most 120 printable characters of a text that a file brought."""
    return (text if text.isprintable() else ascii(text))[:120]
