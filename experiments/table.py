"""The command ``table``: measured rows and published figures, side by side and marked."""

from omegaconf import DictConfig

from experiments.rows import Row
from experiments.schema import TableConfig


def table(settings: TableConfig, cfg: DictConfig) -> list[Row]:
    """Show every row."""
    raise NotImplementedError
