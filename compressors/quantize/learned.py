"""What learns while a block is reconstructed, in the place of its grids: roundings of weights, ranges of activations.

Weights round as in AdaRound (Nagel et al. 2020, arXiv 2004.10568); activations learn step and zero point (LSQ, Esser et
al. 2019, arXiv 1902.08153; LSQ+, Bhalgat et al. 2020, arXiv 2004.09576); while they do, each value is left float with
some probability (QDrop, Wei et al. 2022, arXiv 2203.05740). Groups of channels may merge meanwhile (CAG of AHCPTQ).

These stand in a model only inside :meth:`Learners.in_place`. One that is scored, saved or exported has its own
:class:`students.quantized.quantizers.UniformQuantizer` again, which drops nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from students.quantized.layers import QuantizedLayer
from students.quantized.quantizers import UniformQuantizer, nearest
from students.quantized.simulated_grids import ChannelGroupQuantizer, grouped

LOWEST, HIGHEST = -0.1, 1.1
"""What AdaRound stretches its sigmoid to (its gamma and zeta)."""
GRID_RATE = 0.1
"""How fast the logarithms of steps, and zero points as shares of the codes, learn beside roundings."""


class LearnedRounding(nn.Module):
    """In place of a weight's grid: each weight lies between the two values next to it (AdaRound, eqs. 22 and 23).

    Args:
        grid: whose scales stay as they are.
        weight: float; at the beginning the output equals it, where the grid does not clip it.
    """

    def __init__(self, grid: UniformQuantizer, weight: Tensor) -> None:
        super().__init__()
        # In a tuple, so that it is no part of this module.
        self._grid = (grid,)
        self.below = torch.floor(weight.detach() / grid.scale)
        rest = weight.detach() / grid.scale - self.below
        self.logits = nn.Parameter(((rest - LOWEST) / (HIGHEST - LOWEST)).logit())

    def share(self) -> Tensor:
        """How far each weight is rounded up, 0 to 1: the rectified sigmoid ``h(V)``."""
        return (self.logits.sigmoid() * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)

    def forward(self, weight: Tensor) -> Tensor:
        """The partly rounded weight, whatever is given."""
        return self._value(self.share())

    def settled(self) -> Tensor:
        """The rounded weight: every share 0 or 1."""
        return self._value((self.logits.detach() > 0).float())

    def undecided(self, sharpness: float) -> Tensor:
        """What pushes shares to 0 and 1 (AdaRound, eq. 24), summed over the weights."""
        return (1 - (2 * self.share() - 1).abs().pow(sharpness)).sum()

    def _value(self, share: Tensor) -> Tensor:
        (grid,) = self._grid
        return (self.below + share).clamp(grid.low, grid.high) * grid.scale


class LearnedGrid(nn.Module):
    """In place of an activation's grid: step and zero point learn; some values are dropped out of it.

    Attributes:
        drop: the probability that a value stays float (QDrop); 0 for none.
        generator: what is dropped is drawn from it; on the device of the activations.
    """

    def __init__(self, grid: UniformQuantizer) -> None:
        super().__init__()
        self._grid = (grid,)
        self.bits, self.axis = grid.bits, grid.axis
        self.scale, self.zero_point = grid.scale.clone(), grid.zero_point.float()
        self.step, self.shift = (nn.Parameter(torch.zeros_like(grid.scale)) for _ in range(2))
        self.drop, self.generator = 0.0, torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        """The nearest values of the grid as it stands, or ``x`` where a value is dropped."""
        (grid,) = self._grid
        scale, zero = (self._spread(part) for part in self._learned())
        kept = None
        if self.drop:
            kept = (torch.rand(x.shape, generator=self.generator, device=x.device) >= self.drop).float()
        return _OnGrid.apply(x.float(), scale, zero, kept, grid.low, grid.high).to(x.dtype)

    def _spread(self, part: Tensor) -> Tensor:
        return self._grid[0].spread(part)

    def _unrounded(self) -> tuple[Tensor, Tensor]:
        (grid,) = self._grid
        moved = 0.0 if grid.symmetric else GRID_RATE * (grid.high - grid.low) * self.shift
        return self.scale * (GRID_RATE * self.step).exp(), self.zero_point + moved

    def _learned(self) -> tuple[Tensor, Tensor]:
        (grid,) = self._grid
        scale, zero = self._unrounded()
        return scale, self.zero_point if grid.symmetric else nearest(zero, grid.low, grid.high)

    @torch.no_grad()
    def settle(self) -> None:
        """Write what was learned into the grid."""
        scale, zero = self._learned()
        self._grid[0].scale.copy_(scale)
        self._grid[0].zero_point.copy_(zero)


class LearnedGroups(LearnedGrid):
    """In place of the grids of channel groups: their number halves in equal parts of the learning (CAG of AHCPTQ).

    A merged group's range is the mean of its channels' ranges, of which each of the first groups goes on to learn one.

    Args:
        grid: with the groups that there are at first.
        last: how many there are in the end.
    """

    group: Tensor
    count: Tensor

    def __init__(self, grid: ChannelGroupQuantizer, last: int) -> None:
        super().__init__(grid)
        self._first = grid.group.clone()
        self.counts = [len(grid.scale)]
        while self.counts[-1] > last:
            self.counts.append(max(last, self.counts[-1] // 2))
        # Of a saved state: what merged once stays together.
        self.register_buffer("group", grid.group.clone())
        self.register_buffer("count", torch.tensor(len(grid.scale)))

    @torch.no_grad()
    def merge(self, share: float) -> None:
        """Merge, by k-means over ranges, into as many groups as there should be after this share of the learning."""
        count = self.counts[min(int(share * len(self.counts)), len(self.counts) - 1)]
        if count < int(self.count):
            (grid,) = self._grid
            scale, zero = (self._spread(part) for part in self._learned())
            self.group.copy_(grouped((grid.low - zero) * scale, (grid.high - zero) * scale, count))
            self.count.fill_(count)

    def _spread(self, part: Tensor) -> Tensor:
        return part[self.group]

    def _learned(self) -> tuple[Tensor, Tensor]:
        """By group ``[count]``."""
        (grid,) = self._grid
        # [channels]
        scale, zero = (part[self._first] for part in self._unrounded())
        count = int(self.count)
        channels = torch.bincount(self.group, minlength=count)
        merged, moved = (scale.new_zeros(count).index_add(0, self.group, part) for part in (scale, scale * zero))
        # An empty group's step is any; no channel has it.
        merged = torch.where(channels > 0, merged, 1.0)
        return merged / channels.clamp(min=1), nearest(moved / merged, grid.low, grid.high)

    @torch.no_grad()
    def settle(self) -> None:
        """Write what was learned into the grid, with its groups."""
        (grid,) = self._grid
        assert isinstance(grid, ChannelGroupQuantizer)
        grid.regroup(self.group, *self._learned())


class _OnGrid(torch.autograd.Function):
    """Values on a grid, but for those that are dropped out of it, and LSQ's gradients.

    One function, since every pass over memory counts here: a reconstruction computes little else.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, kept: Tensor | None, low: int, high: int) -> Tensor:
        """Of ``x`` in float32; ``kept`` is 1 where a value is on the grid and 0 where it stays as it is."""
        unclipped = (x / scale).round_().add_(zero)
        codes = unclipped.clamp(low, high)
        inside = unclipped.eq_(codes)
        steps = codes.sub_(zero)
        ctx.save_for_backward(x, scale, zero, kept, inside, steps)
        found = steps * scale
        # Exact at 0 and 1.
        return found if kept is None else torch.lerp(x, found, kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With respect to ``x``, ``scale`` and ``zero``.

        ``(clip(x / scale + zero) - zero) * scale`` changes with ``x`` by 1 inside of the grid, with ``scale`` by its
        steps less ``x / scale`` inside, and with ``zero`` by ``-scale`` outside (LSQ, eq. 3; LSQ+, eqs. 5 and 6).
        """
        x, scale, zero, kept, inside, steps = ctx.saved_tensors
        (gradient,) = gradients
        on_grid = gradient if kept is None else gradient * kept
        inside = inside * on_grid
        of_scale = (on_grid * steps).sum_to_size(scale.shape) - (inside * x).sum_to_size(scale.shape) / scale
        of_zero = scale * (inside.sum_to_size(zero.shape) - on_grid.sum_to_size(zero.shape))
        return inside if kept is None else inside + (gradient - on_grid), of_scale, of_zero, None, None, None


ACTIVATIONS = ("input_quantizer", "output_quantizer", "left", "right")
"""Where quantised layers and products have grids of activations."""


class Learners(nn.Module):
    """All that learns of one unit of a model. The unit is no part of it, so that it stays in evaluation mode.

    Args:
        unit: holds quantised layers or products, calibrated and not packed.
        learn: ``rounding`` of weights, ``scales`` of activations, or ``both``.
        channel_groups: how many groups of channels there are in the end; 0: those that there are.
    """

    def __init__(self, unit: nn.Module, learn: str = "both", channel_groups: int = 0) -> None:
        super().__init__()
        self._places: list[tuple[nn.Module, str]] = []
        self.learners = nn.ModuleList()
        for module in unit.modules():
            if isinstance(module, QuantizedLayer) and module.weight is not None and learn != "scales":
                self._places.append((module, "weight_quantizer"))
                self.learners.append(LearnedRounding(module.weight_quantizer, module.weight))
            for name in ACTIVATIONS if learn != "rounding" else ():
                if isinstance(grid := getattr(module, name, None), UniformQuantizer):
                    self._places.append((module, name))
                    if channel_groups and isinstance(grid, ChannelGroupQuantizer):
                        self.learners.append(LearnedGroups(grid, channel_groups))
                    else:
                        self.learners.append(LearnedGrid(grid))

    @property
    def roundings(self) -> list[LearnedRounding]:
        """Of the unit's weights."""
        return [learner for learner in self.learners if isinstance(learner, LearnedRounding)]

    def merge(self, share: float) -> None:
        """Merge groups of channels as they should be after this share of the learning."""
        for learner in self.learners:
            if isinstance(learner, LearnedGroups):
                learner.merge(share)

    @contextmanager
    def in_place(self, drop: float = 0.0, generator: torch.Generator | None = None) -> Iterator[None]:
        """Let the unit compute with what learns; whatever happens, it has its own grids again in the end."""
        before = [getattr(module, name) for module, name in self._places]
        for (module, name), learner in zip(self._places, self.learners, strict=True):
            if isinstance(learner, LearnedGrid) and generator is not None:
                learner.drop, learner.generator = drop, generator
            setattr(module, name, learner)
        try:
            yield
        finally:
            for (module, name), grid in zip(self._places, before, strict=True):
                setattr(module, name, grid)

    @torch.no_grad()
    def settle(self) -> None:
        """Write what was learned into the unit: steps and zero points into its grids, rounded weights as its weights.

        A rounded weight is a value of its grid, which packing then leaves as it is.
        """
        for (module, _), learner in zip(self._places, self.learners, strict=True):
            if isinstance(learner, LearnedGrid):
                learner.settle()
            elif isinstance(learner, LearnedRounding) and isinstance(module, QuantizedLayer):
                assert module.weight is not None
                module.weight.copy_(learner.settled())
