"""Lay out a report of Weights & Biases: ``python -m experiments.tracking.wandb_report --entity NAME``.

``--dry-run`` prints the layout as JSON, without a network and without anybody being logged in.
"""

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError
from experiments.reporting.columns import COLUMNS
from experiments.runs.build import method_stages

WIDTHS = {"line": 8, "scatter": 12, "parallel": 24, "table": 24, "images": 24}
"""Of panels, where a row has 24."""
HEIGHT = 8
CURVES = (
    ("mIoU over time, boxes", "miou"),
    ("mIoU over time, one point", "miou_point"),
    ("Loss", "loss"),
    ("Learning rate", "rate"),
    ("Images a second", "images_per_s"),
    ("Peak memory, bytes", "peak_memory_bytes"),
)
"""Titles of the curves, and the figure each shows."""
TRADE_OFF = ("ratio", "macs_full", "parameters", "size_bytes", "encoder_latency_ratio", "miou", "miou_point")
"""Columns of the parallel coordinates, from what was chosen to what came out."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: ``line``, ``scatter``, ``parallel``, ``table`` or ``images``.
        title: above it.
        x, y: what is plotted: of a line figures in the history, of a scatter those of the summary.
        keys: columns of parallel coordinates, the table's key, or where images lie.
    """

    kind: str
    title: str
    x: str | None = None
    y: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


def layout(stages: Sequence[str]) -> tuple[Section, ...]:
    """Comparison first, then what every stage did over its own steps.

    Args:
        stages: whose curves are shown; one that no run has stays empty.
    """
    compared = (
        Panel("table", "Students, teachers and filled prompts", keys=("comparison",)),
        Panel("scatter", f"mIoU with boxes by {COLUMNS['macs_full'].label}", "macs_full", ("miou",)),
        Panel("scatter", f"mIoU with one point by {COLUMNS['macs_full'].label}", "macs_full", ("miou_point",)),
        Panel("parallel", "What was chosen, and what came out", keys=TRADE_OFF),
        Panel("images", "Boxes, ground truth, teacher and student", keys=("masks/comparison",)),
    )
    curves = (
        Section(title, tuple(Panel("line", stage, f"{stage}/step", (f"{stage}/{name}",)) for stage in stages))
        for title, name in CURVES
    )
    return (Section("Comparison", compared), *curves)


def report(reports: Any, sections: Sequence[Section], entity: str, project: str, title: str) -> Any:
    """The report that a layout describes, not saved yet.

    Args:
        reports: the package ``wandb_workspaces.reports.v2``.
        entity: whose project it is; empty: whoever is logged in.
    """
    blocks = []
    for section in sections:
        places = iter(positions(section.panels))
        panels = [built(reports, panel, reports.Layout(*next(places))) for panel in section.panels]
        runs = reports.Runset(entity=entity, project=project)
        blocks += [reports.H2(section.title), reports.PanelGrid(runsets=[runs], panels=panels)]
    # Without an entity the package asks the server whose project it is.
    owner = {"entity": entity} if entity else {}
    return reports.Report(project=project, title=title, blocks=blocks, width="fluid", **owner)


def positions(panels: Sequence[Panel]) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of each panel, row by row."""
    found, left, top = [], 0, 0
    for panel in panels:
        width = WIDTHS[panel.kind]
        if left + width > 24:
            left, top = 0, top + HEIGHT
        found.append((left, top, width, HEIGHT))
        left += width
    return found


def built(reports: Any, panel: Panel, place: Any) -> Any:
    """A panel of the package."""
    if panel.kind == "line":
        return reports.LinePlot(title=panel.title, x=panel.x, y=list(panel.y), layout=place)
    if panel.kind == "scatter":
        x, y = (reports.SummaryMetric(name) for name in (panel.x, panel.y[0]))
        return reports.ScatterPlot(title=panel.title, x=x, y=y, log_x=True, layout=place)
    if panel.kind == "parallel":
        columns = [reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric(name)) for name in panel.keys]
        return reports.ParallelCoordinatesPlot(title=panel.title, columns=columns, layout=place)
    if panel.kind == "images":
        return reports.MediaBrowser(title=panel.title, media_keys=list(panel.keys), layout=place)
    return reports.WeavePanelSummaryTable(table_name=panel.keys[0], layout=place)


def main(argv: Sequence[str]) -> int:
    """Print the layout or save the report; returns the exit status, 2 with one line for what was given wrong."""
    parser = argparse.ArgumentParser("python -m experiments.tracking.wandb_report", description=__doc__)
    parser.add_argument("--entity", default="", help="whose project it is; default: whoever is logged in")
    parser.add_argument("--project", default="sampress")
    parser.add_argument("--title", default="sampress: compressed SAMs compared")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="whose curves are shown; default: every method's")
    parser.add_argument("--config-dir", metavar="DIR", help="that holds method/NAME.yaml of methods of your own")
    parser.add_argument("--packages", nargs="+", default=(), metavar="NAME", help="that hold their classes")
    parser.add_argument("--dry-run", action="store_true", help="print the layout as JSON, and save nothing")
    given = parser.parse_args(argv)
    try:
        sections = layout(given.stages or method_stages(given.config_dir, given.packages))
        if given.dry_run:
            shown = [dataclasses.asdict(section) for section in sections]
            about = {"entity": given.entity, "project": given.project, "title": given.title}
            print(json.dumps({**about, "sections": shown}, indent=1))
        else:
            print(_save(sections, given.entity, given.project, given.title))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _save(sections: Sequence[Section], entity: str, project: str, title: str) -> str:
    """Save the report on the server; returns its address."""
    try:
        reports = importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise InputError(f"wandb-workspaces cannot be imported ({error}); pip install 'sampress[wandb]'") from None
    try:
        made = report(reports, sections, entity, project, title)
        made.save(draft=False)
        return str(made.url)
    except Exception as error:
        # Whatever the server or the package says: there is nothing that a traceback would add.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--entity={entity} --project={project}: the report was not saved ({reason}); "
            "wandb login, and check both names; --dry-run prints what to build by hand"
        ) from None


if __name__ == "__main__":
    outlive_closed_pipes()
    raise SystemExit(main(sys.argv[1:]))
