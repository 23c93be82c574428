"""How well one strategy finds the objects of a data set, and what that takes."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from core import provenance
from core.checkpoint import weights_sha256
from core.plain_file import home_path
from core.progress import say
from data.content import IDENTITY
from evaluation.everything import EverythingGenerator, EverythingSettings
from evaluation.latency import device_name
from experiments.config.groups import ProposalsConfig
from experiments.config.schema import EverythingConfig
from experiments.everything.files import Made
from experiments.everything.measure import columns, measured_images
from experiments.everything.strategies import StrategyRow, read_row, strategy_name, write_row
from experiments.runs.build import build_data, data_name, evaluation_indices
from experiments.runs.data_content import data_content
from experiments.runs.folder import lock_run_dir, remove_taken_over
from experiments.runs.identity import resolved
from experiments.runs.segmenters import chosen_segmenter
from experiments.scoring import require_instances

ENDLESS_IMAGES = 50
"""Images scored on where the data set has no natural end (``shapes``)."""


def score_strategy(
    settings: EverythingConfig,
    evaluation: ProposalsConfig,
    generator: EverythingSettings,
    cfg: DictConfig,
) -> StrategyRow:
    """Score a strategy and write ``<out>/<model>-<strategy>-<hash>.json``, or read it if it is there.

    Every image is encoded anew, so that strategies can be timed one after the other in one sweep.

    Raises:
        InputError: the model or the data set cannot be read, has no instances, or nothing can be written.
    """
    found = chosen_segmenter(settings, evaluation.precision)
    data = build_data(evaluation.data)
    indices = evaluation_indices(evaluation, data, ENDLESS_IMAGES)
    require_instances(data, indices, "evaluation.data")
    model, device, precision = found.model, found.device, found.precision
    made = Made(model.name, found.identity, generator)
    measured_on = {"precision": precision, "device": device.type, "protocol": evaluation.protocol}
    content = data_content(data, indices, True, Path(settings.runs))
    of_all = {"images": len(indices), **measured_on, "data": {**_data_settings(cfg), "content": content.identity()}}
    name = _run_id(made, of_all)
    path = (home_path(settings.out) if settings.out else Path(settings.runs) / "everything") / f"{name}.json"
    if path.is_file() and not settings.force:
        say(f"{path}: there already; force=true does it again")
        return read_row(path)
    # Of what all images share: one that was mended does not make the others be done again.
    key = json.dumps({**made.to_dict(), **measured_on, "data": _data_settings(cfg)}, sort_keys=True)
    parts = path.with_suffix(".parts")
    label = f"scoring {model.name}, {strategy_name(generator)}"
    contents = [str(image) for image in content.images]
    with lock_run_dir(parts, fresh=False):
        images, skipped = measured_images(
            EverythingGenerator(model, generator), data, indices, contents, device, precision, parts, key, label
        )
        row = StrategyRow(
            run_id=name,
            checkpoint=str(provenance.redact_paths(settings.checkpoint)),
            model=model.name,
            method=found.about.get("method"),
            ratio=found.about.get("ratio"),
            data=data_name(evaluation.data),
            split=getattr(evaluation.data, "split", None),
            protocol=evaluation.protocol,
            **columns(images, skipped, device),
            device=device_name(device),
            threads=torch.get_num_threads(),
            precision=found.computes_in,
            runtime=found.runtime,
            settings=made.to_dict()["settings"],
            git_sha=provenance.git_sha(),
        )
        config = provenance.redact_paths(resolved(cfg))
        about = {
            "config": {**config, "generator": row.settings},
            "provenance": provenance.capture(row.device, provenance.command_line()),
            "weights_sha256": weights_sha256(model) if isinstance(model, nn.Module) else found.identity,
            "identity": IDENTITY,
            "scored_images_sha256": content.sha256,
        }
        write_row(path, row, about)
        shutil.rmtree(parts)
        remove_taken_over(path.parent.glob("*.parts"), key, contents)
    return row


def _run_id(made: Made, measured_on: dict[str, Any]) -> str:
    """The same settings, weights and images give the same name, on every machine."""
    content = json.dumps({**made.to_dict(), **measured_on}, sort_keys=True)
    name = f"{made.model}-{strategy_name(made.settings)}".replace(" ", "-").replace("/", "-")
    return re.sub(r"[^\w.-]", "", name) + "-" + hashlib.sha256(content.encode()).hexdigest()[:8]


def _data_settings(cfg: DictConfig) -> dict[str, Any]:
    """The data set's settings without paths."""
    left_out = ("root", "annotations", "images", "names", "subset_seed")
    found = resolved(cfg)["evaluation"]["data"].items()
    return {key: value for key, value in found if key not in left_out and value is not None}
