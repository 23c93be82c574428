"""What carries over from SAM to SAM 2: differences between methods of each family, with intervals, from rows."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from core.provenance import ROOT
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores, SeedDifference, are_paired, crossed_difference, seed_difference
from experiments.paper_table import difference, interval_in_points
from experiments.reporting.columns import POCKET, POCKET_2
from experiments.reporting.text_tables import plain_table
from experiments.result_file import read_scored, scores_of

Model = tuple[str, float | None]
"""Method and ratio."""
PAIRS: tuple[tuple[Model, Model], ...] = (
    (("slimsam", 0.5), ("slimsam", 0.77)),
    (("slimsam", 0.77), ("mobilesam", None)),
    (("slimsam", 0.77), ("tinysam", None)),
    (("tinysam", None), ("mobilesam", None)),
)
MODELS: tuple[Model, ...] = (("slimsam", 0.5), ("slimsam", 0.77), ("mobilesam", None), ("tinysam", None))
COLUMNS = ("miou", "miou_point")
Rows = dict[tuple[str, Model], list[ResultRow]]
TEACHERS = ROOT / "results" / "teacher"
_NONE = "-"
_PROMPTS = ("box", "one point")


def differences_table(rows: pd.DataFrame) -> str:
    """Two tables as Markdown: between methods within each family, and what each loses, SAM 2 less SAM.

    Empty as long as SAM 2 has no student here.

    Args:
        rows: committed records, each with the path of its file.
    """
    students, teachers, scores = _read(rows)
    if not any(teacher == POCKET_2 for teacher, _ in students):
        return ""

    def between(teacher: str, first: Model, second: Model, column: str) -> str:
        sides = students.get((teacher, first), []), students.get((teacher, second), [])
        return _shown(difference(*sides, column, scores))

    def lost(model: Model, column: str) -> str:
        """Student less teacher on SAM 2, less the same on SAM, over the seeds that both have."""
        of_families = [{row.seed: row for row in students.get((t, model), [])} for t in (POCKET_2, POCKET)]
        shared = sorted(of_families[0].keys() & of_families[1].keys(), key=str)
        if len(shared) < 2:
            return _NONE
        levels, by_image = [], []
        for teacher, of_seed in zip((teachers[POCKET_2], teachers[POCKET]), of_families, strict=True):
            rows = [of_seed[seed] for seed in shared]
            levels.append([getattr(row, column) - getattr(teacher, column) for row in rows])
            by_image.append([_less(scores_of(row, scores), scores_of(teacher, scores), column) for row in rows])
        if are_paired([*by_image[0], *by_image[1]], column):
            first, second = ([one for one in side if one is not None] for side in by_image)
            return _shown(crossed_difference(first, second, column))
        return _shown(seed_difference(*levels))

    named = [*((_label(a), _label(b), a, b) for a, b in PAIRS)]
    named += [(f"{_label(model)}, W8A8", "float", (f"{model[0]}+ptq", model[1]), model) for model in MODELS]
    header = ["first less second, points", *(f"{name}, {prompt}" for name in ("SAM", "SAM 2") for prompt in _PROMPTS)]
    lines = [
        [f"{one} - {other}", *(between(teacher, a, b, c) for teacher in (POCKET, POCKET_2) for c in COLUMNS)]
        for one, other, a, b in named
    ]
    losses = [[_label(model), *(lost(model, column) for column in COLUMNS)] for model in MODELS]
    return (
        "Over the same seeds, with 95 % intervals: Student's t over seeds and images or, marked †, over seeds alone, "
        f"where files have no scores image by image; {_NONE}: fewer than two seeds have both.\n\n"
        + plain_table(header, lines)
        + "\n\nWhat is lost to the teacher, SAM 2 less SAM (above 0: less is lost on SAM 2):\n\n"
        + plain_table(["model", *_PROMPTS], losses)
    )


def _less(one: ImageScores | None, other: ImageScores | None, column: str) -> ImageScores | None:
    """Image by image; None where they are not of the same instances, or not known."""
    if one is None or other is None or not are_paired([one, other], column):
        return None
    gains = tuple(a - b for a, b in zip(one.iou[column], other.iou[column], strict=True))
    return replace(one, iou={column: gains})


def _label(model: Model) -> str:
    method, ratio = model
    return method if ratio is None else f"{method} {ratio:g}"


def _shown(found: SeedDifference | None) -> str:
    return _NONE if found is None else interval_in_points(found)


def _read(rows: pd.DataFrame) -> tuple[Rows, dict[str, ResultRow], dict[str, ImageScores]]:
    """Students by teacher and model, the smallest where a method has several; the teachers; scores image by image."""
    students: Rows = {}
    teachers: dict[str, ResultRow] = {}
    read, scores = read_scored(sorted(set(rows["path"])))
    # Runs may have kept no scores image by image of their teacher.
    scores = read_scored(sorted(TEACHERS.glob("*.json")))[1] | scores
    for row in read:
        if row.method == "teacher":
            teachers[str(row.teacher)] = row
        elif row.student is not None and row.weight_bits in (None, 8):
            students.setdefault((str(row.teacher), (row.method, row.ratio)), []).append(row)
    return {key: _smallest(found) for key, found in students.items()}, teachers, scores


def _smallest(rows: Sequence[ResultRow]) -> list[ResultRow]:
    least = min(row.parameters or 0 for row in rows)
    return [row for row in rows if row.parameters == least]
