"""What makes two runs the same run: settings, weights and data, but no paths and no ways of reporting."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from core.checkpoint import file_sha256, weights_sha256
from core.errors import InputError
from core.plain_file import home_path
from experiments.config.groups import TeacherConfig
from experiments.config.schema import RunConfig
from experiments.runs.build import build_method, check_precision
from experiments.runs.data_content import DataContent, contents_of_run
from students.files import read_about
from teachers.catalog import MODELS

_REPORTING = ("format", "runs", "force", "name", "cache", "then", "logger", "processes", "packages")
_OF_EVALUATE = ("protocols", "backend", "top", "jitter", "reference", "seed", "encoded", "workers")
"""Settings of ``evaluation`` that runs do not use."""
_ADMITTING = {"crowd": False, "least_area": 1.0, "missing": "refuse", "unusable": "refuse"}
_WEIGHTS = ("init", "weights", "checkpoint")
"""Names of settings of methods that name files of weights."""
_PATHS = (("teacher", "checkpoint"), ("data", "root"), ("data", "annotations"), ("data", "images"))


def run_id(settings: RunConfig, cfg: DictConfig, device: torch.device, sha256: str | None = None) -> str:
    """``<method>-r<ratio>-s<seed>-<hash>``: the same command gives the same name, on every machine.

    Instead of the paths of weights and images, what lies there counts.

    Args:
        sha256: of the run, by :func:`run_sha256`, where that is known.
    """
    if sha256 is None:
        sha256 = run_sha256(settings, cfg, device, contents_of_run(settings))
    method = method_name(settings)
    # A named run keeps its name; what it began with still shows.
    parts = [
        method if settings.name is None else f"{settings.name}{'+' + method.split('+')[-1] if '+' in method else ''}"
    ]
    if settings.ratio is not None:
        parts.append(f"r{settings.ratio:g}")
    return "-".join([*parts, f"s{settings.seed}", sha256[:8]])


def method_name(settings: Any) -> str:
    """The name of a method in rows: that of the file it is in, after that of what it begins with (``slimsam+ptq``)."""
    name = str(settings.method._target_).split(".")[-2]
    earlier = beginning(settings).get("method")
    return name if earlier in (None, "teacher") else f"{earlier}+{name}"


def beginning(settings: Any) -> dict[str, Any]:
    """What the file a method begins with says of its making; nothing where there is no such file."""
    init = build_method(settings.method).init
    path = None if init is None else home_path(init)
    return read_about(path) if path is not None and path.exists() else {}


def run_sha256(settings: RunConfig, cfg: DictConfig, device: torch.device, contents: Iterable[DataContent]) -> str:
    """Hexadecimal SHA-256 of all that a run depends on: settings, and the content of weights and images."""
    content: dict[str, Any] = resolved(cfg)
    for key in _REPORTING:
        del content[key]
    for part in (content, content["evaluation"]):
        for group, key in _PATHS:
            part.get(group, {}).pop(key, None)
    content["engine"] = {
        "device": device.type,
        "precision": check_precision("engine.precision", settings.engine.precision, device),
        "compile": settings.engine.compile,
    }
    if settings.engine.threads is not None:
        content["engine"]["threads"] = settings.engine.threads
    del content["evaluation"]["latency_runs"]
    for key in _OF_EVALUATE:
        del content["evaluation"][key]
    for data in (content["data"], content["evaluation"]["data"]):
        # Settings that came later name a run only where they say something.
        for key, default in _ADMITTING.items():
            if data.get(key) == default:
                del data[key]
    # The method's own settings hold what it takes of these; the teacher's file only proposes.
    del content["student"], content["teacher"]["student"], content["teacher"]["recipe"]
    content["weights"] = weights_identity(settings.teacher)
    content["method"] = _by_content(content["method"])
    content["pictures"] = [images.identity() for images in contents]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The composed settings as plain values."""
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    return content


def weights_identity(settings: TeacherConfig) -> str | None:
    """SHA-256 of the file a teacher is loaded from; None where it cannot be known without loading."""
    model = MODELS.get(settings.name)
    if settings.checkpoint is not None:
        found = file_identity(settings.checkpoint)
        if found == settings.checkpoint:
            raise InputError(f"teacher.checkpoint={settings.checkpoint}: no such file; check the path")
        return found
    if model is not None and model.packaged is not None and model.packaged.is_file():
        return file_sha256(model.packaged)
    return model.release.sha256 if model is not None and model.release is not None else None


def _by_content(part: Any) -> Any:
    """Settings of a method, nested ones too, with the hash of the weights that they name instead of their path."""
    if not isinstance(part, dict):
        return part
    named = {key: value for key, value in part.items() if key in _WEIGHTS and isinstance(value, str)}
    return {key: _by_content(value) for key, value in part.items()} | {k: file_identity(v) for k, v in named.items()}


def file_identity(name: str) -> str:
    """SHA-256 of a file, or of the files in a folder; a released model's name stands for itself."""
    path = home_path(name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        content = [(file.name, file_sha256(file)) for file in files if file.suffix != ".md"]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return file_sha256(path) if path.is_file() else name


def model_sha256(model: Any) -> str:
    """SHA-256 of what a loaded model's answers depend on: its weights, and where it is no catalogue's its shape.

    Heads, for one, leave no trace in the weights.
    """
    weights, shape = weights_sha256(model), getattr(model, "config", None)
    if any(known.config == shape for known in MODELS.values()):
        return weights
    return hashlib.sha256(f"{weights} {shape!r}".encode()).hexdigest()
