"""PyTorch's format before 1.6: pickles one behind the other, then the bytes of the storages."""

import io
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch

from core.errors import InputError
from core.plain_file import check_regular
from core.untrusted.pickle_machine import DAMAGED, Machine
from core.untrusted.zip_format import PICKLE_LIMIT, Storage, one_line

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_UNKNOWN = "truncated or not a PyTorch file"


def read_old(path: Path) -> Any:
    """Read what ``torch.save`` wrote before PyTorch 1.6, without running any of it.

    Returns:
        The object, as of :func:`core.untrusted.pickle_machine.read_inert` with no packages.

    Raises:
        InputError: the file is missing, damaged or of another kind; its storages are not as long as it says; or it asks
            for a class or function, which the message names.
    """
    check_regular(path)
    try:
        with open(path, "rb") as stream:
            return _read(stream, path.stat().st_size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except DAMAGED as error:
        raise InputError(f"{path}: {_UNKNOWN} ({one_line(str(error))}); fetch it again") from error


def _read(stream: BinaryIO, file_size: int) -> Any:
    head = io.BytesIO(stream.read(PICKLE_LIMIT))
    if head.getvalue()[:1] != b"\x80":
        raise InputError(f"{_UNKNOWN}; fetch it again")
    if Machine(_no_storage, ()).run(head) != _MAGIC or Machine(_no_storage, ()).run(head) != _PROTOCOL:
        raise InputError(f"{_UNKNOWN}; fetch it again")
    machine = Machine(_no_storage, ()).run(head)
    if not isinstance(machine, dict) or machine.get("little_endian") is not (sys.byteorder == "little"):
        raise InputError(f"its numbers are not {sys.byteorder}-endian, as they are on this machine")
    # Where a storage begins is known only once the types of all are, so the pickle is read twice: first with storages
    # that take no memory.
    claims = _Claims(file_size)
    program = head.tell()
    Machine(claims.storage, ()).run(head)
    places = claims.places(Machine(_no_storage, ()).run(head), stream, head.tell())
    kept: dict[str, Storage] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> Storage:
        if key not in kept:
            stream.seek(places[key])
            raw = bytearray(stream.read(count * dtype.itemsize))
            kept[key] = Storage(torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype))
        return kept[key]

    head.seek(program)
    return Machine(storage, ()).run(head)


def _no_storage(dtype: torch.dtype, key: str, count: int) -> Storage:
    raise InputError("its pickle is damaged: a tensor stands where none can")


class _Claims:
    """What a pickle says of the storages behind it."""

    def __init__(self, file_size: int) -> None:
        self._file_size = file_size
        self._claimed: dict[str, tuple[torch.dtype, int]] = {}

    def storage(self, dtype: torch.dtype, key: str, count: int) -> Storage:
        """Note a storage; its values take no memory."""
        if type(count) is not int or not 0 <= count * dtype.itemsize <= self._file_size:
            raise InputError(f"storage {one_line(key)} claims more bytes than the file has")
        if self._claimed.setdefault(key, (dtype, count)) != (dtype, count):
            raise InputError(f"storage {one_line(key)} is claimed to be of two types or lengths")
        return Storage(torch.empty(count, dtype=dtype, device="meta"))

    def places(self, keys: object, stream: BinaryIO, start: int) -> dict[str, int]:
        """Where each storage's bytes begin; behind its length, in the order of ``keys``."""
        if not isinstance(keys, list) or len(keys) != len(self._claimed) or set(map(str, keys)) != set(self._claimed):
            raise InputError("its pickle is damaged: its storages are not those that it lists")
        found, place = {}, start
        for key in keys:
            dtype, count = self._claimed[key]
            stream.seek(place)
            if int.from_bytes(stream.read(8), "little") != count:
                raise InputError(f"storage {one_line(key)} has not the {count} values that it claims")
            found[key] = place + 8
            place += 8 + count * dtype.itemsize
        if place > self._file_size:
            raise InputError(f"{_UNKNOWN}: its storages end at byte {place}, the file at {self._file_size}")
        return found
