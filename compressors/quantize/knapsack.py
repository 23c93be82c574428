"""Which option each layer takes so that all together lose least within a budget: a knapsack with several choices.

The answer is exact. Layer after layer, of all choices so far those are kept that no other one beats in both cost and
loss (Nemhauser and Ullmann 1969), as long as the relaxation of the layers behind them, in which a layer may take a
share of a step, still promises less than the best answer that is known (Sinha and Zoltners 1979). Whole numbers below
2^53, as bytes and bit-operations are, are added without rounding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Options = Sequence[tuple[float, float]]
"""What a layer may be: of each option what it costs more than the first one, and its loss. The first costs 0."""
ROUNDING = 1e-12
"""Of all losses together: answers that differ by less are equal."""
MOST_KEPT = 1 << 15
"""Choices kept after a layer. Thousands of layers, or hundreds that gain exactly in proportion to what they cost, would
need more; then those are kept that promise most, and the answer may be a little above the least."""


@dataclass(frozen=True)
class Step:
    """From an option of a layer to one that loses no more.

    Attributes:
        layer, option: their numbers, the option's behind the step.
        cost: how much more it costs than the option before it.
        gain: how much less it loses.
    """

    layer: int
    option: int
    cost: float
    gain: float

    @property
    def order(self) -> tuple[float, int, int]:
        """Most gain for the cost first; what costs nothing comes before everything else."""
        return (-self.gain / self.cost if self.cost > 0 else -math.inf, self.layer, self.option)


def steps_of(options: Sequence[Options]) -> list[Step]:
    """The steps of all layers, in the order of their gain for what they cost more.

    A layer's are the corners of the convex hull below its options: each gains less for its cost than the one before.
    """
    found: list[Step] = []
    for layer, own in enumerate(options):
        at = 0
        while further := [
            Step(layer, number, cost - own[at][0], own[at][1] - loss)
            for number, (cost, loss) in enumerate(own)
            if number > at and loss <= own[at][1]
        ]:
            found.append(min(further, key=lambda step: step.order))
            at = found[-1].option
    return sorted(found, key=lambda step: step.order)


def least_loss(options: Sequence[Options], most: float, spent: float = 0.0) -> list[int]:
    """The number of the option that each layer takes.

    What no layer gains by is taken too while it fits, in the order of :func:`steps_of`. Of answers that lose alike it
    is the one that this order leads to, if that is one of them.

    Args:
        options: of each layer.
        most: of all costs and what is ``spent`` already.
    """
    steps = steps_of(options)
    tables = [np.array(own, float) for own in options]
    best = _filled([0] * len(options), options, steps, most, spent)
    costs, losses = np.array([spent], float), np.zeros(1)
    # For each layer, which of its candidates (states before it times options) were kept.
    kept: list[NDArray[np.int64]] = []
    for number, table in enumerate(tables):
        rest = _Relaxed(options, steps, number + 1)
        costs, losses = ((x[:, None] + y).ravel() for x, y in ((costs, table[:, 0]), (losses, table[:, 1])))
        bounds = losses + rest.loss(most - costs)
        alive = np.flatnonzero(bounds < _loss(best, options) - ROUNDING * rest.all_lost)
        alive = alive[np.lexsort((losses[alive], costs[alive]))]
        least = np.minimum.accumulate(losses[alive])
        alive = alive[losses[alive] < np.concatenate([[np.inf], least[:-1]])[: len(alive)]]
        if not len(alive):
            break
        if len(alive) > MOST_KEPT:
            alive = alive[np.argsort(bounds[alive], kind="stable")[:MOST_KEPT]]
        costs, losses, bounds = costs[alive], losses[alive], bounds[alive]
        kept.append(alive)
        begun = _choices(kept, tables, int(bounds.argmin()))
        found = _filled(begun + [0] * (len(options) - len(begun)), options, steps, most, spent)
        best = min(best, found, key=lambda choice: _loss(choice, options))
    return best


class _Relaxed:
    """The least loss of the layers from one on, if a layer could take a share of a step."""

    def __init__(self, options: Sequence[Options], steps: Sequence[Step], first: int) -> None:
        self.all_lost = sum(own[0][1] for own in options)
        behind = [step for step in steps if step.layer >= first]
        free = [step for step in behind if step.cost <= 0]
        paid = [step for step in behind if step.cost > 0]
        self.saved = sum(step.cost for step in free)
        lost = sum(own[0][1] for own in options[first:]) - sum(step.gain for step in free)
        self.costs = np.cumsum([0.0, *(step.cost for step in paid)])
        self.losses = lost - np.cumsum([0.0, *(step.gain for step in paid)])

    def loss(self, left: NDArray[np.float64]) -> NDArray[np.float64]:
        """By what is left of the budget; infinite where it is not enough."""
        return np.interp(left - self.saved, self.costs, self.losses, left=np.inf)


def _filled(
    choice: list[int], options: Sequence[Options], steps: Sequence[Step], most: float, spent: float
) -> list[int]:
    """Every further step that fits, in their order."""
    choice = list(choice)
    spent += sum(own[number][0] for own, number in zip(options, choice, strict=True))
    for step in steps:
        own, at = options[step.layer], choice[step.layer]
        cost = own[step.option][0] - own[at][0]
        if step.option > at and own[step.option][1] <= own[at][1] and (cost <= 0 or spent + cost <= most):
            choice[step.layer], spent = step.option, spent + cost
    return choice


def _loss(choice: Sequence[int], options: Sequence[Options]) -> float:
    return sum(own[number][1] for own, number in zip(options, choice, strict=True))


def _choices(kept: Sequence[NDArray[np.int64]], tables: Sequence[NDArray[np.float64]], state: int) -> list[int]:
    """The options behind a state of the last layer that was kept."""
    found = []
    for places, table in zip(reversed(kept), reversed(tables[: len(kept)]), strict=True):
        state, option = divmod(int(places[state]), len(table))
        found.append(option)
    return found[::-1]
