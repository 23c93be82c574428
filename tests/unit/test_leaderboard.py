"""The leaderboard: nothing lost, nothing rounded, nothing twice; CSV, Markdown and page agree to the last digit."""

import csv
import io
import json
import math
import multiprocessing
import re
import threading
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest

from core.provenance import ROOT
from core.result import COLUMNS, ResultRow
from experiments.leaderboard.columns import ADDED, LEADERBOARD_COLUMNS, own_method
from experiments.leaderboard.command import write_leaderboard
from experiments.leaderboard.folding import FILE, Leaderboard, cell, csv_of, fold, gather
from experiments.leaderboard.frame import leaderboard_frame
from experiments.leaderboard.markdown import EXACT, FRONT, markdown_of
from experiments.leaderboard.pareto import front, on_front
from experiments.leaderboard.run_pages import MADE, write_pages
from experiments.leaderboard.terminal import print_leaderboard
from experiments.pages.leaderboard_page import leaderboard_page
from experiments.report import POCKET_NOTE
from experiments.result_file import FAILED, NAME, read_rows, write_result
from experiments.tables.text_tables import markdown_escaped
from tests.unit.leaderboard_files import HOSTILE, page_csv, page_data, page_rows, rows_of, write_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("leaderboard") / "runs")


@pytest.fixture(scope="module")
def board(runs: Path) -> Leaderboard:
    return gather(runs, results=False)


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def exact_cells(markdown: str) -> list[dict[str, str]]:
    """Rows of the exact tables, by column; cells as they stand in the file."""
    found: list[dict[str, str]] = []
    for block in re.split(r"\n\n", markdown.partition("## Every row")[2]):
        lines = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in block.splitlines() if line.startswith("| ")]
        found += [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return found


def test_the_csv_equals_the_rows_to_the_last_digit(runs: Path, board: Leaderboard) -> None:
    text = csv_of(board.entries)
    assert text.splitlines()[0] == ",".join(LEADERBOARD_COLUMNS)
    lines = lines_of(text)
    assert len(lines) == len(board.entries)
    for line, entry in zip(lines, board.entries, strict=True):
        for name, value in entry.columns.items():
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


def test_csv_markdown_and_page_agree(board: Leaderboard) -> None:
    lines = lines_of(csv_of(board.entries))
    page = leaderboard_page(board, "python -m experiments leaderboard")
    shown = page_rows(page)
    exact = exact_cells(markdown_of(board, "python -m experiments leaderboard"))
    assert page_csv(page) == csv_of(board.entries)
    assert len(lines) == len(shown) == len(exact)
    for line, of_page in zip(lines, shown, strict=True):
        for name, value in of_page.items():
            written = cell(value)
            assert line[name].removeprefix("'") == ("" if written is None else str(written)), name
        assert all(line[name] in ("", "{}") for name in LEADERBOARD_COLUMNS if name not in of_page)
    # The Markdown sorts rows by data set and protocol.
    wanted = sorted(tuple(markdown_escaped(line[name].removeprefix("'")) for name in EXACT) for line in lines)
    assert sorted(tuple(cells.get(name, "") for name in EXACT) for cells in exact) == wanted


def test_the_means_of_the_page_are_those_of_the_rows(board: Leaderboard) -> None:
    rows = [entry.columns for entry in board.entries]
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
    assert [rows[place]["seed"] for place in model["entries"]] == model["seeds"] == [0, 1]
    found = [entry for entry in rows if entry["ap"] is not None and entry["source"] == "measured"]
    assert [(row["ap_mean"], row["miou_mean"]) for row in found] == [(0.1 * (1 / 3), None)]


def test_a_comparison_that_every_run_made_is_there_once(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_result(tmp_path / f"run-s{seed}" / NAME, rows_of(f"run-s{seed}", seed, 12.3 + seed), {})

    def found() -> list[tuple[Any, Any]]:
        entries = gather(tmp_path, results=False, published=False).entries
        return [(entry.columns["method"], entry.columns["seed"]) for entry in entries]

    assert found() == [
        ("filled_box", None), ("filled_ellipse", None), ("teacher", None), ("slimsam", 0), ("slimsam", 1),
    ]  # fmt: skip
    write_result(tmp_path / "copy" / NAME, rows_of("run-s1", 1, 13.3), {})
    assert len(found()) == 5, "the same row in another place"
    write_result(tmp_path / "run-s2" / NAME, [replace(row, images=3) for row in rows_of("run-s2", 2)], {})
    assert [method for method, _ in found()].count("teacher") == 2, "other pictures are another comparison"


def test_what_goes_with_a_row(board: Leaderboard) -> None:
    row = next(entry.columns for entry in board.entries if entry.columns["seed"] == 1)
    assert row["command"] == "python -m experiments method=slimsam 'name=a b'"
    assert (row["config_hash"], row["git_dirty"], row["torch_version"]) == ("00000001", True, "2.15.0")
    assert (row["student_sha256"], row["teacher_sha256"]) == ("a" * 64, "b" * 64)
    assert row["result_file"] == "runs/slimsam-r0.77-s1-00000001/result.json"
    evaluated = next(entry.columns for entry in board.entries if entry.columns["status"] == "evaluated")
    assert evaluated["command"].startswith("python -m experiments evaluate ") and evaluated["config_hash"] is None


def test_files_that_tell_other_things_are_read_all_the_same(tmp_path: Path) -> None:
    for number, about in enumerate(({}, {"provenance": [1]}, {"provenance": {"argv": "x", "versions": 3, "utc": 4}})):
        write_result(tmp_path / f"run-{number}" / NAME, rows_of("r", number), about)
    entries = gather(tmp_path, results=False, published=False).entries
    assert len(entries) == 6 and all(entry.columns["command"] is entry.columns["utc"] is None for entry in entries)


def test_published_rows_are_marked_and_name_paper_and_table(board: Leaderboard) -> None:
    published = [entry.columns for entry in board.entries if entry.columns["source"] == "published"]
    assert len(published) > 40 and all(row["status"] == "published" and row["run_id"] is None for row in published)
    row = next(row for row in published if row["model"] == "SlimSAM-77" and row["data"] == "sa1b")
    assert (row["method"], row["miou"], row["macs_modules"], row["paper"]) == (
        "slimsam", 67.40 / 100, 23_000_000_000, "SlimSAM arXiv 2312.05284 Table 1",
    )  # fmt: skip
    assert row["published_macs_counter"] == "modules" and row["seeds"] is None
    assert all(row["source"] == "measured" for row in (entry.columns for entry in board.entries) if row["run_id"])
    without = gather(None, results=False, published=False)
    assert not without.entries and not without.models


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
    assert len(board.entries) == 5 and "run-s4" in capsys.readouterr().err
    last = board.entries[-1].columns
    assert {name: last[name] for name in COLUMNS} == failed.to_dict() and last["miou_mean"] is None
    print_leaderboard(board, [tmp_path / FILE])
    out = capsys.readouterr().out
    assert (
        "failed: run-s3: TrainingDiverged: [x]" in out and f"written: {tmp_path / FILE}" in out and POCKET_NOTE in out
    )


def test_the_terminal_needs_eighty_columns(board: Leaderboard, capsys: pytest.CaptureFixture[str]) -> None:
    print_leaderboard(board)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("slimsam 0.77, 2 seeds"))
    cells = [part.strip() for part in line.split("│")[1:]]
    mean, spread = fmean([0.1 + 0.2, 0.1 + 0.2 + 1 / 7]), stdev([0.1 + 0.2, 0.1 + 0.2 + 1 / 7])
    assert cells == [f"{mean:.4f} ±{spread:.4f}", "0.2500", "1 M", "100 M", "12.8 ms"]
    assert all(len(line) <= 80 for line in lines if "│" in line or "━" in line)


def test_the_terminal_shows_what_was_run_here_and_counts_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path / "mine-s0" / NAME, rows_of("mine-s0", 0), {})
    everything = gather(tmp_path)
    print_leaderboard(everything, runs=tmp_path)
    out = capsys.readouterr().out
    models = sum(model.line.kind == "measured" for model in everything.models)
    shown = [line for line in out.splitlines() if "│" in line]
    assert len(shown) == 4 and f"{models - 4} more models, of results/, are in the files" in out
    print_leaderboard(everything, runs=tmp_path / "elsewhere")
    assert "more models" not in capsys.readouterr().out


