"""The only training loop of the project: any model, any loss, any stage."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from compressors.distill.log import StageLog
from compressors.distill.progress import progress_bar
from compressors.distill.schedule import Optimisation
from compressors.distill.state import Progress, load_state, save_state


class Batch(Protocol):
    """What a stage trains on in one step: anything that counts its images and names them."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name an image."""
        ...


B = TypeVar("B", bound=Batch)


@dataclass
class Stage(Generic[B]):
    """One stage of training.

    Attributes:
        name: of the stage; its state and log carry it.
        key: what must be equal for a saved state to be continued (a hash of the configuration).
        model: whose trainable parameters are updated.
        batch: the batch of a step. A function of the step alone, so a resumed run sees what an undisturbed one sees.
        loss: named, weighted terms of the loss of a batch at a step; their sum is minimised.
        steps: optimizer steps.
        optimisation: optimizer and learning rate.
        validate: the figure to maximise, or None.
        validate_every: steps between validations (and at the end).
        keep_best: end with the weights of the best validation instead of the last.
    """

    name: str
    key: str
    model: nn.Module
    batch: Callable[[int], B]
    loss: Callable[[B, int], Mapping[str, Tensor]]
    steps: int
    optimisation: Optimisation
    validate: Callable[[], float] | None = None
    validate_every: int = 500
    keep_best: bool = False


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message says at which step, on which images, and what was saved last."""


@dataclass(frozen=True)
class Engine:
    """Runs stages on a device, in a precision, leaving state and log in a folder.

    Attributes:
        folder: where ``<stage>.state`` and ``<stage>.jsonl`` go.
        device: of the models it trains.
        precision: ``float32``, ``bfloat16`` or ``float16``: what autocast computes in; weights stay float32.
        save_every_s: seconds between saved states.
        log_every: steps between lines of the log.
    """

    folder: Path
    device: torch.device = torch.device("cpu")
    precision: str = "float32"
    save_every_s: float = 60.0
    log_every: int = 20

    def autocast(self) -> torch.autocast:
        """The context in which models compute."""
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "float32")

    def fit(self, stage: Stage[B]) -> Progress:
        """Train a stage to its end, continuing from its saved state if there is one.

        Raises:
            TrainingDiverged: the loss is no longer finite.
        """
        if stage.optimisation.schedule == "plateau" and stage.validate is None:
            raise ValueError(f"stage {stage.name}: the plateau schedule needs a validation")
        path = self.folder / f"{stage.name}.state"
        optimizer = stage.optimisation.build(stage.model)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        progress = load_state(path, stage.key, stage.model, optimizer)
        trained = [p for p in stage.model.parameters() if p.requires_grad]
        saved = began = time.monotonic()
        before = progress.seconds
        with (
            progress_bar(stage.name, stage.steps, progress.step) as show,
            StageLog(self.folder / f"{stage.name}.jsonl", progress.step) as log,
        ):
            while progress.step < stage.steps:
                rate = stage.optimisation.rate_at(progress.step, stage.steps, progress.rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                terms, images = self._step(stage, progress.step, optimizer, scaler, trained)
                progress.step += 1
                progress.images += images
                progress.seconds = before + time.monotonic() - began
                last = progress.step == stage.steps
                if progress.step % self.log_every == 0 or last:
                    speed = progress.images / max(progress.seconds, 1e-9)
                    log(
                        {"step": progress.step, "images": progress.images, "rate": rate, "images_per_s": speed, **terms}
                    )
                    show(progress.step, terms, speed)
                if stage.validate and (progress.step % stage.validate_every == 0 or last):
                    figure = self._validate(stage, progress)
                    log({"step": progress.step, "validation": figure})
                if last or time.monotonic() - saved > self.save_every_s:
                    save_state(path, stage.key, stage.model, optimizer, progress)
                    saved = time.monotonic()
        if stage.keep_best and progress.best_weights:
            stage.model.load_state_dict(progress.best_weights)
        return progress

    def _step(
        self,
        stage: Stage[Any],
        step: int,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        trained: list[nn.Parameter],
    ) -> tuple[dict[str, float], int]:
        stage.model.train()
        sums: dict[str, float] = {}
        images, parts = 0, stage.optimisation.accumulate
        for part in range(parts):
            batch = stage.batch(step * parts + part)
            images += len(batch.names)
            with self.autocast():
                terms = stage.loss(batch, step)
            total = torch.stack([term.float() for term in terms.values()]).sum()
            if not torch.isfinite(total):
                shown = {name: float(term.detach()) for name, term in terms.items()}
                raise TrainingDiverged(
                    f"stage {stage.name}, step {step}: the loss is not finite ({shown}) on images "
                    f"{', '.join(batch.names)}; the last good state is {self.folder / f'{stage.name}.state'}"
                )
            scaler.scale(total / parts).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.detach()) / parts
        if stage.optimisation.clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trained, stage.optimisation.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": sum(sums.values()), **sums}, images

    @staticmethod
    def _validate(stage: Stage[Any], progress: Progress) -> float:
        assert stage.validate is not None
        stage.model.eval()
        figure = stage.validate()
        if progress.best is None or figure > progress.best:
            progress.best, progress.plateau = figure, 0
            if stage.keep_best:
                progress.best_weights = {k: v.detach().cpu().clone() for k, v in stage.model.state_dict().items()}
        else:
            progress.plateau += 1
            if progress.plateau > stage.optimisation.patience:
                progress.plateau, progress.rate = 0, progress.rate * stage.optimisation.factor
        return figure
