"""What lies in a run's folder."""

import os
from pathlib import Path
from urllib.parse import quote

from experiments.pages.page import text
from experiments.pages.run_record import PAGE, RunRecord
from experiments.report import size

FILES = {
    "result.json": "rows, settings, provenance and hashes",
    "failed.json": "what a failed run leaves instead: its reason, settings and provenance",
    "student.safetensors": "the student: weights, shape and facts of its making",
    "masks.png": "example masks of teacher and student",
    "metrics.csv": "what was logged while it trained: stage, step, metric, value",
    "quantisation.json": "signal to noise of every quantised layer",
    "calibration.safetensors": "grids of a calibration, from which a stopped one goes on",
    "instances.jsonl": "one record an instance, from which any average can be made anew",
}
ENDINGS = {
    ".jsonl": "log of a stage, a line an entry",
    ".state": "what a stopped stage goes on from",
    "_pruned.safetensors": "the cut encoder before it is distilled",
}
"""What files of other names are, by their endings."""


def files_part(record: RunRecord, at: Path) -> str:
    """What lies in the run's folder, with sizes, linked from a page in the folder ``at``."""
    if record.folder is None:
        name = f"<code>{text(record.source.name)}</code>"
        return f"<p>This page was made from {name} alone; the run's own folder is not beside it.</p>"
    lines = []
    for path in sorted(record.folder.iterdir()):
        if path.name.startswith(".") or path.name == PAGE:
            continue
        link = os.path.relpath(path, at).replace(os.sep, "/")
        told = FILES.get(path.name) or next((told for end, told in ENDINGS.items() if path.name.endswith(end)), "")
        lines.append(
            f'<tr><th><a href="{text(quoted(link))}">{text(path.name)}</a></th>'
            f'<td class="number">{text(_size(path))}</td><td>{text(told)}</td></tr>'
        )
    return f'<div class="scroll" tabindex="0"><table><tbody>{"".join(lines)}</tbody></table></div>'


def _size(path: Path) -> str:
    if path.is_dir():
        return "folder"
    number = path.stat().st_size
    return size(number) if number >= 1e5 else f"{number:,} bytes"


def quoted(link: str) -> str:
    """A relative link as an address: a colon or a question mark in a name is a part of the name."""
    return quote(link.encode("utf-8", "surrogateescape"), safe="/.-_~+")
