"""Quantisers compared: metrics by bits by mechanisms, of ``experiment=ptq_state_of_the_art`` and ``ptq_photo``.

``python -m experiments.quantisers_table --runs FOLDER`` prints it for any folder of runs, or of committed rows.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores, SeedDifference
from experiments.paper_table import difference, interval_in_points, rows_of_runs
from experiments.reporting.text_tables import plain_table

PRESET = "ptq_state_of_the_art"
"""Of the runs, together with ``ptq_state_of_the_art_w4`` and ``..._w4a16``; all lie in the folder of this name."""
ON_PHOTOGRAPHS = "ptq_photo"
"""The same of the photograph teacher, in a folder of its own."""
MECHANISMS = {
    "statistics": "statistics",
    "big_pcc": "+ BIG, PCC",
    "blocks": "+ reconstruction",
    "ends": "+ ends in 8 bits",
}
"""What is done beside the search, each with all before it, by its word in a run's name."""
METRICS = {
    "minmax_fisher": "min-max",
    "mse_fisher": "squared error",
    "hessian_published": "published",
    "hessian_fisher": "hessian (Fisher)",
}
"""What grids are judged by."""
_NAME = re.compile(rf"ptq_({'|'.join(MECHANISMS)})_({'|'.join(METRICS)})_a\d+")
_FLOAT_ACTIVATIONS = 32


@dataclass(frozen=True)
class Quantisers:
    """The runs by bits (weights, activations), mechanism and metric, and the teacher's rows by bits of the weights."""

    cells: Mapping[tuple[tuple[int, int], str, str], Sequence[ResultRow]]
    floats: Mapping[int, Sequence[ResultRow]]
    scores: Mapping[str, ImageScores]

    @classmethod
    def of(cls, folder: Path) -> "Quantisers":
        """Those of all finished runs below a folder.

        Raises:
            InputError: there is none, or two are of one cell and seed, or they were not scored on the same instances.
        """
        rows, scores = rows_of_runs(folder)
        cells: dict[tuple[tuple[int, int], str, str], list[ResultRow]] = {}
        floats: dict[int, list[ResultRow]] = {}
        for row in rows:
            if row.variant == "teacher" and row.weight_bits is not None:
                floats.setdefault(row.weight_bits, []).append(row)
            named = _NAME.fullmatch(row.variant or "")
            if named and row.weight_bits is not None and row.activation_bits is not None:
                cells.setdefault(((row.weight_bits, row.activation_bits), named[1], named[2]), []).append(row)
        if not cells:
            raise InputError(f"{folder}: holds no finished run of experiment={PRESET}, nor of {ON_PHOTOGRAPHS}")
        for of_cell in cells.values():
            seeds = [row.seed for row in of_cell]
            if len(set(seeds)) < len(seeds):
                raise InputError(f"{folder}: two runs of {of_cell[0].variant} have one seed; move one of them away")
        scored = {(row.teacher, row.data, row.protocol, row.instances) for of in cells.values() for row in of}
        if len(scored) > 1:
            raise InputError(f"{folder}: its runs were not scored alike: {sorted(map(str, scored))}")
        return cls(cells, floats, scores)

    def bits(self) -> list[tuple[int, int]]:
        """Weights and activations, the most bits first."""
        return sorted({bits for bits, *_ in self.cells}, reverse=True)

    def gain(
        self, one: Sequence[ResultRow] | None, other: Sequence[ResultRow] | None, column: str = "miou"
    ) -> SeedDifference | None:
        """Of two cells over the seeds that both have; None where these are fewer than two."""
        return difference(one, other, column, self.scores) if one and other else None


def quantisers_table(found: Quantisers) -> str:
    """What each cell loses against float, what each mechanism adds and what each metric adds, as Markdown."""
    first = next(iter(found.cells.values()))[0]
    float_row = next(iter(found.floats.values()))[0]
    assert first.instances is not None and first.images is not None and float_row.miou is not None
    metrics = [metric for metric in METRICS if any(metric == known for *_, known in found.cells)]
    losses, mechanisms, choices = [], [], []
    for bits in found.bits():
        for mechanism, name in MECHANISMS.items():
            of_metric = [found.cells.get((bits, mechanism, metric)) for metric in metrics]
            if not any(of_metric):
                continue
            seeds = sorted({len(rows) for rows in of_metric if rows})
            line = [_bits(bits), name, " to ".join(map(str, sorted({seeds[0], seeds[-1]})))]
            floats = found.floats[bits[0]]
            losses.append([*line, *(_level(rows, found.gain(rows, floats)) for rows in of_metric)])
            pairs = [found.gain(after, before) for before, after in pairwise(of_metric)]
            if any(pairs):
                choices.append([_bits(bits), name, *map(_decided, pairs)])
        for before, after in pairwise(MECHANISMS):
            pairs = [found.gain(found.cells.get((bits, after, m)), found.cells.get((bits, before, m))) for m in metrics]
            if any(pairs):
                mechanisms.append([_bits(bits), MECHANISMS[after], *map(_decided, pairs)])
    names = [METRICS[metric] for metric in metrics]
    parts = [
        f"Box mIoU, and of two seeds or more its difference to float ({float_row.miou:.4f}) in points; protocol "
        f"`{first.protocol}` on held-out `{first.data}`, {first.instances:,} instances in {first.images:,} images; "
        f"{first.device}, {first.precision}. In brackets 95 % intervals, † over seeds alone (Student's t); bold "
        "where they exclude 0.",
        plain_table(["bits", "mechanisms", "seeds", *names], losses),
    ]
    if mechanisms:
        parts += ["What each mechanism adds, in points:", plain_table(["bits", "mechanism", *names], mechanisms)]
    if choices:
        over = [f"{METRICS[after]} over {METRICS[before]}" for before, after in pairwise(metrics)]
        parts += ["What each metric adds, in points:", plain_table(["bits", "mechanisms", *over], choices)]
    return "\n\n".join(parts)


def _bits(bits: tuple[int, int]) -> str:
    weights, activations = bits
    return f"W{weights}, activations float" if activations == _FLOAT_ACTIVATIONS else f"W{weights}A{activations}"


def _level(rows: Sequence[ResultRow] | None, lost: SeedDifference | None) -> str:
    if not rows:
        return ""
    level = f"{mean(row.miou for row in rows if row.miou is not None):.4f}"
    return level if lost is None else f"{level}, {_decided(lost)}"


def _decided(gain: SeedDifference | None) -> str:
    if gain is None:
        return ""
    text = interval_in_points(gain, digits=2)
    return text if gain.verdict == "undecided" else f"**{text}**"


def print_quantisers(preset: str, runs: Path) -> None:
    """After a sweep of its presets: the table of all finished runs."""
    if preset.startswith((PRESET, ON_PHOTOGRAPHS)):
        try:
            print(f"\n{quantisers_table(Quantisers.of(runs))}")
        except InputError as error:
            print(error)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.quantisers_table", description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "results" / PRESET, help="folder of runs, or of rows")
    options = parser.parse_args()
    try:
        print(quantisers_table(Quantisers.of(options.runs)))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    outlive_closed_pipes()
    main()
