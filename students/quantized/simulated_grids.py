"""Grids that no runtime computes with, for comparison with papers, and any grid by its description.

Each counts its codes honestly: with ``b`` bits there are ``2^b`` values at most; the twin grid of softmax has fewer,
since both of its grids hold zero. Zero is among the values, except of a hybrid grid, which begins at the lowest value.
While gradients are recorded, rounding passes them through where nothing was clipped.
"""

from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InputError
from students.quantized.quantizers import UniformQuantizer, nearest, pass_gradient

GELU_LOWEST = 0.16997124
"""GELU's smallest value, negated."""


class TwinQuantizer(nn.Module):
    """Two grids that share the codes of one: one bit says which, the others count steps (PTQ4ViT, section 3.3).

    Ranges are disjoint. ``softmax``: values below ``split`` are counted in steps of ``split / 2^(bits - 1)``, others in
    steps of ``1 / (2^(bits - 1) - 1)``. ``gelu``: negative values in fixed steps down to GELU's lowest value, positive
    ones in steps of ``scale``.

    Args:
        bits: 2 to 8.
        values: ``softmax`` or ``gelu``.
    """

    scale: Tensor
    kind = "twin"

    def __init__(self, bits: int, values: str) -> None:
        super().__init__()
        self.bits, self.of = bits, values
        self.steps = 2 ** (bits - 1)
        # Of softmax: where the two ranges meet. Of GELU: the step of positive values.
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """The nearest values of the two grids; shape and dtype unchanged."""
        refuse_export(self)
        value, half = x.float(), self.steps
        if self.of == "softmax":
            step = self.scale / half
            low = nearest(value / step, 0, half - 1) * step
            high = nearest(value * (half - 1), 0, half - 1) / (half - 1)
            return torch.where(value < self.scale, low, high).to(x.dtype)
        smallest = GELU_LOWEST / half
        low = nearest(value / smallest, -half, 0) * smallest
        high = nearest(value / self.scale, 0, half - 1) * self.scale
        return torch.where(value < 0, low, high).to(x.dtype)

    def description(self) -> dict[str, Any]:
        """What :func:`make_quantizer` needs to make one like it."""
        return {"kind": self.kind, "bits": self.bits, "values": self.of}


