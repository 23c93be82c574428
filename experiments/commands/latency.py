"""The command ``latency``: several models, timed in turns in one process, as ratios to the first one."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from core import provenance
from core.errors import InputError
from core.plain_file import home_path
from core.progress import say
from core.protocols import Segmenter
from core.result import ResultRow
from core.terminal import terminal
from evaluation.latency import device_name
from experiments.config.schema import LatencyConfig, SegmenterConfig
from experiments.model_columns import about_columns, compared_latencies, cost_columns, cost_of_shape
from experiments.out_place import check_out, writing_to
from experiments.reporting.columns import COLUMNS
from experiments.reporting.models import COMPARISONS, model_label
from experiments.reporting.results import committed_files
from experiments.result_file import read_result, write_result
from experiments.runs.build import build_device, check_precision
from experiments.runs.segmenters import chosen_segmenter, segmenters_engine
from students.encoder_shapes import SIZES
from students.export.manifest import is_export
from students.export.runtimes import RUNTIMES
from students.kinds import build_model
from students.pruned_vit import pruned_shape
from students.student import Student
from teachers.catalog import MODELS
from teachers.image_encoder import EncoderConfig
from teachers.sam import SamConfig

WARMUP = 3
"""Rounds that do not count, as :func:`evaluation.latency.measure_in_turns` has them."""
BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


_Model = tuple[Segmenter, dict[str, Any]]
"""A model on its device, and what its row says beside its times."""


def latency(settings: LatencyConfig, cfg: DictConfig) -> list[ResultRow]:
    """Time the models, print what they take and what that is of the first one's, and write it where ``out`` says.

    Raises:
        InputError: a model cannot be read, a setting is out of its range, or only one model is named.
    """
    for name in ("batch", "rounds"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name}={getattr(settings, name)} must be at least 1")
    if settings.out is not None:
        check_out(settings.out, home_path(settings.out))
    names = _names(settings.checkpoint)
    runtimes = _runtimes(names, settings)
    names = [name for name, _ in runtimes]
    # One device for all, as ratios of times on two would say nothing of the models.
    settings = replace(settings, engine=segmenters_engine(settings.engine, names))
    device = build_device(settings.engine)
    precision = check_precision("precision", settings.precision, device)
    models = [_named(name, settings, runtime) for name, runtime in runtimes]
    if settings.results:
        models += _committed(models, device)
    if len(models) < 2:
        raise InputError(f"checkpoint={settings.checkpoint}: one model has no ratio; name two, separated by commas")
    segmenters = [model for model, _ in models]
    with Progress(*BAR, console=terminal(stderr=True), transient=True) as bar:
        task = bar.add_task(f"timing {len(models)} models", total=settings.rounds + WARMUP)
        each = partial(bar.advance, task)
        times = compared_latencies(segmenters, settings.rounds, device, precision, settings.batch, each)
    shared: dict[str, Any] = {"status": "counted", "git_sha": provenance.git_sha(), "threads": torch.get_num_threads()}
    shared |= {"device": device_name(device), "precision": precision}
    # Times of a batch are others than those that tables show.
    shared |= {"axes": {"batch": str(settings.batch)}} if settings.batch > 1 else {}
    rows = [ResultRow(**shared | columns | time) for (_, columns), time in zip(models, times, strict=True)]
    if settings.format == "table":
        _print(rows, settings)
    if settings.out is not None:
        with writing_to(settings.out):
            about = {
                "rounds": settings.rounds,
                "batch": settings.batch,
                "provenance": provenance.capture(device_name(device), provenance.command_line()),
            }
            write_result(home_path(settings.out), rows, about)
    return rows


def _names(checkpoints: str) -> list[str]:
    """The names between the commas; a file whose own name has one is meant as a whole."""
    if os.path.exists(home_path(checkpoints)):
        return [checkpoints]
    return [name for part in checkpoints.split(",") if (name := part.strip())]


def _runtimes(names: Sequence[str], settings: LatencyConfig) -> list[tuple[str, str | None]]:
    """Each name with its runtime: what stands behind its ``@``, or that of all exported folders.

    Raises:
        InputError: a runtime is given, and no folder that could take it.
    """
    found = list[tuple[str, str | None]]()
    for name in names:
        folder, at, own = name.rpartition("@")
        if at and not os.path.exists(home_path(name)) and (own in RUNTIMES or is_export(home_path(folder))):
            found.append((folder, own))
        else:
            found.append((name, settings.runtime if is_export(home_path(name)) else None))
    if settings.runtime is not None and not any(is_export(home_path(name)) for name, _ in found):
        raise InputError(f"runtime={settings.runtime}: {settings.checkpoint} has no exported folder; leave it out")
    return found


def _named(name: str, settings: LatencyConfig, runtime: str | None) -> _Model:
    chosen = SegmenterConfig(checkpoint=name, runtime=runtime, engine=settings.engine)
    found = chosen_segmenter(chosen, settings.precision, "precision")
    return found.model, about_columns(found) | cost_columns(found.model)


def _committed(known: Sequence[_Model], device: torch.device) -> Iterator[_Model]:
    """A model of every shape in the committed rows that is not among the known ones."""
    seen = {(columns["parameters"], columns["macs_full"]) for _, columns in known}
    for path in committed_files():
        rows, about = read_result(path)
        for row in rows:
            key = row.parameters, row.macs_full
            if row.status == "counted" or row.method in COMPARISONS or row.weight_bits is not None or key in seen:
                continue
            shape = _shape(row, about)
            try:
                counted = None if shape is None else cost_of_shape(shape)
            except InputError:
                # What a later method made of a student has a name of its own, which is no architecture's.
                counted = None
            if shape is None or counted is None or (counted["parameters"], counted["macs_full"]) != key:
                say(f"left out: {path.name}: {row.student}: its shape is not known")
                continue
            seen.add(key)
            about_model = {name: getattr(row, name) for name in ("method", "ratio", "teacher", "student", "variant")}
            yield build_model(shape, str(row.student)).to(device), about_model | counted


def _shape(row: ResultRow, about: dict[str, Any]) -> SamConfig | None:
    """What the student of a committed row looks like."""
    teacher = MODELS[str(row.teacher)].config if row.teacher in MODELS else None
    if teacher is None or row.student is None:
        return None
    widths = (about.get("widths") or {}).get("student") or {}
    if widths.get("kind") == "vit" and isinstance(teacher.encoder, EncoderConfig):
        attention, mlp = (tuple(widths[name]) for name in ("attention", "mlp"))
        encoder = replace(teacher.encoder, embed_dim=widths["embedding"], attention_widths=attention, mlp_widths=mlp)
        return replace(teacher, encoder=encoder)
    if row.ratio is not None:
        return pruned_shape(teacher, row.ratio)
    # A later method names what it is given after itself; of a TinyViT the file says the shape.
    dimensions = tuple(tuple(widths.get(name) or ()) for name in ("channels", "depths", "heads"))
    sizes = [name for name, size in SIZES.items() if (size.embed_dims, size.depths, size.num_heads) == dimensions]
    name = next(iter(sizes), row.student.removeprefix(f"{row.teacher}-"))
    return Student("tiny_vit" if name in SIZES else "timm", name).shape(teacher)


def _print(rows: Sequence[ResultRow], settings: LatencyConfig) -> None:
    """A line a model."""
    table = Table(show_edge=False, pad_edge=False, box=None, header_style="dim")
    table.add_column("model", overflow="fold", min_width=18)
    for title in ("encoder", "of the first [95 %]", "decoder", "of the first [95 %]"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [model_label(vars(row))]
        for part in ("encoder", "decoder"):
            value, low, high = (getattr(row, f"{part}_latency_ratio{end}") for end in ("", "_low", "_high"))
            time, interval = f"{part}_latency_ms", "" if low is None else f" [{low:.2f}, {high:.2f}]"
            cells += [COLUMNS[time].shown(getattr(row, time)), f"{value:.2f}{interval}"]
        table.add_row(*map(Text, cells))
    console = terminal()
    console.print(table)
    # Exported files have their own.
    precisions = " and ".join(dict.fromkeys(str(row.precision) for row in rows))
    console.print(
        f"medians of {settings.rounds} rounds, batch {settings.batch}, {rows[0].device}, {precisions}, "
        f"{rows[0].threads} threads; every model had its turn in each round",
        style="dim",
        soft_wrap=True,
    )
