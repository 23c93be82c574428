"""What Weights & Biases is told of a run before it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunAbout:
    """One run.

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
