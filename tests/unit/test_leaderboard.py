"""The leaderboard: nothing lost, nothing rounded, nothing twice; CSV, Markdown and page agree to the last digit."""

import csv
import io
import json
import math
import re
import threading
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock

from core.provenance import ROOT
from core.result import COLUMNS, ResultRow
from experiments.reporting import results
from experiments.reporting.columns import COLUMNS as EVERY_COLUMN
from experiments.reporting.columns import LEADERBOARD as FILE
from experiments.reporting.columns import LEADERBOARD_COLUMNS, POCKET_NOTE, documented
from experiments.reporting.documents import EXACT, FRONT, leaderboard_markdown, lines_of
from experiments.reporting.leaderboard_page import leaderboard_page
from experiments.reporting.models import front, on_front
from experiments.reporting.results import Results, csv_of, fold, gather, own_method, results_frame
from experiments.reporting.terminal import print_leaderboard
from experiments.reporting.text_tables import markdown_escaped, plain_cell
from experiments.result_file import FAILED, NAME, read_rows, write_result
from experiments.runs.run import _fold
from tests.unit.leaderboard_files import HOSTILE, page_csv, page_data, page_rows, rows_of, write_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("leaderboard") / "runs")


@pytest.fixture(scope="module")
def board(runs: Path) -> Results:
    return gather(runs, results=False)


def rows_in(found: Results) -> list[dict[str, Any]]:
    return lines_of(found.rows[list(LEADERBOARD_COLUMNS)])


