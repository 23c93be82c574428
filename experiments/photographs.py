"""Every method on photographs: tables and sentences of README and docs/, made from committed rows.

Runs are scored on held-out photographs of the kinds that they are distilled on, and their students again on COCO's by
``evaluate``; both sets of rows are compared at equal images, over seeds and images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path

from core.provenance import ROOT
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores, SeedDifference
from experiments.budget import MEASURES, Budgets, Model, label
from experiments.paper_table import interval_in_points
from experiments.reporting.columns import COLUMNS, computed_on
from experiments.reporting.text_tables import plain_table
from experiments.result_file import read_scored

NAME = "leaderboard_photo"
"""Of the experiment, and of the folder in ``results/`` with the runs' rows."""
ON_COCO = f"{NAME}_coco"
"""Of the folder with the rows of their students, and of their teacher, on COCO."""
TEACHER = "sam_photo"
VALIDATION, COCO = "validation", "COCO"
_NO_ROW = f"No row is committed yet: `python -m experiments experiment={NAME}` makes them."
_SIZES = ("small", "medium", "large")
RULERS = ("filled_box", "filled_ellipse")


@dataclass(frozen=True)
class Photographs:
    """Rows by the images they were scored on.

    Attributes:
        scored: by :data:`VALIDATION` and :data:`COCO`; the second may hold fewer models.
    """

    scored: Mapping[str, Budgets]

    @classmethod
    def committed(cls, ending: str = "") -> "Photographs":
        """Those of ``results/``; ``ending`` as of :meth:`of`."""
        runs, scores = read_scored(committed_of(NAME).values())
        evaluated, evaluated_scores = read_scored(committed_of(ON_COCO).values())
        return cls.of(runs, scores, evaluated, evaluated_scores, ending)

    @classmethod
    def of(
        cls,
        runs: list[ResultRow],
        scores: Mapping[str, ImageScores],
        evaluated: list[ResultRow],
        evaluated_scores: Mapping[str, ImageScores],
        ending: str = "",
    ) -> "Photographs":
        """Rows of runs, and of evaluations of their students, joined by the id of the run.

        Args:
            ending: of methods, such as ``+ptq``; those that end so stand under the method before it, others are left
                out.
        """
        runs, evaluated = (
            [
                row if row.student is None else replace(row, method=row.method.removesuffix(ending))
                for row in rows
                if row.student is None or row.method.endswith(ending)
            ]
            for rows in (runs, evaluated)
        )
        seen = {row.run_id: row.images_seen for row in runs if row.student is not None}
        again = [
            replace(row, status="finished", images_seen=seen.get(row.run_id) if row.student is not None else None)
            for row in evaluated
        ]
        # Baselines say whose images they were scored on; a student whose run is unknown is left out.
        found = {
            VALIDATION: Budgets.of(runs, scores, TEACHER, "sa1b"),
            COCO: Budgets.of(again, evaluated_scores, TEACHER, "coco"),
        }
        return cls(found)

    def models(self) -> list[Model]:
        """The students, in order."""
        return list(self.scored[VALIDATION].runs)

    def rows(self, data: str, model: Model) -> list[ResultRow]:
        """A model's rows, one a seed, of the most images seen; empty where it was not scored on these."""
        by_images = self.scored[data].runs.get(model, {})
        return list(by_images[max(by_images)]) if by_images else []

    def measures(self) -> Iterator[tuple[str, str, str]]:
        """Images, column and what both are called, of every figure that is compared."""
        for data, found in self.scored.items():
            if found.runs:
                yield from ((data, column, f"{data}, {prompt}") for column, prompt in MEASURES.items())

    def between(self, first: Model, second: Model, data: str, column: str) -> tuple[SeedDifference, int] | None:
        """The difference of two students, and over how many seeds."""
        rows = [self.rows(data, model) for model in (first, second)]
        return self.scored[data].between(rows[0], rows[1], column) if all(rows) else None


