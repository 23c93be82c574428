"""Every table and figure of the papers: how it is measured here, and with which outcome, or why it is not."""

from collections import Counter

from core.provenance import ROOT
from experiments.paper_table import by_run, judge, presets, rows_of_runs
from experiments.reporting.text_tables import csv_lines

INDEX = ROOT / "results" / "published" / "papers.csv"
_VERDICTS = ("holds", "undecided", "reversed")


def paper_index(paper: str) -> str:
    """A line for each table and figure of a paper, as Markdown.

    ``published/papers.csv`` says what each one claims, the command here, the preset and the group of its orderings
    (:mod:`experiments.paper_table`), and a note; what the committed rows say is counted anew.
    """
    table = ["| | claim | command | rows | published orderings here | note |", "|---|---|---|---|---|---|"]
    for line in (line for line in csv_lines(INDEX) if line["paper"] == paper):
        rows = f"`results/{line['rows']}/`" if line["rows"] else ""
        command = f"`{line['command']}`" if line["command"] else ""
        cells = (line["item"], line["claim"], command, rows, _outcome(line["preset"], line["group"]), line["note"])
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def _outcome(preset: str, group: str) -> str:
    """How many orderings of a group hold, are undecided and are reversed."""
    if not preset:
        return ""
    entries = [entry for entry in presets()[preset] if entry.group.startswith(group)]
    rows, scores = rows_of_runs(ROOT / "results" / preset)
    claimed = [one for one in judge(entries, by_run(entries, rows), scores) if one.better.claimed]
    counts = Counter(one.nearest.verdict for one in claimed)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict]) or "no rows yet"


def papers() -> list[str]:
    """The papers of the index, in its order."""
    return list(dict.fromkeys(line["paper"] for line in csv_lines(INDEX)))
