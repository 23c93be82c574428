"""Which models are best for what they cost."""

from collections.abc import Iterable, Sequence

from experiments.leaderboard.folding import Model, of_conditions
from experiments.tables.row import TableRow

COSTS = ("macs_full", "macs_modules", "parameters")
"""By the first of these that any model of the same conditions has."""


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other one dominates, cheapest first.

    Args:
        points: cost, which is better low, and score, better high. Of equal points each is on the front.
    """
    best, found = float("-inf"), list[int]()
    last: tuple[float, float] | None = None
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1], place)):
        if points[place][1] > best or points[place] == last:
            best, last = points[place][1], points[place]
            found.append(place)
    return found


def on_front(models: Iterable[Model]) -> set[TableRow]:
    """The lines that are best for their cost under their conditions; measured and published ones each by themselves.

    Conditions under which fewer than two models have a cost have no front.
    """
    found: set[TableRow] = set()
    for alike in of_conditions(list(models)).values():
        lines = [model.line for model in alike]
        cost = next((key for key in COSTS if any(getattr(line, key) is not None for line in lines)), None)
        counted = [line for line in lines if cost is not None and getattr(line, cost) is not None]
        if cost is not None and len(counted) > 1:
            found |= {counted[place] for place in front([(getattr(line, cost), line.score) for line in counted])}
    return found
