"""Arrays that were made of large files once, kept for the next time: never needed, only faster."""

import contextlib
import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.checkpoint import write_bytes
from core.errors import InputError

VERSION = 2
"""Of what is kept; what another version wrote is made anew."""
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError)
FOLDER = ".hashes"
"""Below the folder of runs: what was found of files once, their hashes too."""
_folder: Path | None = None

Arrays = dict[str, NDArray[Any]]


@contextlib.contextmanager
def keeping(folder: Path | None) -> Iterator[None]:
    """A block in which arrays are kept in a folder, made when it is needed; with None, as outside, nowhere."""
    global _folder
    before, _folder = _folder, folder
    try:
        yield
    finally:
        _folder = before


def load(kind: str, place: Path) -> Arrays:
    """What was kept of a file or folder; nothing where there is nothing, or it is damaged.

    Args:
        kind: of what is kept.
    """
    path = _path(kind, place)
    if path is None:
        return {}
    try:
        if not path.is_file():
            return {}
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except _DAMAGED:
        return {}


def save(kind: str, place: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays about a file or folder, in place of what was kept; without room or permission nothing is.

    Whoever loads them must see from what is in them whether they still hold.
    """
    path = _path(kind, place)
    if path is not None:
        stream = io.BytesIO()
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        with contextlib.suppress(OSError, InputError):
            write_bytes(path, stream.getvalue())


def _path(kind: str, place: Path) -> Path | None:
    if _folder is None:
        return None
    named = f"{VERSION} {kind} ".encode() + os.fsencode(os.path.abspath(place))
    return _folder / f"{hashlib.sha256(named).hexdigest()[:32]}.npz"
