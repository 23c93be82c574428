"""The files behind the leaderboard: results of runs, failed runs, evaluations, and the committed ones."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from core.terminal import terminal
from experiments.committed import committed_files
from experiments.recorded_evaluation import FOLDER
from experiments.result_file import FAILED, NAME, command_of, read_result
from experiments.tables.settings_behind import settings_behind

_HASH = re.compile(r"-([0-9a-f]{8})$")


@dataclass(frozen=True)
class Source:
    """A result file that could be read.

    Attributes:
        path: of the file.
        shown: the same without what stands above the folder of runs, or above ``results/``.
        name: of the run, the evaluation or the committed file.
        rows: at least one.
        told: columns that the file tells beside its rows, by their names in :mod:`experiments.leaderboard.columns`.
        run_id: of the run whose result it is; None of an evaluation.
        settings: what that run was given (:mod:`experiments.tables.settings_behind`).
    """

    path: Path
    shown: str
    name: str
    rows: list[ResultRow]
    told: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def sources(runs: Path | None, results: bool) -> Iterator[Source]:
    """Every readable file: of runs (the failure where there is no result), of evaluations, then the committed ones.

    One that cannot be read is named on standard error and left out.

    Args:
        runs: a folder of runs; None, or one that does not exist, has none.
        results: whether the committed results count.
    """
    if runs is not None and runs.is_dir():
        above = runs.absolute().parent
        for folder in sorted([*runs.glob("*"), *runs.glob(f"{FOLDER}/*")]):
            path = next((folder / name for name in (NAME, FAILED) if (folder / name).is_file()), None)
            # What a fresh start has set aside lies in hidden ones.
            if path is not None and not folder.name.startswith("."):
                yield from _read(path, path.absolute().relative_to(above).as_posix(), folder.name)
    for path in committed_files() if results else []:
        yield from _read(path, path.relative_to(ROOT).as_posix(), path.stem)


def readable(path: Path) -> Iterator[Source]:
    """The file, if it can be read; one that cannot is named on standard error and left out."""
    return _read(path, str(path), path.stem)


def _read(path: Path, shown: str, name: str) -> Iterator[Source]:
    try:
        rows, about = read_result(path)
    except InputError as error:
        terminal(stderr=True).print(f"left out: {error}", soft_wrap=True)
        return
    run = rows[-1].run_id if rows[-1].status in ("finished", "failed") else None
    yield Source(path, shown, name, rows, _told(about, run, rows), run, settings_behind(about) if run else {})


def _told(about: Mapping[str, Any], run: str | None, rows: list[ResultRow]) -> dict[str, Any]:
    """Columns from what stands beside the rows; what is not there, or of another type, is unknown."""
    provenance = _mapping(about.get("provenance"))
    versions = _mapping(provenance.get("versions"))
    name = _HASH.search(run or "")
    dirty = provenance.get("git_dirty")
    return {
        "paper": _text(about.get("paper")),
        "command": command_of(about, rows[0].status == "evaluated"),
        "config_hash": name[1] if name else None,
        "student_sha256": _text(about.get("student_sha256")),
        "teacher_sha256": _text(about.get("teacher_sha256")),
        "git_dirty": dirty if isinstance(dirty, bool) else None,
        "python_version": _text(versions.get("python")),
        "torch_version": _text(versions.get("torch")),
        "utc": _text(provenance.get("utc")),
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
