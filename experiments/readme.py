"""The tables of README.md and of docs/, made from committed result rows: ``python -m experiments.readme``."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from core.checkpoint import write_text
from core.errors import InputError
from core.provenance import ROOT
from experiments.budget import NAME as BUDGET
from experiments.budget import Budgets, budget_table, findings
from experiments.commands.cost import cells, known_rows
from experiments.everything.strategies import read_row, strategies_table
from experiments.exported import COMPARED, exported_table
from experiments.families import differences_table
from experiments.paper_table import by_run, judge, presets, rows_of_runs, table
from experiments.photograph_students import QUANTISED, Elsewhere, elsewhere_table, quantised_photographs
from experiments.photographs import (
    Photographs,
    photographs_findings,
    photographs_leaders,
    photographs_table,
    sizes_table,
)
from experiments.quantisers_table import ON_PHOTOGRAPHS, Quantisers, quantisers_table
from experiments.quantisers_table import PRESET as QUANTISERS
from experiments.reporting.columns import COLUMNS, POCKET, POCKET_2, computed_on, documented, share, with_spread
from experiments.reporting.documents import lines_of
from experiments.reporting.models import Record, models_frame
from experiments.reporting.quoted_cells import with_quotes
from experiments.reporting.results import EVERYTHING, committed_strategies, read_records
from experiments.reporting.text_tables import csv_lines, plain_table
from students.quantized.bit_operations import FLOAT_BITS

INDEX = ROOT / "results" / "published" / "papers.csv"
LOW_BITS = INDEX.with_name("low_bits.csv")
"""Published figures of quantised SAMs."""
_VERDICTS = ("holds", "undecided", "reversed")
OWN_STUDENT = ", tiny_vit_pocket"
"""MobileSAM's student of the pocket teacher, which is not named."""
_NO_ROW = "No row is committed yet: `python -m experiments experiment={}` makes them."
CLICKS = "shapes_clicks"
"""How the names of the files of click curves end, in ``results/evaluations/``."""
ORDER = ("filled_box", "filled_ellipse", "teacher", "slimsam", "tinysam", "mobilesam", "scratch")
"""Of lines; other methods follow by name."""
_FIGURES = ("parameters", "macs_full", "macs_modules", "size_bytes")


def committed_rows(data: str, *teachers: str) -> pd.DataFrame:
    """Rows of runs in ``results/`` on one data set, under packaged teachers, or sam_pocket alone (baselines have none).

    Runs with a name of their own, and those of other budgets, are left out: they belong to tables of their own.
    """
    named = {*presets(), BUDGET, QUANTISERS, ON_PHOTOGRAPHS}
    rows = [
        row
        for row in read_records(None, True)
        if row["data"] == data and row["teacher"] in (*(teachers or (POCKET,)), None) and row["status"] == "finished"
        if row["variant"] is None and row["path"].parent.name not in named
    ]
    return pd.DataFrame(rows, dtype=object)


def quality_table(rows: pd.DataFrame) -> str:
    """What it was measured on, and one line a model: means over seeds and their spreads (standard deviation)."""
    models = lines_of(models_frame(rows[~rows["method"].str.endswith(QUANTISED)]))
    teacher = next(line for line in models if line["method"] == "teacher")
    header = ["model", "seeds", "images seen", "mIoU box", "mIoU point", "to teacher, box / point (points)"]
    header += ["parameters", "MACs `full`", "MACs `modules`", "file"]
    lines = [[_name(line), *_cells(line, _FIGURES)] for line in sorted(models, key=_place)]
    trained = rows[~rows["method"].str.endswith(QUANTISED)]["training_precision"].dropna()
    computed = computed_on(rows["device"].dropna(), trained, teacher["precision"])
    return (
        f"Protocol `{teacher['protocol']}` on held-out `{teacher['data']}`, {teacher['instances']:,} instances in "
        f"{teacher['images']:,} images; {computed}; mean ± standard "
        f"deviation over seeds. Commands: `results/README.md`.\n\n{plain_table(header, lines)}"
    )


def _cells(line: Record, names: Sequence[str]) -> list[str]:
    """What a model was trained on, its scores, their differences to the teacher's, and the columns named."""
    points = [f"{line[name]:+.1f}" for name in ("to_teacher", "point_to_teacher") if line[name] is not None]
    return [
        str(len(line["seeds"]) or ""),
        COLUMNS["images_seen"].shown(line["images_seen"]),
        with_spread(line["score"], line["score_spread"]),
        with_spread(line["point"], line["point_spread"]),
        " / ".join(points),
        *(COLUMNS[name].shown(line[name]) for name in names),
    ]


def _name(line: Record) -> str:
    if line["method"] == "teacher":
        return "teacher"
    return str(line["model"]).removesuffix(f" of {line['teacher']}").replace(OWN_STUDENT, "")


