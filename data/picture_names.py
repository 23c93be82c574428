"""Which names of pictures can be used: those below their folder that print in one line and can be hashed."""

from pathlib import PurePosixPath
from typing import TypeGuard


def is_plain(name: str) -> bool:
    """Whether a name is text without control characters (a line break would tear messages and tables apart).

    Names of files that are not UTF-8 come from the system with half of a surrogate pair in them: no text either.
    """
    return bool(name) and not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in name)


def is_below(name: object) -> TypeGuard[str]:
    """Whether a value is a plain path that cannot leave the folder it is relative to."""
    if not isinstance(name, str) or not is_plain(name):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
