"""How long a segmenter takes and how much memory it needs, for one image and one box prompt.

The image encoder and the decoder are timed apart: an application encodes an image once and decodes every prompt.
"""

import contextlib
import platform
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.protocols import Masks, Prompt, Segmenter, device_of
from core.seeding import generator_for


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


def measure_latency(
    model: Segmenter,
    *,
    runs: int = 20,
    warmup: int = 3,
    device: torch.device | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> Latency:
    """Time ``runs`` rounds of encoding a random image and decoding one box, after ``warmup`` rounds that do not count.

    Time is wall-clock on the CPU, and between two events of an otherwise idle device on CUDA. One further round, not
    timed, gives the memory.

    Args:
        model: on ``device`` already; in evaluation mode for the while.
        device: the CPU or a CUDA device; by default the one that the model is on.
        precision: a key of :data:`PRECISIONS`. Each call has an autocast of its own, so it pays for casting weights.
        seed: of the image: normal noise, as normalised pixels are.
    """
    if runs < 1 or warmup < 0:
        raise ValueError(f"runs must be at least 1 and warmup at least 0, got {runs} and {warmup}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision}")
    device = device_of(model) if device is None else device
    if device.type not in _CLOCKS:
        raise ValueError(f"latency is measured on {' or '.join(_CLOCKS)}, not on {device.type}")
    size = model.input_size
    image = torch.randn(1, 3, size, size, generator=generator_for(seed, "latency")).to(device)
    # The middle half of the image in each direction.
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]], device=device) * size
    cast = PRECISIONS[precision]

    def encode() -> Tensor:
        with torch.autocast(device.type, cast, enabled=cast is not None):
            return model.encode(image)

    def decode(embedding: Tensor) -> Masks:
        with torch.autocast(device.type, cast, enabled=cast is not None):
            return model.decode(embedding, Prompt(boxes_xyxy=box), (size, size))

    with _evaluating(model), torch.no_grad():
        embedding = encode()
        clock = _CLOCKS[device.type]
        rounds = [(clock(encode, device), clock(lambda: decode(embedding), device)) for _ in range(warmup + runs)]
        peak = peak_memory(lambda: decode(encode()), [*_tensors_of(model), image, box], device)
    encoder_ms, decoder_ms = np.array(rounds[warmup:]).T
    return Latency(
        encoder_latency_ms=float(np.median(encoder_ms)),
        encoder_latency_p95_ms=float(np.percentile(encoder_ms, 95)),
        decoder_latency_ms=float(np.median(decoder_ms)),
        decoder_latency_p95_ms=float(np.percentile(decoder_ms, 95)),
        peak_memory_bytes=peak,
        device=device_name(device),
        precision=precision,
        threads=torch.get_num_threads(),
        runs=runs,
    )


def device_name(device: torch.device) -> str:
    """What a device calls itself, e.g. ``NVIDIA H200`` or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


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
