"""Curves of a run's stages: losses, learning rate, speed, and what the student scored while it trained."""

from collections.abc import Mapping

from experiments.pages.line_chart import Line, legend, line_chart
from experiments.pages.page import text
from experiments.pages.run_record import RunRecord, StageRecord
from experiments.report import size

SCORES = ("miou", "miou_point", "validation")
"""Figures that grow while a student gets better."""
_LABELS = {
    "miou": "mIoU, box",
    "miou_point": "mIoU, one point",
    "validation": "validation, on training pictures",
    "rate": "learning rate",
    "images_per_s": "images a second",
}
_OTHER = ("step", "images", "rate", "images_per_s", "peak_memory_bytes", *SCORES)


def curves_part(record: RunRecord) -> str:
    """A group of charts for each stage that left a log; nothing where none did."""
    stages = [stage for stage in record.stages if stage.series]
    return "".join(_stage(stage) for stage in stages)


def _stage(stage: StageRecord) -> str:
    series = stage.series
    losses = {name: line for name, line in series.items() if name not in _OTHER}
    if len(losses) == 2 and "loss" in losses and len({tuple(line) for line in losses.values()}) == 1:
        # With one part alone, the sum is that part.
        del losses["loss"]
    positive = all(value > 0 for line in losses.values() for _, value in line)
    charts = [
        _chart("losses, logarithmic" if positive else "losses", losses, logarithmic=positive),
        _chart("scores while it trained", {name: series[name] for name in SCORES if name in series}),
        *(_chart(_LABELS[name], {name: series[name]}) for name in ("rate", "images_per_s") if name in series),
    ]
    return (
        f'<section class="stage"><h3>{text(stage.name.replace("_", " "))}</h3>'
        f'<p class="quiet small">{text(_told(stage))}</p><div class="charts">{"".join(charts)}</div></section>'
    )


def _told(stage: StageRecord) -> str:
    """Steps, images and memory in a line."""
    last = {name: line[-1][1] for name, line in stage.series.items()}
    steps = max(line[-1][0] for line in stage.series.values())
    parts = [f"{steps:,.0f} steps"]
    if "images" in last:
        parts.append(f"{last['images']:,.0f} images")
    if "peak_memory_bytes" in last:
        parts.append(f"peak memory {size(int(last['peak_memory_bytes']))}")
    return ", ".join(parts)


def _chart(title: str, lines: Mapping[str, Line], logarithmic: bool = False) -> str:
    if not lines:
        return ""
    last = {_LABELS.get(name, name.replace("_", " ")): line[-1][1] for name, line in lines.items()}
    names = [
        f'<li>{legend(number)}{text(name)} <span class="quiet" title="{text(value)}">{value:.4g}</span></li>'
        for number, (name, value) in enumerate(last.items())
    ]
    told = f"{title} over steps; at the end: {'; '.join(f'{name} {value:.4g}' for name, value in last.items())}"
    return (
        f'<figure class="curve"><figcaption>{text(title)}</figcaption>'
        f'<div role="img" aria-label="{text(told)}">{line_chart(lines, logarithmic)}</div>'
        f'<ul class="legend">{"".join(names)}</ul></figure>'
    )
