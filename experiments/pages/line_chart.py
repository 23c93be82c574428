"""A line chart as an SVG element that takes its colours from the page, so that it fits light and dark grounds."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

POINTS = 500
"""Most points of a line that are drawn; of more, evenly chosen ones and the last."""
SIZE = (4.4, 2.3)
"""Of a chart, in inches of 72 pixels."""
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (9, 2.5), (3, 1.2, 1.2, 1.2, 1.2, 1.2))
"""Of lines, in points: those of one chart differ by more than colour."""
COLOURS = 8
"""How many colours the page has for lines."""
_INK, _GRID = "#0000fe", "#0000fd"
_LINE_WIDTH = 1.6

Line = Sequence[tuple[float, float]]


def line_chart(lines: Mapping[str, Line], logarithmic: bool = False) -> str:
    """Draw lines over training steps; names are not drawn (:func:`legend` shows them), so no text of a file is.

    Args:
        lines: ``[(step, value), ...]`` by name, finite.
        logarithmic: whether the axis of values is; then all are above 0.
    """
    # Here, because pages without curves do not wait for matplotlib.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "sampress", "path.simplify": True, "font.size": 9}
    with rc_context(settings):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        for number, line in enumerate(lines.values()):
            steps, values = zip(*_thinned(line), strict=True)
            axes.plot(
                steps,
                values,
                color=_colour(number),
                linewidth=_LINE_WIDTH,
                dashes=DASHES[number % len(DASHES)],
                solid_capstyle="round",
                # A single value, or a few, would hardly show as a line.
                marker="o" if len(steps) < 12 else "",
                markersize=3.5,
            )
        every = [value for line in lines.values() for _, value in line]
        if logarithmic:
            axes.set_yscale("log")
            decades = max(every) / min(every) > 100
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0), numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("step", color=_INK, loc="right", labelpad=0)
        axes.tick_params(which="both", length=0, colors=_INK)
        axes.grid(axis="y", color=_GRID, linewidth=0.7)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_GRID)
        _place(figure, axes)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return _themed(stream.getvalue())


def _place(figure: Any, axes: Any) -> None:
    """Leave room for the words at the axes. (Matplotlib's own layouts draw everything several times to find it.)"""
    low, high = sorted(axes.get_ylim())
    words = [
        axes.yaxis.get_major_formatter()(place) for place in axes.yaxis.get_majorticklocs() if low <= place <= high
    ]
    width, height = (72 * side for side in SIZE)
    left = 8 + 5.8 * max((len(word) for word in words), default=0)
    figure.subplots_adjust(left=left / width, right=1 - 12 / width, bottom=30 / height, top=1 - 6 / height)


def legend(number: int) -> str:
    """A short piece of the line with a number, as an SVG element to stand beside its name."""
    dashes = " ".join(f"{part * _LINE_WIDTH:g}" for part in DASHES[number % len(DASHES)])
    return (
        '<svg class="sample" width="28" height="8" viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" fill="none" '
        f'stroke="var(--c{number % COLOURS})" stroke-width="2" stroke-dasharray="{dashes or "none"}"/></svg>'
    )


def _colour(number: int) -> str:
    """A stand-in that no other part of the drawing has; :func:`_themed` puts the page's colour there."""
    return f"#0000e{number % COLOURS}"


def _thinned(line: Line) -> Line:
    if len(line) <= POINTS:
        return line
    chosen = sorted({round(i * (len(line) - 1) / (POINTS - 1)) for i in range(POINTS)})
    return [line[index] for index in chosen]


def _themed(svg: str) -> str:
    """The drawing without its prologue, in the page's colours and type, as wide as its place."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"#0000e(\d)", r"var(--c\1)", svg)
    svg = svg.replace(_INK, "var(--quiet)").replace(_GRID, "var(--line)")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    # Names of groups would occur once in every chart of the page; only definitions are referred to.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return svg.replace("<svg", '<svg class="chart" aria-hidden="true"', 1).strip()
