"""Where the files of SA-1B lie: ``sa_<number>.jpg`` and ``sa_<number>.json``, in shards or not."""

import re
from pathlib import Path

from core.errors import InputError
from core.plain_file import access_told

_FILE = re.compile(r"sa_(\d+)\.(jpg|json)", re.ASCII)
_MOST_DIGITS = 18


def find_files(root: Path) -> tuple[dict[int, Path], dict[int, Path]]:
    """Pictures and JSON files by number, in the root and in the folders right below it.

    Raises:
        InputError: there is no such folder, it has no pictures, one is closed, or a number occurs twice or fits into
            no array.
    """
    with access_told(root):
        return _found(root)


def _found(root: Path) -> tuple[dict[int, Path], dict[int, Path]]:
    found: dict[str, dict[int, Path]] = {"jpg": {}, "json": {}}
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; put SA-1B's sa_*.jpg and sa_*.json there or give another root")
    for folder in [root, *sorted(path for path in root.iterdir() if path.is_dir())]:
        for path in folder.iterdir():
            if match := _FILE.fullmatch(path.name):
                if len(match[1]) > _MOST_DIGITS:
                    raise InputError(f"{path}: a number of {len(match[1])} digits; rename the file")
                number, of_kind = int(match[1]), found[match[2]]
                if number in of_kind:
                    raise InputError(f"{path}: the same file is also {of_kind[number]}; remove one of them")
                of_kind[number] = path
    if not found["jpg"]:
        raise InputError(f"{root}: no sa_*.jpg there or one folder below; put SA-1B's files there or give another root")
    return found["jpg"], found["json"]
