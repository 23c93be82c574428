"""The search for the grids of one layer: candidates around its range, operands in turn (PTQ4ViT, algorithm 1).

Each operand's grid is chosen among ``range * (lowest + i (highest - lowest) / count)`` with the other operand on its
grid as it is by then (a layer's weight in float, unless :attr:`Search.weights` says otherwise); every channel (or head)
that has a scale of its own chooses on its own. The full range is always a candidate, so no operand's search is worse
than no search by its own measure.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressors.quantize.objective import best_of, distance
from compressors.quantize.recording import LayerTrace, TracedCall
from students.quantized.layers import QuantizedConvolution, QuantizedLayer, QuantizedProduct
from students.quantized.quantizers import UniformQuantizer
from students.quantized.simulated_grids import (
    ChannelGroupQuantizer,
    HybridQuantizer,
    LogarithmicQuantizer,
    Quantizer,
    TwinQuantizer,
)

SPLITS = 20
"""Places where the twin grid of softmax may be split: 2^0 to 2^-19."""
GRANULARITIES = (1, 2, 4)
"""Of logarithmic grids (PTQ4SAM's tau)."""
HYBRIDS = tuple((ratio, share) for ratio in (0.1, 0.3, 0.5) for share in (1 / 8, 1 / 4, 1 / 2))
"""Of hybrid grids: what the logarithmic part covers, and its share of the codes (AHCPTQ's rho and g)."""


@dataclass(frozen=True)
class Search:
    """What is tried, and how it is judged.

    Attributes:
        metric: one of :data:`compressors.ptq_settings.METRICS`; ``minmax`` covers the range and tries nothing.
        candidates: steps from the lowest to the highest share of the full range; both are tried, and the full range.
        lowest, highest: the first and the last share.
        rounds: how often operands take turns.
        weights: what the search for a layer's input and output grids multiplies by: its weight in ``float``, with
            which rounds after the first change the weight's grid alone; or ``quantized``, as the algorithm has it.
    """

    metric: str = "hessian"
    candidates: int = 100
    lowest: float = 0.01
    highest: float = 1.2
    rounds: int = 3
    weights: str = "float"

    def shares(self) -> list[float]:
        """Of the full range, each tried."""
        step = (self.highest - self.lowest) / self.candidates
        return [1.0, *(self.lowest + i * step for i in range(self.candidates + 1))]


def begin(module: QuantizedLayer | QuantizedProduct, trace: LayerTrace) -> None:
    """Let every grid of a layer cover the full range of what was traced."""
    if isinstance(module, QuantizedLayer):
        if module.weight is not None:
            lowest, highest = _weight_range(module)
            module.weight_quantizer.set_range(lowest, highest)
        grids: list[Quantizer | None] = [module.input_quantizer, module.output_quantizer]
    else:
        grids = [module.left, module.right]
    for quantizer, low, high in zip(grids, trace.lowest, trace.highest, strict=True):
        if quantizer is not None:
            _cover(quantizer, low, high, 1.0)


def search(module: QuantizedLayer | QuantizedProduct, trace: LayerTrace, how: Search) -> None:
    """Find the grids of one layer, in place, from its trace; begins with :func:`begin`."""
    begin(module, trace)
    if how.metric == "minmax" or not trace.records:
        return
    records = _stacked(list(trace.records.values()))
    for _ in range(how.rounds):
        if isinstance(module, QuantizedProduct):
            _search_operand(module.left, 0, module, trace, records, how)
            _search_operand(module.right, 1, module, trace, records, how)
        else:
            _search_weight(module, records, how)
            if module.input_quantizer is not None:
                _search_input(module, trace, records, how)
    if isinstance(module, QuantizedLayer) and module.output_quantizer is not None:
        # It takes no turn: the grids before it do not depend on it.
        _search_output(module, trace, records, how)


def _search_weight(layer: QuantizedLayer, records: list[TracedCall], how: Search) -> None:
    quantizer, weight = layer.weight_quantizer, layer.weight
    assert weight is not None
    inputs = [quantized(layer.input_quantizer, record.inputs[0]) for record in records]
    lowest, highest = _weight_range(layer)
    error = _error_by_weight_scale(layer, records, how.metric)

    def score(scale: Tensor) -> Tensor:
        quantizer.scale.copy_(scale)
        quantised = quantizer(weight)
        return error([computed(layer, x, quantised) for x in inputs])

    candidates = []
    for share in how.shares():
        quantizer.set_range(lowest * share, highest * share)
        candidates.append(quantizer.scale.clone())
    quantizer.scale.copy_(best_of(candidates, score))


def _search_input(layer: QuantizedLayer, trace: LayerTrace, records: list[TracedCall], how: Search) -> None:
    quantizer, weight = layer.input_quantizer, _multiplied(layer, how)
    assert quantizer is not None
    error_of = _error_in_all(records, how.metric)

    def error() -> Tensor:
        return error_of([computed(layer, quantizer(record.inputs[0]), weight) for record in records])

    _search_range(quantizer, trace.lowest[0], trace.highest[0], how, error)


def _multiplied(layer: QuantizedLayer, how: Search) -> Tensor:
    """The weight that grids of activations are searched with."""
    assert layer.weight is not None
    return layer.weight_quantizer(layer.weight) if how.weights == "quantized" else layer.weight


def _search_output(layer: QuantizedLayer, trace: LayerTrace, records: list[TracedCall], how: Search) -> None:
    quantizer, weight = layer.output_quantizer, _multiplied(layer, how)
    assert quantizer is not None
    outputs = [computed(layer, quantized(layer.input_quantizer, record.inputs[0]), weight) for record in records]
    error_of = _error_in_all(records, how.metric)

    def error() -> Tensor:
        return error_of([quantizer(output) for output in outputs])

    _search_range(quantizer, trace.lowest[1], trace.highest[1], how, error)


def _search_operand(
    quantizer: Quantizer,
    index: int,
    product: QuantizedProduct,
    trace: LayerTrace,
    records: list[TracedCall],
    how: Search,
) -> None:
    other = (product.right, product.left)[index]
    fixed = [other(record.inputs[1 - index]) for record in records]
    by_head = isinstance(quantizer, UniformQuantizer) and quantizer.axis is not None
    error_of = _error_in_all(records, how.metric, by_head)

    def error() -> Tensor:
        found = []
        for record, constant in zip(records, fixed, strict=True):
            moving = quantizer(record.inputs[index])
            found.append(moving @ constant if index == 0 else constant @ moving)
        return error_of(found)

    _search_range(quantizer, trace.lowest[index], trace.highest[index], how, error)


def _search_range(
    quantizer: Quantizer, lowest: Tensor, highest: Tensor, how: Search, error: Callable[[], Tensor]
) -> None:
    """Try grids (:func:`_grids`) and keep the best; by head where each has its own."""
    states, errors = [], []
    for _ in _grids(quantizer, lowest, highest, how):
        states.append({name: buffer.clone() for name, buffer in quantizer.named_buffers()})
        errors.append(error().reshape(-1))
    # [candidates, heads or 1]
    best = torch.nan_to_num(torch.stack(errors), nan=torch.inf).argmin(0)
    for name, buffer in quantizer.named_buffers():
        tried = torch.stack([state[name] for state in states])
        chosen = best.reshape(buffer.shape) if best.numel() > 1 else best.reshape(()).expand(buffer.shape)
        buffer.copy_(tried.gather(0, chosen[None])[0])


def _grids(quantizer: Quantizer, lowest: Tensor, highest: Tensor, how: Search) -> Iterator[None]:
    """Set a quantiser to each grid that is tried, in place.

    Shares of the range; of softmax's twin grid, the places of its split; of logarithmic and hybrid ones, each of their
    forms with some of the shares, so that not many more are tried.
    """
    shares = how.shares()
    if isinstance(quantizer, TwinQuantizer) and quantizer.of == "softmax":
        shares = [2.0**-i for i in range(SPLITS)]
    forms: Sequence[Any] = (None,)
    if isinstance(quantizer, LogarithmicQuantizer):
        forms = GRANULARITIES
    elif isinstance(quantizer, HybridQuantizer):
        forms = [(ratio, share) for ratio, share in HYBRIDS if share * 2**quantizer.bits >= 2]
    for form in forms:
        for share in shares[:: len(forms)]:
            _cover(quantizer, lowest, highest, share, form)
            yield


def _cover(quantizer: Quantizer, lowest: Tensor, highest: Tensor, share: float, form: Any = None) -> None:
    """Let a grid cover a share of a range, given as one number, by head ``[h]`` or by channel.

    Args:
        form: of a logarithmic or hybrid grid, one of :data:`GRANULARITIES` or :data:`HYBRIDS`.
    """
    if isinstance(quantizer, TwinQuantizer):
        positive = share if quantizer.of == "softmax" else share * highest.amax().clamp(min=1e-6) / quantizer.steps
        quantizer.scale.copy_(torch.as_tensor(positive))
    elif isinstance(quantizer, LogarithmicQuantizer):
        quantizer.scale.copy_(share * highest.amax().clamp(min=1e-6))
        quantizer.granularity.fill_(form or GRANULARITIES[0])
    elif isinstance(quantizer, HybridQuantizer):
        quantizer.set_range(lowest.amin() * share, highest.amax() * share, *(form or HYBRIDS[4]))
    elif isinstance(quantizer, ChannelGroupQuantizer):
        quantizer.set_range(share * lowest, share * highest)
    else:
        shape = quantizer.shape
        low, high = (lowest.amin(), highest.amax()) if quantizer.axis is None else (lowest, highest)
        quantizer.set_range(share * low.reshape(shape), share * high.reshape(shape))


def _weight_range(layer: QuantizedLayer) -> tuple[Tensor, Tensor]:
    """Of the weight, in the shape of its scales."""
    assert layer.weight is not None
    shape = layer.weight_quantizer.shape
    if not shape:
        return layer.weight.amin(), layer.weight.amax()
    if layer.weight_quantizer.parts:
        rows = layer.weight_quantizer.by_part(layer.weight).flatten(1)
        return layer.weight_quantizer.of_parts(rows.amin(1)), layer.weight_quantizer.of_parts(rows.amax(1))
    dims = [i for i, size in enumerate(shape) if size == 1]
    return layer.weight.amin(dims, keepdim=True), layer.weight.amax(dims, keepdim=True)


def quantized(quantizer: Quantizer | None, x: Tensor) -> Tensor:
    """A tensor on its grid, or as it is where it stays float."""
    return x if quantizer is None else quantizer(x)


def computed(layer: QuantizedLayer, x: Tensor, weight: Tensor) -> Tensor:
    """A layer's arithmetic on a recorded input."""
    # Records of convolutions hold their padding already.
    return layer.compute(x, weight, (0, 0)) if isinstance(layer, QuantizedConvolution) else layer.compute(x, weight)


def _stacked(records: list[TracedCall]) -> list[TracedCall]:
    """Records of one shape put together, which saves calls."""
    by_shape: dict[tuple[torch.Size, ...], list[TracedCall]] = {}
    for record in records:
        shapes = tuple(x.shape[1:] for x in record.inputs)
        by_shape.setdefault(shapes, []).append(record)
    stacked = []
    for group in by_shape.values():
        inputs = tuple(torch.cat(parts) for parts in zip(*(record.inputs for record in group), strict=True))
        gradients = [record.gradient for record in group if record.gradient is not None]
        gradient = torch.cat(gradients) if len(gradients) == len(group) else None
        stacked.append(TracedCall(inputs, torch.cat([record.output for record in group]), gradient))
    return stacked


def _error_in_all(records: list[TracedCall], metric: str, by_head: bool = False) -> Callable[[list[Tensor]], Tensor]:
    """The distance over everything, or by head ``[h]`` of ``[B, h, M, N]``."""

    # [heads or 1, everything else]
    def arranged(x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1) if by_head else x.reshape(1, -1)

    return _error(records, metric, arranged)


def _error_by_weight_scale(
    layer: QuantizedLayer, records: list[TracedCall], metric: str
) -> Callable[[list[Tensor]], Tensor]:
    """The distance of the outputs behind each scale of a weight, in the shape of the scales."""
    shape = layer.weight_quantizer.shape
    if not shape:
        in_all = _error_in_all(records, metric)
        return lambda found: in_all(found).reshape(())
    scales, grid = max(shape), layer.weight_quantizer
    if grid.parts:
        # Of linear layers alone, whose outputs are the weight's rows.
        by_part = _error(records, metric, lambda x: grid.by_part(x.movedim(-1, 0).flatten(1)).flatten(1))
        return lambda found: grid.of_parts(by_part(found))

    def arranged(x: Tensor) -> Tensor:
        channels = x.transpose(0, 1) if isinstance(layer, QuantizedConvolution) else x.movedim(-1, 0)
        # Groups of a transposed convolution share their scales: channels [groups, scales].
        channels = channels.reshape(-1, scales, channels[0].numel())
        return channels.transpose(0, 1).flatten(1)

    by_scale = _error(records, metric, arranged)
    return lambda found: by_scale(found).reshape(shape)


def _error(
    records: list[TracedCall], metric: str, arranged: Callable[[Tensor], Tensor]
) -> Callable[[list[Tensor]], Tensor]:
    """The distance of what is found for each record to what it was in float, over all records together.

    Args:
        arranged: a record as ``[scales, everything]``; the distance is over the second dimension.
    """
    expected = _joined([arranged(record.output) for record in records])
    gradients = [arranged(record.gradient) for record in records if record.gradient is not None]
    gradient = _joined(gradients) if len(gradients) == len(records) else None
    return lambda found: distance(metric, _joined([arranged(x) for x in found]), expected, gradient, (1,))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


@torch.no_grad()
def correct_bias(layer: QuantizedLayer, trace: LayerTrace) -> None:
    """Take from the bias, in place, what quantising the weight adds to each output channel in the mean.

    This is bias correction (Nagel et al. 2019, section 4.2; PTQ4ViT's ``bias_correction``). The mean is over everything
    that was drawn of the layer's calls, with inputs on their grid; afterwards it is zero. A layer without a bias, or
    without calls, stays as it is.
    """
    records = list(trace.records.values())
    if layer.bias is None or layer.weight is None or not records:
        return
    shift, count = torch.zeros_like(layer.bias), 0
    for record in records:
        x = quantized(layer.input_quantizer, record.inputs[0])
        error = computed(layer, x, layer.weight_quantizer(layer.weight)) - computed(layer, x, layer.weight)
        by_channel = error.movedim(1 if isinstance(layer, QuantizedConvolution) else -1, 0).flatten(1)
        shift += by_channel.sum(1)
        count += by_channel.shape[1]
    layer.bias.sub_(shift / count)
