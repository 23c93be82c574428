"""Line charts of a run's stages, as plain numbers that ``run.html.j2`` draws in SVG: no script, the page's own colours.

Plotly draws nothing without its script of 4.8 MB, which every run's page, one file that also reads with scripts
switched off, would hold or miss.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reporting.columns import size
from experiments.reporting.run_record import StageRecord

POINTS = 500
"""Most points of a line that are drawn; of more, evenly chosen ones and the last."""
WIDTH, HEIGHT = 320, 166
"""Of a chart, in the units of its drawing."""
DASHES = ("none", "8 3.2", "2.4 2.4", "9.6 3.2 2.4 3.2", "14.4 4", "4.8 1.9 1.9 1.9 1.9 1.9")
"""Lines of one chart differ by more than colour."""
COLOURS = 8
"""How many colours the page has for lines."""
SCORES = ("miou", "miou_point", "validation")
"""Figures that grow while a student gets better."""
_LABELS = {
    "miou": "mIoU, box",
    "miou_point": "mIoU, one point",
    "validation": "validation, on training images",
    "rate": "learning rate",
    "images_per_s": "images a second",
}
_OTHER = ("step", "images", "rate", "images_per_s", "peak_memory_bytes", *SCORES)
Line = Sequence[tuple[float, float]]


def stage_charts(stage: StageRecord) -> dict[str, Any]:
    """The charts of a stage: losses, scores, learning rate and speed, and a line on steps, images and memory."""
    series = stage.series
    losses = {name: line for name, line in series.items() if name not in _OTHER}
    if len(losses) == 2 and "loss" in losses and len({tuple(line) for line in losses.values()}) == 1:
        # With one part alone, the sum is that part.
        del losses["loss"]
    positive = all(value > 0 for line in losses.values() for _, value in line)
    charts = [
        ("losses, logarithmic" if positive else "losses", losses, positive),
        ("scores while it trained", {name: series[name] for name in SCORES if name in series}, False),
        *((_LABELS[name], {name: series[name]}, False) for name in ("rate", "images_per_s") if name in series),
    ]
    last = {name: line[-1][1] for name, line in series.items()}
    parts = [f"{max(line[-1][0] for line in series.values()):,.0f} steps"]
    parts += [f"{last['images']:,.0f} images"] if "images" in last else []
    parts += [f"peak memory {size(last['peak_memory_bytes'])}"] if "peak_memory_bytes" in last else []
    return {
        "name": stage.name.replace("_", " "),
        "about": ", ".join(parts),
        "charts": [{"title": title, **line_chart(lines, log)} for title, lines, log in charts if lines],
    }


def line_chart(lines: Mapping[str, Line], logarithmic: bool = False) -> dict[str, Any]:
    """Lines over training steps, as places in a drawing of :data:`WIDTH` by :data:`HEIGHT`.

    Args:
        lines: ``[(step, value), ...]`` by name, finite.
        logarithmic: whether the axis of values is; then all are above 0.
    """
    # Here, because pages without curves do not wait for matplotlib.
    from matplotlib.ticker import LogLocator, MaxNLocator

    steps = [step for line in lines.values() for step, _ in line]
    values = [value for line in lines.values() for _, value in line]
    scale = math.log10 if logarithmic else float
    (first, last), (low, high) = _range(steps, float), _range(values, scale)
    if min(values) == max(values):
        # The only tick: locators would write one value several times.
        ticks: Sequence[float] = values[:1]
    elif logarithmic:
        # Every decade, or within two of them 1, 2 and 5 times each.
        subs = (1.0,) if max(values) / min(values) > 100 else (1.0, 2.0, 5.0)
        ticks = LogLocator(subs=subs, numticks=8).tick_values(min(values), max(values))
    else:
        ticks = MaxNLocator(5).tick_values(low, high)
    marks = [(value, f"{value:.4g}") for value in ticks if low <= scale(value) <= high]
    left = 8 + 5.8 * max((len(words) for _, words in marks), default=0)

    def across(step: float) -> float:
        return round(left + (WIDTH - 12 - left) * (step - first) / (last - first), 2)

    def down(value: float) -> float:
        return round(HEIGHT - 30 - (HEIGHT - 36) * (scale(value) - low) / (high - low), 2)

    along = MaxNLocator(5, integer=True).tick_values(first, last) if min(steps) < max(steps) else steps[:1]
    along = [step for step in along if first <= step <= last]
    drawn = []
    for number, (name, line) in enumerate(lines.items()):
        points = [(across(step), down(value)) for step, value in _thinned(line)]
        drawn.append(
            {
                "name": _LABELS.get(name, name.replace("_", " ")),
                "last": line[-1][1],
                "shown": f"{line[-1][1]:.4g}",
                "path": "M" + "L".join(f"{x:g} {y:g}" for x, y in points),
                # A single value, or a few, would hardly show as a line.
                "points": points if len(points) < 12 else [],
                "colour": number % COLOURS,
                "dash": DASHES[number % len(DASHES)],
            }
        )
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": left,
        "across": [(across(step), f"{step:,.0f}") for step in along],
        "down": [(down(value), words) for value, words in marks],
        "lines": drawn,
    }


def _range(values: Sequence[float], scale: Any) -> tuple[float, float]:
    """The least and largest value on an axis, with some room; of equal ones too."""
    low, high = scale(min(values)), scale(max(values))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _thinned(line: Line) -> Line:
    if len(line) <= POINTS:
        return line
    return [line[index] for index in sorted({round(i * (len(line) - 1) / (POINTS - 1)) for i in range(POINTS)})]
