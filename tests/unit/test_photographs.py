"""Every method on photographs: tables and sentences from rows whose answer is known."""

import re
from dataclasses import replace
from typing import Any

import pytest

from core.result import ResultRow
from evaluation.paired_seeds import ImageScores
from experiments.photographs import (
    Photographs,
    _said,
    photographs_findings,
    photographs_leaders,
    photographs_table,
    sizes_table,
)
from experiments.result_file import scored_as

FACTS: dict[str, Any] = {"protocol": "box_point@1", "device": "CPU", "precision": "float32"}
VALIDATION: dict[str, Any] = FACTS | {"data": "sa1b", "instances": 4, "images": 2, "status": "finished"}
COCO: dict[str, Any] = FACTS | {"data": "coco", "instances": 4, "images": 2, "status": "evaluated"}
STUDENTS = {("slimsam", 0.5): 0.60, ("mobilesam", None): 0.50, ("tinysam", None): 0.50}


def run(method: str, ratio: float | None, seed: int, miou: float, **facts: Any) -> ResultRow:
    return ResultRow(
        method=method,
        ratio=ratio,
        seed=seed,
        run_id=f"{method}-{seed}",
        teacher="sam_photo",
        student=f"sam_photo-{method}",
        miou=miou,
        miou_point=miou - 0.3,
        miou_small=miou - 0.1,
        parameters=1_000_000,
        **facts,
    )


def scored(row: ResultRow) -> ImageScores:
    """Of two images with one and three instances; the mean is the row's. Rows of one method differ by images too."""
    spread = 0.2 if row.method == "tinysam" else 0.01
    columns = {"miou": row.miou, "miou_point": row.miou_point}
    means = {name: mean for name, mean in columns.items() if mean is not None}
    return ImageScores((1, 2), (1, 3), {name: (mean - 3 * spread, mean + spread) for name, mean in means.items()})


def baselines(miou: float, facts: dict[str, Any]) -> list[ResultRow]:
    teacher = ResultRow(method="teacher", teacher="sam_photo", miou=miou, miou_point=0.4, parameters=5, **facts)
    return [ResultRow(method="filled_ellipse", miou=0.55, **facts), teacher]


@pytest.fixture
def photographs() -> Photographs:
    runs = [
        run(method, ratio, seed, miou + seed / 500, images_seen=800, **VALIDATION)
        for (method, ratio), miou in STUDENTS.items()
        for seed in (0, 1)
    ]
    # Of mobilesam one student alone was scored again; a student whose run is not known is of no use.
    again = [run("slimsam", 0.5, seed, 0.5, **COCO) for seed in (0, 1)] + [run("mobilesam", None, 0, 0.6, **COCO)]
    unknown = run("tinysam", None, 9, 0.9, **COCO)
    by_run = {str(row.run_id): scored(row) for row in runs}
    by_evaluation = {str(row.run_id): scored(row) for row in again}
    of_runs, of_coco = [*baselines(0.65, VALIDATION), *runs], [*baselines(0.6, COCO), *again, unknown]
    by_run |= {scored_as(row): scored(row) for row in of_runs[:2]}
    by_evaluation |= {scored_as(row): scored(row) for row in of_coco[1:2]}
    return Photographs.of(of_runs, by_run, of_coco, by_evaluation)


def test_students_are_joined_with_their_evaluations_by_their_run(photographs: Photographs) -> None:
    assert photographs.models() == [("slimsam", 0.5), ("mobilesam", None), ("tinysam", None)]
    assert [len(photographs.rows("COCO", model)) for model in photographs.models()] == [2, 1, 0]
    assert all(row.images_seen == 800 for row in photographs.rows("COCO", ("slimsam", 0.5)))


