"""Tables of students with a detector's boxes, in everything mode and quantised, on rows whose figures are known."""

from dataclasses import replace
from typing import Any

import pytest

from core.result import ResultRow
from evaluation.paired_seeds import ImageScores
from experiments.everything.strategies import StrategyRow
from experiments.photograph_students import (
    BEST,
    QUANTISED,
    SINGLE,
    Elsewhere,
    elsewhere_table,
    quantised_photographs,
)
from experiments.photographs import Photographs

FACTS: dict[str, Any] = {"data": "sa1b", "protocol": "box_point@1", "instances": 4, "images": 2, "status": "finished"}


def run(method: str, seed: int, miou: float, **facts: Any) -> ResultRow:
    name = f"{method}-{seed}"
    of: dict[str, Any] = {
        "teacher": "sam_photo",
        "student": f"sam_photo-{method}",
        "images_seen": 800,
        "size_bytes": 8_000_000,
    }
    return ResultRow(method=method, ratio=0.5, seed=seed, run_id=name, miou=miou, miou_point=0.3, **FACTS | of | facts)


TEACHER = ResultRow(method="teacher", teacher="sam_photo", miou=0.6, miou_point=0.3, **FACTS)
EVALUATED = {"status": "evaluated", "data": "coco"}
FLOAT = [run("slimsam", seed, 0.5 + seed / 100) for seed in (0, 1)]
FEW = {"weight_bits": 8, "activation_bits": 8, "size_bytes": 2_000_000}
CODES = [run("slimsam+ptq", seed, 0.49 + seed / 100, **FEW) for seed in (0, 1)]


def scores(rows: list[ResultRow], spread: float = 0.02) -> dict[str, ImageScores]:
    means = {str(row.run_id): {"miou": row.miou or 0.0, "miou_point": row.miou_point or 0.0} for row in rows}
    return {
        name: ImageScores((1, 2), (2, 2), {key: (mean - spread, mean + spread) for key, mean in of.items()})
        for name, of in means.items()
    }


def photographs(ending: str = "") -> Photographs:
    runs = [TEACHER, *FLOAT, *CODES]
    again = [replace(row, miou=0.4, **EVALUATED) for row in (FLOAT[0], CODES[0])]
    return Photographs.of(runs, scores(runs[1:]), again, scores(again), ending)


def detected(ap: float, best: float) -> list[ResultRow]:
    facts: dict[str, Any] = {"status": "evaluated", "data": "coco", "detections": 1200, "images": 80}
    each = ((SINGLE, ap), (BEST, best))
    return [ResultRow(method="slimsam", protocol=name, ap=value, **facts) for name, value in each]


def everything(best: float, masks: float) -> StrategyRow:
    known: dict[str, Any] = dict.fromkeys(StrategyRow.__dataclass_fields__)
    known |= {"protocol": "everything@1", "images": 40, "instances": 900, "device": "CPU", "precision": "float32"}
    known |= {"mean_best_iou": best, "average_recall_1000": best / 2, "proposals": masks}
    return StrategyRow(**known | {"settings": {"points_per_side": 16}})


def test_students_elsewhere_are_means_over_seeds_with_intervals() -> None:
    of = {"sam_photo": detected(0.3, 0.35), "slimsam-0": detected(0.2, 0.2), "slimsam-1": detected(0.22, 0.2)}
    found = {"sam_photo": everything(0.4, 100), "slimsam-0": everything(0.3, 50)}
    about, _, header, _, *lines = elsewhere_table(photographs(), Elsewhere(of, found)).splitlines()
    assert "1,200 boxes in 80 images" in about and "16 points a side: 900 instances in 40 images" in about
    assert header.count("|") == 8
    assert lines[0] == "| teacher |  | 0.3000 | 0.3500 | 0.4000 | 0.2000 | 100 |"
    # The half is 12.706 (Student's t with one degree of freedom) times 0.01.
    expected = "| slimsam 0.5 | 2 | 0.2100 [0.0829, 0.3371] | 0.2000 [0.2000, 0.2000] | 0.3000 | 0.1500 | 50 |"
    assert lines[1:] == [expected]


def test_what_quantisation_costs_is_paired() -> None:
    of = {f"slimsam{made}-{seed}": detected(0.2 + seed / 10, 0.2) for made in ("", "+ptq") for seed in (0, 1)}
    found = quantised_photographs(photographs(), photographs(QUANTISED), Elsewhere(of, {})).splitlines()
    # On COCO one seed was scored again, and both models alike.
    same = "+0.0 [+0.0, +0.0]"
    cells = ["slimsam 0.5", "W8A8", "2", "-1.0 [-1.0, -1.0]", same, f"{same}¹", f"{same}¹"]
    assert found[2:] == ["| " + " | ".join([*cells, "0.2500", "0.2500", "8.00 MB", "2.00 MB"]) + " |"]
    # Average precision of other seeds is not put beside it.
    del of["slimsam-1"]
    found = quantised_photographs(photographs(), photographs(QUANTISED), Elsewhere(of, {})).splitlines()
    assert found[2:] == ["| " + " | ".join([*cells, "", "0.2500", "8.00 MB", "2.00 MB"]) + " |"]


def test_a_float_student_is_none_of_the_quantised() -> None:
    assert [row.run_id for row in photographs().rows("validation", ("slimsam", 0.5))] == ["slimsam-0", "slimsam-1"]
    of = photographs(QUANTISED).rows("validation", ("slimsam", 0.5))
    assert [row.run_id for row in of] == ["slimsam+ptq-0", "slimsam+ptq-1"]


@pytest.mark.parametrize("made", [elsewhere_table(photographs(), Elsewhere({}, {}))])
def test_without_rows_that_is_said(made: str) -> None:
    assert made == "No row is committed yet: the commands below make them."
    none = Photographs.of([TEACHER], {}, [], {}, QUANTISED)
    assert quantised_photographs(photographs(), none, Elsewhere({}, {})) == made
