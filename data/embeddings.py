"""What a frozen teacher made of images, kept: computed once, on disk or in memory, found by content.

A record is one image embedding in float16 with the map of its valid (non-padded) cells, under a key of 32 bytes that
its maker derives from image, preprocessing, weights and precision. On disk, records of one shape and one maker lie
in *shards*: files that one process appends to and any process may read. Every record ends in a checksum, so
a record that was torn by a kill, cut off by a full disk or damaged later is not returned, and is made again. What
other processes append while this one works is found too, at most some seconds later.
"""

import contextlib
import errno
import hashlib
import os
import struct
import sys
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import InputError
from core.terminal import terminal

MAGIC = b"sampress embeddings 1\n"
SHARD_BYTES = 1 << 30
LOOK_EVERY_S = 2.0
"""Seconds between two looks at what other processes have appended: listing a folder costs more than a miss should."""
_HEADER = struct.Struct("<22sII")
_KEY, _SUM = 32, 16
Record = tuple[Tensor, Tensor]
"""An embedding, float16 ``[C, g, g]``, and its valid cells, bool ``[g, g]``."""


class Embeddings(Protocol):
    """Where records are kept."""

    def get(self, key: bytes) -> Record | None:
        """The record under a key; None if there is none, or none that is whole."""
        ...

    def put(self, key: bytes, embedding: Tensor, valid: Tensor) -> None:
        """Keep a record, as far as there is room."""
        ...


class MemoryEmbeddings:
    """Records in memory, up to a size.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int = 4 << 30) -> None:
        self.free = limit
        self._kept: dict[bytes, Record] = {}

    def get(self, key: bytes) -> Record | None:
        """See :class:`Embeddings`."""
        return self._kept.get(key)

    def put(self, key: bytes, embedding: Tensor, valid: Tensor) -> None:
        """See :class:`Embeddings`."""
        size = embedding.numel() * 2 + valid.numel()
        if size <= self.free and key not in self._kept:
            self.free -= size
            self._kept[key] = embedding.half().cpu().clone(), valid.cpu().clone()


class DiskEmbeddings:
    """Records in the shards of a folder. Processes may share it: each appends to shards of its own.

    Args:
        folder: of the shards; made when the first record is kept.
        channels, grid: shape ``[channels, grid, grid]`` of the embeddings. Shards of another shape are left alone.

    Raises:
        InputError: the folder cannot be read.
    """

    def __init__(self, folder: Path, channels: int, grid: int) -> None:
        self.folder, self.channels, self.grid = folder, channels, grid
        self._bits = (grid * grid + 7) // 8
        self._record = _KEY + self._bits + 2 * channels * grid * grid + _SUM
        self._places: dict[bytes, list[tuple[Path, int]]] = defaultdict(list)
        self._own: Path | None = None
        # How many records of a shard are noted; all of one of this process's.
        self._noted: dict[Path, int] = {}
        self._full = False
        self.damaged = 0
        self._looked = time.monotonic()
        try:
            for path in sorted(folder.glob("*.shard")) if folder.exists() else []:
                self._index(path)
        except OSError as error:
            raise InputError(
                f"{folder}: the teacher's cache cannot be read ({error.strerror}); give cache=off"
            ) from None

    def __len__(self) -> int:
        """Number of different keys found or kept."""
        return len(self._places)

    def get(self, key: bytes) -> Record | None:
        """See :class:`Embeddings`."""
        record = self._kept(key)
        return self._kept(key) if record is None and self._looked_again() else record

    def _kept(self, key: bytes) -> Record | None:
        """The record under a key that is noted."""
        places = self._places.get(key, [])
        while places:
            path, start = places[-1]
            record = self._read(path, start)
            if record is not None and record[:_KEY].tobytes() == key:
                return self._unpack(record)
            # Torn or damaged: it is made again, and the new record found first.
            self.damaged += 1
            places.pop()
        self._places.pop(key, None)
        return None

    def put(self, key: bytes, embedding: Tensor, valid: Tensor) -> None:
        """See :class:`Embeddings`. A disk that takes no more is said once, and nothing further is written."""
        if self._full or key in self._places:
            return
        if embedding.shape != (self.channels, self.grid, self.grid) or valid.shape != (self.grid, self.grid):
            raise ValueError(f"a record here is {self.channels} x {self.grid} x {self.grid}, got {embedding.shape}")
        bits = np.packbits(valid.cpu().numpy().reshape(-1)).tobytes()
        content = key + bits + embedding.detach().half().cpu().contiguous().numpy().tobytes()
        record = content + hashlib.blake2b(content, digest_size=_SUM).digest()
        try:
            path, start = self._append(record)
        except OSError as error:
            self._full = True
            text = f"{self.folder}: the teacher's outputs are no longer kept ({error.strerror}); the run goes on"
            terminal(stderr=True).print(text, soft_wrap=True)
            return
        self._places[key].append((path, start))
        self._noted[path] = (start - _HEADER.size) // self._record + 1

    def _looked_again(self) -> bool:
        """Note what other processes have appended since; whether it was time to look."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return False
        for path in self.folder.glob("*.shard"):
            # One that cannot be read, or no longer, is gone without, like its records when they are read.
            with contextlib.suppress(OSError):
                self._index(path)
        self._looked = time.monotonic()
        return True

    def _index(self, path: Path) -> None:
        """Note the keys of a shard's new whole records; a foreign file, a pipe, or a torn end, has none."""
        if not path.is_file():
            return
        records = (path.stat().st_size - _HEADER.size) // self._record
        if records <= self._noted.get(path, 0):
            return
        with open(path, "rb", buffering=0) as stream:
            if stream.read(_HEADER.size) != _HEADER.pack(MAGIC, self.channels, self.grid):
                self._noted[path] = sys.maxsize
                return
            for number in range(self._noted.get(path, 0), records):
                start = _HEADER.size + number * self._record
                stream.seek(start)
                self._places[stream.read(_KEY)].append((path, start))
                self._noted[path] = number + 1

    def _read(self, path: Path, start: int) -> NDArray[np.uint8] | None:
        """A record whose checksum is right.

        It is read rather than mapped: a file that somebody shortens takes a process that maps it along.
        """
        try:
            with open(path, "rb", buffering=0) as stream:
                stream.seek(start)
                record = np.empty(self._record, np.uint8)
                if stream.readinto(record.data) < self._record:
                    return None
        except OSError:
            return None
        found = hashlib.blake2b(record[:-_SUM].data, digest_size=_SUM).digest()
        return record if found == record[-_SUM:].tobytes() else None

    def _unpack(self, record: NDArray[np.uint8]) -> Record:
        bits = np.unpackbits(record[_KEY : _KEY + self._bits], count=self.grid**2).astype(bool)
        values = record[_KEY + self._bits : -_SUM].view(np.float16)
        shape = (self.channels, self.grid, self.grid)
        return torch.from_numpy(values.reshape(shape)), torch.from_numpy(bits.reshape(shape[1:]))

    def _append(self, record: bytes) -> tuple[Path, int]:
        if self._own is None or self._own.stat().st_size + len(record) > SHARD_BYTES:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own = self.folder / f"{os.getpid()}-{uuid.uuid4().hex}.shard"
            with open(self._own, "xb") as stream:
                stream.write(_HEADER.pack(MAGIC, self.channels, self.grid))
        with open(self._own, "ab", buffering=0) as stream:
            start = stream.tell()
            if stream.write(record) != len(record):
                # Records stand at multiples of their length.
                stream.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._own, start
