"""What a logger is, and what it gets of a run before it starts and at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.protocols import Segmenter
from core.result import ResultRow
from experiments.reporting.columns import known_columns
from experiments.scoring import EvaluationSet
from experiments.tracking.stage_logs import Entry


@dataclass(frozen=True)
class RunMetadata:
    """What Weights & Biases gets of a run before it starts.

    Attributes:
        run_id: its name.
        group: of runs that differ by seed alone.
        tags: method, teacher, data and preset.
        config: its settings and where it comes from, without anything personal.
        again: whether it starts over, and an earlier run of this name may stand on the server.
    """

    run_id: str
    group: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    again: bool


@dataclass(frozen=True)
class Outcome:
    """What a run has made.

    Attributes:
        rows: the comparisons and, last, the student.
        models: the teacher and the student, by these names.
        evaluation_set: the images they were scored on.
        checkpoint: the student's file.
        facts: what the file says of its making.
        image: of masks.
        result: ``result.json``.
    """

    rows: Sequence[ResultRow]
    models: Mapping[str, Segmenter]
    evaluation_set: EvaluationSet
    checkpoint: Path
    facts: Mapping[str, Any]
    image: Path
    result: Path

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The rows as columns and lines of numbers and words; columns that are empty everywhere are left out."""
        raw = [row.to_dict() for row in self.rows]
        names = known_columns(raw)
        return names, [[_plain(line[name]) for name in names] for line in raw]


def _plain(value: Any) -> Any:
    """What maps names to numbers, in words."""
    return ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, Mapping) else value


class Logger:
    """Keeps the figures of one run somewhere. Only the first process of a run has any."""

    def begin(self) -> None:
        """The run starts, or goes on."""

    def log(self, stage: str, entry: Entry) -> None:
        """One line of a stage's log, which holds it already."""

    def finished(self, outcome: Outcome) -> None:
        """The run is done, and its files are written."""

    def failed(self, error: BaseException) -> None:
        """The run has ended by an error, or was stopped."""
