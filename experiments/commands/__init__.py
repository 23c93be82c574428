"""What each command word does with its settings, a file each. Every command returns rows and prints its table."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from experiments.rows import Row

PLACES = {
    "run": "experiments.runs.chain.run_chain",
    "evaluate": "experiments.evaluate.evaluate",
    "cost": "experiments.commands.cost.cost",
    "convert": "experiments.commands.convert.convert",
    "export": "experiments.commands.export.export",
    "predict": "experiments.commands.predict.predict",
    "everything": "experiments.everything.command.everything",
    "compare": "experiments.reporting.comparison.compare",
    "table": "experiments.reporting.commands.table",
    "leaderboard": "experiments.reporting.commands.leaderboard",
    "doctor": "experiments.cli.doctor.command.doctor",
    "completion": "experiments.cli.completion.command.completion",
}
"""The module and function of each command, which is imported once its settings are known to be right."""


def function_of(command: str) -> Callable[[Any, DictConfig], Sequence[Row]]:
    """What a command calls with its settings."""
    module, _, name = PLACES[command].rpartition(".")
    function: Callable[[Any, DictConfig], Sequence[Row]] = getattr(importlib.import_module(module), name)
    return function
