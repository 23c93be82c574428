"""What one run of a sweep gave: plain enough to come back from another process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.rows import Row


@dataclass(frozen=True)
class Outcome:
    """The rows of one job, or the error that ended it.

    Attributes:
        overrides: what tells the job from others of its sweep, as it would be typed.
        format: how rows are shown.
        runs: the folder of runs.
        preset: the name of the experiment, or ``None`` as a word.
    """

    overrides: tuple[str, ...]
    format: str
    runs: Path
    preset: str
    rows: Sequence[Row] = ()
    error: Exception | None = None


SWEPT: list[Outcome] = []
"""What the jobs of the last sweep gave, in its order, wherever they ran: Hydra hands nothing back."""
