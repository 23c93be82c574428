"""The columns of a row that are of the model alone: what made it, what it costs, and how long it takes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from core.cost import Cost, checkpoint_bytes, measure_cost
from core.protocols import Segmenter
from evaluation.latency import Turns, device_name, measure_in_turns
from experiments.runs.segmenters import ChosenSegmenter
from students.export.runtimes import OWN_FORMAT
from students.export.segmenter import ExportedSam
from students.kinds import build_model
from students.quantized.bit_operations import Bits
from students.quantized.plan import as_float, plan_of
from teachers.sam import Sam, SamConfig

_counted: dict[SamConfig, Cost] = {}
"""What models of a shape cost."""


def about_columns(found: ChosenSegmenter) -> dict[str, Any]:
    """What a model's file says of its making, and what it computes on and in."""
    columns = {key: found.about.get(key) for key in ("run_id", "method", "ratio", "teacher", "seed")}
    columns["method"] = columns["method"] or "unknown"
    columns |= {
        "student": None if columns["method"] == "teacher" else found.model.name,
        "device": device_name(found.device),
        "threads": torch.get_num_threads(),
        "precision": found.computes_in,
    }
    if isinstance(found.model, ExportedSam):
        precision, group_size = found.model.manifest.precision, found.model.manifest.group_size
        of = "" if OWN_FORMAT[found.model.runtime] == found.model.manifest.to else f" ({found.model.manifest.to})"
        columns["variant"] = f"{found.runtime} {precision}{of}" + (f" group_size={group_size}" if group_size else "")
    return columns


def cost_columns(model: Segmenter) -> dict[str, Any]:
    """Parameters, MACs by both counters and stored bytes; from shapes alone, so the meta device will do.

    Quantising changes how a multiplication is done, not how many there are: parameters and MACs are those of the float
    model. What fewer bits save stands beside them, as bit-operations. Of an exported folder they are those of the model
    that it was made of.
    """
    if isinstance(model, ExportedSam):
        manifest = model.manifest
        return {**manifest.cost, **(manifest.quantised or {}), "size_bytes": manifest.bytes}
    assert isinstance(model, Sam)
    if model.config not in _counted:
        # Counting runs the model; the jobs of a sweep share their teacher's shape.
        _counted[model.config] = measure_cost(as_float(model))
    columns: dict[str, Any] = {**asdict(_counted[model.config]), "size_bytes": checkpoint_bytes(model)}
    if (plan := plan_of(model)) is not None:
        columns |= Bits.of(model.config, plan).to_dict()
    return columns


def cost_of_shape(config: SamConfig) -> dict[str, Any]:
    """The same for a shape, without making its weights."""
    with torch.device("meta"):
        return cost_columns(build_model(config))


def latency_columns(model: Segmenter, runs: int, device: torch.device, precision: str) -> dict[str, Any]:
    """Median times and peak memory, for one image and one box."""
    (turns,) = measure_in_turns([model], runs=runs, device=device, precision=precision)
    return _times(model, turns)


def compared_latencies(
    models: Sequence[Segmenter],
    runs: int,
    device: torch.device,
    precision: str,
    batch: int = 1,
    on_round: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """The same of several models in turns, each with its ratios to the first one."""
    turns = measure_in_turns(models, runs=runs, device=device, precision=precision, batch=batch, on_round=on_round)
    reference = str(getattr(models[0], "name", None) or "first")
    found = []
    for model, own in zip(models, turns, strict=True):
        columns: dict[str, Any] = {**_times(model, own), "latency_reference": reference}
        for part, ratio in zip(("encoder", "decoder"), own.ratios_to(turns[0]), strict=True):
            name = f"{part}_latency_ratio"
            columns |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
        found.append(columns)
    return found


def _times(model: Segmenter, turns: Turns) -> dict[str, Any]:
    return {
        "encoder_latency_ms": float(np.median(turns.encoder_ms)),
        "decoder_latency_ms": float(np.median(turns.decoder_ms)),
        # The memory of another runtime cannot be followed tensor by tensor.
        "peak_memory_bytes": turns.peak_memory_bytes if isinstance(model, nn.Module) else None,
    }
