"""Programs that write tracked files anew write nothing where help is requested or a word is wrong."""

import runpy
import sys
import warnings

import pytest

from core.provenance import ROOT

PROGRAMS = {
    "experiments.readme": "README.md",
    "experiments.budget": "docs/budget.svg",
    "tests.golden.short_runs": "tests/golden/short_runs.json",
    "tests.golden.reports": "tests/golden/reports/table.csv",
    "tests.golden.tour": "docs/tour.ipynb",
}
"""Each with a file that it writes."""


@pytest.mark.parametrize(("word", "status"), [("--help", 0), ("--out=elsewhere", 2), ("docs", 2)])
@pytest.mark.parametrize("module", PROGRAMS)
def test_arguments_are_not_passed_over(
    module: str, word: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ROOT / PROGRAMS[module]
    before = written.stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [module, word])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        # The module may have been imported by another test.
        warnings.simplefilter("ignore", RuntimeWarning)
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == status
    output = capsys.readouterr()
    assert (output.err if status else output.out).startswith(f"usage: python -m {module}")
    assert written.stat().st_mtime_ns == before
