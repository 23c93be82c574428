"""Memory: the most that this process has used, and too little of it on a device, recognised and reported in one line.

Nothing here imports PyTorch before it is needed: it would count.
"""

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from core.errors import RunFailed


def peak_resident_bytes() -> int:
    """Bytes of resident pages at their peak, of this program alone.

    Linux hands ``ru_maxrss`` on to a program that is started: it may be the peak of whoever started it. ``VmHWM`` is
    not, and counts pages in batches (within some MB).
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, other systems kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024


_SIGNS = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "std::bad_alloc")


class OutOfDeviceMemory(RunFailed):
    """A device has too little memory for its work; the message says which setting takes less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on an accelerator or on the CPU."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # PyTorch's allocator of the CPU and CUDA's libraries have no class of their own for it.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def reraise_oom(what: str, fix: str) -> Iterator[None]:
    """A block whose lack of memory ends the run in one line.

    Args:
        what: was being done.
        fix: the setting to change.

    Raises:
        OutOfDeviceMemory: there was too little memory.
    """
    try:
        yield
    except OutOfDeviceMemory:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"{what}: the device has too little memory; {fix}"
    else:
        return
    give_back()
    raise OutOfDeviceMemory(message)


def give_back() -> None:
    """Hand memory that is kept for reuse, and used by nothing, back to the device."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
