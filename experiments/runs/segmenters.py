"""The segmenter of ``checkpoint=``: a model of this project on its device, or exported files in their runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from core.errors import InputError
from core.plain_file import home_path
from core.protocols import Segmenter
from evaluation.latency import PRECISIONS
from experiments.config.groups import EngineConfig
from experiments.config.schema import SegmenterConfig
from experiments.runs.build import build_device, check_precision
from experiments.runs.checkpoints import check_encoder, check_model_folder, chosen_model
from experiments.runs.identity import file_identity, model_sha256
from students.export.manifest import is_export
from students.export.segmenter import ExportedSam
from teachers.catalog import MODELS

PRECISION_NAMES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8", "w8": "float32", "w4": "float32"}
"""What exported files compute in, as rows call it."""


@dataclass(frozen=True)
class ChosenSegmenter:
    """What answers prompts.

    Attributes:
        model: on its device.
        device: it computes there.
        precision: of autocast, a name of :data:`evaluation.latency.PRECISIONS`; files have their own.
        identity: what its answers depend on.
        about: what its file says of its making.
        description: what it was recognised as.
    """

    model: Segmenter
    device: torch.device
    precision: str
    identity: str
    about: dict[str, Any]
    description: str

    @property
    def computes_in(self) -> str:
        """The precision of its rows."""
        if isinstance(self.model, ExportedSam):
            stated = PRECISION_NAMES[self.model.manifest.precision]
            if stated == "int8" and self.runtime == "pytorch":
                # The codes of its programs become float32 before they are multiplied.
                return "float32"
            return "bfloat16" if stated == "float32" and self.runtime == "openvino_bf16" else stated
        return self.precision

    @property
    def runtime(self) -> str | None:
        """What runs exported files; None of a model that PyTorch runs as it is."""
        return self.model.runtime if isinstance(self.model, ExportedSam) else None


def segmenters_device(settings: SegmenterConfig) -> torch.device:
    """Where a command's segmenter computes, known before anything is loaded: exported files on the CPU.

    Raises:
        InputError: there is no such device here, or exported files do not run on it.
    """
    return build_device(segmenters_engine(settings.engine, [settings.checkpoint]))


def segmenters_engine(engine: EngineConfig, checkpoints: Sequence[str]) -> EngineConfig:
    """The engine of segmenters that are used together: on the CPU if one of them is an exported folder.

    Raises:
        InputError: one is, and another device is given.
    """
    if not any(is_export(home_path(checkpoint)) for checkpoint in checkpoints):
        return engine
    if engine.device not in ("auto", "cpu"):
        raise InputError(f"engine.device={engine.device}: exported files run on the CPU here; leave it out")
    return replace(engine, device="cpu")


def chosen_segmenter(
    settings: SegmenterConfig, precision: str = "float32", setting: str = "evaluation.precision"
) -> ChosenSegmenter:
    """The segmenter of a command.

    Args:
        precision: of autocast.
        setting: that says it, for messages.

    Raises:
        InputError: there is none, it is damaged, its image encoder is broken as it is going to compute, or settings ask
            for what it cannot do.
    """
    if is_export(home_path(settings.checkpoint)):
        return _exported(settings, precision, setting)
    if settings.runtime is not None:
        if settings.checkpoint not in MODELS:
            check_model_folder(home_path(settings.checkpoint))
        raise InputError(f"runtime={settings.runtime}: {settings.checkpoint} is no exported folder; leave it out")
    device = segmenters_device(settings)
    precision = check_precision(setting, precision, device)
    found = chosen_model(settings)
    model = found.model.to(device)
    check_encoder(settings.checkpoint, model, PRECISIONS[precision], setting)
    description = f"{settings.checkpoint}: {found.layout}"
    return ChosenSegmenter(model, device, precision, model_sha256(model), found.about, description)


def _exported(settings: SegmenterConfig, precision: str, setting: str) -> ChosenSegmenter:
    if precision != "float32":
        raise InputError(f"{setting}={precision}: exported files have their own precision; leave it out")
    device = segmenters_device(settings)
    model = ExportedSam(home_path(settings.checkpoint), settings.runtime)
    check_encoder(settings.checkpoint, model)
    manifest = model.manifest
    description = (
        f"{settings.checkpoint}: files exported to={manifest.to} precision={manifest.precision}, in {model.runtime}"
    )
    # Large weights lie in files beside the two that the manifest vouches for.
    identity = f"{file_identity(settings.checkpoint)} {model.runtime}"
    return ChosenSegmenter(model, device, "float32", identity, manifest.about, description)
