"""JSON files whose content is checked as it is read: every failure names the file and the key."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from core.errors import InputError
from core.plain_file import repeated_key
from data.tar_members import File

LARGEST = 1e15
"""Numbers beyond this are treated like infinity: no coordinate and no area comes near."""

LARGEST_WHOLE = 2**63 - 1
"""Whole numbers beyond this fit into no array."""


def read_json(path: File, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Mapping[str, Any]:
    """A JSON file whose top level is an object.

    Args:
        object_hook: as of :func:`parse_json`.

    Raises:
        InputError: the file is missing, not JSON (perhaps truncated), or something else than an object.
    """
    content = parse_json(path, object_hook)
    if not isinstance(content, dict):
        raise InputError(f"{path}: the top level is a {type(content).__name__}, not an object; give an annotation file")
    return content


def parse_json(path: File, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Whatever a JSON file holds.

    Args:
        object_hook: what to make of each object as soon as it is read, the innermost first (as in :mod:`json`).

    Raises:
        InputError: the file is missing or not JSON (perhaps truncated), or an object has a key twice.
    """

    def checked(pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) < len(pairs):
            # Else the last one counts, and whatever the first contained is left out without a word.
            raise InputError(
                f"{path}: the key {repeated_key(pairs)[:60]!r} occurs twice in one object; correct the file"
            )
        return found if object_hook is None else object_hook(found)

    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            raise InputError(f"{path}: is compressed by gzip; unpack it")
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        # A large file fills the memory once, not twice.
        del content
        return json.loads(text, object_pairs_hook=checked)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path or fetch the file again") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON, perhaps truncated ({error}); fetch the file again") from None


def value(raw: object, key: str, where: str) -> Any:
    """``raw[key]``, or InputError when ``raw`` is no object or lacks the key."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: is a {type(raw).__name__}, not an object; correct the file")
    if key not in raw:
        raise InputError(f'{where}: the key "{key}" is missing; add it or fetch the file again')
    return raw[key]


def require_int(raw: object, key: str, where: str, least: int | None = None) -> int:
    """``raw[key]`` as an int (at least ``least``, and of 64 bits at most), or InputError."""
    found = value(raw, key, where)
    if type(found) is not int or (least is not None and found < least):
        bound = "" if least is None else f" of at least {least}"
        raise InputError(f'{where}: "{key}" is {str(found)[:40]!r}, not a whole number{bound}; correct the file')
    if abs(found) > LARGEST_WHOLE:
        raise InputError(f'{where}: "{key}" is {str(found)[:40]!r}, which does not fit into 64 bits; correct the file')
    return found


def is_number(found: object) -> bool:
    """Whether a JSON value is a number, finite and no larger than anything measured in pixels."""
    # Written so that NaN fails too, and so that an int too long for a float does not overflow.
    return type(found) in (int, float) and abs(found) <= LARGEST  # type: ignore[arg-type]


def numbers(found: object, length: int, key: str, where: str) -> list[float]:
    """A JSON list of ``length`` finite numbers as floats, or InputError."""
    if not isinstance(found, list) or len(found) != length or any(type(f) not in (int, float) for f in found):
        raise InputError(f'{where}: "{key}" is {str(found)[:40]!r}, not {length} number(s); correct the annotation')
    if not all(is_number(f) for f in found):
        raise InputError(f'{where}: "{key}" holds {str(found)[:40]!r}, which is not finite; correct the annotation')
    return [float(f) for f in found]
