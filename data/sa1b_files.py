"""Where the files of SA-1B lie: ``sa_<number>.jpg`` and ``sa_<number>.json``, in the root and in folders below it."""

import re
from pathlib import Path

from core.errors import InputError
from core.plain_file import access_told
from data.image_files import files_below, is_image, require_plain

_FILE = re.compile(r"sa_(\d+)\.(\w+)", re.ASCII | re.IGNORECASE)
_MOST_DIGITS = 18


def is_sa1b_image(name: str) -> bool:
    """Whether a path's last part is that of an image of SA-1B."""
    return is_image(name) and _FILE.fullmatch(name.rpartition("/")[2]) is not None


def find_files(root: Path) -> tuple[dict[int, Path], dict[int, Path], int]:
    """Images and JSON files by number, and how many files are neither.

    Images may have any suffix of :data:`data.image_files.SUFFIXES`, and files any depth below the root.

    Raises:
        InputError: there is no such folder, it has no images, one is closed, or a number occurs twice or fits into
            no array.
    """
    with access_told(root):
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; put SA-1B's sa_*.jpg and sa_*.json there or give another root")
    images: dict[int, Path] = {}
    sources: dict[int, Path] = {}
    others = 0
    for name in files_below(root):
        match = _FILE.fullmatch(name.rpartition("/")[2])
        of_kind = images if match and is_image(name) else sources if match and match[2].lower() == "json" else None
        if match is None or of_kind is None:
            others += 1
            continue
        path = root / require_plain(root, name)
        if len(match[1]) > _MOST_DIGITS:
            raise InputError(f"{path}: a number of {len(match[1])} digits; rename the file")
        number = int(match[1])
        if number in of_kind:
            first, second = sorted([path, of_kind[number]])
            raise InputError(f"{second}: the same number is also {first}; remove one of them")
        of_kind[number] = path
    if not images:
        raise InputError(f"{root}: no sa_*.jpg there or below; put SA-1B's files there or give another root")
    return images, sources, others
