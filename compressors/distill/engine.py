"""The only training loop of the project: any model, any loss, any stage, one process or many."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressors.distill.batch_norm import has_batch_norm, synchronised
from compressors.distill.log import StageLog, StepLosses, TrainingDiverged, check_weights, progress_bar
from compressors.distill.optimizer import build_optimizer
from compressors.distill.stage import B, Batch, Callback, Frozen, Stage, chunks, prefetch
from compressors.distill.state import Progress, load_state, save_state
from compressors.distill.stopping import Stopping
from core import distributed
from core.memory import peak_resident_bytes, reraise_oom

__all__ = ["Batch", "Engine", "Frozen", "Stage", "TrainingDiverged"]


@dataclass(frozen=True)
class Engine:
    """Runs stages on a device, in a precision, leaving state and log in a folder.

    Attributes:
        folder: where ``<stage>.state`` and ``<stage>.jsonl`` go.
        device: of the models it trains.
        precision: ``float32``, ``bfloat16`` or ``float16``: what autocast computes in; weights stay float32.
        workers: threads that make batches ahead of their use; 0 makes them when they are needed.
        compile: whether models are compiled while they are trained, and the teacher for its embeddings.
        save_every_s: seconds between saved states.
        log_every: steps between lines of the log.
        callback: is given what is logged, and may score the model now and then.
    """

    folder: Path
    device: torch.device = torch.device("cpu")
    precision: str = "float32"
    workers: int = 0
    compile: bool = False
    save_every_s: float = 60.0
    log_every: int = 20
    callback: Callback | None = None

    def autocast(self) -> torch.autocast:
        """The context in which models compute."""
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "float32")

    @property
    def ahead(self) -> bool:
        """Whether frozen models compute in the threads that make batches, beside the training of those before.

        That pays where an operator takes one thread. Elsewhere operators share all the cores already, and the models
        are large: so would be what waits. What is compiled is compiled for one thread of Python.
        """
        return bool(self.workers) and self.device.type == "cpu" and torch.get_num_threads() == 1 and not self.compile

    def fit(self, stage: Stage[B]) -> Progress:
        """Train a stage to its end, continuing from its saved state if there is one.

        Raises:
            TrainingDiverged: the loss or a weight is no longer finite.
            OutOfDeviceMemory: a batch needs more memory than the device has.
            KeyboardInterrupt: the user stopped it; the state of the last whole step is saved (see
                :mod:`compressors.distill.stopping` for the signals of a queue).
            InputError: a step's images cannot be shared by the processes.
            ValueError: a plateau schedule has no validation.
        """
        if stage.optimisation.schedule == "plateau" and stage.validate is None:
            raise ValueError(f"stage {stage.name}: the plateau schedule needs a validation")
        parts_of_step(stage, 0)
        path = self.folder / f"{stage.name}.state"
        optimizer = build_optimizer(stage.optimisation, stage.model)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        parts: dict[str, Any] = {"model": stage.model, "optimizer": optimizer, "scaler": scaler}
        average = None
        if stage.optimisation.ema:
            average = AveragedModel(
                stage.model, multi_avg_fn=get_ema_multi_avg_fn(stage.optimisation.ema), use_buffers=True
            )
            parts["average"] = average
        progress = load_state(path, stage.key, parts)
        progress.devices, progress.precision = distributed.count(), self.precision
        # Nobody writes a new state before everybody has read the old one.
        distributed.barrier()
        began, saved = time.monotonic() - progress.seconds, time.monotonic()
        todo = (chunk for step in range(progress.step, stage.steps) for chunk in parts_of_step(stage, step))
        earlier: StepLosses | None = None
        interrupted = Stopping()
        with (
            compiled(stage.model, self.compile),
            synchronised(stage.model),
            progress_bar(stage.name, stage.steps, progress.step) as show,
            StageLog(self.folder / f"{stage.name}.jsonl", progress.step, self._tell(stage)) as log,
            prefetch(self._made(stage), todo, self.workers) as following,
            interrupted.listening(),
        ):
            while progress.step < stage.steps:
                rate = stage.optimisation.lr_at(progress.step, stage.steps, progress.rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                losses = StepLosses(stage.name, progress.step, path)
                with reraise_oom(f"stage {stage.name}, step {losses.step}", _smaller(stage)):
                    self._step(stage, losses, following, optimizer, scaler)
                if average:
                    average.update_parameters(stage.model)
                if earlier:
                    earlier.read()
                earlier = losses
                progress.step += 1
                progress.images += stage.images_per_step
                last = progress.step == stage.steps
                logged = progress.step % self.log_every == 0 or last
                validated = stage.validate and (progress.step % stage.validate_every == 0 or last)
                watched = self._watches(stage, progress.step)
                stop = bool(interrupted)
                due = last or stop or (distributed.is_main() and time.monotonic() - saved > self.save_every_s)
                if logged or validated or watched or due:
                    terms = losses.read()
                    before, progress.seconds = progress.seconds, time.monotonic() - began
                    progress.device_seconds += (progress.seconds - before) * progress.devices
                    progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak_memory_bytes(self.device))
                if logged:
                    speed = progress.images / max(progress.seconds, 1e-9)
                    entry = {"step": progress.step, "images": progress.images, "rate": rate, "images_per_s": speed}
                    log(entry | {"peak_memory_bytes": progress.peak_memory_bytes} | terms)
                    show(progress.step, terms, speed)
                if validated:
                    log({"step": progress.step, "validation": validate(stage, progress, average)})
                if watched:
                    log({"step": progress.step, **scored(stage, self.callback, average)})
                    # Looking on is no training.
                    began = time.monotonic() - progress.seconds
                if due:
                    check_weights(stage.model, stage.name, losses.step, path)
                    if distributed.is_main():
                        save_state(path, stage.key, parts, progress)
                    saved = time.monotonic()
                if stop:
                    interrupted.deliver()
            # One that came while the last step was validated or saved.
            interrupted.deliver()
        if stage.keep_best and progress.best_weights:
            stage.model.load_state_dict(progress.best_weights)
        elif average:
            stage.model.load_state_dict(average.module.state_dict())
        return progress

    def _tell(self, stage: Stage[Any]) -> Callable[[Mapping[str, Any]], None] | None:
        callback = self.callback
        return None if callback is None else lambda entry: callback.log(stage.name, entry)

    def _watches(self, stage: Stage[Any], step: int) -> bool:
        """Whether this process scores the model after a step."""
        callback = self.callback if distributed.is_main() and stage.full_model is not None else None
        return callback is not None and callback.scores_at(step, stage.steps)

    def _made(self, stage: Stage[B]) -> Callable[[range], tuple[B, Any]]:
        """What makes a batch, and with it what frozen models make of it, if that is to be computed ahead."""
        if self.device.type == "cuda":
            return lambda places: (stage.batch(places).pin_memory(), None)
        frozen = stage.frozen
        if frozen is None or not self.ahead:
            return lambda places: (stage.batch(places), None)
        # What flows through a frozen model may be tapped: one thread at a time.
        alone = Lock()

        def make(places: range) -> tuple[B, Any]:
            batch = stage.batch(places)
            with alone, nested_autocast(), self.autocast():
                return batch, frozen.compute(batch, places[0] // stage.images_per_step)

        return make

    def _step(
        self,
        stage: Stage[Any],
        losses: StepLosses,
        following: Any,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """One update of the weights, over this process's share of the step's images."""
        stage.model.train()
        parts = parts_of_step(stage, losses.step)
        images = sum(len(places) for places in parts)
        for places in parts:
            made, ready = following()
            batch = made.to(self.device)
            if stage.frozen is not None:
                stage.frozen.ready = ready
            with self.autocast():
                terms = stage.loss(batch, losses.step)
            share = len(places) / images
            scaler.scale(losses.add(batch.names, terms, share) * share).backward()
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        distributed.average(p.grad for p in trained if p.grad is not None)
        if stage.optimisation.clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trained, stage.optimisation.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def nested_autocast() -> Iterator[None]:
    """Autocast inside the block leaves the weights alone that other threads have cast: ending the outermost drops them.

    A weight that is cast twice in a step would have its gradients summed in another precision.
    """
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()


def parts_of_step(stage: Stage[Any], step: int) -> Sequence[range]:
    """The places of a step's images that this process computes, a batch each.

    A batch that must be seen as a whole is shared by all processes; others are dealt out, so that each process has as
    many images at one time as it may.

    Raises:
        InputError: they cannot be shared equally.
    """
    places = stage.places(step)
    if stage.whole_batches or has_batch_norm(stage.model):
        return [distributed.shard(batch, batch=True) for batch in chunks(places, stage.batch_size)]
    return chunks(distributed.shard(places), stage.batch_size)


def _smaller(stage: Stage[Any]) -> str:
    """What to change where a batch of a stage is too large for the device."""
    batch, accumulate = stage.batch_size, stage.optimisation.accumulate
    if batch == 1:
        return "one image at a time is too much already; give engine.precision=bfloat16, or another device"
    half = next(size for size in range(batch // 2, 0, -1) if batch % size == 0)
    if not stage.accumulates:
        return f"give method.batch={half}"
    return (
        f"give method.batch={half} method.optimisation.accumulate={accumulate * batch // half}: "
        f"the same {stage.images_per_step} images a step"
    )


@contextmanager
def compiled(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Compile a model's forward (and so its backward) in place for as long as the block lasts.

    Parameters, names and state stay as they are. A forward that is tapped runs uncompiled (see
    :class:`compressors.aligning.Taps`).
    """
    if enabled:
        model.compile()
    try:
        yield
    finally:
        # nn.Module.compile() has no opposite.
        model._compiled_call_impl = None


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory so far: the tensors of the CUDA allocator, or on the CPU the whole process's resident pages.

    The two are different quantities; figures compare on one kind of device only.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def validate(stage: Stage, progress: Progress, average: AveragedModel | None = None) -> float:
    """Score the model (its averaged weights, where there are such), and note the figure in ``progress``.

    Keeps the best weights if the stage asks for it, and lowers the plateau schedule's rate once its patience is over.
    """
    assert stage.validate is not None
    with _as_scored(stage, average):
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


def scored(stage: Stage[Any], callback: Callback | None, average: AveragedModel | None = None) -> Mapping[str, float]:
    """What a callback finds of the student as it stands (with its averaged weights, where there are such)."""
    assert callback is not None and stage.full_model is not None
    with _as_scored(stage, average):
        return callback.score(stage.full_model())


@contextmanager
def _as_scored(stage: Stage[Any], average: AveragedModel | None) -> Iterator[None]:
    """In eval mode and with the averaged weights; training goes on with its own."""
    stage.model.eval()
    if average is None:
        yield
        return
    live = {name: tensor.detach().clone() for name, tensor in stage.model.state_dict().items()}
    stage.model.load_state_dict(average.module.state_dict())
    try:
        yield
    finally:
        stage.model.load_state_dict(live)
