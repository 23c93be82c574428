"""Models and rows as Markdown, LaTeX, CSV and JSON; measured and published ones never unmarked."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from experiments.reporting.columns import (
    COLUMNS,
    MEASURED,
    METRICS,
    MODEL_COLUMNS,
    POCKET_NOTE,
    POCKET_TEACHERS,
    PUBLISHED,
    SPREADS,
    TABLE_COLUMNS,
    TABLE_CSV,
    TABLE_JSON,
    computed_on,
    pocket_teachers,
)
from experiments.reporting.models import Record, on_front
from experiments.reporting.results import Results
from experiments.reporting.text_tables import csv_text, latex_escaped, latex_table, markdown_table, plain_cell

FRONT = "◆"
HOW_TO_READ = (
    "Rows of kind *measured* were scored by this project; those on the same instances compare with each other. Rows of "
    f"{', '.join(f'`{name}`' for name in POCKET_TEACHERS)} and their students say which method is better under equal "
    "conditions, never how good real SAM is. Rows of kind *published* are figures of papers under a similar protocol, "
    "with the papers' own weights, images and boxes: this project measured none of them. Published figures whose "
    "protocol is like none of these are left out (`results/published/figures.csv` has them)."
)
EXACT = (
    *("source", "model", "seed", "status", "reason", "miou", "miou_point", "ap", "parameters", "macs_full"),
    *("macs_modules", "macs_full_scaled_by_bits", "size_bytes", "encoder_latency_ratio", "images_seen", "device"),
    *("precision", "training_precision", "instances", "images", "paper", "run_id", "result_file"),
)
"""Columns of the exact rows of ``leaderboard.md``; ``leaderboard.csv`` has all."""


def leaderboard_markdown(found: Results, command: str) -> str:
    """``leaderboard.md``: tables to read, by data set and protocol, and every row with its exact figures.

    Args:
        command: what makes it anew.
    """
    best = on_front(found.models)
    parts = ["# Leaderboard", f"{counted(found.rows)} Made by `{command}`. {HOW_TO_READ}"]
    parts.append(
        f"Scores are means over seeds ± standard deviation. {FRONT} marks the models that none with the same "
        "conditions and no more multiply-accumulates beats (counter `full`, or the one that is known)."
    )
    for title, table in tables(found.models):
        parts += [f"## {title}", *_note(table), _markdown(table, best)]
    parts += ["## Every row", "Raw figures, as in `leaderboard.csv`, which has every column."]
    conditions = found.rows["data"].fillna("no data set") + ", " + found.rows["protocol"].fillna("no protocol")
    for title, rows in found.rows.groupby(conditions):
        names = [name for name in EXACT if rows[name].notna().any()]
        cells = [["" if v is None else str(plain_cell(v)) for v in row] for row in rows[names].to_numpy()]
        parts += [
            f"<details><summary>{str(title).replace('&', '&amp;').replace('<', '&lt;')}: {len(rows)}</summary>",
            *_note(rows),
            markdown_table(names, cells),
            "</details>",
        ]
    return "\n\n".join(parts) + "\n"


def counted(rows: pd.DataFrame) -> str:
    """One sentence: how many rows there are, of which kind, and when the newest was measured."""
    measured = rows[rows["source"] == MEASURED]
    failed = int((measured["status"] == "failed").sum())
    newest = max(measured["utc"].dropna(), default=None)
    kinds = [f"{len(measured) - failed:,} measured", f"{len(rows) - len(measured):,} published"]
    kinds += [f"{failed:,} of failed runs"] if failed else []
    return f"{len(rows):,} rows: {', '.join(kinds)}{f'; the newest of {newest[:10]}' if newest else ''}."


def _note(rows: pd.DataFrame) -> list[str]:
    return [f"`{name}` is of {POCKET_NOTE}." for name in pocket_teachers(rows["teacher"])]


def table_markdown(models: pd.DataFrame, command: str) -> str:
    """A page of the models' tables.

    Args:
        command: what makes it anew.
    """
    contents, parts = list[str](), list[str]()
    for title, table in tables(models):
        kinds = ", ".join(f"{int((table['source'] == kind).sum())} {kind}" for kind in (MEASURED, PUBLISHED))
        # As GitHub names a heading.
        contents.append(f"- [{title}](#{re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')}): {kinds}")
        parts += [f"## {title}", _markdown(table, ())]
    head = ["# Comparison", f"Made by `{command}`. {HOW_TO_READ} The tables, and their lines by kind:"]
    return "\n\n".join([*head, "\n".join(contents), *parts]) + "\n"


def table_latex(models: pd.DataFrame, command: str) -> str:
    """A ``tabular`` a table; measured lines stand above the last rule, published ones below it."""
    parts = [f"% Made by {command}; needs \\usepackage{{booktabs}}"]
    for title, table in tables(models):
        names = _shown(table)
        cells = [[[_cell(line, name) for name in names] for line in block] for _, block in blocks(table)]
        parts.append(f"% {latex_escaped(title)}\n{latex_table(_titles(names, table), cells)}")
    return "\n\n".join(parts) + "\n"


def table_csv(models: pd.DataFrame) -> str:
    """Every line of every table in one; raw numbers, empty where unknown."""
    special = {
        "seeds_count": lambda line: len(line["seeds"]) or None,
        "seeds": lambda line: " ".join(map(str, line["seeds"])) or None,
        "run_ids": lambda line: " ".join(line["run_ids"]) or None,
        "metric": lambda line: METRICS[line["metric"]],
        "size_mb": lambda line: None if line["size_bytes"] is None else line["size_bytes"] / 1e6,
    }
    rows = [
        [special[head](line) if head in special else line[name] for head, name in TABLE_CSV.items()]
        for line in lines_of(models)
    ]
    return csv_text(list(TABLE_CSV), rows)


def table_rows(models: pd.DataFrame) -> list[Record]:
    """The lines as ``format=json`` prints them."""
    return [{TABLE_JSON.get(name, name): line[name] for name in MODEL_COLUMNS} for line in lines_of(models)]


def lines_of(models: pd.DataFrame) -> list[Record]:
    """The lines of a table of models, each by columns."""
    return models.to_dict("records")  # type: ignore[return-value]


def measured_first(models: pd.DataFrame) -> pd.DataFrame:
    """The models by data set and protocol; tables in which nothing was measured, papers' figures alone, come last."""
    table = ["data", "protocol"]
    published = ~models.assign(own=models["source"] == MEASURED).groupby(table)["own"].transform("any").astype(bool)
    return (
        models.assign(published=published).sort_values(["published", *table], kind="stable").drop(columns="published")
    )


