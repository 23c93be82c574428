"""One model's cost and speed as columns of a row."""

from dataclasses import asdict
from typing import Any

import torch

from core.cost import Cost, checkpoint_bytes, measure_cost
from evaluation.latency import measure_latency
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
    latency = measure_latency(model, runs=runs, device=device, precision=precision)
    return {
        "encoder_latency_ms": latency.encoder_latency_ms,
        "decoder_latency_ms": latency.decoder_latency_ms,
        "peak_memory_bytes": latency.peak_memory_bytes,
    }
