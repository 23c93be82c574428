"""Models in files that describe themselves: weights, shape and facts of their making in one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.checkpoint import load_strictly, read_safetensors, write_safetensors
from core.errors import InputError
from students.quantized.plan import Plan, apply_plan, pack, plan_of
from students.student import KINDS, build_model, kind_of
from teachers.sam import Sam, SamConfig

FORMAT = "sampress-sam-1"


def save_model(path: Path, model: Sam, about: Mapping[str, Any] | None = None) -> None:
    """Write a model with its shape: safetensors, loadable without the recipe that made it.

    Args:
        about: facts to keep beside the weights (method, ratio, seed, hash of the teacher).
    """
    metadata = {
        "format": FORMAT,
        "name": model.name,
        "encoder": kind_of(model.config.encoder),
        "config": asdict(model.config),
        "about": dict(about or {}),
    }
    plan = plan_of(model)
    if plan is not None:
        metadata["plan"] = plan.to_dict()
    write_safetensors(path, model.state_dict(), metadata)


def read_about(path: Path) -> dict[str, Any]:
    """The facts that :func:`save_model` kept beside the weights; none in a file of another kind.

    Raises:
        InputError: not a safetensors file.
    """
    try:
        about = json.loads(read_safetensors(path)[1]["about"])
    except (KeyError, json.JSONDecodeError):
        return {}
    return about if isinstance(about, dict) else {}


def load_model(path: Path) -> Sam:
    """Read a model that :func:`save_model` wrote; frozen, in eval mode.

    Raises:
        InputError: not such a file, or its weights do not fit the shape it states.
    """
    tensors, metadata = read_safetensors(path)
    try:
        if json.loads(metadata["format"]) != FORMAT:
            raise InputError(f"{path}: written in format {metadata['format']}, this version reads {FORMAT!r}")
        shape = json.loads(metadata["config"])
        # Before there were other kinds, a file did not say it.
        config, _ = KINDS[json.loads(metadata.get("encoder", '"vit"'))]
        encoder = {key: tuple(v) if isinstance(v, list) else v for key, v in shape.pop("encoder").items()}
        with torch.random.fork_rng(devices=[]):
            model = build_model(SamConfig(config(**encoder), **shape), json.loads(metadata["name"]))
            if "plan" in metadata:
                # Random weights stand in for the float ones, which the file does not have.
                apply_plan(model, Plan.from_dict(json.loads(metadata["plan"])))
                pack(model)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its metadata does not describe a model ({type(error).__name__}: {error})") from error
    load_strictly(model, tensors, str(path))
    return model.eval().requires_grad_(False)
