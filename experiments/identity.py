"""What makes two runs the same run: settings, weights and data, but no paths and no ways of reporting."""

import hashlib
import json
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from core.checkpoint import file_sha256
from core.errors import InputError
from core.plain_file import home_path
from data.sample import ImageData
from experiments.build import build_data, check_precision
from experiments.schema import RunConfig, TeacherConfig
from students.files import read_about
from teachers.catalog import MODELS

_REPORTING = ("format", "runs", "force", "name", "cache", "then", "logger", "processes", "packages")
_OF_EVALUATE = ("protocols", "backend", "top", "jitter", "reference", "seed", "encoded", "workers")
"""Settings of ``evaluation`` that runs do not use."""
_ADMITTING = {"crowd": False, "least_area": 1.0, "missing": "refuse", "unusable": "refuse"}
_PATHS = (("teacher", "checkpoint"), ("data", "root"), ("data", "annotations"), ("data", "images"))


def run_id(settings: RunConfig, cfg: DictConfig, device: torch.device) -> str:
    """``<method>-r<ratio>-s<seed>-<hash>``: the same command gives the same name, on every machine.

    Instead of the paths of weights and pictures, what lies there counts.
    """
    method = method_name(settings)
    # A named run keeps its name; what it began with still shows.
    parts = [
        method if settings.name is None else f"{settings.name}{'+' + method.split('+')[-1] if '+' in method else ''}"
    ]
    if settings.ratio is not None:
        parts.append(f"r{settings.ratio:g}")
    return "-".join([*parts, f"s{settings.seed}", config_hash(settings, cfg, device)])


def method_name(settings: Any) -> str:
    """The name of a method in rows: that of the file it is in, after that of what it begins with (``slimsam+ptq``)."""
    name = str(settings.method._target_).split(".")[-2]
    earlier = beginning(settings).get("method")
    return name if earlier in (None, "teacher") else f"{earlier}+{name}"


def beginning(settings: Any) -> dict[str, Any]:
    """What the file a method begins with says of its making; nothing where there is no such file."""
    init = getattr(settings.method, "init", None)
    path = None if init is None else home_path(init)
    return read_about(path) if path is not None and path.exists() else {}


def config_hash(settings: RunConfig, cfg: DictConfig, device: torch.device) -> str:
    """Eight hexadecimal digits of the settings' SHA-256."""
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
    for part, key in ((content["method"], "init"), (content["method"].get("student", {}), "weights")):
        if part.get(key) is not None:
            part[key] = file_identity(part[key])
    content["pictures"] = [
        fingerprint(build_data(data, labels=False)) for data in (settings.data, settings.evaluation.data)
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


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


def file_identity(name: str) -> str:
    """SHA-256 of a file, or of the weights in a folder; a released model's name stands for itself."""
    path = home_path(name)
    path = path / "model.safetensors" if path.is_dir() else path
    return file_sha256(path) if path.is_file() else name


def fingerprint(data: ImageData) -> str:
    """SHA-256 of a data set's name and the names of its pictures, in order."""
    digest = hashlib.sha256(data.name.encode())
    for index in range(len(data)):
        digest.update(b"\0" + data.image_name(index).encode())
    return digest.hexdigest()
