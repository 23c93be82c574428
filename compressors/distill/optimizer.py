"""Optimizers, as the settings have them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressors.settings import OptimizerConfig


def build_optimizer(settings: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if settings.optimizer == "muon":
        linear = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear)}
        matrices = [p for p in trainable if id(p) in linear]
        rest = [p for p in trainable if id(p) not in linear]
        adam = partial(torch.optim.AdamW, lr=settings.lr, betas=settings.betas, weight_decay=0.0, fused=True)
        if not matrices:
            # A plain CNN has none, and Muon takes no empty list.
            return adam(rest)
        kind = torch.optim.Muon if is_fast_in_bfloat16(matrices[0].device) else RoundingMuon
        muon = kind(matrices, lr=settings.lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")
        return Paired(muon, adam(rest)) if rest else muon
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam_kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return adam_kind([group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, fused=True)


class Paired(torch.optim.Optimizer):
    """Two optimizers over different parameters, used as one."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.pair = (first, second)
        self.param_groups = [*first.param_groups, *second.param_groups]

    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        for optimizer in self.pair:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        for optimizer in self.pair:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {str(i): optimizer.state_dict() for i, optimizer in enumerate(self.pair)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the states of both back."""
        for i, optimizer in enumerate(self.pair):
            optimizer.load_state_dict(state_dict[str(i)])
        # Loading replaces the groups.
        self.param_groups = [group for optimizer in self.pair for group in optimizer.param_groups]


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 so much faster than in float32 that training gains by it.

    A CPU does with matrix extensions (AMX). With vector instructions alone (AVX512_BF16) casting costs more than they
    save at the sizes that are trained on a CPU, as ``method=mobilesam engine.precision=...`` shows on an Intel Xeon.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported()


class RoundingMuon(torch.optim.Muon):
    """``torch.optim.Muon`` (Jordan et al. 2024, ``adjust_lr_fn="match_rms_adamw"``) where bfloat16 is slow.

    PyTorch orthogonalises updates by matrix products in bfloat16, which a processor without such instructions emulates
    at a fiftieth of its float32 speed, and one with vector instructions alone computes slower than in float32. Here the
    products are float32, each rounded to bfloat16 as there: the same values but for the order in which a product is
    summed up.
    """

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
