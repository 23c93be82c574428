"""The tables of README.md and of docs/, made from committed result rows: ``python -m experiments.readme``."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from core.checkpoint import write_text
from core.provenance import ROOT
from core.result import ResultRow
from experiments.commands.cost import cells, known_rows
from experiments.everything.row import read_row
from experiments.everything.table import strategies_table
from experiments.paper_table import presets, rows_of_runs, table
from experiments.reporting.columns import count, documented, size
from experiments.reporting.results import EVERYTHING, committed_files, committed_strategies
from experiments.result_file import read_rows
from students.quantized.bit_operations import FLOAT_BITS

OWN_STUDENT = "tiny_vit_pocket"
"""MobileSAM's student of the pocket teacher, where no other is asked for."""
QUANTISED = "+ptq"
"""How the method of rows ends that belong to the table of quantised models."""
ORDER = ("filled_box", "filled_ellipse", "teacher", "slimsam", "tinysam", "mobilesam", "scratch")


def committed_rows(data: str) -> list[ResultRow]:
    """Rows of ``results/`` on one data set, under the packaged teacher (baselines have none)."""
    paths = [path for path in committed_files() if path.parent.name not in presets()]
    rows = [row for path in paths for row in read_rows(path)]
    # Runs with a name of their own belong to the tables of their preset.
    return [
        row
        for row in rows
        if row.data == data and row.teacher in ("sam_pocket", None) and row.status == "finished" and row.variant is None
    ]


def quality_table(rows: Sequence[ResultRow]) -> str:
    """Mean over seeds and its spread (standard deviation), one line a model; one measurement of each comparison."""
    groups: dict[tuple[int, float, str, str], list[ResultRow]] = {}
    for row in rows:
        if not row.method.endswith(QUANTISED):
            place = (ORDER.index(row.method), row.ratio or 0.0, row.method, _unusual_student(row))
            groups.setdefault(place, []).append(row)
    lines = [
        "| model | seeds | images seen | mIoU box | mIoU point | to teacher, box / point (points) | parameters "
        "| MACs `full` | MACs `modules` | file |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    teacher = next(row for row in rows if row.method == "teacher")
    for (_, ratio, method, student), group in sorted(groups.items()):
        # A comparison was scored once a run, with the same result each time.
        seeds = {row.seed: row for row in group}
        several = list(seeds.values())
        first = several[0]
        cells = [
            f"{method.replace('_', ' ')}{f' {ratio:g}' if ratio else ''}{f', {student}' if student else ''}",
            str(len(several)) if method not in ORDER[:3] else "",
            f"{first.images_seen:,}" if first.images_seen else "",
            _over_seeds([row.miou for row in several]),
            _over_seeds([row.miou_point for row in several]),
            _to_teacher(several, teacher),
            *(count(value) if value else "" for value in (first.parameters, first.macs_full, first.macs_modules)),
            size(first.size_bytes) if first.size_bytes else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def quantised_table(rows: Sequence[ResultRow]) -> str:
    """Models of one seed before and after quantisation, one line a pair."""
    lines = [
        "| model | bits | mIoU box, float | quantised | difference (points) | mIoU point, float | quantised "
        "| difference (points) | file, float | quantised | bit-operations, float | quantised |",
        "|---" * 12 + "|",
    ]
    for row in (row for row in rows if row.method.endswith(QUANTISED)):
        method = row.method.removesuffix(QUANTISED)
        alike = [r for r in rows if (r.method, r.ratio, r.seed) == (method, row.ratio, row.seed)]
        before = next(r for r in alike if r.parameters == row.parameters)
        student = _unusual_student(before)
        cells = [
            f"{method}{f' {row.ratio:g}' if row.ratio else ''}{f', {student}' if student else ''}, seed {row.seed}",
            f"W{row.weight_bits}A{row.activation_bits}",
        ]
        for one, other in ((before.miou, row.miou), (before.miou_point, row.miou_point)):
            cells += [f"{one:.4f}", f"{other:.4f}", f"{100 * ((other or 0) - (one or 0)):+.2f}"]
        cells += [size(r.size_bytes) for r in (before, row) if r.size_bytes]
        cells += [f"{bits / 1e9:.1f} G" for bits in ((before.macs_full or 0) * FLOAT_BITS**2, row.bit_operations or 0)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _unusual_student(row: ResultRow) -> str:
    """The student of a row, where it is another than the pocket teacher's own."""
    name = (row.student or "").removeprefix(f"{row.teacher}-")
    return "" if row.method.partition("+")[0] != "mobilesam" or name.startswith(OWN_STUDENT) else name


def conditions(rows: Sequence[ResultRow]) -> str:
    """What the table was measured on."""
    row = next(row for row in rows if row.method == "teacher")
    return (
        f"Protocol `{row.protocol}` on held-out `{row.data}`, {row.instances:,} instances in {row.images:,} images; "
        f"{row.device}, {row.precision}; mean ± standard deviation over seeds. Commands: `results/README.md`."
    )


def cost_table() -> str:
    """What ``cost`` alone counts, a line a model."""
    lines = [
        "| model | parameters | encoder | encoder MACs `full` | encoder MACs `modules` |",
        "|---|---|---|---|---|",
    ]
    for row in known_rows():
        lines.append("| " + " | ".join(cells(row)) + " |")
    return "\n".join(lines)


def pages() -> list[Path]:
    """The files that may hold tables: README.md, and the documents below docs/."""
    return [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts)]


def with_tables(text: str) -> str:
    """A page with its tables made anew between their ``<!-- table:NAME -->`` marks."""
    for name, make in _tables().items():
        marked = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)", re.DOTALL)
        # Most pages have none of them.
        if marked.search(text):
            made = make()
            text = marked.sub(lambda marks, made=made: f"{marks[1]}{made}\n{marks[2]}", text)  # type: ignore[misc]
    return text


def _tables() -> dict[str, Callable[[], str]]:
    """What makes each table, by the name in its marks."""
    own: dict[str, Callable[[], str]] = {
        "pocket": lambda: f"{conditions(committed_rows('shapes'))}\n\n{quality_table(committed_rows('shapes'))}",
        "cost": cost_table,
        "columns": documented,
        "quantised": lambda: quantised_table(committed_rows("shapes")),
        EVERYTHING: lambda: strategies_table([read_row(path) for path in committed_strategies()]),
    }
    return own | {preset: partial(_preset_table, preset) for preset in presets()}


def _preset_table(preset: str) -> str:
    rows = rows_of_runs(ROOT / "results" / preset)
    none = f"No row is committed yet: `python -m experiments experiment={preset}` makes them."
    return table(preset, rows) if rows else none


def _over_seeds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {stdev(known):.4f}" if len(known) > 1 else ""
    return f"{mean(known):.4f}{spread}"


def _to_teacher(rows: Sequence[ResultRow], teacher: ResultRow) -> str:
    if rows[0].method == "teacher" or teacher.miou is None or teacher.miou_point is None:
        return ""
    box = 100 * (mean(row.miou or 0 for row in rows) - teacher.miou)
    if rows[0].miou_point is None:
        return f"{box:+.1f}"
    return f"{box:+.1f} / {100 * (mean(row.miou_point or 0 for row in rows) - teacher.miou_point):+.1f}"


if __name__ == "__main__":
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if "<!-- table:" in text:
            write_text(page, with_tables(text))
