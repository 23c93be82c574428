"""Committed rows are whole, and every table of the README is made from them."""

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

from core.errors import InputError
from core.provenance import ROOT
from evaluation.protocols import PROTOCOLS
from experiments.budget import NAME as BUDGET
from experiments.everything.strategies import published, read_row
from experiments.exported import NAME as EXPORTED
from experiments.paper_table import presets
from experiments.photograph_students import BEST, SINGLE, WITH_DETECTOR
from experiments.photographs import NAME as PHOTOGRAPHS
from experiments.photographs import ON_COCO
from experiments.photographs import TEACHER as PHOTO
from experiments.quantisers_table import ON_PHOTOGRAPHS
from experiments.quantisers_table import PRESET as QUANTISERS
from experiments.readme import INDEX, committed_rows, families_table, pages, papers, quality_table, with_tables
from experiments.reporting.columns import POCKET, POCKET_2
from experiments.reporting.results import committed_files, committed_strategies
from experiments.result_file import read_rows

FILES = committed_files()
STRATEGIES = committed_strategies()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_committed_file_is_whole(path: Path) -> None:
    rows = read_rows(path)
    if path.parent.name == "evaluations":
        assert {row.status for row in rows} == {"evaluated"}
        assert {str(row.protocol) for row in rows} <= set(PROTOCOLS)
        assert all((row.axes or {})["name"] == row.protocol for row in rows)
    elif path.parent.name == ON_COCO:
        assert {row.status for row in rows} == {"evaluated"} and {row.data for row in rows} == {"coco"}
        assert [row.method for row in rows[1:]] == ["filled_box", "filled_ellipse"]
    elif path.parent.name == WITH_DETECTOR:
        assert {str(row.protocol) for row in rows} == {SINGLE, BEST} and all(row.ap is not None for row in rows)
    elif path.parent.name == EXPORTED:
        assert {row.status for row in rows} == {"evaluated"}
        assert rows[0].method in ("teacher", "mobilesam", "ptq", "mobilesam+ptq")
        # A model, or a file of it by the runtime that it was scored in.
        assert (rows[0].variant or "").partition(" ")[0] == "".join(path.stem.split("-")[2:])
    elif path.parent.name == "latency":
        assert {row.status for row in rows} == {"counted"} and len({row.device for row in rows}) == 1
        # The same models on another machine have its word behind the reference.
        assert {row.latency_reference for row in rows} == {path.stem.removesuffix("_xeon")} == {rows[0].teacher}
        assert all(row.encoder_latency_ratio_low <= row.encoder_latency_ratio for row in rows)  # type: ignore[operator]
    elif path.parent.name == "teacher" or path.stem in (POCKET, PHOTO):
        # Beside the runs of a preset, for its scores image by image.
        assert [row.method for row in rows] == ["teacher", "filled_box", "filled_ellipse"]
        assert {row.status for row in rows} == {"evaluated"}
    else:
        assert {row.run_id for row in rows} == {path.stem}
        named = (QUANTISERS, ON_PHOTOGRAPHS, *presets())
        assert path.parent.name in (rows[-1].method, BUDGET, PHOTOGRAPHS, *named)
        assert (rows[-1].variant is not None) == (path.parent.name in named)
        assert {row.status for row in rows} == {"finished"}


def test_the_committed_strategies_are_the_published_ones() -> None:
    rows = [read_row(path) for path in STRATEGIES]
    assert [row.run_id for row in rows] == [path.stem for path in STRATEGIES]
    assert {row.key for row in rows} == set(published())
    # One machine, one model, the same images and thresholds.
    alike = ("checkpoint", "data", "split", "images", "instances", "device", "threads", "precision")
    assert len({tuple(getattr(row, name) for name in alike) for row in rows}) == 1
    assert len({row.settings["pred_iou_thresh"] for row in rows}) == 1


def test_a_method_that_no_list_names_has_its_line_in_the_readme() -> None:
    rows = committed_rows("shapes")
    known = rows[rows["method"] == "slimsam"]
    new = known.assign(method="magnitude", student=known["student"].str.replace("slimsam", "magnitude"))
    lines = quality_table(pd.concat([rows, new], ignore_index=True)).splitlines()
    assert [line.split(" | ")[:2] for line in lines[-2:]] == [["| magnitude 0.5", "3"], ["| magnitude 0.77", "3"]]


def test_sam_2s_rows_stand_beside_sams() -> None:
    rows = committed_rows("shapes")
    assert families_table(rows) == ""
    known = rows[(rows["teacher"] == POCKET) & rows["method"].isin(["teacher", "slimsam", "slimsam+ptq", "mobilesam"])]
    student = known["student"].str.replace(POCKET, POCKET_2)
    new = known.assign(teacher=POCKET_2, student=student, latency_reference=POCKET_2)
    said, _, *lines = families_table(pd.concat([rows, new], ignore_index=True)).splitlines()
    assert "`sam2_pocket`" in said
    found = [tuple(cell.strip() for cell in line.strip("| ").split(" | ")[:3]) for line in lines[2:]]
    names = ["teacher", "slimsam 0.5", "slimsam 0.77", "mobilesam"]
    assert found[:8] == [
        (name, f"`{of}`", "" if name == "teacher" else "3") for name in names for of in (POCKET_2, POCKET)
    ]
    assert ("slimsam+ptq 0.77, W8A8", "`sam2_pocket`", "1") in found and not any(
        "scratch" in name for name, *_ in found
    )


def test_the_index_of_papers_names_what_is_there() -> None:
    with open(INDEX, encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    for line in lines:
        assert all((ROOT / "results" / folder).is_dir() for folder in line["rows"].split("; ")), line["item"]
        groups = [entry.group for entry in presets()[line["preset"]]] if line["preset"] else []
        assert not groups or any(group.startswith(line["group"]) for group in groups), line["item"]
        # Each has an outcome, or says why it has none.
        assert line["preset"] or line["note"], line["item"]
        preset = re.search(r"experiment=(\w+)", line["command"])
        assert preset is None or (ROOT / "conf" / "experiment" / f"{preset[1]}.yaml").is_file()


@pytest.mark.parametrize(
    "mark", ["<!-- table:tabel -->\n<!-- /table:tabel -->", "<!-- cell:tabel; a; b; value --><!-- /cell -->"]
)
def test_a_mark_of_no_table_is_an_error(mark: str) -> None:
    with pytest.raises(InputError, match=r'there is no table "tabel"; there are .*slimsam_table2'):
        with_tables(mark)


def test_every_page_says_what_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    # tests/unit/test_cost_command.py counts the models of this table.
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- table:cost -->\n")[1].split("\n<!--")[0]
    monkeypatch.setattr("experiments.readme.cost_table", lambda: table)
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    for page, text in texts.items():
        assert with_tables(text) == text, f"python -m experiments.readme writes {page.relative_to(ROOT)} anew"
    assert "<!-- table:pocket -->" in texts[ROOT / "README.md"]
    assert sum(text.count("<!-- table:") for text in texts.values()) == 25 + len(presets()) + len(papers())
