"""The pages of single runs beside the leaderboard, made anew only where their files changed."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import read_json
from core.progress import say
from experiments.reporting.pages import HERE
from experiments.result_file import FAILED, NAME

FOLDER = "pages"
MADE = ".made.json"
"""What each page was made of, below :data:`FOLDER`."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]{0,120}")


def write_pages(rows: pd.DataFrame, out: Path) -> dict[str, str]:
    """Write the page of every result file into ``out/pages/``, where the file or the code has changed.

    A run whose page cannot be made is named on standard error and keeps the one it has.

    Args:
        rows: of :class:`experiments.reporting.results.Results`.

    Returns:
        The address of each page below ``out``, by ``result_file``.
    """
    from experiments.reporting.run_page import run_page

    read = rows.dropna(subset="path").drop_duplicates("result_file")
    sources: dict[str, Path] = dict(zip(read["result_file"], read["path"], strict=True))
    names, folder = _names(sources), out / FOLDER
    before, code = _made(folder / MADE), _code()
    known = before.get("sources", {}) if before.get("code") == code else {}
    made: dict[str, str] = {}
    for shown, path in sources.items():
        name = names[shown]
        try:
            state = _state(path)
            if known.get(name) != state or not (folder / name).is_file():
                write_text(folder / name, run_page(path, folder))
        except Exception as error:
            # One page that cannot be made, perhaps of a run that starts over, keeps no other from being made.
            reason = f"{shown}: {type(error).__name__}: {error}".splitlines()[0]
            say(f"no page: {reason}")
            continue
        made[name] = state
    content = {"code": code, "sources": made}
    if made and content != before:
        write_text(folder / MADE, json.dumps(content, indent=0, sort_keys=True) + "\n")
    return {shown: f"{FOLDER}/{name}" for shown, name in names.items() if (folder / name).is_file()}


def _names(sources: Mapping[str, Path]) -> dict[str, str]:
    """The file name of each page: the run's own name where that is plain and free."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for shown, path in sources.items():
        own = path.parent.name if path.name in (NAME, FAILED) else path.stem
        digest = _digest(shown.encode())
        choices = [own, f"{Path(shown).parts[-2]}-{own}", f"{own}-{digest}"]
        # A name is compared without its case: some file systems know no other.
        free = (name for name in choices if _PLAIN.fullmatch(name) and name.lower() not in taken)
        name = next(free, f"run-{digest}")
        taken.add(name.lower())
        names[shown] = f"{name}.html"
    return names


def _state(path: Path) -> str:
    """Which file this is; changes whenever it is written again."""
    status = path.stat()
    return f"{_digest(str(path.absolute()).encode())} {status.st_mtime_ns} {status.st_size}"


def _code() -> str:
    """Changes with what makes pages."""
    files = sorted(path for path in HERE.iterdir() if path.is_file())
    return _digest(b"\0".join(path.read_bytes() for path in files))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _made(path: Path) -> Mapping[str, dict[str, str]]:
    try:
        found = read_json(path, "it is made again")
    except InputError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("sources"), dict) else {}
