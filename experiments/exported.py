"""Exported folders in the command ``evaluate``: the files themselves are scored and timed, in their runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from core import provenance
from core.errors import InputError
from core.result import ResultRow
from evaluation.latency import device_name, measure_latency
from experiments.build import build_data, build_device, data_name, evaluation_indices
from experiments.schema import EvaluateConfig
from experiments.scoring import Held, score_model
from students.export.segmenter import ExportedSam

PRECISION_NAMES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
"""Precisions of exported files, as rows call them."""


def exported_row(settings: EvaluateConfig) -> tuple[ResultRow, Held]:
    """Score an exported folder.

    Returns:
        Its row (parameters and MACs are those of the model that was exported; memory is unknown), and what it was
        scored on.

    Raises:
        InputError: the folder is damaged, its runtime is missing, or settings ask for what its files cannot do.
    """
    evaluation, folder = settings.evaluation, Path(settings.checkpoint).expanduser()
    if evaluation.precision != "float32":
        raise InputError(
            f"evaluation.precision={evaluation.precision}: exported files have their own precision; leave it out"
        )
    if settings.engine.device not in ("auto", "cpu"):
        raise InputError(f"engine.device={settings.engine.device}: exported files run on the CPU here; leave it out")
    device = build_device(replace(settings.engine, device="cpu"))
    data = build_data(evaluation.data)
    indices = evaluation_indices(evaluation, data, "evaluate")
    model = ExportedSam(folder, settings.runtime)
    manifest = model.manifest
    told = f"{settings.checkpoint}: files exported to={manifest.to} precision={manifest.precision}, in {model.runtime}"
    Console(stderr=True).print(told, highlight=False, soft_wrap=True)
    held = Held(data, data_name(evaluation.data), indices, evaluation.batch, evaluation.protocol)
    about: dict[str, Any] = {key: manifest.about.get(key) for key in ("run_id", "method", "ratio", "teacher", "seed")}
    row = ResultRow(
        **{**about, "method": about["method"] or "unknown"},
        student=None if about["method"] == "teacher" else model.name,
        variant=f"{model.runtime} {manifest.precision}",
        device=device_name(device),
        precision=PRECISION_NAMES[manifest.precision],
        status="evaluated",
        git_sha=provenance.git_sha(),
        **score_model(model, held),
        **dict[str, Any](manifest.cost),
        size_bytes=manifest.bytes,
        **_latency(model, evaluation.latency_runs, device),
    )
    return row, held


def _latency(model: ExportedSam, runs: int, device: torch.device) -> dict[str, Any]:
    # The memory of another runtime cannot be followed tensor by tensor.
    latency = measure_latency(model, runs=runs, device=device)
    return {"encoder_latency_ms": latency.encoder_latency_ms, "decoder_latency_ms": latency.decoder_latency_ms}
