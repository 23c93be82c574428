"""One model's cost and speed as columns of a row."""

from dataclasses import asdict
from typing import Any

import torch

from core.cost import checkpoint_bytes, measure_cost
from evaluation.latency import measure_latency
from students.student import build_model
from teachers.sam import Sam, SamConfig


def cost_columns(model: Sam) -> dict[str, Any]:
    """Parameters, MACs by both counters and stored bytes; from shapes alone, so the meta device will do."""
    return {**asdict(measure_cost(model)), "size_bytes": checkpoint_bytes(model)}


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