def test_the_frame_holds_the_same_rows(tmp_path: Path) -> None:
    write_runs(tmp_path)
    frame = leaderboard_frame(tmp_path, results=False, published=False)
    entries = gather(tmp_path, results=False, published=False).entries
    assert tuple(frame.columns) == LEADERBOARD_COLUMNS and len(frame) == len(entries) > 3
    for name in ("miou", "miou_mean", "parameters", "seed"):
        found = [None if pd.isna(value) else value for value in frame[name]]
        assert found == [entry.columns[name] for entry in entries]
    assert str(frame["parameters"].dtype) == "Int64"


def test_folding_twice_gives_the_same_file(tmp_path: Path) -> None:
    write_runs(tmp_path)
    fold(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    fold(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert not fold(tmp_path / "nowhere", False, False).entries and not (tmp_path / "nowhere").exists()


def test_folding_at_once_leaves_a_whole_file(tmp_path: Path) -> None:
    write_runs(tmp_path)
    whole = csv_of(gather(tmp_path, results=False).entries).encode()
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


def test_the_front() -> None:
    assert front([]) == [] and front([(1, 0.5)]) == [0]
    points = [(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (4, 0.9), (3, 0.9), (1, 0.5)]
    assert front(points) == [1, 6, 3, 0, 5]
    for place, (cost, score) in enumerate(points):
        beaten = any((c <= cost and s > score) or (c < cost and s >= score) for c, s in points)
        assert (place in front(points)) is not beaten


def test_the_markdown_marks_the_front_and_names_the_pocket(board: Leaderboard) -> None:
    text = markdown_of(board, "python -m experiments leaderboard")
    best = {(line.model, line.data) for line in on_front(board.models)}
    assert ("mobilesam, tiny_vit", "shapes") in best and ("slimsam 0.77", "shapes") not in best
    assert f"| measured | {FRONT} mobilesam, tiny_vit |" in text and "| measured | slimsam 0.77 |" in text
    assert f"| published | {FRONT} SlimSAM-77 |" in text
    readable, _, every = text.partition("## Every row")
    for title, part in re.findall(r"^## (.+)\n\n((?:.|\n)*?)(?=^## |\Z)", readable, re.MULTILINE):
        assert (POCKET_NOTE in part) is ("sam_pocket" in part or title == "shapes, box_point@1"), title
    assert POCKET_NOTE in every and HOSTILE not in text and "TrainingDiverged" in every
    assert not re.search(r"<(?!/?details>|/?summary>)", text), "nothing from a file is markup"


def test_the_page_holds_no_markup_of_a_file(board: Leaderboard) -> None:
    page = leaderboard_page(board, f"python -m experiments leaderboard out={HOSTILE}")
    assert HOSTILE not in page and "<img" not in page.partition("<body>")[2].partition("<script")[0]
    assert any(HOSTILE in str(row["variant"]) for row in page_rows(page))
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", page.partition("<body>")[2])


def test_every_file_is_written_and_pages_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = write_runs(tmp_path / "runs"), tmp_path / "out"
    calls: list[Path] = []

    def page_of(path: Path, at: Path | None = None) -> str:
        calls.append(path)
        return f"page of {path.parent.name}"

    monkeypatch.setattr("experiments.pages.run_page.run_page", page_of)

    def write() -> int:
        calls.clear()
        write_leaderboard(gather(runs, results=False), out, "x")
        return len(calls)

    assert write() == 6 and write() == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "leaderboard.csv",
        "leaderboard.html",
        "leaderboard.md",
        "pages",
    ]
    addresses = page_data((out / "leaderboard.html").read_text())["pages"]
    assert len(addresses) == 6 and all((out / address).is_file() for address in addresses.values())
    changed = runs / "mobilesam-s0-00000002" / NAME
    write_result(changed, rows_of("mobilesam-s0-00000002", 1), {})
    assert write() == 1 and calls == [changed]
    (out / "pages" / "hostile-00000003.html").unlink()
    assert write() == 1
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write()
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}, "the same bytes again"


def test_a_run_that_starts_over_meanwhile_keeps_no_other_from_having_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = gather(write_runs(tmp_path / "runs"), results=False, published=False)
    (tmp_path / "runs" / "mobilesam-s0-00000002" / NAME).unlink()
    write_leaderboard(board, tmp_path / "out", "x")
    pages = {path.name for path in (tmp_path / "out" / "pages").glob("*.html")}
    assert len(pages) == 5 and "mobilesam-s0-00000002.html" not in pages
    assert "no page: runs/mobilesam-s0-00000002/result.json: FileNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", ["", "[]", '{"sources": 1}', "[" * 99_999, '{"sources": {}, "sources": {}}'])
