"""The command ``cost``: what teachers and students cost, counted from shapes alone."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from core import provenance
from core.errors import InputError
from core.result import ResultRow
from core.terminal import terminal
from experiments.config.files import nearest
from experiments.config.schema import CostConfig
from experiments.config.targets import build_method
from experiments.model_columns import cost_of_shape
from experiments.reporting.run_report import print_comparison
from experiments.runs.identity import method_name
from experiments.runs.job import task_overrides
from students.pruned_vit import pruned_shape
from teachers.catalog import MODELS
from teachers.sam import SamConfig

COLUMNS = ("model", "parameters", "encoder", "encoder MACs full", "encoder MACs modules")
KNOWN_STUDENTS = (("sam_vit_b", 0.5), ("sam_vit_b", 0.77))
"""SlimSAM's, of its paper: the teacher and the ratio."""


def cost(settings: CostConfig, cfg: DictConfig) -> list[ResultRow]:
    """Count a teacher, and its student where a method is named; of neither all that are known.

    Raises:
        InputError: there is no such teacher.
    """
    name = settings.teacher.name
    if name not in MODELS:
        raise InputError(f"teacher.name={name} is unknown; {nearest(name, MODELS)}")
    if settings.method is None and not any(word.startswith("teacher") for word in task_overrides("cost")):
        rows = known_rows()
        if settings.format == "table":
            _print(rows)
        return rows
    rows = [_row("teacher", name, MODELS[name].config)]
    if settings.method is not None:
        try:
            shape = build_method(settings.method).shape(MODELS[name].config)
        except NotImplementedError as error:
            raise InputError(
                f"{method_name(settings)}: {error}, so its costs are counted once it is made: evaluate checkpoint=FILE"
            ) from error
        rows.append(_row(method_name(settings), name, shape, settings.ratio))
    if settings.format == "table":
        print_comparison(rows)
    return rows


def known_rows() -> list[ResultRow]:
    """Every teacher by its name, and the students of SlimSAM's paper, the largest first."""
    rows = [_row("teacher", name, model.config) for name, model in MODELS.items()]
    for name, ratio in KNOWN_STUDENTS:
        rows.append(_row("slimsam", name, pruned_shape(MODELS[name].config, ratio), ratio))
    return sorted(rows, key=lambda row: -(row.parameters or 0))


def cells(row: ResultRow) -> list[str]:
    """A row of :func:`known_rows` as it is shown, in the order of :data:`COLUMNS`."""
    name = f"{row.teacher}{'' if row.ratio is None else f', {row.method} {row.ratio:g}'}"
    macs = [f"{(value or 0) / 1e9:.1f} G" for value in (row.encoder_macs_full, row.encoder_macs_modules)]
    return [name, f"{row.parameters:,}", f"{row.encoder_parameters:,}", *macs]


def _print(rows: Sequence[ResultRow]) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*cells(row))
    terminal().print(table)


def _row(method: str, teacher: str, shape: SamConfig, ratio: float | None = None) -> ResultRow:
    counted: dict[str, Any] = cost_of_shape(shape)
    if method != "teacher":
        counted |= {"student": f"{teacher}-{method}" + (f"-{ratio:g}" if ratio is not None else ""), "ratio": ratio}
    return ResultRow(method=method, teacher=teacher, status="counted", git_sha=provenance.git_sha(), **counted)
