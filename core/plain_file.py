"""Files that a program may read at all: regular ones, and texts no longer than they can honestly be."""

import contextlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError

JSON_LIMIT = 8 << 20
"""Bytes of the longest JSON text that is read; twenty times as many may be needed for what it says."""


def home_path(text: str | Path) -> Path:
    """A path as people write it: ``~`` at its beginning is the home folder, and ``~name`` a name like any other
    where nobody is called so."""
    # Path.expanduser would raise there, and takes ./~ for the home folder.
    return Path(os.path.expanduser(text))


def check_regular(path: Path) -> None:
    """Refuse what would never end or never begin to be read: pipes and devices, also behind a link.

    Raises:
        InputError: there is no file, it is no regular one, or a folder above it is closed.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such checkpoint file") from None
    except OSError as error:
        raise _closed(path, error) from None
    if stat.S_ISREG(mode):
        return
    if not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a pipe, a socket or a device, no file; give a copy of what it holds")
    raise InputError(f"{path}: no such checkpoint file; it is a folder")


@contextlib.contextmanager
def reraise_access(path: Path) -> Iterator[None]:
    """A block that looks for files and lists folders at ``path``; what the system refuses is reported in one line.

    Raises:
        InputError: a folder is closed, or links lead in a circle.
    """
    try:
        yield
    except OSError as error:
        raise _closed(error.filename or path, error) from None


def _closed(path: Path | str, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({error.strerror}); look at the links and folders of this path")


def read_json(path: Path, remedy: str) -> Any:
    """What a JSON file says: plain data.

    Args:
        remedy: the end of every refusal.

    Raises:
        InputError: there is no such regular file; it is longer than :data:`JSON_LIMIT`, no UTF-8, no JSON, nested too
            deep, or an object in it has a key twice.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; {remedy}")
        with open(path, "rb") as stream:
            content = stream.read(JSON_LIMIT + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if len(content) > JSON_LIMIT:
        raise InputError(f"{path}: is longer than {JSON_LIMIT} bytes; {remedy}")
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from None


def parse_json(content: bytes | str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: no UTF-8, no JSON, nested too deep, or an object in it has a key twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"has the key {repeated_key(pairs)[:100]!r} twice")
    return found


def repeated_key(pairs: Sequence[tuple[str, Any]]) -> str:
    """The first key that an object of a JSON text has several times; there must be one."""
    # Counted in one pass: an object may have a million keys.
    return next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
