"""How much memory a training process has needed."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory so far: what the CUDA allocator held for tensors, or on the CPU the whole process's resident pages.

    The two are different quantities; figures compare on one kind of device only.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kilobytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024
