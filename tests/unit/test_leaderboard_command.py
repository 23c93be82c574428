"""The command ``leaderboard``: which folders of runs it takes, and what it refuses in one line."""

from collections.abc import Callable
from pathlib import Path

from core.result import ResultRow
from experiments.reporting.columns import LEADERBOARD as FILE
from experiments.result_file import FAILED, write_result

Call = Callable[..., tuple[int, str, str]]


def test_a_data_set_without_a_score_is_said_in_one_line(command: Call) -> None:
    alone = ("results=false", "published=false")
    # The second is in no published figure either, which a table always has.
    for words in (("leaderboard", "data=coco", *alone), ("table", "data=own", "results=false")):
        data = words[1].partition("=")[2]
        failed = ResultRow(run_id="run-s3", method="slimsam", data=data, status="failed", reason="TrainingDiverged")
        write_result(Path("runs", "run-s3") / FAILED, [failed], {})
        status, out, err = command(*words)
        assert (status, out) == (2, "") and err.startswith(f"error: {words[1]}: no row with a score has it; leave ")
        assert err.count("\n") == 1
    assert not Path("runs", FILE).exists() and command("leaderboard", *alone)[0] == 0, "the failure is a row"


def test_a_folder_of_runs_that_is_not_there_is_refused(command: Call) -> None:
    small = ("published=false", "pages=false")
    refused = {
        ("runs=typo",): "runs=typo: no such folder; give a folder of runs, or runs=none",
        ("runs=typo", "out=board"): "runs=typo: no such folder; give a folder of runs, or runs=none",
        ("runs=none",): "runs=none: leaves no folder to write to; give one with out=FOLDER",
    }
    for words, said in refused.items():
        assert command("leaderboard", *words, *small) == (2, "", f"error: {said}\n")
    assert not list(Path().iterdir())
    # A fresh clone has no runs yet.
    for words in (("out=board",), ("runs=none", "out=committed")):
        status, out, _ = command("leaderboard", *words, *small)
        assert status == 0 and "written: " in out
    assert sorted(path.name for path in Path().iterdir()) == ["board", "committed"]
    assert Path("board", FILE).read_bytes() == Path("committed", FILE).read_bytes()
