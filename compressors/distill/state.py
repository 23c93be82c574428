"""What a stage needs to go on as if it had never stopped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.checkpoint import read_torch, replacing
from core.errors import InputError


@dataclass
class Progress:
    """Where a stage stands.

    Attributes:
        step: optimizer steps done.
        images: training images seen.
        seconds: training time so far, over all runs of the stage.
        best: best validation figure, if there was a validation.
        best_weights: the model's state at ``best``.
        plateau: validations in a row that did not beat ``best``.
        rate: factor on the learning rate that the plateau schedule has reached.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    plateau: int = 0
    rate: float = 1.0


def save_state(path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write everything a resume needs, atomically. ``key`` says which stage it belongs to."""
    state = {
        "key": key,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
        "random": torch.get_rng_state(),
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a saved state back; a fresh :class:`Progress` when there is none, or it belongs to another stage."""
    if not path.exists():
        return Progress()
    try:
        state: dict[str, Any] = read_torch(path)
    except InputError:
        # Writing is atomic, so only a damaged disk brings this about: start over rather than stop.
        return Progress()
    if state["key"] != key:
        return Progress()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return Progress(**state["progress"])
