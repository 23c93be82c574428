"""What ``evaluate`` scores: a model of this project or an exported folder, with its cost and its speed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from core.cost import Cost, checkpoint_bytes, measure_cost
from core.errors import InputError
from core.plain_file import home_path
from core.protocols import Segmenter
from evaluation.latency import PRECISIONS, Turns, device_name, measure_in_turns, measure_latency
from experiments.config.schema import EvaluateConfig
from experiments.runs.build import build_device, check_precision
from experiments.runs.checkpoints import check_encoder, chosen_model
from experiments.runs.identity import file_identity, model_sha256
from students.export.manifest import is_export
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


PRECISION_NAMES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
"""Precisions of exported files, as rows call them."""


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
    if is_export(home_path(settings.checkpoint)):
        return _exported(settings)
    if settings.runtime is not None:
        raise InputError(f"runtime={settings.runtime}: {settings.checkpoint} is no exported folder; leave it out")
    device, evaluation = build_device(settings.engine), settings.evaluation
    precision = check_precision("evaluation.precision", evaluation.precision, device)
    found = chosen_model(settings)
    model = found.model.to(device)
    check_encoder(settings.checkpoint, model, PRECISIONS[precision])
    about = _about(found.about)
    columns = about | {
        "student": None if about["method"] == "teacher" else model.name,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
    }

    def measured() -> dict[str, Any]:
        return cost_columns(model) | latency_columns(model, evaluation.latency_runs, device, precision)

    description = f"{settings.checkpoint}: {found.layout}"
    cost = partial(cost_columns, model)
    return EvaluatedModel(model, device, precision, model_sha256(model), columns, cost, measured, description)


def _exported(settings: EvaluateConfig) -> EvaluatedModel:
    """Its files are scored and timed in their runtime; parameters and MACs are those of the model they were made of."""
    evaluation = settings.evaluation
    if evaluation.precision != "float32":
        raise InputError(
            f"evaluation.precision={evaluation.precision}: exported files have their own precision; leave it out"
        )
    if settings.engine.device not in ("auto", "cpu"):
        raise InputError(f"engine.device={settings.engine.device}: exported files run on the CPU here; leave it out")
    device = build_device(replace(settings.engine, device="cpu"))
    model = ExportedSam(home_path(settings.checkpoint), settings.runtime)
    check_encoder(settings.checkpoint, model)
    manifest = model.manifest
    about = _about(manifest.about)
    columns = about | {
        "student": None if about["method"] == "teacher" else model.name,
        "variant": f"{model.runtime} {manifest.precision}",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": PRECISION_NAMES[manifest.precision],
    }

    cost = {**manifest.cost, "size_bytes": manifest.bytes}

    def measured() -> dict[str, Any]:
        # The memory of another runtime cannot be followed tensor by tensor.
        latency = measure_latency(model, runs=evaluation.latency_runs, device=device)
        times = {"encoder_latency_ms": latency.encoder_latency_ms, "decoder_latency_ms": latency.decoder_latency_ms}
        return cost | times

    description = (
        f"{settings.checkpoint}: files exported to={manifest.to} precision={manifest.precision}, in {model.runtime}"
    )
    # Large weights lie in files beside the two that the manifest vouches for.
    identity = f"{file_identity(settings.checkpoint)} {model.runtime}"
    return EvaluatedModel(model, device, "float32", identity, columns, lambda: cost, measured, description)


def _about(about: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its making, as columns."""
    columns = {key: about.get(key) for key in ("run_id", "method", "ratio", "teacher", "seed")}
    return {**columns, "method": columns["method"] or "unknown"}
