"""What a run's folder, or one committed result file, says: read for a page, so that a damaged part hides no other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import read_json
from core.result import ResultRow
from experiments.result_file import FAILED, NAME, read_result
from experiments.tracking.stage_logs import figures, log_lines

PAGE = "report.html"
ERRORS = "quantisation.json"
_NO_STAGES = ("instances.jsonl",)
"""JSON lines that are no log of a stage."""


@dataclass(frozen=True)
class StageRecord:
    """The log of one stage.

    Attributes:
        name: of the stage.
        series: figures by name, each ``[(step, value), ...]`` in the order of the log; finite values only.
        unreadable: lines that are no entry, such as half a line at the end of a log.
    """

    name: str
    series: Mapping[str, list[tuple[float, float]]]
    unreadable: int = 0


@dataclass(frozen=True)
class RunRecord:
    """Everything a page of one run is made of.

    Attributes:
        source: the file of the rows.
        rows: at least one.
        about: what stands beside the rows: config, provenance, hashes.
        folder: the run's own folder; None of a committed result file, which lies among others.
        stages: in the order in which they were trained.
        quantisation: what ``quantisation.json`` holds; None where there is none.
        problems: what could not be read, one line each.
    """

    source: Path
    rows: list[ResultRow]
    about: Mapping[str, Any]
    folder: Path | None = None
    stages: tuple[StageRecord, ...] = ()
    quantisation: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()

    @property
    def student(self) -> ResultRow:
        """The row the run is about: the last of a run, the first of an evaluation, whose baselines follow."""
        return next((row for row in self.rows if row.status == "evaluated"), self.rows[-1])

    @property
    def teacher(self) -> ResultRow | None:
        """The teacher's row beside a run's student."""
        if self.evaluated:
            return None
        return next((row for row in self.rows if row.method == "teacher" and row is not self.student), None)

    @property
    def ordered(self) -> list[ResultRow]:
        """All rows: the student, its teacher, then what they are compared with; an evaluation's as they stand."""
        first = [row for row in (self.student, self.teacher) if row is not None]
        return self.rows if self.evaluated else [*first, *(row for row in self.rows if row not in first)]

    @property
    def evaluated(self) -> bool:
        """Whether this is one of ``evaluate``'s, not a run's."""
        return self.student.status == "evaluated"

    @property
    def is_by_protocol(self) -> bool:
        """Whether rows are one model's, a protocol each, and not several models' of a run."""
        return self.student.axes is not None and self.student.protocol != "box_point@1"

    def mapping(self, *keys: str) -> Mapping[str, Any]:
        """A part of ``about``; empty where it is not there or not a mapping."""
        value: Any = self.about
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, Mapping) else {}


def read_run(source: Path) -> RunRecord:
    """Read a result file, and what lies in its folder if that is a run's own.

    Raises:
        InputError: the result file itself is damaged.
    """
    rows, about = read_result(source)
    if source.name not in (NAME, FAILED):
        return RunRecord(source, rows, about)
    folder, problems, stages = source.parent, list[str](), list[StageRecord]()
    for name in stage_names(folder, about):
        try:
            stages.append(read_stage(folder / f"{name}.jsonl"))
        except OSError as error:
            problems.append(f"{name}.jsonl cannot be read ({error.strerror})")
    problems += [f"{s.name}.jsonl: {s.unreadable} unreadable line(s) left out" for s in stages if s.unreadable]
    quantisation = None
    if (folder / ERRORS).is_file():
        try:
            quantisation = read_json(folder / ERRORS, "quantise again")
        except InputError as error:
            problems.append(str(error))
        if quantisation is not None and not isinstance(quantisation, dict):
            quantisation = None
            problems.append(f"{ERRORS} cannot be read (no mapping)")
    return RunRecord(source, rows, about, folder, tuple(stages), quantisation, tuple(problems))


def stage_names(folder: Path, about: Mapping[str, Any] | None = None) -> list[str]:
    """Stages that left a log, in the order in which they were trained.

    Args:
        about: of a result file; its ``stages`` say the order. Where it has none, the time of the last line does.
    """
    found = {path.stem: path for path in folder.glob("*.jsonl") if path.name not in _NO_STAGES}
    said = (about or {}).get("stages")
    order = [str(name) for name in said] if isinstance(said, list) else []
    return sorted(
        found, key=lambda name: (order.index(name) if name in order else len(order), found[name].stat().st_mtime_ns)
    )


def read_stage(path: Path) -> StageRecord:
    """The log of a stage (``<stage>.jsonl``); lines that are no entry are counted, not raised.

    Raises:
        OSError: there is no such file.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    unreadable = 0
    for entry in log_lines(path):
        if entry is None:
            unreadable += 1
            continue
        for name, value in figures(entry):
            # Larger whole numbers are no floats.
            if abs(value) < 1e300 if isinstance(value, int) else math.isfinite(value):
                series.setdefault(name, []).append((entry["step"], value))
    return StageRecord(path.stem, series, unreadable)
