"""How weights are updated, as settings. Nothing here imports PyTorch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated.

    Attributes:
        lr: highest learning rate.
        optimizer: ``adam``, ``adamw``, or ``muon`` (on the weights of linear layers, AdamW on the rest).
        betas: of Adam.
        weight_decay: on weights of two dimensions or more (``adam`` adds it to their gradients, ``adamw`` to the step),
            or of linear layers (``muon``); on nothing else.
        schedule: ``constant``, ``cosine`` (``(1 + cos(pi t / T)) / 2`` at step ``t`` of ``T``, from 0 on: it would be
            zero one step after the last), ``step`` (by ``factor`` at each milestone) or ``plateau`` (by ``factor``,
            when validation stops rising).
        milestones: shares of the steps after which ``step`` acts.
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; 0 for none.
        accumulate: batches a step; their gradients are averaged.
        patience: validations without a better figure before ``plateau`` acts.
        factor: what ``plateau`` and ``step`` multiply the learning rate by.
        ema: decay of an exponential moving average of the weights, with which the stage then ends; 0 for none.

    Raises:
        ValueError: a setting is none of its choices, or a number is out of its range.
    """

    lr: float = 1e-4
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    clip: float = 0.0
    accumulate: int = 1
    patience: int = 4
    factor: float = 0.5
    milestones: tuple[float, ...] = (0.6, 0.85)
    ema: float = 0.0

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "optimizer": ("adam", "adamw", "muon"),
        "schedule": ("constant", "cosine", "step", "plateau"),
    }

    def __post_init__(self) -> None:
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        # Written so that NaN fails too.
        for name, sound, range_ in (
            ("lr", 0 < self.lr < math.inf, "above 0 and finite"),
            ("betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("warmup", self.warmup >= 0, "at least 0"),
            ("clip", 0 <= self.clip < math.inf, "at least 0"),
            ("accumulate", self.accumulate >= 1, "at least 1"),
            ("patience", self.patience >= 0, "at least 0"),
            ("factor", 0 < self.factor <= 1, "in (0, 1]"),
            ("milestones", all(0 <= share <= 1 for share in self.milestones), "shares of the steps, in [0, 1]"),
            ("ema", 0 <= self.ema < 1, "in [0, 1)"),
        ):
            if not sound:
                raise ValueError(f"{name}={getattr(self, name)} must be {range_}")

    def purposes(self) -> Mapping[str, tuple[str, ...]]:
        """See :class:`compressors.setting_checks.MethodSettings`; a run names them by ``method.optimisation.``."""
        plateau, step = self.schedule == "plateau", self.schedule == "step"
        return {
            "method.optimisation.schedule=plateau": () if plateau else ("patience",),
            "method.optimisation.schedule=step or plateau": () if step or plateau else ("factor",),
            "method.optimisation.schedule=step": () if step else ("milestones",),
        }

    def lr_at(self, step: int, steps: int, plateau: float = 1.0) -> float:
        """Learning rate of a step in ``[0, steps)``; ``plateau`` is the factor that schedule has reached."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        if self.schedule == "step":
            return self.lr * warm * self.factor ** sum(step >= share * steps for share in self.milestones)
        return self.lr * warm * (plateau if self.schedule == "plateau" else 1.0)
