"""The first steps of every method give the losses that are committed, and the students the figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.short_runs import FIGURES, FILE, RUNS, short_run

LOSSES = (1e-3, 1e-3, 1e-2)
"""Relative, of the first steps, then of all: other processors and numbers of threads add in another order, and training
makes more of it with every step."""
SCORES = {"ptq": 0.03}
"""Of an mIoU over some ten instances, 0.01 where nothing else stands: a pixel more or less on each. A search among
grids of four bits takes another one where two are nearly as good, which moves more."""


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def test_every_method_is_there(committed: dict[str, Any]) -> None:
    methods = {path.stem for path in (Path(__file__).parents[2] / "conf" / "method").glob("*.yaml")}
    assert set(committed) == set(RUNS) == methods, "python -m tests.golden.short_runs"


FAST = ("slimsam", "ptq")
"""Training and calibration; the others take long, all together."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in RUNS])
def test_a_short_run_is_as_it_was(name: str, committed: dict[str, Any], tmp_path: Path) -> None:
    found, expected = short_run(name, tmp_path), committed[name]
    assert found["parameters"] == expected["parameters"]
    assert found["losses"].keys() == expected["losses"].keys()
    for stage, steps in expected["losses"].items():
        assert len(found["losses"][stage]) == len(steps) >= 2
        for step, (now, then) in enumerate(zip(found["losses"][stage], steps, strict=True)):
            tolerance = LOSSES[min(step, len(LOSSES) - 1)]
            # A part of the loss that is a choice of single cells moves more than their sum.
            assert now["loss"] == pytest.approx(then["loss"], rel=tolerance, abs=1e-6), f"{stage}, step {step + 1}"
            assert now == pytest.approx(then, rel=5 * tolerance, abs=1e-6), f"{stage}, step {step + 1}"
    for key in FIGURES:
        assert found[key] == pytest.approx(expected[key], abs=SCORES.get(name, 0.01))
