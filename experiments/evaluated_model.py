"""What ``evaluate`` scores: a model of this project or an exported folder, with its cost and its speed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from core.cost import Cost, checkpoint_bytes, measure_cost
from core.protocols import Segmenter
from evaluation.latency import Turns, device_name, measure_in_turns, measure_latency
from experiments.config.schema import EvaluateConfig
from experiments.runs.segmenters import ChosenSegmenter, chosen_segmenter
from students.export.segmenter import ExportedSam
from students.kinds import build_model
from students.quantized.bit_operations import count_bit_operations
from students.quantized.plan import as_float, plan_of
from teachers.sam import Sam, SamConfig

_counted: dict[SamConfig, Cost] = {}
"""What models of a shape cost."""


def cost_columns(model: Sam) -> dict[str, Any]:
    """Parameters, MACs by both counters and stored bytes; from shapes alone, so the meta device will do.

    Quantising changes how a multiplication is done, not how many there are: parameters and MACs are those of the float
    model. What fewer bits save stands beside them, as bit-operations.
    """
    if model.config not in _counted:
        # Counting runs the model; the jobs of a sweep share their teacher's shape.
        _counted[model.config] = measure_cost(as_float(model))
    columns: dict[str, Any] = {**asdict(_counted[model.config]), "size_bytes": checkpoint_bytes(model)}
    return columns if plan_of(model) is None else columns | bit_columns(model)


def bit_columns(model: Sam) -> dict[str, Any]:
    """Bits, bit-operations and what stays float, of a quantised model."""
    plan = plan_of(model)
    assert plan is not None
    counted = count_bit_operations(model.config, plan)
    return {
        "weight_bits": plan.scheme.weight_bits,
        "activation_bits": plan.scheme.activation_bits,
        "bit_operations": counted.total,
        "float_macs": counted.float_macs,
    }


def cost_of_shape(config: SamConfig) -> dict[str, Any]:
    """The same for a shape, without making its weights."""
    with torch.device("meta"):
        return cost_columns(build_model(config))


def latency_columns(model: Sam, runs: int, device: torch.device, precision: str) -> dict[str, Any]:
    """Median times and peak memory, for one image and one box."""
    (turns,) = measure_in_turns([model], runs=runs, device=device, precision=precision)
    return _times(turns)


def compared_latencies(
    models: Sequence[Segmenter],
    runs: int,
    device: torch.device,
    precision: str,
    batch: int = 1,
    on_round: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """The same of several models in turns, each with its ratios to the first one."""
    turns = measure_in_turns(
        models, runs=runs, device=device, precision=precision, batch=batch, on_round=on_round or (lambda: None)
    )
    reference = str(getattr(models[0], "name", None) or "first")
    found = []
    for model, own in zip(models, turns, strict=True):
        columns: dict[str, Any] = {**_times(own), "latency_reference": reference}
        if not isinstance(model, nn.Module):
            # The memory of another runtime cannot be followed tensor by tensor.
            columns["peak_memory_bytes"] = None
        for part, ratio in zip(("encoder", "decoder"), own.ratios_to(turns[0]), strict=True):
            name = f"{part}_latency_ratio"
            columns |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
        found.append(columns)
    return found


def _times(turns: Turns) -> dict[str, Any]:
    return {
        "encoder_latency_ms": float(np.median(turns.encoder_ms)),
        "decoder_latency_ms": float(np.median(turns.decoder_ms)),
        "peak_memory_bytes": turns.peak_memory_bytes,
    }


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to score.

    Attributes:
        model: on its device.
        device: it computes there.
        precision: of scoring, a name of :data:`evaluation.latency.PRECISIONS`.
        identity: what its answers depend on.
        columns: of its row: method, student, device ...
        cost: counts it; of an exported folder, those of the model that it was made of.
        measured: cost and latency, measured when called.
        description: what it was recognised as.
    """

    model: Segmenter
    device: torch.device
    precision: str
    identity: str
    columns: dict[str, Any]
    cost: Callable[[], dict[str, Any]]
    measured: Callable[[], dict[str, Any]]
    description: str


def find_evaluated_model(settings: EvaluateConfig) -> EvaluatedModel:
    """The model of ``checkpoint=``.

    Raises:
        InputError: there is none, it is damaged, its image encoder is broken as it is going to compute, or settings ask
            for what it cannot do.
    """
    found = chosen_segmenter(settings, settings.evaluation.precision)
    about = _about(found.about)
    columns = about | {
        "student": None if about["method"] == "teacher" else found.model.name,
        "device": device_name(found.device),
        "threads": torch.get_num_threads(),
        "precision": found.computes_in,
    }
    cost, measured = _measures(found, settings.evaluation.latency_runs)
    if isinstance(found.model, ExportedSam):
        precision, group_size = found.model.manifest.precision, found.model.manifest.group_size
        columns["variant"] = f"{found.runtime} {precision}" + (f" group_size={group_size}" if group_size else "")
    return EvaluatedModel(
        found.model, found.device, found.precision, found.identity, columns, cost, measured, found.description
    )


def _measures(found: ChosenSegmenter, runs: int) -> tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]]]:
    """What counts the cost of a model, and what also times it."""
    model = found.model
    if isinstance(model, ExportedSam):
        cost = {**model.manifest.cost, "size_bytes": model.manifest.bytes}

        def measured() -> dict[str, Any]:
            # The memory of another runtime cannot be followed tensor by tensor.
            latency = measure_latency(model, runs=runs, device=found.device)
            times = {"encoder_latency_ms": latency.encoder_latency_ms, "decoder_latency_ms": latency.decoder_latency_ms}
            return cost | times

        return lambda: cost, measured
    assert isinstance(model, Sam)
    costs = partial(cost_columns, model)
    return costs, lambda: costs() | latency_columns(model, runs, found.device, found.precision)


def _about(about: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its making, as columns."""
    columns = {key: about.get(key) for key in ("run_id", "method", "ratio", "teacher", "seed")}
    return {**columns, "method": columns["method"] or "unknown"}
