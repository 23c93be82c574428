"""Sweeps over methods that do not all have the same options."""

import itertools
import json
from pathlib import Path

import pytest

from core.result import ResultRow
from experiments.cli import command_line
from experiments.config.targets import method_options, register
from experiments.runs.job import Outcome
from experiments.runs.sweep import drop_unsupported, left_out_lines, print_summary, sweep_jobs, taken_of_preset

OPTIONS = {
    "slimsam": {"ratio", "steps", "importance"},
    "mobilesam": {"steps", "student"},
    "tinysam": {"steps", "student", "prompts"},
}


def product(**values: list[str]) -> list[list[str]]:
    return [
        list(words)
        for words in itertools.product(*([f"{key}={v}" for v in options] for key, options in values.items()))
    ]


def test_what_a_method_does_not_have_is_left_out_and_its_runs_are_there_once() -> None:
    jobs = product(method=["slimsam", "mobilesam", "tinysam"], ratio=["0.5", "0.77"], seed=["0", "1", "2"])
    kept, left_out = drop_unsupported(jobs, OPTIONS)
    assert [words for words in kept if words[0] == "method=slimsam"] == jobs[:6]
    assert [words for words in kept if words[0] == "method=mobilesam"] == [
        ["method=mobilesam", f"seed={seed}"] for seed in range(3)
    ]
    assert len(kept) == 12 and left_out == {"ratio": ["mobilesam", "tinysam"]}
    lines = left_out_lines(len(jobs), len(kept), left_out)
    assert lines == [
        "ratio: mobilesam and tinysam have no such option; left out there",
        "12 different runs of 18 combinations",
    ]


def test_settings_below_method_and_students_are_options_too() -> None:
    jobs = product(method=["slimsam", "tinysam"], **{"method.importance": ["taylor"], "student.name": ["resnet18"]})
    kept, left_out = drop_unsupported(jobs, OPTIONS)
    assert kept == [["method=slimsam", "method.importance=taylor"], ["method=tinysam", "student.name=resnet18"]]
    assert left_out == {"method.importance": ["tinysam"], "student.name": ["slimsam"]}


@pytest.mark.parametrize(
    "jobs",
    [
        product(method=["mobilesam"], ratio=["0.5", "0.77"]),
        product(method=["mobilesam", "tinysam"], ratio=["0.5"]),
        product(method=["slimsam", "tinysam"], **{"method.stpes": ["4"]}),
        product(ratio=["0.5", "0.77"]),
        product(method=["slimsam", "unheard_of"], ratio=["0.5"]),
    ],
)
def test_what_no_method_of_the_sweep_has_stays_to_be_refused(jobs: list[list[str]]) -> None:
    assert drop_unsupported(jobs, OPTIONS) == (jobs, {})


def test_one_method_of_a_preset_needs_no_option_of_the_others() -> None:
    preset = ["method=slimsam,mobilesam,tinysam", "ratio=0.5,0.77", "seed=0,1,2"]
    assert taken_of_preset(preset, ["method=mobilesam"], OPTIONS) == [preset[0], preset[2]]
    for words in ([], ["seed=0"], ["method=slimsam"], ["method=mobilesam,slimsam"], ["method=unheard_of"]):
        assert taken_of_preset(preset, words, OPTIONS) == preset
    # What was typed stays to be refused.
    assert taken_of_preset(["variant=a,b"], ["method=mobilesam", "ratio=0.5"], OPTIONS) == ["variant=a,b"]


def test_hydras_own_syntax_for_values(capsys: pytest.CaptureFixture[str]) -> None:
    register()
    assert "ratio" in method_options()["slimsam"] and "ratio" not in method_options()["tinysam"]
    words = ["method=slimsam,tinysam", "ratio=0.5,0.77", "seed=range(2)"]
    jobs = sweep_jobs(words)
    assert len(jobs) == 6 and jobs[-1] == ["method=tinysam", "seed=1"]
    assert "ratio: tinysam have no such option" not in (said := capsys.readouterr().err)
    assert "ratio: tinysam has no such option; left out there" in said


def test_the_run_that_chains_begin_with_is_shown_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(run: str, method: str) -> list[ResultRow]:
        return [ResultRow(run_id=run, method=name, status="finished", miou=0.5) for name in ("teacher", method)]

    scored = ResultRow(run_id="first", method="slimsam", status="evaluated", miou=0.5)
    chains = [[*rows("first", "slimsam"), *rows(f"w{bits}", "slimsam+ptq"), scored] for bits in (4, 8)]
    outcomes = [Outcome((), "json", Path("runs"), "None", chain) for chain in chains]
    print_summary(outcomes)
    out = capsys.readouterr().out
    assert "2 runs, 0 of them without a result" in out
    assert [sum(line.startswith(run) for line in out.splitlines()) for run in ("first", "w4", "w8")] == [1, 1, 1]
    monkeypatch.setattr(command_line, "_compose_and_call", lambda *_: outcomes)
    assert command_line.main(["method=slimsam"]) == 0
    found = [(row["run_id"], row["method"]) for row in json.loads(capsys.readouterr().out)["rows"]]
    again = [("w8", "teacher"), ("w8", "slimsam+ptq"), ("first", "slimsam")]
    first = [("first", "teacher"), ("first", "slimsam"), ("w4", "teacher"), ("w4", "slimsam+ptq"), ("first", "slimsam")]
    assert found == first + again, "evaluations are left as they are"
