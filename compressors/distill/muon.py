"""Muon on processors without bfloat16 instructions, where PyTorch's own spends most of a small model's step.

PyTorch orthogonalises updates by matrix products in bfloat16, which such a processor emulates at a fiftieth of its
float32 speed. Here the products are float32, each rounded to bfloat16 as there: the same values but for the order in
which a product is summed up.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class RoundingMuon(torch.optim.Muon):
    """``torch.optim.Muon`` (Jordan et al. 2024) with ``adjust_lr_fn="match_rms_adamw"``, in rounded float32."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)
        return loss


def orthogonalised(update: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearly orthogonal matrix of a Newton-Schulz iteration: float32 ``[m, n]`` to values of bfloat16."""
    a, b, c = coefficients
    x = _rounded(update)
    if x.shape[0] > x.shape[1]:
        x = x.T
    x = _rounded(x / _rounded(x.norm()).clamp(min=eps))
    for _ in range(steps):
        gram = _rounded(x @ x.T)
        change = _rounded(torch.addmm(gram, gram, gram, beta=b, alpha=c))
        x = _rounded(torch.addmm(x, change, x, beta=a))
    return x.T if update.shape[0] > update.shape[1] else x


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()
