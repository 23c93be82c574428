"""The pages of single runs beside the leaderboard, made anew only where their files changed."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import read_json
from core.terminal import terminal
from experiments.leaderboard.folding import Entry
from experiments.leaderboard.sources import Source

FOLDER = "pages"
MADE = ".made.json"
"""What each page was made of, below :data:`FOLDER`."""
_CODE = Path(__file__).resolve().parents[1] / "pages"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]{0,120}")


def page_names(entries: Iterable[Entry]) -> dict[str, str]:
    """The file name of each source's page, by :attr:`Source.shown`: its own name where that is plain and free."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in _sources(entries):
        above = Path(source.shown).parts[-2]
        wanted = [source.name, f"{above}-{source.name}", f"{source.name}-{_digest(source.shown.encode())}"]
        # A name is compared without its case: some file systems know no other.
        free = (name for name in wanted if _PLAIN.fullmatch(name) and name.lower() not in taken)
        name = next(free, f"run-{_digest(source.shown.encode())}")
        taken.add(name.lower())
        names[source.shown] = f"{name}.html"
    return names


def write_pages(entries: Iterable[Entry], out: Path) -> int:
    """Write the page of every source into ``out/pages/``; returns how many had changed.

    A run whose page cannot be made is named on standard error and keeps the one it has.
    """
    from experiments.pages.run_page import run_page

    entries = list(entries)
    names, folder = page_names(entries), out / FOLDER
    before, code = _made(folder / MADE), _code()
    known = before.get("sources", {}) if before.get("code") == code else {}
    made: dict[str, str] = {}
    changed = 0
    for source in _sources(entries):
        name = names[source.shown]
        try:
            state = _state(source.path)
            if known.get(name) != state or not (folder / name).is_file():
                write_text(folder / name, run_page(source.path, folder))
                changed += 1
        except Exception as error:
            # One page that cannot be made, perhaps of a run that starts over, keeps no other from being made.
            reason = f"{source.shown}: {type(error).__name__}: {error}".splitlines()[0]
            terminal(stderr=True).print(f"no page: {reason}", soft_wrap=True)
            continue
        made[name] = state
    content = {"code": code, "sources": made}
    if made and content != before:
        write_text(folder / MADE, json.dumps(content, indent=0, sort_keys=True) + "\n")
    return changed


def _sources(entries: Iterable[Entry]) -> list[Source]:
    return list({entry.origin.shown: entry.origin for entry in entries if entry.origin is not None}.values())


def _state(path: Path) -> str:
    """Which file this is; changes whenever it is written again."""
    status = path.stat()
    return f"{_digest(str(path.absolute()).encode())} {status.st_mtime_ns} {status.st_size}"


def _code() -> str:
    """Changes with what makes pages."""
    files = sorted(path for path in _CODE.iterdir() if path.suffix in (".py", ".css"))
    return _digest(b"\0".join(path.read_bytes() for path in files))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _made(path: Path) -> Mapping[str, dict[str, str]]:
    try:
        found = read_json(path, "it is made again")
    except InputError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("sources"), dict) else {}