def committed_of(folder: str) -> dict[str, Path]:
    """The files of a folder of ``results/`` by name: the id of the run, or the teacher's name."""
    return {path.stem: path for path in sorted((ROOT / "results" / folder).glob("*.json"))}


def photographs_table(found: Photographs) -> str:
    """Rulers, teacher and students on both sets of images, a line each."""
    if not found.models():
        return _NO_ROW
    measures = list(found.measures())
    header = ["model", "seeds", "images seen", *(f"mIoU {title}" for *_, title in measures)]
    header += ["to teacher, validation, box / point (points)", "parameters", "MACs `full`", "file"]
    figures = ("parameters", "macs_full", "size_bytes")
    teacher = found.scored[VALIDATION].comparisons["teacher"]
    lines = []
    for name in (*RULERS, "teacher"):
        rows = {data: scored.comparisons.get(name) for data, scored in found.scored.items()}
        cells = [_plain(rows[data], column) for data, column, _ in measures]
        one = rows[VALIDATION]
        sizes = [_plain(one, figure) for figure in figures] if name == "teacher" else [""] * 3
        behind = _to_teacher([one], teacher) if one is not None and name != "teacher" else ""
        lines.append([name.replace("_", " "), "", "", *cells, behind, *sizes])
    for model in found.models():
        runs = found.rows(VALIDATION, model)
        cells = [_level(found, data, model, column) for data, column, _ in measures]
        seen = COLUMNS["images_seen"].shown(runs[0].images_seen)
        sizes = [_plain(runs[0], figure) for figure in figures]
        lines.append([label(model), str(len(runs)), seen, *cells, _to_teacher(runs, teacher), *sizes])
    trained = [row.training_precision for model in found.models() for row in found.rows(VALIDATION, model)]
    computed = computed_on([teacher.device], trained, teacher.precision)
    about = (
        f"Protocol `{teacher.protocol}`; {_of(found)}; {computed}. In brackets 95 % "
        "intervals over seeds and images (¹ one seed, over images alone)."
    )
    return f"{about}\n\n{plain_table(header, lines)}"


def sizes_table(found: Photographs) -> str:
    """Box mIoU by the size of objects (COCO's bounds), means over seeds, on both sets of images."""
    if not found.models():
        return _NO_ROW
    sets = [data for data, scored in found.scored.items() if scored.runs]
    header = ["model", *(f"{data}, {size}" for data in sets for size in _SIZES)]
    of: list[tuple[str, Callable[[str], list[ResultRow]]]] = [
        (name.replace("_", " "), partial(_baseline, found, name)) for name in (*RULERS, "teacher")
    ]
    of += [(label(model), partial(found.rows, model=model)) for model in found.models()]
    lines = [[name, *(_mean(rows(data), f"miou_{size}") for data in sets for size in _SIZES)] for name, rows in of]
    return plain_table(header, lines)


def photographs_findings(found: Photographs) -> str:
    """Every two students on every measure, what an interval decides in bold, and what all measures say together."""
    if not found.models():
        return _NO_ROW
    measures = list(found.measures())
    lines = []
    for first, second in combinations(found.models(), 2):
        compared = [found.between(first, second, data, column) for data, column, _ in measures]
        verdicts = {each[0].verdict for each in compared if each is not None}
        if verdicts:
            cells = [_marked(*each) if each is not None else "" for each in compared]
            lines.append([f"{label(first)} - {label(second)}", *cells, _said(verdicts)])
    return plain_table(["first less second, points", *(title for *_, title in measures), "the first is"], lines)


def _marked(difference: SeedDifference, seeds: int) -> str:
    shown = _shown(difference, seeds)
    return shown if difference.verdict == "undecided" else f"**{shown}**"


