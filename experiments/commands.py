"""What each command word does with its settings. Every command returns rows and prints its table."""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from core import provenance
from core.errors import InputError
from core.result import ResultRow
from experiments.build import build_method
from experiments.chain import run_chain
from experiments.comparison.command import compare
from experiments.completion.command import completion
from experiments.convert import convert
from experiments.doctor.command import doctor
from experiments.evaluate import evaluate
from experiments.everything.command import everything
from experiments.export import export
from experiments.identity import method_name
from experiments.leaderboard.command import leaderboard
from experiments.measuring import cost_of_shape
from experiments.messages import nearest
from experiments.predict import predict
from experiments.report import print_comparison
from experiments.rows import Row
from experiments.schema import CostConfig
from experiments.tables.command import table
from teachers.catalog import MODELS


def cost(settings: CostConfig, cfg: DictConfig) -> list[ResultRow]:
    """Count a teacher and its student, from shapes alone."""
    name = settings.teacher.name
    if name not in MODELS:
        raise InputError(f"teacher.name={name} is unknown; {nearest(name, MODELS)}")
    config = MODELS[name].config
    student = build_method(settings.method).shape(config)
    shared: dict[str, Any] = {"teacher": name, "status": "counted", "git_sha": provenance.git_sha()}
    method = method_name(settings)
    ratio = f"-{settings.ratio:g}" if settings.ratio is not None else ""
    rows = [
        ResultRow(method="teacher", **shared, **cost_of_shape(config)),
        ResultRow(
            method=method,
            ratio=settings.ratio,
            student=f"{name}-{method}{ratio}",
            **shared,
            **cost_of_shape(student),
        ),
    ]
    if settings.format == "table":
        print_comparison(rows)
    return rows


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
