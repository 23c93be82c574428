"""What each command word does with its settings. Every command returns rows and prints its table."""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from experiments.cli.completion.command import completion
from experiments.cli.doctor.command import doctor
from experiments.commands.convert import convert
from experiments.commands.cost import cost
from experiments.commands.export import export
from experiments.commands.predict import predict
from experiments.evaluate import evaluate
from experiments.everything.command import everything
from experiments.reporting.commands import leaderboard, table
from experiments.reporting.comparison import compare
from experiments.rows import Row
from experiments.runs.chain import run_chain

FUNCTIONS: dict[str, Callable[[Any, DictConfig], Sequence[Row]]] = {
    "run": run_chain,
    "evaluate": evaluate,
    "cost": cost,
    "convert": convert,
    "export": export,
    "predict": predict,
    "everything": everything,
    "compare": compare,
    "table": table,
    "leaderboard": leaderboard,
    "doctor": doctor,
    "completion": completion,
}
