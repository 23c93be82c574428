"""Pruned SAMs: their widths, and files that describe themselves."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core.checkpoint import load_strictly, read_safetensors, write_safetensors
from core.errors import InputError
from teachers.image_encoder import EncoderConfig
from teachers.sam import Sam, SamConfig

FORMAT = "sampress-sam-1"


def kept_width(width: int, ratio: float, multiple: int) -> int:
    """Channels left of ``width`` after pruning ``ratio`` of them, rounded down to a multiple (SlimSAM's rule).

    At least one multiple stays (one channel a head), however high the ratio.
    """
    # The small addend keeps 1280 * (1 - 0.9) from becoming 127.
    kept = int(width * (1 - ratio) + 1e-9)
    return max(multiple, kept - kept % multiple)


def pruned_shape(config: SamConfig, ratio: float) -> SamConfig:
    """The shape of a uniformly pruned SAM: embedding, attention and MLP widths all cut by ``ratio``."""
    encoder, heads = config.encoder, config.encoder.num_heads
    return replace(
        config,
        encoder=replace(
            encoder,
            embed_dim=kept_width(encoder.embed_dim, ratio, heads),
            attention_widths=tuple(kept_width(a, ratio, heads) for a in encoder.attention_widths),
            mlp_widths=tuple(kept_width(m, ratio, heads) for m in encoder.mlp_widths),
        ),
    )


def save_model(path: Path, model: Sam, about: Mapping[str, Any] | None = None) -> None:
    """Write a model with its shape: safetensors, loadable without the recipe that made it.

    Args:
        about: facts to keep beside the weights (method, ratio, seed, hash of the teacher).
    """
    metadata = {"format": FORMAT, "name": model.name, "config": asdict(model.config), "about": dict(about or {})}
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
        encoder = shape.pop("encoder")
        for key in ("attention_widths", "mlp_widths", "global_blocks"):
            encoder[key] = tuple(encoder[key])
        model = Sam(SamConfig(EncoderConfig(**encoder), **shape), json.loads(metadata["name"]))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its metadata does not describe a model ({type(error).__name__}: {error})") from error
    load_strictly(model, tensors, str(path))
    return model.eval().requires_grad_(False)