def _said(verdicts: set[str]) -> str:
    """What verdicts on several measures say together of the first of two models."""
    sides = {"holds": "ahead", "reversed": "behind"}
    decided = [word for verdict, word in sides.items() if verdict in verdicts]
    if len(decided) == 1:
        return decided[0] + (", where decided" if "undecided" in verdicts else "")
    return "either, by measure" if decided else "undecided"


def photographs_leaders(found: Photographs) -> str:
    """Who is ahead of all others on each measure, and which means are above those of filled prompts, as a list."""
    if not found.models():
        return _NO_ROW
    led: dict[Model, list[str]] = {}
    for data, column, title in found.measures():
        for model in found.models():
            compared = [found.between(model, other, data, column) for other in found.models() if other != model]
            known = [each for each in compared if each is not None]
            if known and len(known) == len(compared) and all(each[0].verdict == "holds" for each in known):
                led.setdefault(model, []).append(f"{title} {_shown(*min(known, key=lambda each: each[0].difference))}")
    lines = [
        f"- {label(model)} is ahead of every other student, by these points at least: {', '.join(parts)}."
        for model, parts in led.items()
    ]
    for (data, scored), ruler in product(found.scored.items(), RULERS):
        filled = scored.comparisons.get(ruler)
        if not scored.runs or filled is None or filled.miou is None:
            continue
        models = {label(model): found.rows(data, model) for model in found.models()}
        models["the teacher"] = _baseline(found, "teacher", data)
        sides: dict[str, list[str]] = {"holds": [], "undecided": [], "reversed": []}
        for name, rows in models.items():
            difference = scored.beside(rows, filled, "miou")
            if difference is not None:
                # The teacher is one model, not one seed of several.
                seeds = len(rows) if rows[0].student is not None else 0
                sides[difference.verdict].append(f"{name} {_shown(difference, seeds)}")
        words = {"holds": "above it", "undecided": "undecided", "reversed": "below it"}
        parts = [f"{words[verdict]}: {', '.join(names)}" for verdict, names in sides.items() if names]
        lines.append(
            f"- Box mIoU against a {ruler.replace('_', ' ')}'s ({filled.miou:.4f}) on {data}, in points; "
            f"{'; '.join(parts) or 'its scores image by image are not there'}."
        )
    return "\n".join(lines)


def _of(found: Photographs) -> str:
    parts = []
    for data, scored in found.scored.items():
        if (row := scored.comparisons.get("teacher")) is not None:
            parts.append(f"*{data}*: {row.instances:,} instances in {row.images:,} images")
    return ", ".join(parts)


def _baseline(found: Photographs, name: str, data: str) -> list[ResultRow]:
    row = found.scored[data].comparisons.get(name)
    return [] if row is None else [row]


def _plain(row: ResultRow | None, column: str) -> str:
    value = None if row is None else getattr(row, column)
    return "" if value is None else COLUMNS[column].shown(value)


def _level(found: Photographs, data: str, model: Model, column: str) -> str:
    rows = found.rows(data, model)
    level = found.scored[data].level(rows, column) if rows else None
    if level is None:
        return _mean(rows, column)
    return f"{level.difference:.4f} [{level.low:.4f}, {level.high:.4f}]{'¹' if len(rows) == 1 else ''}"


def _values(rows: list[ResultRow], column: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, column)) is not None]


def _mean(rows: list[ResultRow], column: str) -> str:
    values = _values(rows, column)
    return COLUMNS[column].shown(sum(values) / len(values)) if values else ""


def _to_teacher(rows: list[ResultRow], teacher: ResultRow) -> str:
    """Differences of means, in points."""
    cells = []
    for column in MEASURES:
        values = _values(rows, column)
        of_teacher = getattr(teacher, column)
        if values and of_teacher is not None:
            cells.append(f"{100 * (sum(values) / len(values) - of_teacher):+.1f}")
    return " / ".join(cells)


def _shown(difference: SeedDifference, seeds: int) -> str:
    return interval_in_points(difference) + ("¹" if seeds == 1 else "")
