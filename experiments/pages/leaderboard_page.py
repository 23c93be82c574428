"""``leaderboard.html``: every row in a plot and a table that can be narrowed down, in one file without a network."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from core import provenance
from experiments.leaderboard.columns import LEADERBOARD_COLUMNS
from experiments.leaderboard.folding import Entry, Leaderboard, cell, csv_of
from experiments.leaderboard.markdown import POCKET, counted
from experiments.pages.page import page, source, text
from experiments.report import POCKET_NOTE
from experiments.tables.row import MEASURED, TableRow

FILE = "leaderboard.html"
SCRIPTS = ("format", "data", "marks", "columns", "table", "plot", "state", "start")
LARGEST_LINK = 4_000_000
"""Bytes of a CSV that the page itself holds for download; a longer one is linked where it lies, beside the page."""
_OF_A_LINE = (
    *("kind", "data", "protocol", "model", "method", "teacher", "student", "variant", "choices", "metric", "score"),
    *("score_spread", "small", "medium", "large", "point", "point_spread", "to_teacher", "point_to_teacher"),
    *("parameters", "macs_full", "macs_modules", "macs_scaled", "size_bytes", "encoder_latency_ms", "device"),
    *("precision", "weight_bits", "ratio", "instances", "images", "detections", "images_seen", "source"),
)
"""What the page takes of a model's line; the rest stands in its rows."""


def leaderboard_page(board: Leaderboard, command: str, pages: Mapping[str, str] | None = None) -> str:
    """The page.

    Args:
        command: what makes it anew.
        pages: address of a run's own page, relative to this one, by the ``result_file`` of its rows.
    """
    # Here, as its script is several megabytes long.
    from plotly.offline import get_plotlyjs

    conditions, places = _conditions([model.line for model in board.models])
    models = [
        {
            **{name: value for name in _OF_A_LINE if (value := getattr(model.line, name)) is not None},
            "seeds": list(model.line.seeds),
            "condition": place,
            "entries": list(model.entries),
        }
        for model, place in zip(board.models, places, strict=True)
    ]
    rows = {"count": len(board.entries), "columns": columnar(board.entries)}
    data = {"leaderboard": {"rows": rows, "models": models, "conditions": conditions, "pages": dict(pages or {})}}
    scripts = [get_plotlyjs(), *(source(f"leaderboard_{name}.js") for name in SCRIPTS)]
    return page("sampress leaderboard", _body(board, command), scripts, data, [source("leaderboard.css")])


def columnar(entries: Sequence[Entry]) -> dict[str, Any]:
    """Columns in which some row has a value, as lists; words that repeat as places in a list of different ones."""
    found: dict[str, Any] = {}
    for name in LEADERBOARD_COLUMNS:
        values = [entry.columns[name] for entry in entries]
        if all(value is None or value == {} for value in values):
            continue
        if all(isinstance(value, str | dict | None) for value in values):
            words = [cell(value) for value in values]
            place = {word: number for number, word in enumerate(dict.fromkeys(words))}
            found[name] = {"of": list(place), "at": [place[word] for word in words]}
        else:
            found[name] = values
    return found


def _conditions(lines: Sequence[TableRow]) -> tuple[list[dict[str, Any]], list[int]]:
    """What figures must share to be in one plot, and the place in that list for each line.

    Published figures stand with the measured ones of their data set and protocol that rest on the most instances.
    """

    def key(line: TableRow) -> tuple[Any, ...]:
        return line.data, line.protocol, line.instances, line.images, line.detections, line.choices

    names = ("data", "protocol", "instances", "images", "detections", "choices")
    measured = dict.fromkeys(key(line) for line in lines if line.kind == MEASURED)
    most: dict[tuple[str, str], tuple[Any, ...]] = {}
    for found in sorted(measured, key=lambda found: -(found[2] or found[4] or 0)):
        most.setdefault((found[0], found[1]), found)
    keys = [key(line) if line.kind == MEASURED else most.get((line.data, line.protocol), key(line)) for line in lines]
    place = {found: number for number, found in enumerate(dict.fromkeys(keys))}
    return [dict(zip(names, found, strict=True)) for found in place], [place[found] for found in keys]


def _body(board: Leaderboard, command: str) -> str:
    note = any(entry.columns["teacher"] == POCKET for entry in board.entries)
    content = csv_of(board.entries).encode()
    address = "leaderboard.csv"
    if len(content) <= LARGEST_LINK:
        address = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content).decode()}"
    return _TEMPLATE.format(
        counted=text(counted(board.entries)),
        revision=text(provenance.git_sha()[:12]),
        command=text(command),
        note=f'<p class="note">Rows of <code>{POCKET}</code>: {text(POCKET_NOTE)}.</p>' if note else "",
        csv=address,
    )


_TEMPLATE = """<header>
<button type="button" id="theme" class="controls" title="light or dark">&#9680; theme</button>
<h1>sampress leaderboard</h1>
<p>Compressed Segment Anything Models, trained, scored and timed by the same code.
<span class="quiet">Filled marks were measured here; hollow ones are what papers say of their own weights, pictures and
boxes.</span></p>
{note}
<p class="small quiet">{counted} Revision <code>{revision}</code>. Made by <code>{command}</code>.
<a id="csv" download="leaderboard.csv" href="{csv}">leaderboard.csv</a> has every column.</p>
<noscript><p class="note">The plot and the table need JavaScript; leaderboard.csv and leaderboard.md, beside this page,
do not.</p></noscript>
</header>
<main>
<form class="controls bar" id="controls" aria-label="what is shown">
<label>Data set <select id="data"></select></label>
<label class="wide">Protocol <select id="protocol"></select></label>
<label>Method <select id="method"></select></label>
<label>Teacher <select id="teacher"></select></label>
<label>Source <select id="source"></select></label>
<label>Search <input id="search" type="search" placeholder="name, run, ..." autocomplete="off"></label>
<button type="button" id="reset">Reset</button>
</form>
<section aria-label="plot">
<div class="controls bar axes">
<label>Score <select id="score"></select></label>
<label>against <select id="cost"></select></label>
<fieldset><legend>Show</legend>
<label><input type="radio" name="rows" value="means" checked> means over seeds</label>
<label><input type="radio" name="rows" value="runs"> every run</label></fieldset>
<button type="button" id="save">Save as SVG</button>
</div>
<div id="plot" role="img" aria-label="score against cost; the table below has every figure"></div>
<p id="about" class="small quiet"></p>
</section>
<section aria-label="table">
<div class="bar heading"><h2 id="shown" role="status" aria-live="polite"></h2>
<label class="controls check"><input type="checkbox" id="more"> more columns</label></div>
<div class="scroll tall" tabindex="0" role="region" aria-label="rows"><table id="rows">
<thead></thead><tbody></tbody></table></div>
<p id="rest" class="controls"></p>
</section>
</main>"""
