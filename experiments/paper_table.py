"""A paper's table rerun at another scale: ``python -m experiments.paper_table slimsam_table2``.

Measured figures stand beside the published ones, and for every published ordering it is said whether it holds here.
Levels do not compare (another teacher, other data); orderings may. They are judged by differences of paired seeds,
with a 95 % interval each.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores, SeedDifference, are_paired, crossed_difference, seed_difference
from experiments.reporting.columns import computed_on, with_spread
from experiments.reporting.text_tables import csv_lines
from experiments.result_file import NAME, read_scored, scores_of

PUBLISHED = ROOT / "results" / "published" / "orderings.csv"
_CONDITIONS = ("teacher", "data", "protocol", "instances", "images", "precision", "axes")
"""Columns that all rows of a table share."""
_PROMPTS = {"miou_point": "point", "miou": "box"}
"""Prompts by the columns that orderings are looked up in."""
_INTERVALS = {
    True: "of Student's t over seeds and images",
    False: "of Student's t over seeds alone, marked †: their files have no scores image by image",
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
Scores = Mapping[str, ImageScores]
"""Image by image, by run."""


def presets() -> dict[str, list[Entry]]:
    """The tables that can be made, with their lines in the published order, best first. An installed copy has none."""
    found: dict[str, list[Entry]] = {}
    for line in csv_lines(PUBLISHED):
        ratio, published = (float(line[key]) if line[key] else None for key in ("ratio", "published"))
        entry = Entry(
            **{key: line[key] for key in ("group", "label", "variant", "judged", "source")},
            ratio=ratio,
            published=published,
            claimed=line["claimed"] == "yes",
            bits=int(line["bits"]) if line["bits"] else None,
        )
        found.setdefault(line["preset"], []).append(entry)
    return found


def rows_of_runs(folder: Path) -> tuple[list[ResultRow], dict[str, ImageScores]]:
    """Students of all finished runs below a folder, ``<run_id>/result.json`` or ``<run_id>.json``, and their scores.

    The teacher that a run scored beside its student is a row of variant ``teacher`` with the student's seed and bits,
    once for each of these.
    """
    # What a fresh start has set aside lies in hidden folders.
    rows, scores = read_scored(sorted([*folder.glob(f"[!.]*/{NAME}"), *folder.glob("*.json")]))
    students = [row for row in rows if row.variant is not None and row.student is not None]
    teachers = {row.run_id: row for row in rows if row.method == "teacher"}
    beside = {
        (row.seed, row.weight_bits): replace(
            teachers[row.run_id], variant="teacher", seed=row.seed, weight_bits=row.weight_bits
        )
        for row in students
        if row.run_id in teachers
    }
    return [*students, *beside.values()], scores


def table(preset: str, rows: Sequence[ResultRow], scores: Scores | None = None) -> str:
    """The table and its orderings, as Markdown.

    Args:
        scores: image by image, of the runs that kept them.

    Raises:
        InputError: none of the table's runs is there, or they do not compare: they were scored on other things, or a
            line has two runs of one seed.
    """
    entries = presets()[preset]
    measured = by_run(entries, rows)
    used = [row for of_line in measured.values() for row in of_line]
    if not used:
        raise InputError(f"{preset}: none of its runs is finished; start them with experiment={preset}")
    _check_alike(preset, measured)
    first = used[0]
    by_bits = any(entry.bits for entry in entries)
    sources = sorted({entry.source for entry in entries if entry.published is not None})
    seen = sorted({row.images_seen for row in used if row.images_seen is not None})
    images = " to ".join(f"{count:,}" for count in sorted({seen[0], seen[-1]})) if seen else "unknown"
    computed = computed_on([row.device for row in used], [row.training_precision for row in used], first.precision)
    lines = [
        f"Protocol `{first.protocol}` on held-out `{first.data}`, {first.instances:,} instances in {first.images:,} "
        f"images; {images} training images a run; {computed}; mean ± standard deviation over seeds."
        + (f" *Published*: {'; '.join(sources)}; its level does not compare." if sources else ""),
        "",
        f"| | | {'bits' if by_bits else 'ratio'} | seeds | mIoU point | mIoU box | *published* |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        found = measured[entry.run]
        which = str(entry.bits) if by_bits else "" if entry.ratio is None else f"{entry.ratio:g}"
        published = "" if entry.published is None else f"*{entry.published:.4f}*"
        figures = [_over_seeds(found, column) for column in ("miou_point", "miou")]
        lines.append("| " + " | ".join([entry.group, entry.label, which, str(len(found)), *figures, published]) + " |")
    return "\n".join([*lines, "", *orderings(entries, measured, scores or {})])


def by_run(entries: Sequence[Entry], rows: Sequence[ResultRow]) -> Measured:
    """The rows of each line."""
    return {
        entry.run: [row for row in rows if (row.variant, row.ratio, row.weight_bits) == entry.run] for entry in entries
    }


def _check_alike(preset: str, measured: Measured) -> None:
    """Refuse runs that a mean over seeds must not put together."""
    of_conditions: dict[tuple[object, ...], ResultRow] = {}
    for rows in measured.values():
        seen = {row.images_seen: row for row in rows}
        if len(seen) > 1:
            one, other = list(seen.values())[:2]
            raise InputError(
                f"{preset}: {one.run_id} was trained on {one.images_seen} images, {other.run_id} of the same line on "
                f"{other.images_seen}; move one of them to another folder"
            )
        of_seed: dict[int | None, ResultRow] = {}
        for row in rows:
            of_conditions.setdefault(_conditions(row), row)
            again = of_seed.setdefault(row.seed, row)
            if again is not row:
                raise InputError(
                    f"{preset}: {again.run_id} and {row.run_id} are of one line and seed under other settings; move "
                    "one of them to another folder"
                )
    if len(of_conditions) > 1:
        one, other = list(of_conditions.values())[:2]
        pairs = zip(_CONDITIONS, _conditions(one), _conditions(other), strict=True)
        differing = next(name for name, mine, others in pairs if mine != others)
        raise InputError(
            f"{preset}: {differing} is {getattr(one, differing)} in {one.run_id} and {getattr(other, differing)} in "
            f"{other.run_id}; move what was scored otherwise to another folder"
        )


def _conditions(row: ResultRow) -> tuple[object, ...]:
    values = (getattr(row, column) for column in _CONDITIONS)
    return tuple(tuple(sorted(value.items())) if isinstance(value, dict) else value for value in values)


@dataclass(frozen=True)
class Ordering:
    """Two neighbouring lines of a group, and what the rows say of their order.

    Attributes:
        of: the group, with the ratio or the bits.
        nearest: the difference in the column that is nearest to what the paper scores; ``other``: in the other one.
    """

    better: Entry
    worse: Entry
    of: str
    nearest: SeedDifference
    other: SeedDifference | None

    @property
    def verdict(self) -> str:
        """By the nearest column; where the other one decides otherwise, that is said too."""
        verdict = self.nearest.verdict
        if self.other is not None and self.other.verdict not in (verdict, "undecided"):
            verdict += f"; {self.other.verdict} with {'one point' if self.better.judged == 'miou' else 'boxes'}"
        return verdict

    @property
    def line(self) -> str:
        """Of a Markdown table."""
        figures = [
            f"**{interval_in_points(self.nearest)}**",
            "-" if self.other is None else interval_in_points(self.other),
        ]
        if self.better.judged != next(iter(_PROMPTS)):
            figures.reverse()
        claim = "published" if self.better.claimed else "here alone"
        names = f"{self.better.label} > {self.worse.label}"
        return "| " + " | ".join([names, self.of, *figures, claim, self.verdict]) + " |"


def judge(entries: Sequence[Entry], measured: Measured, scores: Scores) -> list[Ordering]:
    """Every ordering of neighbours that at least two seeds of both lines speak of.

    It holds, or is reversed, if the 95 % interval of the difference over these seeds excludes 0; else it is undecided.
    """
    groups: dict[tuple[str, float | None, int | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.group, entry.ratio, entry.bits), []).append(entry)
    found = []
    for (group, ratio, bits), members in groups.items():
        of = group + ("" if ratio is None else f", {ratio:g}") + ("" if bits is None else f", {bits} bits")
        for better, worse in pairwise(members):
            rows = measured[better.run], measured[worse.run]
            judged = {column: difference(*rows, column, scores) for column in _PROMPTS}
            nearest = judged.pop(better.judged)
            if nearest is not None:
                found.append(Ordering(better, worse, of, nearest, next(iter(judged.values()))))
    return found


def orderings(entries: Sequence[Entry], measured: Measured, scores: Scores) -> list[str]:
    """Whether each ordering of neighbours holds here, with one point and with boxes: lines of a Markdown table."""
    found = judge(entries, measured, scores)
    if not found:
        return []
    how = " or ".join(_INTERVALS[kind] for kind in sorted({one.nearest.over_images for one in found}, reverse=True))
    return [
        f"Differences of paired seeds in points of mIoU with their 95 % intervals, {how}. An ordering is undecided "
        "where the interval of the **deciding** prompt holds 0.",
        "",
        "| ordering | of | point | box | claim | verdict |",
        "|---|---|---|---|---|---|",
        *(one.line for one in found),
    ]


def difference(
    better: Sequence[ResultRow], worse: Sequence[ResultRow], column: str, scores: Scores
) -> SeedDifference | None:
    """Of two lines over the seeds that both have; None where these are fewer than two.

    Raises:
        InputError: two of them were scored on different instances.
    """
    one, other = ({row.seed: row for row in rows if getattr(row, column) is not None} for rows in (better, worse))
    shared = sorted(seed for seed in one.keys() & other.keys() if seed is not None)
    if len(shared) < 2:
        return None
    sides = [[of_seed[seed] for seed in shared] for of_seed in (one, other)]
    known = [[scores_of(row, scores) for row in rows] for rows in sides]
    _check_same_instances([*sides[0], *sides[1]], [*known[0], *known[1]])
    if are_paired([*known[0], *known[1]], column):
        first, second = ([one for one in found if one is not None] for found in known)
        return crossed_difference(first, second, column)
    return seed_difference(*([getattr(row, column) for row in rows] for rows in sides))


def _check_same_instances(rows: Sequence[ResultRow], scores: Sequence[ImageScores | None]) -> None:
    known = [(row, of_row) for row, of_row in zip(rows, scores, strict=True) if of_row is not None]
    for (one, of_one), (other, of_other) in pairwise(known):
        if (of_one.images, of_one.instances) != (of_other.images, of_other.instances):
            raise InputError(
                f"{one.method} of {one.run_id} and {other.method} of {other.run_id} were scored on different images or "
                "instances, so that they do not compare; move one of them to another folder"
            )


def interval_in_points(found: SeedDifference, digits: int = 1) -> str:
    """A difference and its interval, times 100; marked where it is over seeds alone."""
    difference, low, high = (f"{100 * value:+.{digits}f}" for value in (found.difference, found.low, found.high))
    return f"{difference} [{low}, {high}]" + ("" if found.over_images else "†")


def _over_seeds(rows: Sequence[ResultRow], column: str) -> str:
    values = [value for row in rows if (value := getattr(row, column)) is not None]
    return with_spread(mean(values), stdev(values) if len(values) > 1 else None) if values else "-"


def print_paper_table(preset: str, runs: Path) -> None:
    """After a sweep: its table, if it is a paper's, from all finished runs."""
    if preset in presets():
        try:
            print(f"\n{table(preset, *rows_of_runs(runs))}")
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
        print(table(options.preset, *rows_of_runs(options.runs)))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    outlive_closed_pipes()
    main()
