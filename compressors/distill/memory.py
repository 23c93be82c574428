"""How much memory a training process has needed."""

import torch

from core.resident_memory import peak_resident_bytes


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory so far: what the CUDA allocator held for tensors, or on the CPU the whole process's resident pages.

    The two are different quantities; figures compare on one kind of device only.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
