"""What a stage reports while it trains: a log, a bar on the terminal, and a loss that is no longer finite."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from core import distributed
from core.checkpoint import replacing
from core.errors import RunFailed
from core.storage import storing
from core.terminal import terminal


class StageLog:
    """Appends entries that have a ``step``; lines past the step a run resumes from are of a run that was cut off.

    Args:
        path: the file, ``<stage>.jsonl``.
        step: the step the stage continues from; 0 begins a new log.
        tell: is given every entry too, in the process that writes.
    """

    def __init__(self, path: Path, step: int, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path, self.tell = path, tell if distributed.is_main() else None
        if not distributed.is_main():
            return
        if path.is_symlink():
            # What it leads to is nobody's log; a line would be written there.
            path.unlink()
        lines = path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []
        # A kill can leave half a line at the end.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def __enter__(self) -> Callable[[Mapping[str, Any]], None]:
        # Of several processes only the first writes.
        target = self.path if distributed.is_main() else os.devnull
        self.stream = open(target, "a", buffering=1, encoding="utf-8")
        return self._write

    def _write(self, entry: Mapping[str, Any]) -> None:
        with storing(self.path):
            self.stream.write(f"{json.dumps(entry)}\n")
        if self.tell:
            self.tell(entry)

    def __exit__(self, *_: object) -> None:
        # What a full disk did not take was reported where it was written.
        with contextlib.suppress(OSError):
            self.stream.close()


@contextlib.contextmanager
def progress_bar(name: str, steps: int, done: int) -> Iterator[Callable[[int, Mapping[str, float], float], None]]:
    """Yields ``show(step, terms, images_per_s)``. Without a terminal it prints a line at every quarter of the way.

    Of several processes only the first shows anything.
    """
    console = terminal(stderr=True)
    if not distributed.is_main():
        yield lambda step, terms, speed: None
        return
    if not console.is_terminal:
        next_line = [done + max(1, steps // 4)]

        def line(step: int, terms: Mapping[str, float], speed: float) -> None:
            if step >= next_line[0] or step == steps:
                next_line[0] = step + max(1, steps // 4)
                parts = [f"step {step}/{steps}", *(f"{key} {value:.4g}" for key, value in terms.items())]
                parts += [f"{speed:.1f} images/s"] if speed else []
                console.print(f"{name}: {', '.join(parts)}", soft_wrap=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task(name, total=steps, completed=done, loss="", speed="")

        def show(step: int, terms: Mapping[str, float], speed: float) -> None:
            loss = " ".join(f"{key} {value:.4g}" for key, value in terms.items())
            bar.update(task, completed=step, loss=loss, speed=f"{speed:.1f} images/s" if speed else "")

        yield show


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
                f"{state}; try a lower learning rate, clipping, or float32"
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
                    f"{', '.join(images)}; the last good state is {self.state}; "
                    "try a lower learning rate, clipping, or float32"
                )
            for name, value in values.items():
                means[name] = means.get(name, 0.0) + share * value
        return {"loss": sum(means.values()), **means}
