"""A paper's table rerun at another scale: ``python -m experiments.paper_table slimsam_table2``.

Measured figures stand beside the published ones, and for every published ordering it is said whether it holds here.
Levels do not compare (another teacher, other data); orderings may.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from experiments.reporting.columns import with_spread
from experiments.result_file import NAME, read_rows

PUBLISHED = ROOT / "results" / "published" / "orderings.csv"
_CONDITIONS = ("teacher", "data", "protocol", "instances", "images")
"""Columns that all rows of a table share."""
_VERDICTS = {
    (True, "holds"): "Published orderings that hold here",
    (True, "undecided"): "Published orderings undecided here, within the spread of seeds",
    (True, "reversed"): "Published orderings reversed here",
    (False, "holds"): "Measured here alone",
    (False, "undecided"): "Measured here alone, within the spread of seeds",
    (False, "reversed"): "Measured here alone, the other way round",
}
Run = tuple[str, float | None, int | None]
"""What a row must have to belong to a line: variant, ratio and bits."""


@dataclass(frozen=True)
class Entry:
    """A line of a table: which run is its like here, and what the paper says.

    Attributes:
        published: mIoU or AP in 0..1, or None.
        claimed: whether the paper orders the lines of this group; others are compared here alone.
        judged: the measured column that is nearest to what the paper scores, by which orderings are judged.
        source: the paper, and what its figure is.
    """

    group: str
    label: str
    variant: str
    ratio: float | None
    published: float | None
    claimed: bool = True
    judged: str = "miou_point"
    source: str = ""
    bits: int | None = None

    @property
    def run(self) -> Run:
        """Which rows belong to this line."""
        return self.variant, self.ratio, self.bits


Measured = Mapping[Run, Sequence[ResultRow]]


def presets() -> dict[str, list[Entry]]:
    """The tables that can be made, with their lines in the published order, best first. An installed copy has none."""
    found: dict[str, list[Entry]] = {}
    if not PUBLISHED.is_file():
        return found
    with open(PUBLISHED, encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            ratio, published = (float(line[key]) if line[key] else None for key in ("ratio", "published"))
            entry = Entry(
                line["group"],
                line["label"],
                line["variant"],
                ratio=ratio,
                published=published,
                claimed=line["claimed"] == "yes",
                judged=line["judged"],
                source=line["source"],
                bits=int(line["bits"]) if line["bits"] else None,
            )
            found.setdefault(line["preset"], []).append(entry)
    return found


def rows_of_runs(folder: Path) -> list[ResultRow]:
    """Students of all finished runs below a folder: ``<run_id>/result.json`` or ``<run_id>.json``."""
    paths = sorted([*folder.glob(f"*/{NAME}"), *folder.glob("*.json")])
    return [row for path in paths for row in read_rows(path) if row.variant is not None and row.student is not None]


def table(preset: str, rows: Sequence[ResultRow]) -> str:
    """The table and its orderings, as Markdown.

    Raises:
        InputError: none of the table's runs is there, or they do not compare: they were scored on other things, or a
            line has two runs of one seed.
    """
    entries = presets()[preset]
    measured = {
        entry.run: [row for row in rows if (row.variant, row.ratio, row.weight_bits) == entry.run] for entry in entries
    }
    used = [row for of_line in measured.values() for row in of_line]
    if not used:
        raise InputError(f"{preset}: none of its runs is finished; start them with experiment={preset}")
    _check_alike(preset, measured)
    first = used[0]
    by_bits = any(entry.bits for entry in entries)
    sources = sorted({entry.source for entry in entries if entry.published is not None})
    seen = sorted({row.images_seen for row in used if row.images_seen is not None})
    images = " to ".join(f"{count:,}" for count in sorted({seen[0], seen[-1]})) if seen else "unknown"
    lines = [
        f"Protocol `{first.protocol}` on held-out `{first.data}`, {first.instances:,} instances in {first.images:,} "
        f"images; {images} training images a run; {first.device}; mean ± standard deviation over seeds."
        + (f" *Published*: {'; '.join(sources)}; its level does not compare." if sources else ""),
        "",
        f"| | | {'bits' if by_bits else 'ratio'} | seeds | mIoU point | mIoU box | *published* |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        found = measured[entry.run]
        which = str(entry.bits) if by_bits else "" if entry.ratio is None else f"{entry.ratio:g}"
        published = "" if entry.published is None else f"*{entry.published:.4f}*"
        figures = [_over_seeds(_values(found, column)) for column in ("miou_point", "miou")]
        lines.append("| " + " | ".join([entry.group, entry.label, which, str(len(found)), *figures, published]) + " |")
    return "\n".join([*lines, "", *orderings(entries, measured)])


def _check_alike(preset: str, measured: Measured) -> None:
    """Refuse runs that a mean over seeds must not put together."""
    of_conditions: dict[tuple[object, ...], ResultRow] = {}
    for rows in measured.values():
        of_seed: dict[int | None, ResultRow] = {}
        for row in rows:
            of_conditions.setdefault(tuple(getattr(row, column) for column in _CONDITIONS), row)
            again = of_seed.setdefault(row.seed, row)
            if again is not row:
                raise InputError(
                    f"{preset}: {again.run_id} and {row.run_id} are of one line and seed under other settings; move "
                    "one of them to another folder"
                )
    if len(of_conditions) > 1:
        one, other = list(of_conditions.values())[:2]
        differing = next(k for k in _CONDITIONS if getattr(one, k) != getattr(other, k))
        raise InputError(
            f"{preset}: {differing} is {getattr(one, differing)} in {one.run_id} and {getattr(other, differing)} in "
            f"{other.run_id}; move what was scored otherwise to another folder"
        )


def orderings(entries: Sequence[Entry], measured: Measured) -> list[str]:
    """Whether each published ordering of neighbours holds for the measured mIoU (with one point, or with boxes).

    It holds, or is reversed, if the means differ by more than the spreads of both together; else it is undecided.
    """
    found: dict[str, list[str]] = {words: [] for words in _VERDICTS.values()}
    groups: dict[tuple[str, float | None, int | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.group, entry.ratio, entry.bits), []).append(entry)
    for (group, ratio, bits), members in groups.items():
        where = group.partition(":")[0] + ("" if ratio is None else f", {ratio:g}")
        where += "" if bits is None else f", {bits} bits"
        for better, worse in pairwise(members):
            first, second = (_values(measured[entry.run], entry.judged) for entry in (better, worse))
            if len(first) < 2 or len(second) < 2:
                continue
            difference = mean(first) - mean(second)
            noise = (stdev(first) ** 2 + stdev(second) ** 2) ** 0.5
            verdict = "undecided" if abs(difference) <= noise else "holds" if difference > 0 else "reversed"
            pair = f"{better.label} > {worse.label} ({where}: {100 * difference:+.1f} points)"
            found[_VERDICTS[better.claimed, verdict]].append(pair)
    return [f"- {words}: {'; '.join(pairs)}." for words, pairs in found.items() if pairs]


def _values(rows: Sequence[ResultRow], column: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, column)) is not None]


def _over_seeds(values: Sequence[float]) -> str:
    return with_spread(mean(values), stdev(values) if len(values) > 1 else None) if values else "-"


def print_paper_table(preset: str, runs: Path) -> None:
    """After a sweep: its table, if it is a paper's, from all finished runs."""
    if preset in presets():
        try:
            print(f"\n{table(preset, rows_of_runs(runs))}")
        except InputError as error:
            print(error)


def main() -> None:
    """Parse the command line and print the table."""
    if not PUBLISHED.is_file():
        raise SystemExit(
            "error: results/published is not here: an installed copy carries no papers' tables, a clone does"
        )
    parser = argparse.ArgumentParser(prog="python -m experiments.paper_table", description=__doc__)
    parser.add_argument("preset", choices=sorted(presets()))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs, or of committed rows")
    options = parser.parse_args()
    try:
        print(table(options.preset, rows_of_runs(options.runs)))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    outlive_closed_pipes()
    main()