def tables(models: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The models of one data set and protocol each, with a title."""
    for (data, protocol), table in measured_first(models).groupby(["data", "protocol"], sort=False):
        yield f"{data}, {protocol}", table


def blocks(table: pd.DataFrame) -> list[tuple[str, list[Record]]]:
    """A table's lines by kind, measured first."""
    kinds = ((kind, lines_of(table[table["source"] == kind])) for kind in (MEASURED, PUBLISHED))
    return [(kind, block) for kind, block in kinds if block]


def metric_title(lines: Iterable[Record]) -> str:
    """What the score of some lines is called."""
    return " or ".join(dict.fromkeys(METRICS[line["metric"]] for line in lines))


def _markdown(table: pd.DataFrame, best: Any) -> str:
    names = _shown(table)
    cells = [
        [
            f"{FRONT} {text}" if name == "model" and label in best else text
            for name in names
            for text in [_cell(line, name)]
        ]
        for label, line in zip(table.index, lines_of(table), strict=True)
    ]
    return markdown_table(_titles(names, table), cells)


def _cell(line: Record, name: str) -> str:
    shown = COLUMNS[name].bare(line[name])
    if name == "device":
        return computed_on([line["device"]], [line["training_precision"]], line["precision"])
    spread = line.get(SPREADS.get(name, ""))
    return shown if spread is None else f"{shown} ± {spread:.4f}"


def _shown(table: pd.DataFrame) -> list[str]:
    """The columns that say something of a line."""
    lines = lines_of(table)
    return [name for name in TABLE_COLUMNS if any(_cell(line, name) for line in lines)]


def _titles(names: Sequence[str], table: pd.DataFrame) -> list[str]:
    return [metric_title(lines_of(table)) if name == "score" else COLUMNS[name].title for name in names]
