"""What layers see on calibration images: a drawn part of their inputs, outputs and output gradients."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.seeding import generator_for
from students.quantized.layers import QuantizedConvolution, QuantizedLayer, QuantizedProduct
from students.quantized.simulated_grids import ChannelGroupQuantizer

ROWS = 256
"""Most rows of a linear layer's input kept of one call."""
CROP = 16
"""Side of the part of a convolution's map kept of one call: output cells, input cells of a transposed one."""
MATRICES, MATRIX_ROWS = 2, 64
"""Most products kept of one call (each with all heads), and most rows of each left operand."""


@dataclass
class TracedCall:
    """A drawn part of one call of a layer.

    Attributes:
        inputs: what the layer's arithmetic takes: one tensor, or both operands of a product. A convolution's already
            hold its zero padding, so that it is recomputed without.
        output: what it gave, in float.
        gradient: of the task loss with respect to the output, of its shape; None where no loss was taken.
        size: values of the whole output.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor
    gradient: Tensor | None = None
    size: int = 0


@dataclass
class LayerTrace:
    """All records of one layer, and the range of each of its whole inputs.

    Attributes:
        records: by image and number of the call.
        lowest, highest: of a layer's input and its output over everything, not only over what was drawn; of a
            product's two operands, by head ``[h]``; of an input with channel groups, by channel ``[C]``.
    """

    records: dict[tuple[int, int], TracedCall] = field(default_factory=dict)
    lowest: list[Tensor] = field(default_factory=list)
    highest: list[Tensor] = field(default_factory=list)

    def widen(self, whole: tuple[Tensor, ...], kept: Sequence[int | None]) -> None:
        """Take whole tensors into the ranges, each by the entries of the dimension that is kept, if one is."""
        found = []
        for x, dimension in zip(whole, kept, strict=True):
            rows = x.float().reshape(1, -1) if dimension is None else x.float().movedim(dimension, 0).flatten(1)
            lowest, highest = rows.amin(1), rows.amax(1)
            found.append((lowest[0], highest[0]) if dimension is None else (lowest, highest))
        if not self.lowest:
            self.lowest, self.highest = [low for low, _ in found], [high for _, high in found]
        self.lowest = [torch.minimum(a, low) for a, (low, _) in zip(self.lowest, found, strict=True)]
        self.highest = [torch.maximum(a, high) for a, (_, high) in zip(self.highest, found, strict=True)]


class Recorder:
    """Records some layers while a model runs inside :meth:`on`.

    What is drawn of a call depends on seed, layer, image and number of the call, so that two passes over the same
    images (one for values, one for gradients) draw the same parts.
    """

    def __init__(self, layers: Mapping[str, QuantizedLayer | QuantizedProduct], seed: int) -> None:
        self.layers, self.seed = dict(layers), seed
        self.traces: dict[str, LayerTrace] = {path: LayerTrace() for path in layers}
        self._called: dict[str, None] = {}

    def in_order(self) -> list[str]:
        """The layers in the order in which the model first computed them; those that it did not come last."""
        return list(self._called | dict.fromkeys(self.layers))

    @contextmanager
    def on(self, image: int, values: bool = True, gradients: bool = False) -> Iterator[None]:
        """Record the calls made inside the block: their values, the gradients of their outputs, or both."""
        calls: dict[str, int] = defaultdict(int)

        def hook_for(path: str) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                self._called.setdefault(path)
                key = (image, calls[path])
                calls[path] += 1
                self._keep(path, module, args, output, key, values, gradients)

            return hook

        handles = [module.register_forward_hook(hook_for(path)) for path, module in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(
        self,
        path: str,
        module: nn.Module,
        args: tuple[Tensor, ...],
        output: Tensor,
        key: tuple[int, int],
        values: bool,
        gradients: bool,
    ) -> None:
        trace, operands = self.traces[path], tuple(x.detach() for x in args)
        part = _part_of(module, operands, output, generator_for(self.seed, "calibration", path, *key))
        if values:
            product = isinstance(module, QuantizedProduct)
            grouped = isinstance(getattr(module, "input_quantizer", None), ChannelGroupQuantizer)
            kept = (1, 1) if product else (-1 if grouped else None, None)
            trace.widen(operands if product else (*operands, output.detach()), kept)
            # Copies: residual sums and activations of many backbones change a layer's output, or its input, in place.
            inputs = tuple(x.clone() for x in part.inputs(operands))
            drawn = part.output(output.detach()).float().clone()
            trace.records[key] = TracedCall(inputs, drawn, size=output.numel())
        if gradients:
            if not output.requires_grad:
                # The decoder's first layers depend on the prompt alone: nothing before them asks for a gradient.
                output.requires_grad_()

            def keep_gradient(gradient: Tensor) -> None:
                trace.records[key].gradient = part.output(gradient.detach()).float().clone()

            output.register_hook(keep_gradient)


def recordable(model: nn.Module) -> dict[str, QuantizedLayer | QuantizedProduct]:
    """The quantised layers and products of a model, in the order of its modules."""
    return {p: m for p, m in model.named_modules() if isinstance(m, QuantizedLayer | QuantizedProduct)}


class _Rows:
    """Rows of a linear layer's input."""

    def __init__(self, x: Tensor, generator: torch.Generator) -> None:
        count = x[..., 0].numel()
        self.chosen = torch.randperm(count, generator=generator)[:ROWS].to(x.device)

    def inputs(self, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (operands[0].flatten(0, -2)[self.chosen].float(),)

    def output(self, output: Tensor) -> Tensor:
        return output.flatten(0, -2)[self.chosen]


class _Crop:
    """A part of the map of one image (or prompt), with what of the input it depends on."""

    def __init__(self, layer: QuantizedConvolution, output: Tensor, generator: torch.Generator) -> None:
        self.layer, stride = layer, layer.stride
        # In cells of the output; of a transposed convolution in cells of the input.
        size = [n // s if layer.transposed else n for n, s in zip(output.shape[2:], stride, strict=True)]
        self.side = [min(CROP, n) for n in size]
        free = [n - side + 1 for n, side in zip(size, self.side, strict=True)]
        drawn = torch.rand(3, generator=generator).tolist()
        self.corner = [int(chance * n) for chance, n in zip(drawn, free, strict=False)]
        self.number = int(drawn[2] * len(output))

    def inputs(self, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        layer, x = self.layer, operands[0][self.number : self.number + 1]
        kernel = layer.shape[2:]
        if not layer.transposed:
            (top, left) = layer.padding
            x = F.pad(x, (left, left, top, top))
        spans = []
        for corner, side, stride, k in zip(self.corner, self.side, layer.stride, kernel, strict=True):
            span = (corner, corner + side) if layer.transposed else (corner * stride, (corner + side - 1) * stride + k)
            spans.append(slice(*span))
        return (x[:, :, spans[0], spans[1]].float(),)

    def output(self, output: Tensor) -> Tensor:
        factors = self.layer.stride if self.layer.transposed else (1, 1)
        rows, columns = (
            slice(corner * f, (corner + side) * f)
            for corner, side, f in zip(self.corner, self.side, factors, strict=True)
        )
        return output[self.number : self.number + 1, :, rows, columns]


class _Matrices:
    """Some products of a batch, all heads of each, and some rows of each."""

    def __init__(self, operands: tuple[Tensor, ...], generator: torch.Generator) -> None:
        a = operands[0]
        self.chosen = torch.randperm(len(a), generator=generator)[:MATRICES].to(a.device)
        self.rows = torch.randperm(a.shape[-2], generator=generator)[:MATRIX_ROWS].to(a.device)

    def inputs(self, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        a, b = (x.expand(max(map(len, operands)), *x.shape[1:])[self.chosen] for x in operands)
        return a[..., self.rows, :].float(), b.float()

    def output(self, output: Tensor) -> Tensor:
        return output[self.chosen][..., self.rows, :]


def _part_of(module: nn.Module, operands: tuple[Tensor, ...], output: Tensor, generator: torch.Generator) -> Any:
    if isinstance(module, QuantizedProduct):
        return _Matrices(operands, generator)
    if isinstance(module, QuantizedConvolution):
        return _Crop(module, output, generator)
    return _Rows(operands[0], generator)
