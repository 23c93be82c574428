"""The files behind the leaderboard: results of runs, failed runs, evaluations, and the committed ones."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from experiments.readme import EVERYTHING
from experiments.recorded_evaluation import FOLDER
from experiments.result_file import FAILED, NAME, read_result

EVALUATE = "evaluate"
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
    """

    path: Path
    shown: str
    name: str
    rows: list[ResultRow]
    told: Mapping[str, Any] = field(default_factory=dict)


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
            if path is not None:
                yield from _read(path, path.absolute().relative_to(above).as_posix(), folder.name)
    for path in sorted((ROOT / "results").glob("*/*.json")) if results else []:
        # Scores of whole pictures have columns of their own.
        if path.parent.name != EVERYTHING:
            yield from _read(path, path.relative_to(ROOT).as_posix(), path.stem)


def readable_rows(path: Path) -> list[ResultRow]:
    """A file's rows; one that cannot be read is named on standard error and left out."""
    return [row for source in _read(path, str(path), path.stem) for row in source.rows]


def _read(path: Path, shown: str, name: str) -> Iterator[Source]:
    try:
        rows, about = read_result(path)
    except InputError as error:
        Console(stderr=True).print(f"left out: {error}", highlight=False, soft_wrap=True, markup=False)
        return
    yield Source(path, shown, name, rows, _told(about, rows))


def _told(about: Mapping[str, Any], rows: list[ResultRow]) -> dict[str, Any]:
    """Columns from what stands beside the rows; what is not there, or of another type, is unknown."""
    provenance = _mapping(about.get("provenance"))
    versions, argv = _mapping(provenance.get("versions")), provenance.get("argv")
    words = [str(word) for word in argv] if isinstance(argv, list) else None
    if words is not None and rows[0].status == "evaluated" and words[:1] != [EVALUATE]:
        # The command line takes the word of a command away before it keeps the others.
        words = [EVALUATE, *words]
    name = _HASH.search(rows[-1].run_id or "") if rows[-1].status in ("finished", "failed") else None
    dirty = provenance.get("git_dirty")
    return {
        "paper": _text(about.get("paper")),
        "command": None if words is None else " ".join(["python -m experiments", shlex.join(words)]).rstrip(),
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
