"""kill -9 again and again, Ctrl-C within a step, and the same run once more: it ends bit-identically."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from core.provenance import ROOT

SEED, TIMES = 20, 5


@pytest.fixture(scope="module", params=[1, pytest.param(5, marks=pytest.mark.slow)])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What runs in so many folders that were stopped came to; every signal goes to a fork of one other process."""
    folder = tmp_path_factory.mktemp("stopped")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.smoke.killing", *map(str, (folder, SEED, TIMES, request.param))]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"folders": request.param}


def test_a_run_killed_anywhere_ends_bit_identically(stopped: dict[str, Any]) -> None:
    undisturbed, resumed = stopped["undisturbed"], stopped["resumed"]
    kinds = {"half a file", "half a record", "not yet renamed", "renamed", "step"}
    assert set(undisturbed["events"]) == kinds
    killed_at = [kind for found in resumed for kind in found["killed_at"]]
    assert len(resumed) == stopped["folders"] and set(killed_at) == kinds
    # A kill may come too late.
    assert len(killed_at) >= TIMES * stopped["folders"] - 2
    for found in resumed:
        assert {key: found[key] for key in ("student", "images", "logs")} == {
            key: undisturbed[key] for key in ("student", "images", "logs")
        }, f"killed at {found['killed_at']}"
        # What was finished is not done again.
        assert len(found["events"]) < len(undisturbed["events"])


def test_ctrl_c_lets_the_step_end_and_saves_it(stopped: dict[str, Any]) -> None:
    once = stopped["interrupted"][0]
    assert once["times"] == 1 and once["stopped"] and once["ended"] == [0, 1, 2]
    assert once["said"].count("stopping after this step; Ctrl-C again stops at once") == 1
    assert once["saved"] == 3 and once["restored"] and once["same"]


def test_ctrl_c_twice_stops_at_once(stopped: dict[str, Any]) -> None:
    twice = stopped["interrupted"][1]
    assert twice["times"] == 2 and twice["stopped"] and twice["ended"] == [0, 1]
    assert twice["saved"] is None and twice["restored"] and twice["same"]
