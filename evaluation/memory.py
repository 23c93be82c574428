"""How much memory a computation needs at one time."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(work: Callable[[], object], held: Iterable[Tensor], device: torch.device) -> int:
    """Peak of the bytes of ``held`` tensors and of all that ``work`` keeps alive on a device at one time.

    - CPU: every storage counts once, with its size, from the moment the operator that makes it returns until it is
      freed. This depends on the shapes alone, not on the machine or its load, and is exact for tensors; scratch memory
      that a kernel takes and gives back within one operator, and the interpreter, are not in it.
    - CUDA: how far the allocator's peak rises above what was allocated before, plus the bytes of ``held``. Scratch
      memory that is taken anew and the rounding of the allocator (to 512 bytes) are in it; the CUDA context, cached
      free blocks and libraries' workspaces left from earlier calls are not.

    Args:
        work: what to run, once.
        held: all that ``work`` finds alive, such as weights and inputs; tensors of other devices do not count.
        device: the CPU or a CUDA device.
    """
    live = _LiveBytes(held, device)
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

    def __init__(self, held: Iterable[Tensor], device: torch.device) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._device_type = device.type
        # By the identity of the storage, which PyTorch keeps for as long as any tensor uses it.
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in held:
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