def test_pages_are_made_anew_where_nobody_knows_what_they_were_made_of(tmp_path: Path, damaged: str) -> None:
    board = gather(write_runs(tmp_path / "runs"), results=False, published=False)
    assert write_pages(board.entries, tmp_path) == 6 and write_pages(board.entries, tmp_path) == 0
    (tmp_path / "pages" / MADE).write_text(damaged)
    assert write_pages(board.entries, tmp_path) == 6 and write_pages(board.entries, tmp_path) == 0


def _write_again_and_again(runs: Path, out: Path, barrier: Barrier) -> None:
    barrier.wait()
    for _ in range(3):
        write_leaderboard(gather(runs, results=False), out, "x")


def test_two_commands_at_once_leave_what_one_leaves(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs")
    write_leaderboard(gather(runs, results=False), tmp_path / "one", "x")
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(2, timeout=120)
    children = [fork.Process(target=_write_again_and_again, args=(runs, tmp_path / "both", barrier)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(240)
    assert [child.exitcode for child in children] == [0, 0]
    one, both = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "one", tmp_path / "both")
    )
    assert one == both


def test_pages_have_plain_names(tmp_path: Path) -> None:
    names = ("a b<c>", "Same", "same", ".hidden", "x" * 200)
    for number, name in enumerate(names):
        write_result(tmp_path / "runs" / name / NAME, rows_of(name, number), {})
    write_leaderboard(gather(tmp_path / "runs", results=False, published=False), tmp_path / "out", "x")
    pages = [path.name for path in (tmp_path / "out" / "pages").glob("[!.]*")]
    # What a fresh start has set aside is hidden, and has no page.
    assert len(pages) == len({name.lower() for name in pages}) == len(names) - 1
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,140}\.html", name) for name in pages) and "Same.html" in pages


