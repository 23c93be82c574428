"""The files of a leaderboard and the pages of its runs: written whole, and only where something changed."""

import multiprocessing
import re
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from experiments.reporting import run_pages
from experiments.reporting.commands import write_leaderboard
from experiments.reporting.results import gather
from experiments.reporting.run_pages import MADE, write_pages
from experiments.result_file import NAME, write_result
from tests.unit.leaderboard_files import page_data, rows_of, write_runs


def test_every_file_is_written_and_pages_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = write_runs(tmp_path / "runs"), tmp_path / "out"
    calls: list[Path] = []

    def page_of(path: Path, at: Path | None = None) -> str:
        calls.append(path)
        return f"page of {path.parent.name}"

    monkeypatch.setattr("experiments.reporting.run_page.run_page", page_of)

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
def test_pages_are_made_anew_where_nobody_knows_what_they_were_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    rows = gather(write_runs(tmp_path / "runs"), results=False, published=False).rows
    calls: list[Path] = []
    monkeypatch.setattr("experiments.reporting.run_page.run_page", lambda path, at: calls.append(path) or "a page")
    for before, made in ((None, 6), (None, 0), (damaged, 6), (None, 0)):
        calls.clear()
        if before is not None:
            (tmp_path / "pages" / MADE).write_text(before)
        assert len(write_pages(rows, tmp_path)) == 6 and len(calls) == made


def test_pages_are_made_anew_where_the_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gather(write_runs(tmp_path / "runs"), results=False, published=False).rows
    calls: list[Path] = []
    monkeypatch.setattr("experiments.reporting.run_page.run_page", lambda path, at: calls.append(path) or "a page")
    write_pages(rows, tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "run.html.j2").write_text("another template")
    monkeypatch.setattr(run_pages, "HERE", tmp_path / "code")
    write_pages(rows, tmp_path)
    assert len(calls) == 12


def _write_again_and_again(runs: Path, out: Path, barrier: Barrier) -> None:
    barrier.wait()
    for _ in range(3):
        write_leaderboard(gather(runs, results=False), out, "x")


@pytest.mark.slow
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