def csv_lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def exact_cells(markdown: str) -> list[dict[str, str]]:
    """Rows of the exact tables, by column; cells as they stand in the file."""
    found: list[dict[str, str]] = []
    for block in re.split(r"\n\n", markdown.partition("## Every row")[2]):
        lines = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in block.splitlines() if line.startswith("| ")]
        found += [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return found


def test_the_csv_equals_the_rows_to_the_last_digit(runs: Path, board: Results) -> None:
    text = csv_of(board.rows)
    assert text.splitlines()[0] == ",".join(LEADERBOARD_COLUMNS)
    lines = csv_lines(text)
    assert len(lines) == len(board.rows)
    for line, row in zip(lines, rows_in(board), strict=True):
        for name, value in row.items():
            if value is None:
                assert line[name] == ""
            elif isinstance(value, dict):
                assert json.loads(line[name]) == value
            elif isinstance(value, bool):
                assert line[name] == str(value).lower()
            elif isinstance(value, str):
                assert line[name].removeprefix("'") == value
            else:
                assert type(value)(line[name]) == value and line[name] == repr(value), name
    # Against the files themselves, not only against what was gathered from them.
    names = [name for name in COLUMNS if name.startswith(("miou", "ap", "macs", "encoder_l", "parameters"))]
    for line in (line for line in lines if line["source"] == "measured"):
        rows = read_rows(runs.parent / line["result_file"])
        in_file = [["" if row.to_dict()[name] is None else repr(row.to_dict()[name]) for name in names] for row in rows]
        assert [line[name] for name in names] in in_file


def test_csv_markdown_and_page_agree(board: Results) -> None:
    lines = csv_lines(csv_of(board.rows))
    page = leaderboard_page(board, "python -m experiments leaderboard")
    shown = page_rows(page)
    exact = exact_cells(leaderboard_markdown(board, "python -m experiments leaderboard"))
    assert page_csv(page) == csv_of(board.rows)
    assert len(lines) == len(shown) == len(exact)
    for line, of_page in zip(lines, shown, strict=True):
        for name, value in of_page.items():
            written = plain_cell(value)
            assert line[name].removeprefix("'") == ("" if written is None else str(written)), name
        assert all(line[name] in ("", "{}") for name in LEADERBOARD_COLUMNS if name not in of_page)
    # The Markdown sorts rows by data set and protocol.
    expected = sorted(tuple(markdown_escaped(line[name].removeprefix("'")) for name in EXACT) for line in lines)
    assert sorted(tuple(cells.get(name, "") for name in EXACT) for cells in exact) == expected


def test_the_means_of_the_page_are_those_of_the_rows(board: Results) -> None:
    rows = rows_in(board)
    seeds = [row for row in rows if row["model"] == "slimsam 0.77" and row["status"] == "finished"]
    scores, points = ([row[name] for row in seeds] for name in ("miou", "miou_point"))
    for row in seeds:
        assert (row["seeds"], row["miou_mean"], row["miou_std"]) == (2, fmean(scores), stdev(scores))
        assert (row["miou_point_mean"], row["miou_point_std"]) == (fmean(points), stdev(points))
        assert row["to_teacher_points"] == pytest.approx(100 * (fmean(scores) - 0.9), abs=1e-12)
    (model,) = (
        model for model in page_data(leaderboard_page(board, "x"))["models"] if model["model"] == "slimsam 0.77"
    )
    assert (model["score"], model["score_spread"], model["point"]) == (fmean(scores), stdev(scores), fmean(points))
    assert [rows[place]["seed"] for place in model["rows"]] == model["seeds"] == [0, 1]
    found = [entry for entry in rows if entry["ap"] is not None and entry["source"] == "measured"]
    assert [(row["ap_mean"], row["miou_mean"]) for row in found] == [(0.1 * (1 / 3), None)]


def test_a_comparison_that_every_run_made_is_there_once(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_result(tmp_path / f"run-s{seed}" / NAME, rows_of(f"run-s{seed}", seed, 12.3 + seed), {})

    def found() -> list[tuple[Any, Any]]:
        return [(row["method"], row["seed"]) for row in rows_in(gather(tmp_path, results=False, published=False))]

    assert found() == [
        ("filled_box", None), ("filled_ellipse", None), ("teacher", None), ("slimsam", 0), ("slimsam", 1),
    ]  # fmt: skip
    write_result(tmp_path / "copy" / NAME, rows_of("run-s1", 1, 13.3), {})
    assert len(found()) == 5, "the same row in another place"
    write_result(tmp_path / "run-s2" / NAME, [replace(row, images=3) for row in rows_of("run-s2", 2)], {})
    assert [method for method, _ in found()].count("teacher") == 2, "other images are another comparison"


def test_what_goes_with_a_row(board: Results) -> None:
    row = next(row for row in rows_in(board) if row["seed"] == 1)
    assert row["command"] == "python -m experiments method=slimsam 'name=a b'"
    assert (row["config_hash"], row["git_dirty"], row["torch_version"]) == ("00000001", True, "2.15.0")
    assert (row["student_sha256"], row["teacher_sha256"]) == ("a" * 64, "b" * 64)
    assert row["result_file"] == "runs/slimsam-r0.77-s1-00000001/result.json"
    evaluated = next(row for row in rows_in(board) if row["status"] == "evaluated")
    assert evaluated["command"].startswith("python -m experiments evaluate ") and evaluated["config_hash"] is None


def test_files_that_tell_other_things_are_read_all_the_same(tmp_path: Path) -> None:
    for number, about in enumerate(({}, {"provenance": [1]}, {"provenance": {"argv": "x", "versions": 3, "utc": 4}})):
        write_result(tmp_path / f"run-{number}" / NAME, rows_of("r", number), about)
    rows = rows_in(gather(tmp_path, results=False, published=False))
    assert len(rows) == 6 and all(row["command"] is row["utc"] is None for row in rows)


def test_published_rows_are_marked_and_name_paper_and_table(board: Results) -> None:
    published = [row for row in rows_in(board) if row["source"] == "published"]
    assert len(published) > 40 and all(row["status"] == "published" and row["run_id"] is None for row in published)
    row = next(row for row in published if row["model"] == "SlimSAM-77" and row["data"] == "sa1b")
    assert (row["method"], row["miou"], row["macs_modules"], row["paper"]) == (
        "slimsam", 67.40 / 100, 23_000_000_000, "SlimSAM arXiv 2312.05284 Table 1",
    )  # fmt: skip
    assert row["published_macs_counter"] == "modules" and row["seeds"] is None
    assert all(row["source"] == "measured" for row in rows_in(board) if row["run_id"])
    without = gather(None, results=False, published=False)
    assert not len(without.rows) and not len(without.models)


def test_a_papers_model_is_of_a_method_only_where_it_is_one() -> None:
    names = ("Q-TinySAM-W8A8", "MobileSAM", "SlimSAM-50", "SAM-H", "EfficientViT-SAM-L0", "EdgeSAM", "NanoSAM-r18")
    assert [own_method(name) for name in names] == [
        ("tinysam", None), ("mobilesam", None), ("slimsam", None), ("teacher", "sam_vit_h"), (None, None), (None, None),
        (None, None),
    ]  # fmt: skip


def test_failures_are_rows_and_damaged_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "run-s0" / NAME, rows_of("run-s0", 0), {})
    failed = ResultRow(run_id="run-s3", method="slimsam", ratio=0.5, status="failed", reason="TrainingDiverged: [x]")
    write_result(tmp_path / "run-s3" / FAILED, [failed], {})
    (tmp_path / "run-s4").mkdir()
    (tmp_path / "run-s4" / NAME).write_text("{")
    board = fold(tmp_path, results=False, published=False)
    assert len(board.rows) == 5 and "run-s4" in capsys.readouterr().err
    last = rows_in(board)[-1]
    assert {name: last[name] for name in COLUMNS} == failed.to_dict() and last["miou_mean"] is None
    print_leaderboard(board, [tmp_path / FILE])
    out = capsys.readouterr().out
    assert (
        "failed: run-s3: TrainingDiverged: [x]" in out and f"written: {tmp_path / FILE}" in out and POCKET_NOTE in out
    )


def test_the_terminal_needs_eighty_columns(board: Results, capsys: pytest.CaptureFixture[str]) -> None:
    print_leaderboard(board)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("slimsam 0.77, 2 seeds"))
    cells = [part.strip() for part in line.split("│")[1:]]
    mean, spread = fmean([0.1 + 0.2, 0.1 + 0.2 + 1 / 7]), stdev([0.1 + 0.2, 0.1 + 0.2 + 1 / 7])
    assert cells == [f"{mean:.4f} ±{spread:.4f}", "0.2500", "1 M", "100 M", "0.518 x"]
    assert all(len(line) <= 80 for line in lines if "│" in line or "━" in line)