def _place(line: Record) -> tuple[int, str, float, str, str]:
    method = line["method"]
    place = ORDER.index(method) if method in ORDER else len(ORDER)
    return place, method, line["ratio"] or 0.0, _name(line), str(line["teacher"])


def quantised_table(rows: pd.DataFrame) -> str:
    """Models of one seed before and after quantisation, one line a pair."""
    header = ["model", "bits", "mIoU box, float", "quantised", "difference (points)", "mIoU point, float", "quantised"]
    header += ["difference (points)", "file, float", "quantised", "bit-operations, float", "quantised"]
    known, lines = lines_of(rows), []
    for row in (row for row in known if row["method"].endswith(QUANTISED)):
        of = row["method"].removesuffix(QUANTISED), row["ratio"], row["seed"], row["parameters"]
        keys = ("method", "ratio", "seed", "parameters")
        before = next(one for one in known if tuple(one[key] for key in keys) == of)
        pairs = [(before[key], row[key]) for key in ("miou", "miou_point")]
        bits = (before["macs_full"] * FLOAT_BITS**2, row["bit_operations"])
        lines.append(
            [
                f"{_name(before)}, seed {row['seed']}",
                f"W{row['weight_bits']}A{row['activation_bits']}",
                *(cell for one, other in pairs for cell in (share(one), share(other), f"{100 * (other - one):+.2f}")),
                *(COLUMNS["size_bytes"].shown(one["size_bytes"]) for one in (before, row)),
                *(f"{number / 1e9:.1f} G" for number in bits),
            ]
        )
    return plain_table(header, lines)


def families_table(rows: pd.DataFrame) -> str:
    """The methods of SAM 2's rows under both teachers, a line each; empty as long as SAM 2 has no student here."""
    models = sorted(lines_of(models_frame(rows)), key=_place)
    known = {_name(line) for line in models if line["teacher"] == POCKET_2}
    if known <= {"teacher"}:
        return ""
    figures = ("parameters", "macs_full", "size_bytes")
    shown = [line for line in models if line["method"] == "teacher" or _name(line) in known]
    lines = [[_name(line), f"`{line['teacher']}`", *_cells(line, figures)] for line in shown]
    header = ["model", "of", "seeds", "images seen", "mIoU box", "mIoU point", "to teacher, box / point (points)"]
    return (
        "The same methods on SAM 2 (`sam2_pocket`) beside SAM, on the same images and instances as above, mean ± "
        "standard deviation over seeds ([what carries over](docs/sam2.md)):\n\n"
        + plain_table([*header, "parameters", "MACs `full`", "file"], lines)
    )


def clicks_table() -> str:
    """mIoU by the number of points (figure 4 of TinySAM): a line for each model that was scored with all of them."""
    names = {1: "point_best_of_3@1", **{number: f"clicks_{number}@1" for number in range(2, 10)}}
    scores: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in read_records(None, True):
        if row["path"].stem.endswith(CLICKS) and row["protocol"] in names.values():
            scores.setdefault((row["teacher"], _name(row)), {})[row["protocol"]] = row
    if not scores:
        return f"No row is committed yet: `python -m experiments evaluate evaluation={CLICKS}` makes them."
    one = next(iter(scores.values()))[names[1]]
    lines = [
        [name, f"`{teacher}`", *(share(by[names[number]]["miou"]) for number in names)]
        for (teacher, name), by in sorted(scores.items(), key=lambda item: (item[0][0], -item[1][names[9]]["miou"]))
    ]
    devices = " and ".join(sorted({by[names[1]]["device"] for by in scores.values()}))
    about = f"Held-out `{one['data']}`, {one['instances']:,} instances in {one['images']:,} images; {devices}, "
    return f"{about}{one['precision']}, seed 0.\n\n{plain_table(['model', 'of', *map(str, names)], lines)}"


def low_bits_table() -> str:
    """Published mask AP of quantised SAMs; figures that are too high are struck through, doubtful ones marked."""
    marks = {"left on": "~~{}~~", "unknown": "{} ?"}
    lines = []
    for line in csv_lines(LOW_BITS):
        mark = marks.get(line["drop"], "{}")
        figures = [mark.format(line[bits]) if line[bits] else "" for bits in ("w6a6", "w4a4")]
        lines.append([line["method"], line["model"], line["prompts"], line["float"], *figures, line["source"]])
    return plain_table(["method", "model", "boxes", "float", "W6A6", "W4A4", "source"], lines)


def cost_table() -> str:
    """What ``cost`` alone counts, a line a model."""
    header = ["model", "parameters", "encoder", "encoder MACs `full`", "encoder MACs `modules`"]
    return plain_table(header, [cells(row) for row in known_rows()])


