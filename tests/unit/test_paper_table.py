"""A paper's table: measured beside published, and a verdict on every published ordering."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from core.result import ResultRow
from experiments.paper_table import Entry, orderings, presets, rows_of_runs, table
from experiments.result_file import write_result


def row(variant: str, seed: int, point: float, ratio: float = 0.77) -> ResultRow:
    return ResultRow(
        run_id=f"{variant}-r{ratio}-s{seed}-00000000", method="slimsam", variant=variant, ratio=ratio, seed=seed,
        student="student", teacher="sam_pocket", data="shapes", protocol="box_point@1", miou=point + 0.1,
        miou_point=point, instances=450, images=100, images_seen=1600, device="a machine", status="finished",
    )  # fmt: skip


def entry(variant: str, published: float) -> Entry:
    return Entry("Table", variant.upper(), variant, 0.77, published)


def test_orderings_are_judged_by_the_spread_of_both() -> None:
    entries = [entry("a", 0.5), entry("b", 0.4), entry("c", 0.3), entry("d", 0.2), entry("e", 0.1)]
    points = {"a": (0.70, 0.72), "b": (0.50, 0.52), "c": (0.505, 0.512), "d": (0.60, 0.61), "e": (0.1,)}
    measured = {(v, 0.77, None): [row(v, seed, p) for seed, p in enumerate(of)] for v, of in points.items()}
    assert orderings(entries, measured) == [
        "- Published orderings that hold here: A > B (Table, 0.77: +20.0 points).",
        "- Published orderings undecided here, within the spread of seeds: B > C (Table, 0.77: +0.2 points).",
        "- Published orderings reversed here: C > D (Table, 0.77: -9.7 points).",
    ]


def test_what_no_paper_claims_is_told_apart() -> None:
    entries = [Entry("Ours", name, name, None, None, False) for name in "ab"]
    points = {"a": 0.7, "b": 0.6}
    measured = {(name, None, None): [row(name, seed, point) for seed in range(2)] for name, point in points.items()}
    assert orderings(entries, measured) == ["- Measured here alone: a > b (Ours: +10.0 points)."]


def test_a_table_shows_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_result(tmp_path / "run" / "result.json", [row("slimsam", 0, 0.75), row("slimsam", 1, 0.77)], {})
    write_result(tmp_path / "taylor.json", [row("taylor", 0, 0.7)], {})
    write_result(tmp_path / "unnamed.json", [ResultRow(method="slimsam", student="s", status="finished")], {})
    rows = rows_of_runs(tmp_path)
    assert [r.variant for r in rows] == ["slimsam", "slimsam", "taylor"]
    text = table("slimsam_table2", rows)
    assert "| Table 2 | SlimSAM | 0.77 | 2 | 0.7600 ± 0.0141 | 0.8600 ± 0.0141 | *0.6740* |" in text
    assert "| Table 2 | Taylor pruning | 0.77 | 1 | 0.7000 | 0.8000 | *0.6426* |" in text
    assert "| Table 2 | SlimSAM | 0.5 | 0 | - | - | *0.7233* |" in text
    assert "450 instances in 100 images; 1,600 training images a run" in text
    with pytest.raises(InputError, match="start them with experiment=slimsam_ablations"):
        table("slimsam_ablations", [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 0, "run_id": "again"}, "slimsam-r0.77-s0-00000000 and again are of one line and seed"),
        ({"instances": 22, "images": 5}, "instances is 450 in slimsam-r0.77-s0-00000000 and 22 in slimsam-r0.77-s1"),
        ({"teacher": "sam_vit_b"}, "teacher is sam_pocket in slimsam-r0.77-s0-00000000 and sam_vit_b in slimsam"),
    ],
)
def test_runs_that_do_not_compare_are_not_averaged(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        table("slimsam_table2", [row("slimsam", 0, 0.75), replace(row("slimsam", 1, 0.77), **changes)])


def test_published_figures_are_those_of_the_shared_table(shared: Path) -> None:
    """The whole of Table 2 is in ``published.csv`` too."""
    text = (shared / "published.csv").read_text(encoding="utf-8")
    names = {"slimsam": "SlimSAM", "scratch": "scratch-distillation"}
    for line in presets()["slimsam_table2"]:
        name = names.get(line.variant, f"{line.variant}-pruning") + f"-{100 * line.ratio:.0f}"
        assert line.published is not None
        assert f"{name},miou,{100 * line.published:.2f}," in text
