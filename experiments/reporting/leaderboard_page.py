"""``leaderboard.html``: every row in a plot and a table that can be narrowed down, in one file without a network."""

import base64
from collections.abc import Mapping
from typing import Any

import pandas as pd

from core import provenance
from experiments.reporting.columns import (
    COLUMNS,
    LEADERBOARD,
    MEASURED,
    MODEL_COLUMNS,
    POCKET_NOTE,
    SPREADS,
    Column,
    known_columns,
    pocket_teachers,
)
from experiments.reporting.documents import counted, lines_of
from experiments.reporting.models import COSTS, front_of
from experiments.reporting.pages import render, source
from experiments.reporting.results import Results, csv_of
from experiments.reporting.text_tables import plain_cell

FILE = "leaderboard.html"
SCRIPTS = ("data", "plot", "table", "view")
LARGEST_LINK = 4_000_000
"""Bytes of a CSV that the page itself holds for download; a longer one is linked where it lies, beside the page."""
_USUAL = (
    *("model", "score", "point", "to_teacher", "parameters", "macs_full", "size_bytes", "encoder_latency_ratio"),
    *("seeds", "seed", "images_seen", "macs_full_scaled_by_bits"),
)
_MORE = (
    *("data", "protocol", "point_to_teacher", "small", "medium", "large", "macs_modules", "teacher", "student"),
    *("variant", "weight_bits", "activation_bits", "instances", "images", "detections", "choices", "device"),
    *("precision", "training_precision", "train_seconds", "device_hours", "paper", "run_id", "utc", "git_sha"),
    "torch_version",
)
"""Columns of the page's table, and those behind "more columns"."""
_WIDE = ("choices", "device", "paper")
_CONDITIONS = ("data", "protocol", "instances", "images", "detections", "choices")


def leaderboard_page(found: Results, command: str, pages: Mapping[str, str] | None = None) -> str:
    """The page.

    Args:
        command: what makes it anew.
        pages: address of a run's own page, relative to this one, by the ``result_file`` of its rows.
    """
    # Here, as its script is several megabytes long.
    from plotly.offline import get_plotlyjs

    conditions, places = _conditions(found.models)
    models = found.models.assign(condition=places)
    content = csv_of(found.rows).encode()
    address = LEADERBOARD
    if len(content) <= LARGEST_LINK:
        address = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content).decode()}"
    return render(
        "leaderboard.html.j2",
        "sampress leaderboard",
        ["style.css", "leaderboard.css"],
        [get_plotlyjs(), *(source(f"leaderboard_{name}.js") for name in SCRIPTS)],
        counted=counted(found.rows),
        revision=provenance.git_sha()[:12],
        command=command,
        pocket=pocket_teachers(found.rows["teacher"]),
        pocket_note=POCKET_NOTE,
        csv=address,
        data={
            "rows": {"count": len(found.rows), "columns": columnar(found.rows)},
            "models": [_model(line) for line in lines_of(models)],
            "conditions": conditions,
            "pages": dict(pages or {}),
            "columns": [_column(COLUMNS[name], name in _USUAL) for name in (*_USUAL, *_MORE)],
            "costs": list(COSTS),
            "fronts": _fronts(models, found.rows),
        },
    )


def _model(line: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: line[name] for name in MODEL_COLUMNS if line[name] is not None and name != "run_ids"}
    return {**kept, "condition": line["condition"], "rows": line["rows"]}


def _column(column: Column, usual: bool) -> dict[str, Any]:
    """A column as the page's scripts take it."""
    number = column.kind in ("number", "count")
    return {
        "id": column.name,
        "title": column.title,
        "label": f"{column.label} ({column.unit})" if column.unit else column.label,
        "form": column.form,
        "number": number,
        "best": "descending" if number and column.best != "lower" else "ascending",
        "note": column.description.replace("`", ""),
        "usual": usual,
        "wide": column.name in _WIDE,
        "spread": SPREADS.get(column.name),
    }


def columnar(rows: pd.DataFrame) -> dict[str, Any]:
    """Columns in which some row has a value, as lists; words that repeat as places in a list of different ones."""
    found: dict[str, Any] = {}
    for name in known_columns(lines_of(rows)):
        values = rows[name].tolist()
        if all(isinstance(value, str | dict | None) for value in values):
            words = [plain_cell(value) for value in values]
            place = {word: number for number, word in enumerate(dict.fromkeys(words))}
            found[name] = {"of": list(place), "at": [place[word] for word in words]}
        else:
            found[name] = values
    return found


def _conditions(models: pd.DataFrame) -> tuple[list[dict[str, Any]], list[int]]:
    """What figures must share to be in one plot, and the place in that list for each model.

    Published figures stand with the measured ones of their data set and protocol that rest on the most instances.
    """
    lines = lines_of(models)
    keys = [tuple(line[name] for name in _CONDITIONS) for line in lines]
    measured = {key for key, line in zip(keys, lines, strict=True) if line["source"] == MEASURED}
    most: dict[tuple[str, str], tuple[Any, ...]] = {}
    for key in sorted(dict.fromkeys(key for key in keys if key in measured), key=lambda key: -(key[2] or key[4] or 0)):
        most.setdefault(key[:2], key)
    keys = [
        key if line["source"] == MEASURED else most.get(key[:2], key) for key, line in zip(keys, lines, strict=True)
    ]
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [dict(zip(_CONDITIONS, key, strict=True)) for key in place], [place[key] for key in keys]


def _fronts(models: pd.DataFrame, rows: pd.DataFrame) -> dict[str, list[str]]:
    """The items that are best for their cost, cheapest first, by ``means`` or ``runs``, conditions, source and axes."""
    cells = lines_of(rows[[*COSTS, "source", "miou", "ap", "miou_point"]])
    runs = [
        {**cells[place], "score": cells[place][line["metric"]], "point": cells[place]["miou_point"], "place": place}
        | {"condition": line["condition"]}
        for line in lines_of(models)
        for place in line["rows"]
    ]
    items = {"means": models.assign(place=range(len(models))), "runs": pd.DataFrame(runs, dtype=object)}
    found: dict[str, list[str]] = {}
    for kind, table in items.items():
        for (condition, origin), alike in table.groupby(["condition", "source"]) if len(table) else ():
            for score in SPREADS:
                for cost in COSTS:
                    best = alike.loc[front_of(alike, cost, score), "place"]
                    if len(best) > 1:
                        key = f"{kind}|{condition}|{origin}|{score}|{cost}"
                        found[key] = [f"{kind[0]}{place}" for place in best]
    return found