class LogarithmicQuantizer(nn.Module):
    """Powers of ``2^(1 / granularity)`` for what softmax gives: PTQ4SAM's adaptive granularity (AGQ, Lv et al. 2024,
    arXiv 2405.03144).

    ``q = round(-granularity * log2(x / scale))`` stands for ``scale * 2^(-q / granularity)``. The last of the codes is
    zero: in the published code zero comes on top of ``2^bits`` powers, and is one value too many.

    Args:
        bits: 2 to 8.
    """

    scale: Tensor
    granularity: Tensor
    kind = "logarithmic"

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        # The largest value.
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("granularity", torch.ones((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """The nearest powers to values from 0 up, near by their logarithms; shape and dtype unchanged."""
        refuse_export(self)
        value = x.float().clamp(min=0).minimum(self.scale)
        code = torch.round(-self.granularity * (value / self.scale).log2())
        power = self.scale * (-code / self.granularity).exp2()
        found = torch.where(code < 2**self.bits - 1, power, torch.zeros_like(power))
        return pass_gradient(found, value).to(x.dtype)

    def description(self) -> dict[str, Any]:
        """What :func:`make_quantizer` needs to make one like it."""
        return {"kind": self.kind, "bits": self.bits}


class HybridQuantizer(nn.Module):
    """A logarithmic grid for small values and a uniform one for large ones, above the lowest value, for what follows a
    GELU: HLUQ of AHCPTQ (Zhang et al. 2025).

    Of ``2^bits`` codes, ``logarithmic`` are powers of two times ``scale`` and the lowest value itself; the others are
    steps above ``scale``. The published code takes large values whose code is above ``logarithmic`` for too small
    ones, and spends a code of its own on zero; here a value is of one grid or of the other.

    Args:
        bits: 2 to 8.
    """

    lowest: Tensor
    scale: Tensor
    step: Tensor
    logarithmic: Tensor
    kind = "hybrid"

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        for name in ("lowest", "scale", "step"):
            self.register_buffer(name, torch.ones(()))
        self.register_buffer("logarithmic", torch.full((), 2, dtype=torch.int32))

    def set_range(self, lowest: Tensor, highest: Tensor, ratio: float, share: float) -> None:
        """Cover values from ``lowest`` to ``highest``.

        Args:
            ratio: of the range, what the logarithmic grid covers (the paper's rho).
            share: of the codes, those of the logarithmic grid (its g); at least two are.
        """
        count = max(2, round(share * 2**self.bits))
        size = (highest - lowest).clamp(min=1e-6)
        self.lowest.copy_(lowest)
        self.scale.copy_(ratio * size)
        self.step.copy_((1 - ratio) * size / (2**self.bits - count))
        self.logarithmic.fill_(count)

    def forward(self, x: Tensor) -> Tensor:
        """The nearest values, small ones by their logarithms; shape and dtype unchanged."""
        refuse_export(self)
        highest = self.scale + (2**self.bits - self.logarithmic) * self.step
        above = (x.float() - self.lowest).clamp(min=0).minimum(highest)
        code = torch.round(-(above / self.scale).log2())
        small = torch.where(code < self.logarithmic - 1, self.scale * (-code).exp2(), torch.zeros_like(code))
        large = self.scale + torch.round((above - self.scale) / self.step) * self.step
        found = torch.where(above <= self.scale, small, large)
        return (self.lowest + pass_gradient(found, above)).to(x.dtype)

    def description(self) -> dict[str, Any]:
        """What :func:`make_quantizer` needs to make one like it."""
        return {"kind": self.kind, "bits": self.bits}


class ChannelGroupQuantizer(UniformQuantizer):
    """A uniform grid for each group of channels with similar ranges: channel-aware grouping of AHCPTQ (CAG).

    Args:
        bits, symmetric: as of a uniform grid.
        channels: of the last dimension of what is quantised.
        groups: how many, at most the channels.
    """

    group: Tensor
    kind = "channel_groups"
    axis = None

    def __init__(self, bits: int, symmetric: bool, channels: int, groups: int) -> None:
        if not 1 <= groups <= channels:
            raise ValueError(f"{channels} channels are not {groups} groups")
        super().__init__(bits, symmetric, (groups,))
        self.channels = channels
        self.register_buffer("group", torch.zeros(channels, dtype=torch.int64))

    def spread(self, part: Tensor) -> Tensor:
        """By group ``[groups]`` to by channel ``[channels]``."""
        return part[self.group]

    def set_range(self, lowest: Tensor, highest: Tensor) -> None:
        """Cover each channel's values, ``[channels]`` each; groups are made anew of these ranges."""
        self.group.copy_(grouped(lowest, highest, len(self.scale)))
        zeros = torch.zeros_like(self.scale)
        super().set_range(
            zeros.scatter_reduce(0, self.group, lowest, "amin"), zeros.scatter_reduce(0, self.group, highest, "amax")
        )

    def regroup(self, group: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        """Have other groups: that of each channel ``[channels]``, and each one's scale and zero point ``[groups]``."""
        self.shape = (len(scale),)
        self.group.copy_(group)
        self.scale, self.zero_point = scale.clone(), zero_point.to(self.zero_point.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The nearest values of each channel's grid ``[..., channels]``; shape and dtype unchanged."""
        refuse_export(self)
        return super().forward(x)

    def description(self) -> dict[str, Any]:
        """What :func:`make_quantizer` needs to make one like it."""
        kept = {"kind": self.kind, "bits": self.bits, "symmetric": self.symmetric}
        return {**kept, "channels": self.channels, "groups": len(self.scale)}


def grouped(lowest: Tensor, highest: Tensor, groups: int, rounds: int = 50) -> Tensor:
    """The group of each channel, int64 ``[channels]``: k-means over their ranges, begun at quantiles of the widths."""
    points = torch.stack([lowest, highest], 1).double()
    order = (highest - lowest).argsort(stable=True)
    centres = points[order[torch.linspace(0, len(order) - 1, groups).round().long()]]
    group = torch.cdist(points, centres).argmin(1)
    for _ in range(rounds):
        members = torch.nn.functional.one_hot(group, groups).double()
        counts = members.sum(0)[:, None]
        centres = torch.where(counts > 0, members.T @ points / counts.clamp(min=1), centres)
        before, group = group, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, group):
            break
    return group


Quantizer = UniformQuantizer | TwinQuantizer | LogarithmicQuantizer | HybridQuantizer


SIMULATED = {
    "twin": "twin grids",
    "logarithmic": "logarithmic softmax",
    "hybrid": "hybrid grids behind GELU",
    "channel_groups": "grids of channel groups",
}
"""What grids that no runtime computes with are called in tables, by their kind."""


def refuse_export(quantizer: nn.Module) -> None:
    """Stop an export at a grid that no runtime computes with.

    Raises:
        NotImplementedError: the message names it.
    """
    if torch.compiler.is_exporting():
        raise NotImplementedError(f"runtimes know no {SIMULATED[str(quantizer.kind)]}; quantise without to export")


def check_grids(model: nn.Module, origin: str) -> None:
    """Refuse whole numbers of grids, read from a file, that no calibration gives.

    Raises:
        InputError: the message names ``origin`` and the grid.
    """
    for path, grid in model.named_modules():
        whole = {
            **({"group": (0, len(grid.scale) - 1)} if isinstance(grid, ChannelGroupQuantizer) else {}),
            **({"granularity": (1, 4)} if isinstance(grid, LogarithmicQuantizer) else {}),
            **({"logarithmic": (2, 2**grid.bits - 1)} if isinstance(grid, HybridQuantizer) else {}),
        }
        for name, (least, most) in whole.items():
            found = grid.get_buffer(name)
            if not least <= int(found.min()) <= int(found.max()) <= most:
                raise InputError(f"{origin}: {path}.{name} must be from {least} to {most}; save it again")


_PARTS = {"parts": 0, "repeats": 1}


def make_quantizer(description: dict[str, Any]) -> Quantizer:
    """A quantiser by its description; its grid still has to be set or loaded.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    bits, kind = description["bits"], description["kind"]
    if type(bits) is not int or not 2 <= bits <= 8:
        raise ValueError(f"a quantiser of {bits!r} bits; there are those of 2 to 8")
    if kind == "uniform":
        shape, parts = tuple(map(int, description["shape"])), (description.get(k, d) for k, d in _PARTS.items())
        return UniformQuantizer(bits, bool(description["symmetric"]), shape, *map(int, parts))
    if kind == "channel_groups":
        sizes = int(description["channels"]), int(description["groups"])
        return ChannelGroupQuantizer(bits, bool(description["symmetric"]), *sizes)
    if kind == "twin" and description["values"] in ("softmax", "gelu"):
        return TwinQuantizer(bits, description["values"])
    if kind == "logarithmic":
        return LogarithmicQuantizer(bits)
    if kind == "hybrid":
        return HybridQuantizer(bits)
    raise ValueError(f"unknown quantiser {description!r}")
