"""The page of one run: what it found, how it went, where it comes from, and how to go on; one file, no network."""

from collections.abc import Callable
from pathlib import Path

from core.checkpoint import write_text
from core.result import ResultRow
from core.terminal import terminal
from experiments.pages.comparison_part import comparison_table, headline, protocol_part, raw_table
from experiments.pages.curves import curves_part
from experiments.pages.facts_part import config_part, provenance_part
from experiments.pages.files_part import files_part
from experiments.pages.masks_part import masks_part
from experiments.pages.next_part import next_part
from experiments.pages.page import page, source, text
from experiments.pages.quantisation_part import quantisation_part
from experiments.pages.run_record import PAGE, RunRecord, read_run
from experiments.pages.widths_part import widths_part
from experiments.report import POCKET_NOTE, conditions

PICTURE = "masks.png"
QUANTISED_NOTE = (
    "latencies are PyTorch's, which computes with the numbers that codes stand for; exported files use integers"
)


def run_page(path: Path, at: Path | None = None) -> str:
    """The page of a run, of a failed run, of an evaluation, or of a committed result file.

    Args:
        path: ``result.json`` or ``failed.json`` in a run's own folder, whose logs, pictures and ``quantisation.json``
            are shown too, as far as they can be read; or a result file of another name, of which only its own
            content is.
        at: the folder the page will lie in, from which files are linked; None: beside the result file.

    Raises:
        InputError: the result file is damaged.
    """
    record = read_run(path)
    folder = record.folder
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("comparison", "Comparison", lambda: comparison_table(record) + raw_table(record)),
        ("protocols", "Protocol", lambda: protocol_part(record)),
        ("masks", "Example masks", lambda: "" if folder is None else masks_part(folder / PICTURE)),
        ("curves", "Training", lambda: curves_part(record)),
        ("widths", "Widths", lambda: widths_part(record.mapping("widths"))),
        ("quantisation", "Quantisation", lambda: quantisation_part(record.quantisation)),
        ("next", "How to go on", lambda: next_part(record)),
        ("provenance", "Provenance", lambda: provenance_part(record)),
        ("settings", "Settings", lambda: config_part(record)),
        ("files", "Files", lambda: files_part(record, at or path.parent)),
    ]
    shown = [(name, title, content) for name, title, make in parts if (content := _whole(make))]
    contents = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    body = [
        f"<header>{_head(record)}</header>",
        f'<nav class="contents" aria-label="parts of this page">{contents}</nav>',
        "<main>",
        f'<section id="figures">{headline(record)}</section>',
        *(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in shown),
        "</main>",
    ]
    return page(_name(record), "\n".join(body), styles=[source("run.css")])


def write_run_page(path: Path) -> None:
    """Write ``report.html`` beside a result file, atomically. What keeps a page from being made stops nothing.

    A run is finished by its result; a page that could not be made is told in one line on standard error.
    """
    try:
        write_text(path.parent / PAGE, run_page(path))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        told = f"{path.parent / PAGE} was not written ({reason}); the result is not affected"
        terminal(stderr=True).print(told, soft_wrap=True)


def _whole(make: Callable[[], str]) -> str:
    """A part, or why it cannot be shown: a damaged file hides no other part."""
    try:
        return make()
    except (ValueError, OSError) as error:
        return f'<p class="note">This part cannot be shown: {text(error)}.</p>'


def _head(record: RunRecord) -> str:
    """Name, what was measured on what, and what has to be known first."""
    row = record.student
    parts = [f"<h1>{text(_name(record))}</h1>", f'<p class="quiet">{text(_said(row))}</p>']
    if row.status == "failed":
        reason = text(row.reason or "no reason was kept")
        parts.append(
            f'<div class="failed" role="alert"><b>This run failed.</b><pre>{reason}</pre>'
            "<p>The same command, once the reason is mended, goes on from what stands in the folder.</p></div>"
        )
    else:
        parts.append(f'<p class="quiet">{text(_conditions(record))}</p>')
    parts += [f'<p class="note">{text(problem)}</p>' for problem in record.problems]
    if row.status == "finished" and row.weight_bits is not None:
        parts.append(f'<p class="note">{QUANTISED_NOTE}</p>')
    if any(one.teacher == "sam_pocket" for one in record.rows):
        parts.append(f'<p class="note">{text(POCKET_NOTE)}</p>')
    return "".join(parts)


def _conditions(record: RunRecord) -> str:
    """What was measured on what."""
    protocols = list(dict.fromkeys(row.protocol for row in record.rows if row.protocol))
    if len(protocols) < 2:
        return conditions(record.rows)
    row = record.student
    on = f"{len(protocols)} protocols on {row.data}: {row.images or 0:,} images"
    return ", ".join(str(part) for part in (on, row.device, row.precision) if part)


def _name(record: RunRecord) -> str:
    row = record.student
    if record.evaluated:
        return f"{row.student or row.teacher or row.method} on {row.data}"
    return row.run_id or record.source.stem


def _said(row: ResultRow) -> str:
    """What made the model, in a line."""
    parts = [row.method]
    parts += [f"ratio {row.ratio:g}"] if row.ratio is not None else []
    parts += [f"teacher {row.teacher}"] if row.teacher else []
    parts += [f"named {row.variant}"] if row.variant else []
    parts += [f"seed {row.seed}"] if row.seed is not None else []
    return ", ".join(parts)
