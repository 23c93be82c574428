"""What a stage needs to go on as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from core.checkpoint import replacing
from core.errors import InputError
from core.untrusted import read_torch


@dataclass
class Progress:
    """Where a stage stands.

    Attributes:
        step: optimizer steps done.
        images: training images seen, by all processes together.
        seconds: training time so far, over all runs of the stage.
        devices: how many processes, each with its device, share the work now.
        device_seconds: training time so far, of all devices together, however many they were at each time.
        peak_memory_bytes: most memory of a process so far (see :mod:`compressors.distill.engine`).
        best: best validation figure, if there was a validation.
        best_weights: the model's state at ``best``.
        plateau: validations in a row that did not beat ``best``.
        rate: factor on the learning rate that the plateau schedule has reached.
        precision: of training, by the engine's name of it.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    devices: int = 1
    device_seconds: float = 0.0
    peak_memory_bytes: int = 0
    best: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    plateau: int = 0
    rate: float = 1.0
    precision: str | None = None


class Stateful(Protocol):
    """A model, an optimizer, a scaler of losses, an average of weights."""

    def state_dict(self) -> dict[str, Any]:
        """What it holds."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Put it back."""
        ...


def save_state(path: Path, key: str, parts: Mapping[str, Stateful], progress: Progress) -> None:
    """Write everything a resume needs, atomically. ``key`` says which stage it belongs to."""
    state = {
        "key": key,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "progress": vars(progress),
        "random": torch.get_rng_state(),
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, key: str, parts: Mapping[str, Stateful]) -> Progress:
    """Put a saved state back; a fresh :class:`Progress` when there is none, or it belongs to another stage.

    Raises:
        InputError: the file is of this stage and readable, yet does not fit its parts. They may have taken a part of it
            by then, so the stage cannot begin anew either.
    """
    if not path.exists():
        return Progress()
    try:
        state: dict[str, Any] = read_torch(path)
    except InputError:
        # Writing is atomic, so only a damaged disk brings this about: start over rather than stop.
        return Progress()
    if not isinstance(state, dict) or type(state.get("key")) is not str or state["key"] != key:
        return Progress()
    saved, kept = state.get("parts"), _progress(state.get("progress"))
    if not isinstance(saved, dict) or set(saved) != set(parts) or kept is None:
        return Progress()
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(state["random"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: does not fit its stage ({reason}); remove it to begin the stage anew") from error
    return kept


def key_of_state(path: Path) -> str | None:
    """Which stage a saved state belongs to; None of a damaged one."""
    try:
        state = read_torch(path)
    except InputError:
        return None
    key = state.get("key") if isinstance(state, dict) else None
    return key if isinstance(key, str) else None


def _progress(raw: object) -> Progress | None:
    """What a file says of where a stage stands; None if it is not that."""
    names = {part.name for part in fields(Progress)}
    # Earlier states have no device seconds, and no precision.
    if not isinstance(raw, dict) or not names - {"device_seconds", "precision"} <= set(raw) <= names:
        return None
    best, weights = raw["best"], raw["best_weights"]
    counts = [raw[name] for name in ("step", "images", "devices", "peak_memory_bytes", "plateau")]
    numbers = [raw[name] for name in ("seconds", "rate", "device_seconds") if name in raw]
    numbers += [] if best is None else [best]
    sound = (
        all(type(count) is int and count >= 0 for count in counts)
        and all(type(number) in (int, float) for number in numbers)
        and isinstance(weights, dict)
        and all(isinstance(tensor, Tensor) for tensor in weights.values())
        and isinstance(raw.get("precision"), str | None)
    )
    return Progress(**{"device_seconds": raw["seconds"] * raw["devices"], **raw}) if sound else None