def test_the_terminal_shows_what_was_run_here_and_counts_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path / "mine-s0" / NAME, rows_of("mine-s0", 0), {})
    everything = gather(tmp_path)
    print_leaderboard(everything, runs=tmp_path)
    out = capsys.readouterr().out
    models = int((everything.models["source"] == "measured").sum())
    shown = [line for line in out.splitlines() if "│" in line]
    assert len(shown) == 4 and f"{models - 4} more models, of results/, are in the files" in out
    print_leaderboard(everything, runs=tmp_path / "elsewhere")
    assert "more models" not in capsys.readouterr().out


def test_the_frame_holds_the_same_rows(tmp_path: Path) -> None:
    write_runs(tmp_path)
    frame = results_frame(tmp_path, results=False, published=False)
    rows = rows_in(gather(tmp_path, results=False, published=False))
    assert tuple(frame.columns) == LEADERBOARD_COLUMNS and len(frame) == len(rows) > 3
    for name in LEADERBOARD_COLUMNS:
        found = [None if pd.api.types.is_scalar(value) and pd.isna(value) else value for value in frame[name]]
        assert found == [row[name] for row in rows], name
    kinds = {name: str(frame[name].dtype) for name in ("parameters", "miou_mean", "git_dirty")}
    assert kinds == {"parameters": "Int64", "miou_mean": "Float64", "git_dirty": "boolean"}
    assert frame.groupby("method")["miou"].mean()["filled_box"] == 0.6


def test_folding_twice_gives_the_same_file(tmp_path: Path) -> None:
    write_runs(tmp_path)
    fold(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    fold(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert not len(fold(tmp_path / "nowhere", False, False).rows) and not (tmp_path / "nowhere").exists()


def test_folding_at_once_leaves_a_whole_file(tmp_path: Path) -> None:
    write_runs(tmp_path)
    whole = csv_of(gather(tmp_path, results=False).rows).encode()
    fold(tmp_path, results=False)
    stop, torn = threading.Event(), list[int]()

    def look() -> None:
        while not stop.is_set():
            if (found := (tmp_path / FILE).read_bytes()) != whole:
                torn.append(len(found))

    looking = threading.Thread(target=look)
    looking.start()
    folding = [threading.Thread(target=lambda: [fold(tmp_path, results=False) for _ in range(5)]) for _ in range(3)]
    for thread in folding:
        thread.start()
    for thread in folding:
        thread.join()
    stop.set()
    looking.join()
    assert not torn and not list(tmp_path.glob(".*.part"))


def test_runs_that_end_together_are_all_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path / "one" / NAME, rows_of("one", 0), {})
    read, begun, gathered = threading.Event(), threading.Event(), results.gather

    def slow(*args: Any) -> Results:
        found = gathered(*args)
        if not read.is_set():
            read.set()
            assert begun.wait(60)
            last.join(0.5)
        return found

    monkeypatch.setattr(results, "gather", slow)
    first, last = (threading.Thread(target=fold, args=(tmp_path, False, False)) for _ in range(2))
    first.start()
    assert read.wait(60)
    write_result(tmp_path / "two" / NAME, rows_of("two", 1), {})
    last.start()
    begun.set()
    for thread in (first, last):
        thread.join()
    assert {line["run_id"] for line in csv_lines((tmp_path / FILE).read_text())} >= {"one", "two"}


def test_a_lock_that_cannot_be_had_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_PATIENCE", 0.1)
    write_result(tmp_path / "one" / NAME, rows_of("one", 0), {})
    with FileLock(tmp_path / results.LOCK):
        fold(tmp_path, results=False, published=False)
    assert (tmp_path / FILE).is_file()
    (tmp_path / FILE).unlink()
    (tmp_path / results.LOCK).unlink()
    (tmp_path / results.LOCK).symlink_to(tmp_path / "elsewhere")
    fold(tmp_path, results=False, published=False)
    assert (tmp_path / FILE).is_file() and not (tmp_path / "elsewhere").exists()


def test_a_finished_run_does_not_fail_for_the_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).mkdir()
    _fold(tmp_path)
    assert f"{tmp_path / FILE}: not made anew (" in (said := capsys.readouterr().err) and said.count("\n") == 1

    def refuse(*_: object) -> None:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    monkeypatch.setattr(results, "gather", refuse)
    _fold(tmp_path)
    assert "surrogates not allowed" in capsys.readouterr().err


