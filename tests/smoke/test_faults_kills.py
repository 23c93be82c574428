"""kill -9 at random moments over whole commands: given again they end with the figures of undisturbed ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.provenance import ROOT

SLOW = {
    "run": 24,
    "chain": 10,
    "sweep": 12,
    "evaluate": 24,
    "everything": 14,
    "convert": 10,
    "leaderboard": 10,
    "export": 2,
}
"""Kills of each work; they were chosen so that all together are more than a hundred."""
SEED = 7


def killed(folder: Path, work: str, kills: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an undisturbed command left, and what happened in each folder where it was killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.smoke.killing_commands", str(folder), work, str(SEED), str(kills)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    undisturbed, *folders = (json.loads(line) for line in done.stdout.splitlines())
    return undisturbed, folders


def check(folder: Path, work: str, kills: int) -> None:
    undisturbed, folders = killed(folder, work, kills)
    assert undisturbed["files"], "there is nothing to compare"
    assert sum(found["kills"] for found in folders) >= kills, "kills that came too late are not counted"
    for found in folders:
        assert not found["different"], found
        assert not found["left"], f"of killed processes: {found['left']}"


def test_there_are_more_than_a_hundred() -> None:
    assert sum(SLOW.values()) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("work", SLOW)
def test_a_command_that_is_killed_again_and_again_ends_the_same(work: str, tmp_path: Path) -> None:
    check(tmp_path, work, SLOW[work])
