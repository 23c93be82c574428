"""How long a segmenter takes and how much memory it needs, for one image and one box prompt.

The image encoder and the decoder are timed apart: an application encodes an image once and decodes every prompt.
Milliseconds of two days do not compare, nor do those of two processes on a busy machine: models that are to be compared
take turns in one process, and the ratio of their times is what compares.
"""

import contextlib
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.feature_maps import Features
from core.protocols import Masks, Prompt, Segmenter, device_of
from core.seeding import generator_for
from core.threads import processor_name

T = TypeVar("T")


def peak_memory(work: Callable[[], object], alive: Iterable[Tensor], device: torch.device) -> int:
    """Peak of the bytes of ``alive`` tensors and of all that ``work`` keeps alive on a device at one time.

    - CPU: every storage counts once, with its size, from the moment the operator that makes it returns until it is
      freed. This depends on the shapes alone, not on the machine or its load, and is exact for tensors; scratch memory
      that a kernel takes and gives back within one operator, and the interpreter, are not in it.
    - CUDA: how far the allocator's peak rises above what was allocated before, plus the bytes of ``alive``. Scratch
      memory that is taken anew and the rounding of the allocator (to 512 bytes) are in it; the CUDA context, cached
      free blocks and libraries' workspaces left from earlier calls are not.

    Args:
        work: what to run, once.
        alive: all that ``work`` finds alive, such as weights and inputs; tensors of other devices do not count.
        device: the CPU or a CUDA device.
    """
    live = _LiveBytes(alive, device)
    if device.type == "cpu":
        with live:
            work()
        return live.peak
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + live.peak


class _LiveBytes(TorchDispatchMode):
    """Follows the storages of one device's tensors: the bytes alive ``now`` and the ``peak`` so far."""

    def __init__(self, alive: Iterable[Tensor], device: torch.device) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._device_type = device.type
        # By the identity of the storage, which PyTorch keeps for as long as any tensor uses it.
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in alive:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return output

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if tensor.device.type != self._device_type or key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What autocast computes in, by the name of a precision; None is no autocast."""


@dataclass(frozen=True)
class Latency:
    """Times of one image (batch 1) and one box prompt, and the memory both need.

    Attributes:
        encoder_latency_ms: median of ``model.encode``, in milliseconds.
        encoder_latency_p95_ms: 95th percentile of the same runs (linear interpolation).
        decoder_latency_ms: median of ``model.decode``: prompt encoder and mask decoder, without upscaling to the image.
        decoder_latency_p95_ms: 95th percentile of the same runs.
        peak_memory_bytes: see :func:`peak_memory`; of one encoding and one decoding, the model's weights included.
        device: name of the processor or the accelerator.
        precision: ``float32`` (the model as it is), or what autocast computed in: ``bfloat16``, ``float16``.
        threads: CPU threads that PyTorch may use for one operator.
        runs: timed runs behind each figure, without the warm-up.
    """

    encoder_latency_ms: float
    encoder_latency_p95_ms: float
    decoder_latency_ms: float
    decoder_latency_p95_ms: float
    peak_memory_bytes: int
    device: str
    precision: str
    threads: int
    runs: int


@dataclass(frozen=True)
class LatencyRatio:
    """A model's time over the reference's: the median over rounds, in each of which both had their turn.

    Attributes:
        low, high: its 95 % interval: of the median by a bootstrap over rounds; of fewer than :data:`ENOUGH` rounds, by
            Student's t on the logarithms of their ratios; None of a single round, which says nothing of others.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Turns:
    """Times of one model that took turns with others, in milliseconds, a round each.

    Attributes:
        encoder_ms, decoder_ms: float ``[runs]``.
        peak_memory_bytes: see :func:`peak_memory`; of one encoding and one decoding, the model's weights included.
    """

    encoder_ms: NDArray[np.float64]
    decoder_ms: NDArray[np.float64]
    peak_memory_bytes: int

    def ratios_to(self, reference: "Turns") -> tuple[LatencyRatio, LatencyRatio]:
        """Of the encoder and of the decoder, to another model's of the same rounds."""
        of_encoder, of_decoder = self.encoder_ms / reference.encoder_ms, self.decoder_ms / reference.decoder_ms
        return ratio_of_rounds(of_encoder), ratio_of_rounds(of_decoder)


ENOUGH = 6
"""Rounds from which the least and the largest of them enclose the median in 95 % of all cases (1 - 2 / 2^6 = 0.97).

A bootstrap draws no interval that is wider: of three rounds what it calls 95 % holds the median in three quarters of
all cases, of six to fifty in 90 to 94 %.
"""


