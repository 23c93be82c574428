"""Noticing a loss that is no longer finite, without making an accelerator wait for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import RunFailed


class TrainingDiverged(RunFailed):
    """The loss became NaN or infinite; the message says at which step, on which images, and what was saved last."""


def check_weights(model: nn.Module, stage: str, step: int, state: Path) -> None:
    """Before weights are saved: a gradient may be NaN where its loss is not, as of a square root at zero.

    Args:
        stage, step: after which the weights are as they are.
        state: the file with the last good weights.

    Raises:
        TrainingDiverged: weights are not finite.
    """
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise TrainingDiverged(
                f"stage {stage}, step {step}: {name} is not finite, though the loss was; the last good state is "
                f"{state}; try a lower rate, clipping, or float32"
            )


@dataclass
class StepLosses:
    """The losses of one step's batches, still on the device; :meth:`read` fetches and checks them.

    Reading waits for the device to finish the step, so the loop reads a step after it has begun the next one.

    Attributes:
        stage, step: what they belong to.
        state: the file with the last good weights.
    """

    stage: str
    step: int
    state: Path
    _batches: list[tuple[tuple[str, ...], tuple[str, ...], Tensor, float]] = field(default_factory=list)

    def add(self, names: tuple[str, ...], terms: Mapping[str, Tensor], share: float) -> Tensor:
        """Note a batch's terms, ``share`` of the step's images; returns their sum, with its gradient."""
        stacked = torch.stack([term.float() for term in terms.values()])
        self._batches.append((names, tuple(terms), stacked.detach(), share))
        return stacked.sum()

    def read(self) -> dict[str, float]:
        """Mean of every term over this process's images of the step, and their sum as ``loss``.

        Raises:
            TrainingDiverged: the loss of a batch is not finite.
        """
        means: dict[str, float] = {}
        for images, names, stacked, share in self._batches:
            values = dict(zip(names, stacked.tolist(), strict=True))
            if not torch.isfinite(stacked.sum()):
                raise TrainingDiverged(
                    f"stage {self.stage}, step {self.step}: the loss is not finite ({values}) on images "
                    f"{', '.join(images)}; the last good state is {self.state}; try a lower rate, clipping, or float32"
                )
            for name, value in values.items():
                means[name] = means.get(name, 0.0) + share * value
        return {"loss": sum(means.values()), **means}
