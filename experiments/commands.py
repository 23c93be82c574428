"""What each command word does with its settings. Every command returns rows and prints its table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from core import provenance
from core.errors import InputError
from core.result import ResultRow
from evaluation.latency import device_name
from experiments.build import (
    build_data,
    build_device,
    build_method,
    check_precision,
    data_name,
    evaluation_indices,
)
from experiments.chain import run_chain
from experiments.checkpoints import find_model
from experiments.convert import convert
from experiments.everything import everything
from experiments.export import export
from experiments.exported import exported_row
from experiments.identity import method_name
from experiments.leaderboard import fold, print_leaderboard
from experiments.measuring import cost_columns, cost_of_shape, latency_columns
from experiments.messages import nearest
from experiments.predict import predict
from experiments.report import print_comparison
from experiments.rows import Row
from experiments.schema import CostConfig, EvaluateConfig, LeaderboardConfig
from experiments.scoring import Held, score_fillings, score_model
from students.export.manifest import is_export
from teachers.catalog import MODELS


def evaluate(settings: EvaluateConfig, cfg: DictConfig) -> list[ResultRow]:
    """Score one model and, after it, the filled box and the filled ellipse; nothing is written."""
    if is_export(Path(settings.checkpoint).expanduser()):
        return _with_fillings(*exported_row(settings), settings.format)
    if settings.runtime is not None:
        raise InputError(f"runtime={settings.runtime}: {settings.checkpoint} is no exported folder; leave it out")
    device = build_device(settings.engine)
    evaluation = settings.evaluation
    precision = check_precision("evaluation.precision", evaluation.precision, device)
    data = build_data(evaluation.data)
    indices = evaluation_indices(evaluation, data, "evaluate")
    found = find_model(settings.checkpoint)
    Console(stderr=True).print(f"{settings.checkpoint}: {found.layout}", highlight=False, soft_wrap=True)
    model = found.model.to(device)
    held = Held(data, data_name(evaluation.data), indices, evaluation.batch, evaluation.protocol, precision)
    about: dict[str, Any] = {key: found.about.get(key) for key in ("run_id", "method", "ratio", "teacher", "seed")}
    row = ResultRow(
        **{**about, "method": about["method"] or "unknown"},
        student=None if about["method"] == "teacher" else model.name,
        device=device_name(device),
        precision=precision,
        status="evaluated",
        git_sha=provenance.git_sha(),
        **score_model(model, held),
        **cost_columns(model),
        **latency_columns(model, evaluation.latency_runs, device, precision),
    )
    return _with_fillings(row, held, settings.format)


def _with_fillings(row: ResultRow, held: Held, format: str) -> list[ResultRow]:
    """A model's row and those of the filled prompts; printed where a table is wanted."""
    fillings = [
        ResultRow(method=name, status="evaluated", git_sha=row.git_sha, **found)
        for name, found in score_fillings(held).items()
    ]
    if format == "table":
        print_comparison([*fillings, row])
    return [row, *fillings]


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


def leaderboard(settings: LeaderboardConfig, cfg: DictConfig) -> list[ResultRow]:
    """Put all runs into one CSV file and show them."""
    rows = fold(Path(settings.runs))
    if not rows:
        raise InputError(f"runs={settings.runs}: no finished run there; start one with method=slimsam ratio=0.77")
    if settings.format == "table":
        print_leaderboard(rows)
    return rows


FUNCTIONS: dict[str, Callable[[Any, DictConfig], Sequence[Row]]] = {
    "run": run_chain,
    "evaluate": evaluate,
    "cost": cost,
    "convert": convert,
    "export": export,
    "predict": predict,
    "everything": everything,
    "leaderboard": leaderboard,
}
