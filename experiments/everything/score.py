"""How well one strategy finds the objects of a data set, and what that takes."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from core import provenance
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.protocols import Metric
from data.readable import first_readable, readable_samples
from data.sample import ImageData
from evaluation.everything import EverythingGenerator, EverythingSettings, image_proposals, proposal_scores
from evaluation.latency import PRECISIONS, device_name
from evaluation.memory import peak_memory
from experiments.build import build_data, check_precision, data_name, evaluation_indices
from experiments.checkpoints import check_encoder, find_model
from experiments.everything.files import Made
from experiments.everything.row import StrategyRow, read_row, write_row
from experiments.everything.table import strategies_table, strategy_name
from experiments.identity import fingerprint, resolved
from experiments.schema import EverythingConfig, ProposalsConfig
from experiments.scoring import counted
from teachers.sam import Sam

ENDLESS_IMAGES = 50
"""Pictures scored on where the data set has no natural end (``shapes``)."""


def score_strategy(
    settings: EverythingConfig,
    evaluation: ProposalsConfig,
    generator: EverythingSettings,
    cfg: DictConfig,
    device: torch.device,
) -> StrategyRow:
    """Score a strategy and write ``<out>/<model>-<strategy>-<hash>.json``, or read it if it is there.

    Every picture is encoded anew, so that strategies can be timed one after the other in one sweep.

    Raises:
        InputError: the model or the data set cannot be read, has no instances, or nothing can be written.
    """
    precision = check_precision("evaluation.precision", evaluation.precision, device)
    data = build_data(evaluation.data)
    indices = evaluation_indices(evaluation, data, ENDLESS_IMAGES)
    found = find_model(settings.checkpoint)
    model = found.model.to(device)
    check_encoder(settings.checkpoint, model, PRECISIONS[precision])
    made = Made(model.name, weights_sha256(model), generator)
    measured_on = {
        "images": len(indices),
        "precision": precision,
        "device": device.type,
        "protocol": evaluation.protocol,
    }
    name = _run_id(made, {**measured_on, "data": _data_identity(cfg, data)})
    path = Path(settings.out or Path(settings.runs) / "everything").expanduser() / f"{name}.json"
    if path.is_file() and not settings.force:
        row = read_row(path)
        Console(stderr=True).print(f"{path}: there already; force=true does it again", highlight=False, soft_wrap=True)
    else:
        label = f"scoring {model.name}, {strategy_name(generator)}"
        row = StrategyRow(
            run_id=name,
            checkpoint=str(provenance.impersonal(settings.checkpoint)),
            model=model.name,
            method=found.about.get("method"),
            ratio=found.about.get("ratio"),
            data=data_name(evaluation.data),
            split=getattr(evaluation.data, "split", None),
            protocol=evaluation.protocol,
            **_measure(model, generator, data, indices, device, precision, label),
            device=device_name(device),
            threads=torch.get_num_threads(),
            precision=precision,
            settings=made.to_dict()["settings"],
            git_sha=provenance.git_sha(),
        )
        config = provenance.impersonal(resolved(cfg))
        about = {
            "config": {**config, "generator": row.settings},
            "provenance": provenance.capture(row.device, provenance.command_line()),
            "weights_sha256": made.weights_sha256,
        }
        write_row(path, row, about)
    if settings.format == "table":
        print(strategies_table([row]))
    return row


def _measure(
    model: Sam,
    settings: EverythingSettings,
    data: ImageData,
    indices: range,
    device: torch.device,
    precision: str,
    label: str,
) -> dict[str, Any]:
    """The columns that rest on the pictures."""
    generator, cast = EverythingGenerator(model, settings), PRECISIONS[precision]
    per_picture, answers, spent = [], [], []
    with counted(label, len(indices)) as done, torch.autocast(device.type, cast, enabled=cast is not None):
        # Not timed: following every tensor takes time, and so does a first call.
        _, first = first_readable(data, indices[0], data.image)
        peak = peak_memory(lambda: generator.run(first), [*model.parameters(), *model.buffers()], device)
        for number, (_, sample) in enumerate(readable_samples(data, indices), 1):
            if sample is None:
                continue
            answer, *seconds = _timed(lambda image=sample.image: generator.run(image), device)  # type: ignore[misc]
            per_picture.append(image_proposals(answer.records, sample))
            answers.append(answer)
            spent.append(tuple(seconds))
            done(number)
    scores = proposal_scores(per_picture)
    if not scores:
        raise InputError(f"{data.name}: no instance in its first {len(indices)} pictures; raise evaluation.images")
    best: Metric = scores["mean_best_iou"]
    return {
        "images": len(answers),
        "instances": best.n,
        "mean_best_iou": best.value,
        "mean_best_iou_low": best.low,
        "mean_best_iou_high": best.high,
        "average_recall_100": scores["average_recall_100"].value,
        "average_recall_1000": scores["average_recall_1000"].value,
        "proposals": mean(len(answer.records) for answer in answers),
        "prompts": mean(answer.prompts for answer in answers),
        "encodings": mean(answer.encodings for answer in answers),
        "seconds": median(wall for wall, _ in spent),
        "processor_seconds": median(processor for _, processor in spent) if device.type == "cpu" else None,
        "peak_memory_bytes": peak,
    }


def _timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float, float]:
    """What a call returns, how many seconds it took, and how many of the processor's."""
    start, processor = time.perf_counter(), time.process_time()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start, time.process_time() - processor


def _run_id(made: Made, measured_on: dict[str, Any]) -> str:
    """The same settings, weights and pictures give the same name, on every machine."""
    content = json.dumps({**made.to_dict(), **measured_on}, sort_keys=True)
    name = f"{made.model}-{strategy_name(made.settings)}".replace(" ", "-").replace("/", "-")
    return re.sub(r"[^\w.-]", "", name) + "-" + hashlib.sha256(content.encode()).hexdigest()[:8]


def _data_identity(cfg: DictConfig, data: ImageData) -> dict[str, Any]:
    """The data set's settings without paths, and instead of them what lies there."""
    paths = ("root", "annotations", "images")
    content = {key: value for key, value in resolved(cfg)["evaluation"]["data"].items() if key not in paths}
    return {**content, "pictures": fingerprint(data)}