def test_what_is_no_text_beside_the_rows_is_unknown(tmp_path: Path) -> None:
    about = {"paper": "\ud800", "provenance": {"argv": ["name=\ud800"], "utc": "2026"}}
    write_result(tmp_path / "one" / NAME, rows_of("one", 0), about)
    row = rows_in(fold(tmp_path, results=False, published=False))[-1]
    assert (row["paper"], row["command"], row["utc"]) == (None, None, "2026")


def test_the_front() -> None:
    assert front([]) == [] and front([(1, 0.5)]) == [0]
    points = [(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (4, 0.9), (3, 0.9), (1, 0.5)]
    assert front(points) == [1, 6, 3, 0, 5]
    for place, (cost, score) in enumerate(points):
        beaten = any((c <= cost and s > score) or (c < cost and s >= score) for c, s in points)
        assert (place in front(points)) is not beaten


def test_the_markdown_marks_the_front_and_names_the_pocket(board: Results) -> None:
    text = leaderboard_markdown(board, "python -m experiments leaderboard")
    best = {(board.models["model"][label], board.models["data"][label]) for label in on_front(board.models)}
    assert ("mobilesam, tiny_vit", "shapes") in best and ("slimsam 0.77", "shapes") not in best
    assert f"| measured | {FRONT} mobilesam, tiny_vit |" in text and "| measured | slimsam 0.77 |" in text
    assert f"| published | {FRONT} SlimSAM-77 |" in text
    readable, _, every = text.partition("## Every row")
    for title, part in re.findall(r"^## (.+)\n\n((?:.|\n)*?)(?=^## |\Z)", readable, re.MULTILINE):
        assert (POCKET_NOTE in part) is ("sam_pocket" in part or title == "shapes, box_point@1"), title
    assert POCKET_NOTE in every and HOSTILE not in text and "TrainingDiverged" in every
    assert not re.search(r"<(?!/?details>|/?summary>)", text), "nothing from a file is markup"


def test_the_page_holds_no_markup_of_a_file(board: Results) -> None:
    page = leaderboard_page(board, f"python -m experiments leaderboard out={HOSTILE}")
    assert HOSTILE not in page and "<img" not in page.partition("<body>")[2].partition("<script")[0]
    assert any(HOSTILE in str(row["variant"]) for row in page_rows(page))
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", page.partition("<body>")[2])


def test_the_committed_rows_are_all_there() -> None:
    board = gather(None)
    rows = rows_in(board)
    files = {row["result_file"] for row in rows}
    committed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "results").glob("*/*.json")}
    assert files - {"results/published/figures.csv"} < committed
    listed = [{name: row[name] for name in COLUMNS} for row in rows]
    for file in committed - files:
        # Of another command, a teacher's evaluation beside its runs, or a copy of a run that is there once.
        beside = "everything/" in file or Path(file).name.startswith(("sam_pocket", "sam2_pocket", "sam_photo"))
        assert beside or all(row.to_dict() in listed for row in read_rows(ROOT / file)[-1:]), file
    scored = [place for places in board.models["rows"] for place in places]
    assert len(set(scored)) == len(scored), "no row is of two models"
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))


def test_the_documentation_is_made_from_the_columns() -> None:
    text = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    assert documented() in text, "python -m experiments.readme writes it anew"
    assert LEADERBOARD_COLUMNS[: len(COLUMNS)] == COLUMNS, "a result row's columns come first, in their order"
    assert all(column.description for column in EVERY_COLUMN.values())


def test_the_columns_are_of_the_kinds_that_are_documented() -> None:
    kinds = {"number": (int, float), "count": int, "text": str, "truth": bool, "mapping": dict}
    for row in rows_in(gather(None)):
        for name in LEADERBOARD_COLUMNS:
            value, kind = row[name], EVERY_COLUMN[name].kind
            assert value is None or (isinstance(value, kinds[kind]) and (kind == "truth") is isinstance(value, bool)), (
                name
            )
