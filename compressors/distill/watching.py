"""Who may look on while a stage trains, without touching it."""

from collections.abc import Mapping
from typing import Any, Protocol


class Watcher(Protocol):
    """Is told what the training loop logs, and now and then scores the model. Only the first process has one.

    What it scores chooses nothing: neither weights nor learning rates depend on it.
    """

    def scores_at(self, step: int, steps: int) -> bool:
        """Whether to score the model after a step. A function of the numbers alone, so that resuming keeps it."""
        ...

    def score(self, model: Any) -> Mapping[str, float]:
        """Figures of the whole model as it stands, by name."""
        ...

    def told(self, stage: str, entry: Mapping[str, float]) -> None:
        """One line of a stage's log: ``step``, and figures by name."""
        ...