def test_the_table_has_rulers_teacher_and_students_on_both(photographs: Photographs) -> None:
    table = photographs_table(photographs)
    assert "*validation*: 4 instances in 2 images, *COCO*: 4 instances in 2 images; CPU, float32" in table
    assert "| filled ellipse |  |  | 0.5500 |  | 0.5500 |  | -10.0 |  |  |  |" in table
    assert "| teacher |  |  | 0.6500 | 0.4000 | 0.6000 | 0.4000 |  | 5 |" in table
    line = next(line for line in table.splitlines() if line.startswith("| mobilesam |"))
    assert re.search(
        r"^\| mobilesam \| 2 \| 800 \| 0\.5010 \[[^]]+\] \| 0\.2010 \[[^]]+\] \| 0\.6000 \[[^]]+\]¹ \|", line
    )
    assert "| -14.9 / -19.9 |" in line


def test_sizes_are_means_over_seeds(photographs: Photographs) -> None:
    assert "| slimsam 0.5 | 0.5010 |  |  | 0.4000 |  |  |" in sizes_table(photographs)


def test_every_pair_has_its_intervals_and_decided_ones_are_bold(photographs: Photographs) -> None:
    header, _, *lines = photographs_findings(photographs).splitlines()
    assert header.startswith("| first less second, points | validation, box prompt | validation, one point | COCO, box")
    ten, less = "**+10.0 [+10.0, +10.0]**", "**-10.0 [-10.0, -10.0]¹**"
    assert lines[0] == f"| slimsam 0.5 - mobilesam | {ten} | {ten} | {less} | {less} | either, by measure |"
    assert lines[1].startswith("| slimsam 0.5 - tinysam | ")
    # tinysam was not scored on COCO.
    assert lines[2].startswith("| mobilesam - tinysam | ") and lines[2].endswith(" |  |  | undecided |")
    assert "**" not in lines[2]


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ({"holds"}, "ahead"),
        ({"holds", "undecided"}, "ahead, where decided"),
        ({"reversed"}, "behind"),
        ({"reversed", "undecided"}, "behind, where decided"),
        ({"undecided"}, "undecided"),
        ({"holds", "reversed", "undecided"}, "either, by measure"),
    ],
)
def test_what_several_measures_say_together(verdicts: set[str], words: str) -> None:
    assert _said(verdicts) == words


def test_leaders_are_ahead_of_all_others_and_rulers_stand_beside(photographs: Photographs) -> None:
    # Two seeds that differ by 0.2 points: 12.706 x 0.1 on either side. tinysam's images move its difference by
    # 0.5 x -57 and 1.5 x 19 points: 12.706 x 28.5.
    rulers = [
        "- Box mIoU against a filled ellipse's (0.5500) on validation, in points; above it: slimsam 0.5 +5.1 "
        "[+3.8, +6.4], the teacher +10.0 [+10.0, +10.0]; undecided: tinysam -4.9 [-367.0, +357.2]; below it: "
        "mobilesam -4.9 [-6.2, -3.6].",
        "- Box mIoU against a filled ellipse's (0.5500) on COCO, in points; its scores image by image are not there.",
    ]
    # One of the others is too uncertain for anybody to be ahead of all.
    assert photographs_leaders(photographs).splitlines() == rulers
    certain = {
        data: replace(scored, runs={model: runs for model, runs in scored.runs.items() if model[0] != "tinysam"})
        for data, scored in photographs.scored.items()
    }
    ten = "+10.0 [+10.0, +10.0]"
    ahead = "is ahead of every other student, by these points at least"
    assert photographs_leaders(Photographs(certain)).splitlines() == [
        f"- slimsam 0.5 {ahead}: validation, box prompt {ten}, validation, one point {ten}.",
        f"- mobilesam {ahead}: COCO, box prompt {ten}¹, COCO, one point {ten}¹.",
        rulers[0].replace("undecided: tinysam -4.9 [-367.0, +357.2]; ", ""),
        rulers[1],
    ]


def test_without_rows_the_command_is_named() -> None:
    nothing = Photographs.of([], {}, [], {})
    for make in (photographs_table, sizes_table, photographs_findings, photographs_leaders):
        assert (
            make(nothing) == "No row is committed yet: `python -m experiments experiment=leaderboard_photo` makes them."
        )
