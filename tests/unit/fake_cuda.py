"""CUDA tensors without a device: shapes, types and places are computed, values are not.

PyTorch's ``FakeTensorMode`` does this; an operation on tensors of two devices raises, as it would on a GPU. What leaves
the device (``tolist``, ``item``, NumPy arrays, how many cells are true) has no value there; zeros stand in.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """In the block tensors are fake, and may be moved to :data:`CUDA`."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(nn.Module, "_apply", _apply))
        # The generator would be given the bytes of a fake state.
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(patch.object(torch.random, "fork_rng", lambda devices: nullcontext()))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_HostValues())
        yield


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """As PyTorch's, which changes the data of parameters in place: a fake one cannot change its device."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


class _HostValues(TorchFunctionMode):
    """Gives what fake tensors cannot: zeros for values, and all cells where those that are true are selected."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, FakeTensor):
            if func is Tensor.__deepcopy__:
                # PyTorch's copies bytes, of which there are none.
                return args[1].setdefault(id(first), first.clone())
            if func in (Tensor.tolist, Tensor.item, Tensor.numpy):
                zeros = np.zeros(first.shape, _numpy_type(first.dtype))
                return zeros if func is Tensor.numpy else getattr(zeros, func.__name__)()
            if func in (Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__):
                return {"__bool__": False, "__float__": 0.0}.get(func.__name__, 0)
            if func in (Tensor.nonzero, torch.nonzero):
                return torch.zeros(first.numel(), first.ndim, dtype=torch.int64, device=first.device)
            if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
                return first.flatten(0, args[1].ndim - 1)
        return func(*args, **kwargs)


def _numpy_type(dtype: torch.dtype) -> Any:
    return np.dtype(str(dtype).removeprefix("torch.").replace("bfloat16", "float32"))