def test_the_committed_rows_are_all_there() -> None:
    board = gather(None)
    files = {entry.columns["result_file"] for entry in board.entries}
    committed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "results").glob("*/*.json")}
    assert files - {"results/published/figures.csv"} < committed
    listed = [{name: entry.columns[name] for name in COLUMNS} for entry in board.entries]
    for file in committed - files:
        # Of another command, or a copy of a run that is there once.
        assert "/everything/" in file or all(row.to_dict() in listed for row in read_rows(ROOT / file)[-1:]), file
    scored = {place for model in board.models for place in model.entries}
    assert len(scored) == sum(len(model.entries) for model in board.models), "no row is of two models"
    numbers = [value for entry in board.entries for value in entry.columns.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))


def test_the_documentation_has_every_column_in_order() -> None:
    text = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.+) \|$", text, re.MULTILINE)
    assert tuple(name for name, _, _ in rows) == LEADERBOARD_COLUMNS and set(ADDED) < set(LEADERBOARD_COLUMNS)
    kinds = {"number": float, "count": int, "text": str, "truth": bool, "mapping": dict}
    for entry in gather(None).entries:
        for name, kind, _ in rows:
            value = entry.columns[name]
            allowed = (int, float) if kind == "number" else kinds[kind]
            assert value is None or (isinstance(value, allowed) and (kind == "truth") is isinstance(value, bool)), name
