"""Which layers get eight bits where others have fewer, under a budget of bit-operations or of bytes; and which stay
float where others have eight, under a budget of milliseconds in a runtime.

Sensitivity is measured once: with all layers in few bits, each one's error and the Fisher information of its output say
what the task loss is expected to lose by it (the second term of the loss's expansion, as HAWQ and BRECQ weigh layers).
A bit more quarters a squared error, so that what eight bits leave is small beside it, and a layer's gain is that loss.
Layers are taken in the order of their gain for each bit-operation, byte or millisecond that more bits cost.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from core.errors import InputError
from students.export.layer_times import LayerTime
from students.quantized.bit_operations import bits_by_layer
from students.quantized.plan import Plan, make_plan
from students.quantized.quantizers import packed_length
from students.quantized.scheme import Scheme
from teachers.sam import Sam


@dataclass(frozen=True)
class Upgrade:
    """One layer on the front.

    Attributes:
        layer: its path.
        spent: bit-operations of the model (or bytes of its quantised weights), with this layer and all before it in
            eight bits; or milliseconds of its layers, with these in float.
        expected_loss: what the layers behind it are expected to cost still.
    """

    layer: str
    spent: float
    expected_loss: float


@dataclass(frozen=True)
class MixedPrecision:
    """What a budget buys.

    Attributes:
        budget: as given: the share of what eight bits everywhere cost, or milliseconds.
        of: what is counted: ``bit_operations``, ``bytes`` or ``milliseconds``.
        lowest, highest: without an upgrade, and with all of them.
        expected_loss: without an upgrade.
        front: all layers, the best first.
        chosen: those that get eight bits, or stay float, in that order.
        runtime: in which milliseconds were measured.
    """

    budget: float
    of: str
    lowest: float
    highest: float
    expected_loss: float
    front: tuple[Upgrade, ...]
    chosen: tuple[str, ...]
    runtime: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def choose_layers(
    model: Sam, scheme: Scheme, losses: Mapping[str, float], budget: float, of: str = "bit_operations"
) -> MixedPrecision:
    """Spend a budget on the layers that lose most by few bits.

    A layer that no longer fits is passed over for a cheaper one behind it. Products of attention cost no bytes.

    Args:
        model: in float.
        scheme: of few bits; what it gives eight bits has them anyway.
        losses: the expected loss by layer (:func:`compressors.quantize.layer_errors.expected_loss`).
        budget: share of what eight bits everywhere cost.
        of: ``bit_operations`` of an image and a box, or ``bytes`` of the quantised layers' weights.

    Raises:
        InputError: few bits everywhere need more than that.
    """
    plans = (make_plan(model, each) for each in (scheme, replace(scheme, eight_bit_layers=("*",))))
    few, eight = (bytes_by_layer(plan) if of == "bytes" else bits_by_layer(model.config, plan) for plan in plans)
    lowest, highest = (sum(each.values()) for each in (few, eight))
    if lowest > budget * highest:
        raise InputError(
            f"method.budget={budget}: without a layer in eight bits the model has {lowest / highest:.3f} of the "
            f"{of.replace('_', '-')} that it has with eight everywhere; give more than that"
        )
    dearer = {path: eight.get(path, 0) - few.get(path, 0) for path in losses}
    cost = {path: more for path, more in dearer.items() if more > 0 or of == "bytes"}
    return _spend(budget, of, lowest, highest, cost, losses, budget * highest)


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
    found = _spend(budget, "milliseconds", lowest, highest, cost, losses, budget)
    if len(found.chosen) == len(losses):
        remedy = "give less" if highest > least else "none is faster in 8 bits, so leave it out"
        raise InputError(
            f"method.budget={budget}: every layer may stay float, which takes {highest:.3g} ms in {runtime} on this "
            f"machine, and nothing would be quantised; {remedy}"
        )
    return replace(found, runtime=runtime)


def _spend(
    budget: float,
    of: str,
    lowest: float,
    highest: float,
    cost: Mapping[str, float],
    losses: Mapping[str, float],
    most: float,
) -> MixedPrecision:
    """Layers in the order of their gain for what they cost more, as far as ``most`` reaches."""
    order = sorted(cost, key=lambda path: (-losses[path] / cost[path] if cost[path] > 0 else -math.inf, path))
    front, spent, left = [], lowest, sum(losses.values())
    for path in order:
        spent, left = spent + cost[path], left - losses[path]
        front.append(Upgrade(path, spent, max(left, 0.0)))
    chosen, spent = [], lowest
    for path in order:
        if cost[path] <= 0 or spent + cost[path] <= most:
            chosen.append(path)
            spent += cost[path]
    return MixedPrecision(budget, of, lowest, highest, sum(losses.values()), tuple(front), tuple(chosen))


def bytes_by_layer(plan: Plan) -> dict[str, int]:
    """What the codes of each quantised layer's weight take in a file."""
    return {path: packed_length(tuple(layer["shape"]), layer["weight"]["bits"]) for path, layer in plan.layers.items()}
