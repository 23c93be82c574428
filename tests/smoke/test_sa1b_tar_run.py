"""A run on SA-1B's tar files, as it is started: killed within a step, it goes on and ends as one on folders."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic.sa1b import write_sa1b
from core.checkpoint import file_sha256
from core.provenance import ROOT
from tests.unit.tiny import pocket_file

KILLED = """
import os, signal, sys
from dataclasses import replace
from data.sa1b import Sa1b
from experiments.cli.command_line import main
from experiments.runs import run

build, read, reading = run.build_engine, [0], Sa1b.training_sample

def killed(self, index, frame):
    read[0] += 1
    if read[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return reading(self, index, frame)

run.build_engine = lambda *given: replace(build(*given), save_every_s=-1.0, workers=0)
Sa1b.training_sample = killed
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_tinysam_on_tar_files_killed_and_undisturbed_on_folders(tmp_path: Path) -> None:
    for folders in (True, False):
        write_sa1b(tmp_path / f"{folders}", 16, 8, (300, 450), folders, shard=6, distinct=4)
    teacher = pocket_file(tmp_path / "pocket.pth")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def called(root: Path, runs: Path, *start: str) -> subprocess.CompletedProcess[str]:
        words = [
            "method=tinysam",
            "method.steps=4",
            "method.batch=1",
            "method.prompts=4",
            f"teacher.checkpoint={teacher}",
        ]
        data = ["data=sa1b", f"data.root={root}", "data.count=10", "data.validation_count=4"]
        scored = ["evaluation=sa1b", "evaluation.data.validation_count=4", "evaluation.latency_runs=1", "format=json"]
        command = [sys.executable, *start, *words, *data, *scored, f"runs={runs}"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done

    def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
        return found

    undisturbed = rows(called(tmp_path / "True", tmp_path / "folders", "-m", "experiments"))
    killed = called(tmp_path / "False", tmp_path / "tars", "-c", KILLED)
    assert killed.returncode == -signal.SIGKILL and next((tmp_path / "tars").glob("*/full_stage.state")).is_file()
    resumed = rows(called(tmp_path / "False", tmp_path / "tars", "-m", "experiments"))
    assert undisturbed[-1]["run_id"] == resumed[-1]["run_id"], "the same images, wherever they lie"
    assert [row["miou"] for row in undisturbed] == [row["miou"] for row in resumed]
    students = [next((tmp_path / name).glob("*/student.safetensors")) for name in ("folders", "tars")]
    assert len({file_sha256(path) for path in students}) == 1
