"""The figures of a page: the student beside its teacher in a few, and every model in all of them."""

from collections.abc import Callable, Sequence
from typing import Any

from core.result import COLUMNS, ResultRow
from experiments.pages.page import text
from experiments.pages.run_record import RunRecord
from experiments.protocol_report import LINES
from experiments.report import COST, QUALITY, TRAINING, count, heading, milliseconds, points, size

Shown = Callable[[Any], str]
"""A figure as text."""
_BESIDE: tuple[tuple[str, str, Shown], ...] = (
    ("parameters", "parameters", count),
    ("MACs, counter full", "macs_full", count),
    ("MACs, counter modules", "macs_modules", count),
    ("checkpoint", "size_bytes", size),
    ("encoder latency", "encoder_latency_ms", milliseconds),
    ("decoder latency", "decoder_latency_ms", milliseconds),
)
_OF_ROW = ("run_id", "schema_version", "skipped", "axes", "float_macs")


def headline(record: RunRecord) -> str:
    """The student's main figures, each with the teacher's where there is one; nothing of a failed run."""
    row, teacher = record.student, record.teacher
    cards = []
    if not _is_by_protocol(record):
        for label, column in (("mIoU, box", "miou"), ("mIoU, one point", "miou_point")):
            cards.append(_card(label, row, teacher, column, points))
    else:
        for scored in record.rows[:4]:
            column = "ap" if scored.ap is not None else "miou"
            cards.append(
                _card(f"{'AP' if column == 'ap' else 'mIoU'}, {scored.protocol}", scored, None, column, points)
            )
    if row.weight_bits is not None:
        bits = f"W{row.weight_bits}A{row.activation_bits}"
        operations = "" if row.bit_operations is None else f"{count(row.bit_operations)} bit operations"
        cards.append(_box("bits", bits, operations, title=row.bit_operations))
    cards += [_card(label, row, teacher, column, shown) for label, column, shown in _BESIDE]
    return f'<div class="cards">{"".join(cards)}</div>' if any(cards) else ""


def _is_by_protocol(record: RunRecord) -> bool:
    """Whether rows are one model's, a protocol each, and not several models' of a run."""
    return record.student.axes is not None and record.student.protocol != "box_point@1"


def _card(label: str, row: ResultRow, teacher: ResultRow | None, column: str, shown: Shown) -> str:
    value = getattr(row, column)
    if value is None:
        return ""
    reference = None if teacher is None else getattr(teacher, column)
    beside = ""
    if reference is not None:
        beside = f"teacher {shown(reference)}"
        if shown is points:
            beside += f"<br><b>{100 * (value - reference):+.2f} points</b>"
        elif reference:
            beside += f"<br><b>{100 * value / reference:.3g} %</b> of it"
    elif column == "miou" and row.miou_low is not None and row.miou_high is not None:
        beside = f"95 %: {points(row.miou_low)} to {points(row.miou_high)}"
    if column.endswith("_ms") and row.device:
        beside += f"{'<br>' if beside else ''}{text(row.device)}"
    return _box(label, shown(value), beside, title=value)


def _box(label: str, value: str, beside: str, title: object) -> str:
    """One card; ``beside`` is HTML."""
    return (
        f'<div class="card"><div class="label">{text(label)}</div>'
        f'<div class="value" title="{text(title)}">{text(value)}</div><div class="beside">{beside}</div></div>'
    )


def comparison_table(record: RunRecord) -> str:
    """All rows side by side; under several protocols, a column for each."""
    rows = record.ordered
    if _is_by_protocol(record):
        heads = [str(row.protocol) for row in rows]
        lines: list[tuple[str, str, Shown]] = [(label, column, _number) for label, column in LINES]
    else:
        heads = [heading(row).replace("\n", " ") for row in rows]
        lines = [(f.label, f.column, f.shown) for group in (QUALITY, COST, TRAINING) for f in group]
    body = []
    for label, column, shown in lines:
        values = [getattr(row, column) for row in rows]
        if any(value is not None for value in values):
            body.append((label, [_cell(value, shown) for value in values]))
            if column in ("miou", "miou_point") and record.teacher is not None:
                body.append(("  to teacher, points", [_difference(row, record.teacher, column) for row in rows]))
    return table(["", *heads], body) if body else ""


def raw_table(record: RunRecord) -> str:
    """Every column that says something, as it stands in the file."""
    body = []
    for column in COLUMNS:
        values = [getattr(row, column) for row in record.ordered]
        if column not in _OF_ROW and any(value is not None for value in values):
            body.append((column, [f"<td class='number'>{text('' if v is None else v)}</td>" for v in values]))
    heads = ["column", *(str(row.student or row.method) for row in record.ordered)]
    return f"<details><summary>every column, as it stands in the file</summary>{table(heads, body)}</details>"


def protocol_part(record: RunRecord) -> str:
    """Every choice behind each protocol, and what the rules left out; nothing where rows do not say."""
    rows = [row for row in record.rows if row.axes] if _is_by_protocol(record) else []
    names = list(dict.fromkeys(name for row in rows for name in row.axes or {} if name != "name"))
    body = []
    for name in names:
        values = [(row.axes or {}).get(name, "") for row in rows]
        mark = " class='differs'" if len(set(values)) > 1 else ""
        body.append((name.replace("_", " "), [f"<td{mark}>{text(value)}</td>" for value in values]))
    shown = table(["choice", *(str(row.protocol) for row in rows)], body, "words") if body else ""
    left_out = ", ".join(f"{reason} {number:,}" for reason, number in record.student.skipped.items())
    return shown + (f"<p>Left out or changed by rule: {text(left_out)}.</p>" if left_out else "")


def table(heads: Sequence[str], body: Sequence[tuple[str, Sequence[str]]], kind: str = "number") -> str:
    """A table that scrolls by itself: plain heads, then lines of a plain label and cells that are HTML.

    Args:
        kind: of the columns behind the first: ``number`` or ``words``.
    """
    top = "".join(f"<th{f' class={kind}' if place else ''}>{text(head)}</th>" for place, head in enumerate(heads))
    lines = "".join(
        f"<tr><th{' class=inner' if label.startswith(' ') else ''}>{text(label.strip())}</th>{''.join(cells)}</tr>"
        for label, cells in body
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(value: Any, shown: Shown) -> str:
    if value is None:
        return '<td class="number quiet">-</td>'
    return f'<td class="number" title="{text(value)}">{text(shown(value))}</td>'


def _difference(row: ResultRow, teacher: ResultRow, column: str) -> str:
    value, reference = getattr(row, column), getattr(teacher, column)
    if value is None or reference is None or row is teacher:
        return '<td class="number quiet">-</td>'
    return f'<td class="number" title="{text(100 * (value - reference))}">{100 * (value - reference):+.2f}</td>'


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else points(value)