def paper_index(paper: str) -> str:
    """A line for each table and figure of a paper, as Markdown.

    ``published/papers.csv`` says what each one claims, the command here, the preset and the group of its orderings
    (:mod:`experiments.paper_table`), and a note; what the committed rows say is counted anew.
    """
    table = ["| | claim | published orderings here | note | command, and its rows |", "|---|---|---|---|---|"]
    for line in (line for line in csv_lines(INDEX) if line["paper"] == paper):
        commands = [f"`{command}`" for command in line["command"].split("; ") if command]
        folders = [f"`results/{folder}/`" for folder in line["rows"].split("; ") if folder]
        outcome = _outcome(line["preset"], line["group"])
        cells = (line["item"], line["claim"], outcome, line["note"], "<br>".join([*commands, *folders]))
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def _outcome(preset: str, group: str) -> str:
    """How many orderings of a group hold, are undecided and are reversed."""
    if not preset:
        return ""
    entries = [entry for entry in presets()[preset] if entry.group.startswith(group)]
    rows, scores = rows_of_runs(ROOT / "results" / preset)
    judged = judge(entries, by_run(entries, rows), scores)
    counts = Counter(one.nearest.verdict for one in judged if one.better.claimed)
    if judged and not counts:
        return "none is published"
    said = {"holds": "hold"} if counts["holds"] > 1 else {}
    return ", ".join(f"{counts[each]} {said.get(each, each)}" for each in _VERDICTS if counts[each]) or "no rows yet"


def papers() -> list[str]:
    """The papers of the index, in its order."""
    return list(dict.fromkeys(line["paper"] for line in csv_lines(INDEX)))


def pages() -> list[Path]:
    """The files that may hold tables: README.md, and the documents below docs/."""
    return [
        ROOT / "README.md",
        *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "node_modules"} & {*p.parts}),
    ]


def with_tables(text: str) -> str:
    """A page with its tables made anew between their ``<!-- table:NAME -->`` marks, and the figures it quotes of them.

    Raises:
        InputError: a mark names no table, or a sentence says what the rows do not.
    """
    makers = _tables()

    @cache
    def made(name: str) -> str:
        if name not in makers:
            raise InputError(f'there is no table "{name}"; there are {", ".join(sorted(makers))}')
        return makers[name]()

    marked = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
    text = marked.sub(lambda marks: f"{marks[1]}{made(marks[2])}\n{marks[3]}", text)
    return with_quotes(text, made)


def _tables() -> dict[str, Callable[[], str]]:
    """What makes each table, by the name in its marks."""
    own: dict[str, Callable[[], str]] = {
        "pocket": lambda: quality_table(committed_rows("shapes")),
        BUDGET: lambda: budget_table(Budgets.committed()),
        f"{BUDGET}_findings": lambda: findings(Budgets.committed()),
        "photographs": lambda: photographs_table(Photographs.committed()),
        "photographs_leaders": lambda: photographs_leaders(Photographs.committed()),
        "photographs_sizes": lambda: sizes_table(Photographs.committed()),
        "photographs_findings": lambda: photographs_findings(Photographs.committed()),
        "photographs_elsewhere": lambda: elsewhere_table(Photographs.committed(), Elsewhere.committed()),
        "photographs_quantised": lambda: quantised_photographs(
            Photographs.committed(), Photographs.committed(QUANTISED), Elsewhere.committed()
        ),
        "families": lambda: families_table(committed_rows("shapes", POCKET, POCKET_2)),
        "families_differences": lambda: differences_table(committed_rows("shapes", POCKET, POCKET_2)),
        "cost": cost_table,
        "clicks": clicks_table,
        "low_bits": low_bits_table,
        "columns": documented,
        "quantised": lambda: quantised_table(committed_rows("shapes")),
        QUANTISERS: partial(_quantisers_table, QUANTISERS),
        ON_PHOTOGRAPHS: partial(_quantisers_table, ON_PHOTOGRAPHS),
        EVERYTHING: lambda: strategies_table([read_row(path) for path in committed_strategies()]),
    }
    indices = {f"papers_{paper}": partial(paper_index, paper) for paper in papers()}
    indices |= {name: partial(exported_table, name) for name in COMPARED}
    return own | indices | {preset: partial(_preset_table, preset) for preset in presets()}


def _preset_table(preset: str) -> str:
    rows, scores = rows_of_runs(ROOT / "results" / preset)
    return table(preset, rows, scores) if rows else _NO_ROW.format(preset)


def _quantisers_table(preset: str) -> str:
    folder = ROOT / "results" / preset
    return quantisers_table(Quantisers.of(folder)) if folder.is_dir() else _NO_ROW.format(preset)


def main() -> None:
    """Write all pages anew, but for those with a sentence that the rows no longer bear.

    No option changes what is written; the parser is here so that ``--help`` writes nothing.
    """
    argparse.ArgumentParser(prog="python -m experiments.readme", description=__doc__).parse_args()
    refused = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if "<!-- table:" in text or "<!-- cell:" in text:
            try:
                write_text(page, with_tables(text))
            except InputError as error:
                refused.append(f"{page.relative_to(ROOT)}: {error}")
    if refused:
        raise SystemExit("error: " + "\n".join(refused))


if __name__ == "__main__":
    main()
