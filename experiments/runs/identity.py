"""What makes two runs the same run: settings, weights and data, but no paths and no ways of reporting."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from core.checkpoint import file_sha256, weights_sha256
from core.errors import InputError
from core.plain_file import home_path
from experiments.config.files import chosen_groups
from experiments.config.groups import TeacherConfig
from experiments.config.schema import RunConfig
from experiments.config.targets import build_method
from experiments.runs.build import check_precision
from experiments.runs.data_content import DataContent, contents_of_run
from students.files import is_name, read_model_metadata
from teachers.catalog import MODELS

VERSION = 3
"""Of what :func:`run_sha256` is made of: with another, every run is another one."""


def run_id(settings: RunConfig, device: torch.device, sha256: str | None = None) -> str:
    """``<method>-r<ratio>-s<seed>-<hash>``: the same command gives the same name, on every machine.

    Instead of the paths of weights and images, what lies there counts.

    Args:
        sha256: of the run, by :func:`run_sha256`, where that is known.
    """
    if sha256 is None:
        sha256 = run_sha256(settings, device, contents_of_run(settings))
    parts = [_shown_name(settings)]
    if settings.ratio is not None:
        parts.append(f"r{settings.ratio:g}")
    return "-".join([*parts, f"s{settings.seed}", sha256[:8]])


def _shown_name(settings: RunConfig) -> str:
    """The name a run was given, and what it began with; that of its method where it was given none.

    Raises:
        InputError: no folder can have a name that begins so.
    """
    method = method_name(settings)
    if settings.name is None:
        return method
    if not settings.name or not is_name(settings.name):
        raise InputError(f"name={settings.name}: a run's folder is called by it; give a short one without / and \\")
    return f"{settings.name}{'+' + method.split('+')[-1] if '+' in method else ''}"


def method_name(settings: Any) -> str:
    """The name of a method in rows: that of the file it is in, after that of what it begins with (``slimsam+ptq``)."""
    name = str(settings.method._target_).split(".")[-2]
    earlier = parent_metadata(settings).get("method")
    return name if earlier in (None, "teacher") else f"{earlier}+{name}"


def parent_metadata(settings: Any) -> dict[str, Any]:
    """What the file a method begins with says of its making; nothing where there is no such file."""
    init = build_method(settings.method).init
    path = None if init is None else home_path(init)
    return read_model_metadata(path) if path is not None and path.exists() else {}


def run_sha256(settings: RunConfig, device: torch.device, contents: Iterable[DataContent]) -> str:
    """Hexadecimal SHA-256 of all that a run depends on: settings, and the content of weights and images.

    Which settings those are is said where they are declared, see :mod:`experiments.config.groups`.
    """
    return _sha256(_content(settings, device, contents))


def run_group(
    settings: RunConfig, device: torch.device, contents: Iterable[DataContent], earlier: Sequence[Any] = ()
) -> str:
    """``<method>-r<ratio>-<teacher>-<hash>``, the same for two runs if and only if they differ by seed alone.

    The teacher is left out where it is the one that a run has where none is given.

    Args:
        earlier: settings of the methods before this one in its chain. They count instead of the file that they made,
            which is another one with every seed.
    """
    content = _content(settings, device, contents)
    del content["settings"]["seed"]
    if earlier:
        method = content["settings"]["method"]
        content["settings"]["method"] = [*map(_identity, earlier), {**method, "init": None}]
    parts = [_shown_name(settings)]
    if settings.ratio is not None:
        parts.append(f"r{settings.ratio:g}")
    if settings.teacher.name != chosen_groups("run")["teacher"]:
        parts.append(settings.teacher.name)
    return "-".join([*parts, _sha256(content)[:8]])


def _content(settings: RunConfig, device: torch.device, contents: Iterable[DataContent]) -> dict[str, Any]:
    """All that a run depends on."""
    content = {
        "version": VERSION,
        "settings": _identity(settings),
        "device": device.type,
        "precision": check_precision("engine.precision", settings.engine.precision, device),
        "weights": weights_identity(settings.teacher),
        "images": [images.identity() for images in contents],
    }
    if settings.name is not None and _shown_name(settings) == method_name(settings):
        # The row carries the name, and the folder's name would be that of the nameless run.
        content["name"] = settings.name
    return content


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _identity(node: Any) -> Any:
    """Settings without those that make no other run, and with the hash of the files that some name."""
    if not dataclasses.is_dataclass(node):
        return node
    found: dict[str, Any] = {}
    for part in dataclasses.fields(node):
        kind, value = part.metadata.get("identity", True), getattr(node, part.name)
        if kind == "model":
            found |= {} if value is None else {part.name: model_identity(value)}
        elif kind == "unless default":
            # Runs from before there was the setting keep their names. As JSON, in which lists and tuples are alike.
            found |= {} if json.dumps(value) == json.dumps(part.default) else {part.name: value}
        elif kind:
            found[part.name] = file_identity(value) if kind == "content" and value is not None else _identity(value)
    return found


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The composed settings as plain values."""
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    return content


def weights_identity(settings: TeacherConfig) -> str | None:
    """SHA-256 of the file a teacher is loaded from; None where it cannot be known without loading."""
    if settings.checkpoint is not None:
        found = file_identity(settings.checkpoint)
        if found == settings.checkpoint:
            raise InputError(f"teacher.checkpoint={settings.checkpoint}: no such file; check the path")
        return found
    found = model_identity(settings.name)
    return None if found == settings.name else found


def model_identity(name: str) -> str:
    """SHA-256 of the weights of a named model, or of a file; other names stand for themselves."""
    model = MODELS.get(name)
    if model is None:
        return file_identity(name)
    if model.packaged is not None and model.packaged.is_file():
        return file_sha256(model.packaged)
    return model.release.sha256 if model.release is not None else name


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
