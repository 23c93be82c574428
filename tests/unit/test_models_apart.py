"""Which rows are of one model and which are not, and whose teacher stands beside a student."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.result import ResultRow
from experiments.config.groups import ShapesData
from experiments.reporting.results import gather
from experiments.result_file import NAME, write_result
from experiments.scoring import own_rules
from tests.unit.leaderboard_files import ABOUT, rows_of


def write(runs: Path, rows: list[ResultRow], **about: Any) -> None:
    write_result(runs / str(rows[-1].run_id) / NAME, rows, ABOUT | about)


def students(runs: Path) -> list[dict[str, Any]]:
    models = gather(runs, results=False).models
    return list(models[models["method"] == "slimsam"].to_dict("records"))


def test_a_student_stands_beside_the_teacher_of_its_own_run(tmp_path: Path) -> None:
    """Two files of weights under one name: 0.9 and 0.7, students two points below each."""
    for run, teacher, digest in (("a-s0-00000000", 0.9, "b"), ("a-s1-00000001", 0.7, "c")):
        rows = rows_of(run, int(run[3]), miou=teacher - 0.02, miou_point=None)
        rows[2] = replace(rows[2], miou=teacher)
        write(tmp_path, rows, teacher_sha256=64 * digest)
    assert [line["to_teacher"] for line in students(tmp_path)] == pytest.approx([-2.0, -2.0])


def test_no_difference_is_given_where_nobody_knows_which_teacher_it_is_to(tmp_path: Path) -> None:
    for run, teacher in (("a-s0-00000000", 0.9), ("b-s0-00000001", 0.7)):
        rows = rows_of(run, 0, miou=0.6, ratio=0.5 if run[0] == "a" else 0.77)
        rows[2] = replace(rows[2], miou=teacher)
        write(tmp_path, rows)
    evaluated = replace(rows_of("c", 0, miou=0.65, ratio=0.25)[-1], run_id=None, status="evaluated")
    write_result(tmp_path / "c" / NAME, [evaluated], {})
    by_ratio = {line["ratio"]: line["to_teacher"] for line in students(tmp_path)}
    assert by_ratio == {0.5: pytest.approx(-30.0), 0.77: pytest.approx(-10.0), 0.25: None}


def test_runs_of_other_settings_are_two_lines_however_near_their_scores_are(tmp_path: Path) -> None:
    for number, steps in enumerate((500, 600)):
        rows = rows_of(f"a-s0-0000000{number}", 0, miou=0.8 + number * 5e-5)
        write(tmp_path, rows, config={"seed": 0, "method": {"steps": steps}})
    assert sorted(line["score"] for line in students(tmp_path)) == [0.8, 0.80005]


def test_a_scoring_again_is_the_same_line(tmp_path: Path) -> None:
    rows = rows_of("a-s0-00000000", 0, miou=0.8)
    write(tmp_path, rows, config={"seed": 0, "method": {"steps": 500}})
    again = replace(rows[-1], miou=0.8 + 5e-5, status="evaluated")
    write_result(tmp_path / "again" / NAME, [again], {})
    (line,) = students(tmp_path)
    assert line["score"] == 0.8 and len(line["rows"]) == 2


def test_what_images_are_made_of_is_a_choice_of_a_row() -> None:
    usual = ShapesData(split="validation", count=500)
    assert own_rules(usual) == own_rules(replace(usual, count=20)) == {}
    assert own_rules(replace(usual, size=64, difficulty=0.4)) == {"size": "64", "difficulty": "0.4"}
    assert own_rules(replace(usual, split="train", seed=3)) == {"split": "train", "seed": "3"}


def test_seeds_scored_on_other_images_are_not_averaged(tmp_path: Path) -> None:
    for seed, size in enumerate((128, 64)):
        axes = own_rules(ShapesData(split="validation", count=500, size=size)) or None
        rows = [replace(row, axes=axes) for row in rows_of(f"a-s{seed}-0000000{seed}", seed)]
        rows[2] = replace(rows[2], miou=0.9 if axes is None else 0.8)
        write(tmp_path, rows)
    lines = students(tmp_path)
    assert sorted(line["choices"] or "" for line in lines) == ["", "size=64"]
    for line in lines:
        teacher = 0.8 if line["choices"] else 0.9
        assert line["to_teacher"] == pytest.approx(100 * (line["score"] - teacher))