def ratio_of_rounds(ratios: NDArray[np.float64], draws: int = 1000) -> LatencyRatio:
    """Median and 95 % interval of ratios, float ``[rounds]``."""
    value, count = float(np.median(ratios)), len(ratios)
    if count < 2:
        return LatencyRatio(value, None, None)
    if count < ENOUGH:
        # Here, because scipy.stats takes a second to import.
        from scipy.stats import t

        logs = np.log(ratios)
        half = float(t.ppf(0.975, count - 1)) * float(logs.std(ddof=1)) / count**0.5
        return LatencyRatio(value, *(float(np.exp(logs.mean() + side)) for side in (-half, half)))
    drawn = np.random.default_rng(0).integers(0, len(ratios), (draws, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return LatencyRatio(value, float(low), float(high))


def measure_in_turns(
    models: Sequence[Segmenter],
    *,
    runs: int = 20,
    warmup: int = 3,
    device: torch.device | None = None,
    precision: str = "float32",
    batch: int = 1,
    seed: int = 0,
    on_round: Callable[[], object] = lambda: None,
) -> list[Turns]:
    """Time ``runs`` rounds in which every model encodes random images and decodes boxes, after ``warmup`` rounds.

    Each round has an order of its own, so that none always follows the same one. Time is wall-clock on the CPU, and
    between two events of an otherwise idle device on CUDA. One further round, not timed, gives the memory.

    Args:
        models: on ``device`` already; in evaluation mode for the while.
        device: the CPU or a CUDA device; by default the one that the first model is on.
        precision: a key of :data:`PRECISIONS`. Each call has an autocast of its own, so it pays for casting weights.
        batch: images that are encoded together, and boxes on one image that are decoded together.
        seed: of the images, which are normal noise, as normalised pixels are, and of the orders.
        on_round: called after each round, those of the warm-up too.
    """
    if runs < 1 or warmup < 0 or batch < 1:
        raise ValueError(f"runs and batch must be at least 1 and warmup at least 0, got {runs}, {batch} and {warmup}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision}")
    device = device_of(models[0]) if device is None else device
    if device.type not in _CLOCKS:
        raise ValueError(f"latency is measured on {' or '.join(_CLOCKS)}, not on {device.type}")
    clock, cast = _CLOCKS[device.type], PRECISIONS[precision]
    times = np.zeros((len(models), warmup + runs, 2))
    with contextlib.ExitStack() as stack, torch.no_grad():
        timed = []
        for model in models:
            stack.enter_context(_evaluating(model))
            timed.append(_Timed(model, device, cast, batch, seed))
        order = generator_for(seed, "turns")
        for place in range(warmup + runs):
            for index in torch.randperm(len(models), generator=order).tolist():
                times[index, place] = clock(timed[index].encode, device), clock(timed[index].decode, device)
            on_round()
        peaks = [one.peak() for one in timed]
    return [Turns(own[warmup:, 0], own[warmup:, 1], peak) for own, peak in zip(times, peaks, strict=True)]


class _Timed:
    """One model with the input of its frame."""

    def __init__(self, model: Segmenter, device: torch.device, cast: torch.dtype | None, batch: int, seed: int) -> None:
        size = model.input_size
        self._model, self._device, self._cast, self._size = model, device, cast, size
        self._images = torch.randn(batch, 3, size, size, generator=generator_for(seed, "latency")).to(device)
        # The middle half of the image in each direction.
        self._boxes = (torch.tensor([[0.25, 0.25, 0.75, 0.75]], device=device) * size).expand(batch, 4)
        self._embedding = self.encode()[:1]

    def encode(self) -> Features:
        """The embeddings of the images."""
        with torch.autocast(self._device.type, self._cast, enabled=self._cast is not None):
            return self._model.encode(self._images)

    def decode(self, embedding: Features | None = None) -> Masks:
        """The masks of the boxes on the first image."""
        embedding = self._embedding if embedding is None else embedding
        with torch.autocast(self._device.type, self._cast, enabled=self._cast is not None):
            return self._model.decode(embedding, Prompt(boxes_xyxy=self._boxes), (self._size, self._size))

    def peak(self) -> int:
        """See :func:`peak_memory`."""
        del self._embedding
        alive = [*_tensors_of(self._model), self._images, self._boxes]
        return peak_memory(lambda: self.decode(self.encode()[:1]), alive, self._device)


def measure_latency(
    model: Segmenter,
    *,
    runs: int = 20,
    warmup: int = 3,
    device: torch.device | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> Latency:
    """Time one model alone, with one image and one box; arguments are those of :func:`measure_in_turns`."""
    device = device_of(model) if device is None else device
    (turns,) = measure_in_turns([model], runs=runs, warmup=warmup, device=device, precision=precision, seed=seed)
    return latency_of(turns, device, precision)


def latency_of(turns: Turns, device: torch.device, precision: str) -> Latency:
    """One model's times in milliseconds."""
    return Latency(
        encoder_latency_ms=float(np.median(turns.encoder_ms)),
        encoder_latency_p95_ms=float(np.percentile(turns.encoder_ms, 95)),
        decoder_latency_ms=float(np.median(turns.decoder_ms)),
        decoder_latency_p95_ms=float(np.percentile(turns.decoder_ms, 95)),
        peak_memory_bytes=turns.peak_memory_bytes,
        device=device_name(device),
        precision=precision,
        threads=torch.get_num_threads(),
        runs=len(turns.encoder_ms),
    )


def device_name(device: torch.device) -> str:
    """What a device calls itself, e.g. ``NVIDIA H200`` or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


@contextlib.contextmanager
def _evaluating(model: object) -> Iterator[None]:
    """A module in evaluation mode, and each of its parts back in its own mode at the end."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules[:1]:
        module.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _tensors_of(model: object) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What a call returns, and how many seconds it took, with all that it has started on a CUDA device."""
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def _cpu_clock(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of wall-clock time."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _cuda_clock(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds between two events in the device's current stream, the device idle at first."""
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


_CLOCKS = {"cpu": _cpu_clock, "cuda": _cuda_clock}
