"""kill -9 at twenty places of a run, and the same command again: it ends bit-identically."""

import json
import os
import subprocess
import sys
from pathlib import Path

from core.provenance import ROOT

SEED, PLACES = 20, 20


def test_a_run_killed_anywhere_ends_bit_identically(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.smoke.killing", str(tmp_path), str(SEED), str(PLACES)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    undisturbed, *resumed = (json.loads(line) for line in done.stdout.splitlines())
    assert undisturbed["kinds"] == ["half a file", "half a record", "not yet renamed", "renamed", "step"]
    assert len(resumed) == PLACES
    for found in resumed:
        assert {key: found[key] for key in ("student", "images", "logs")} == {
            key: undisturbed[key] for key in ("student", "images", "logs")
        }, f"killed at event {found['place']} ({found['at']})"
    # Later kills leave less to do: what was finished is not done again.
    assert resumed[-1]["events"] < undisturbed["events"] / 2
