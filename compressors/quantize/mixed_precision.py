"""Which layers get more bits than others, under a budget of bit-operations or of bytes; and which stay float where
others have eight bits, under a budget of milliseconds in a runtime.

Sensitivity is measured once: with all layers in few bits, each one's error and the Fisher information of its output say
what the task loss is expected to lose by it (the second term of the loss's expansion, as HAWQ and BRECQ weigh layers).
A bit more quarters a squared error, so that what eight bits leave is small beside it, and a layer's gain is that loss;
where layers have widths in between to choose from, the loss by each is measured likewise. What is chosen loses least of
all that the budget has room for (:mod:`compressors.quantize.knapsack`). The front, which is drawn, takes layers in the
order of their gain for each bit-operation, byte or millisecond that more bits cost: what is chosen may leave it where
the next layer does not fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from compressors.quantize.knapsack import Options, least_loss, steps_of
from core.errors import InputError
from students.export.layer_times import LayerTime
from students.quantized.bit_operations import bits_by_layer
from students.quantized.plan import Plan, make_plan, widened
from students.quantized.quantizers import packed_length
from students.quantized.scheme import Scheme
from teachers.sam import Sam

EIGHT: Mapping[int, Mapping[str, float]] = {8: {}}
"""Eight bits as the one width beside few, with which nothing is lost."""


@dataclass(frozen=True)
class Upgrade:
    """One step along the front: a layer gets more bits.

    Attributes:
        layer: its path.
        spent: bit-operations of the model (or bytes of its quantised weights) with this step and all before it; or
            milliseconds of its layers.
        expected_loss: what the model is expected to lose still.
        bits: that the layer has then; None: it is float.
    """

    layer: str
    spent: float
    expected_loss: float
    bits: int | None = None


@dataclass(frozen=True)
class MixedPrecision:
    """What a budget buys.

    Attributes:
        budget: as given: the share of what eight bits everywhere cost, or milliseconds.
        of: what is counted: ``bit_operations``, ``bytes`` or ``milliseconds``.
        lowest, highest: without an upgrade, and with all of them.
        expected_loss: without an upgrade.
        front: the steps of all layers, the best first.
        chosen: those that get more bits, or stay float, in that order.
        runtime: in which milliseconds were measured.
        bits: of those that get more, by layer.
    """

    budget: float
    of: str
    lowest: float
    highest: float
    expected_loss: float
    front: tuple[Upgrade, ...] = ()
    chosen: tuple[str, ...] = ()
    runtime: str | None = None
    bits: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def choose_layers(
    model: Sam,
    scheme: Scheme,
    losses: Mapping[str, float],
    budget: float,
    of: str = "bit_operations",
    levels: Mapping[int, Mapping[str, float]] = EIGHT,
) -> MixedPrecision:
    """Spend a budget on the layers that lose most by few bits.

    Products of attention cost no bytes.

    Args:
        model: in float.
        scheme: of few bits; what it gives eight bits has them anyway.
        losses: the expected loss by layer (:func:`compressors.quantize.layer_errors.expected_loss`).
        budget: share of what eight bits everywhere cost.
        of: ``bit_operations`` of an image and a box, or ``bytes`` of the quantised layers' weights.
        levels: by the number of bits that layers may have instead, from the fewest to eight, the expected losses with
            them; of a layer that is not there, none.

    Raises:
        InputError: few bits everywhere need more than that.
    """

    def counted(each: Scheme) -> dict[str, int]:
        plan = make_plan(model, each)
        return bytes_by_layer(plan) if of == "bytes" else bits_by_layer(model.config, plan)

    few, *more = (counted(each) for each in (scheme, *(widened(scheme, bits) for bits in levels)))
    lowest, highest = (sum(each.values()) for each in (few, more[-1]))
    if lowest > budget * highest:
        raise InputError(
            f"method.budget={budget}: without a layer in eight bits the model has {lowest / highest:.3f} of the "
            f"{of.replace('_', '-')} that it has with eight everywhere; give more than that"
        )
    options: dict[str, Options] = {}
    for path, loss in losses.items():
        dearer = [each.get(path, 0) - few.get(path, 0) for each in more]
        if of == "bytes" or max(dearer) > 0:
            left = (measured.get(path, 0.0) for measured in levels.values())
            options[path] = [(0, loss), *zip(dearer, left, strict=True)]
    empty = MixedPrecision(budget, of, lowest, highest, sum(losses.values()))
    return _spent(empty, options, budget * highest, [None, *levels])


def choose_float_layers(
    times: Mapping[str, LayerTime], losses: Mapping[str, float], budget: float, runtime: str
) -> MixedPrecision:
    """Spend a budget of milliseconds on the layers that lose most by eight bits: they stay float.

    A layer that is no slower in float stays so at once. Products of attention are always in eight bits.

    Args:
        times: of all layers and products (:func:`students.export.layer_times.measure_layer_times`).
        losses: the expected loss of those that may stay float.
        budget: milliseconds of all layers together, for one image and one box.

    Raises:
        InputError: eight bits everywhere need more than that, or float everywhere needs no more.
    """
    cost = {path: times[path].float32 - times[path].int8 for path in losses if path in times}
    lowest = sum(one.int8 for one in times.values())
    highest = lowest + sum(cost.values())
    least = lowest + sum(min(0.0, each) for each in cost.values())
    if least > budget:
        raise InputError(
            f"method.budget={budget}: the layers take {least:.3g} ms at least in {runtime} on this machine, and "
            f"{highest:.3g} in float; give more than the first"
        )
    options = {path: [(0.0, losses[path]), (more, 0.0)] for path, more in cost.items()}
    empty = MixedPrecision(budget, "milliseconds", lowest, highest, sum(losses.values()), runtime=runtime)
    found = _spent(empty, options, budget, [None, None])
    if len(found.chosen) == len(losses):
        remedy = "give less" if highest > least else "none is faster in 8 bits, so leave it out"
        raise InputError(
            f"method.budget={budget}: every layer may stay float, which takes {highest:.3g} ms in {runtime} on this "
            f"machine, and nothing would be quantised; {remedy}"
        )
    return found


def _spent(
    empty: MixedPrecision, options: Mapping[str, Options], most: float, bits: Sequence[int | None]
) -> MixedPrecision:
    """The upgrades that lose least, as far as ``most`` reaches.

    Args:
        empty: without any.
        options: of each layer, as it is without an upgrade first.
        bits: of each option.
    """
    paths = sorted(options)
    tables = [options[path] for path in paths]
    front, spent, left = list[Upgrade](), empty.lowest, empty.expected_loss
    for step in steps_of(tables):
        spent, left = spent + step.cost, left - step.gain
        front.append(Upgrade(paths[step.layer], spent, max(left, 0.0), bits[step.option]))
    taken = dict(zip(paths, least_loss(tables, most, empty.lowest), strict=True))
    chosen = tuple(path for path in dict.fromkeys(one.layer for one in front) if taken[path])
    widths = {path: width for path in chosen if (width := bits[taken[path]]) is not None}
    return replace(empty, front=tuple(front), chosen=chosen, bits=widths)


def bytes_by_layer(plan: Plan) -> dict[str, int]:
    """What the codes of each quantised layer's weight take in a file."""
    return {path: packed_length(tuple(layer["shape"]), layer["weight"]["bits"]) for path, layer in plan.layers.items()}
