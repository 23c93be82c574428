"""Files that a program may read at all: regular ones, and texts no longer than they can honestly be."""

import json
import stat
from pathlib import Path
from typing import Any

from core.errors import InputError

JSON_LIMIT = 8 << 20
"""Bytes of the longest JSON text that is read; twenty times as many may be needed for what it says."""


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
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); look at the links and folders of this path"
        ) from None
    if stat.S_ISREG(mode):
        return
    if not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a pipe, a socket or a device, no file; give a copy of what it holds")
    raise InputError(f"{path}: no such checkpoint file; it is a folder")


def read_json(path: Path, remedy: str, limit: int = JSON_LIMIT) -> Any:
    """What a JSON file says: plain data.

    Args:
        remedy: the end of every refusal.
        limit: bytes of the longest file.

    Raises:
        InputError: there is no such regular file; it is too long, no UTF-8, no JSON, nested too deep, or an object in
            it has a key twice.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; {remedy}")
        with open(path, "rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if len(content) > limit:
        raise InputError(f"{path}: is longer than {limit} bytes; {remedy}")
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
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"has the key {twice[:100]!r} twice")
    return found
