"""torchrun: two gloo processes end where one does, the first one alone writing and speaking."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.provenance import ROOT
from students.files import load_model
from tests.unit.tiny import pocket_file

SINGLE = (sys.executable, "-m", "experiments")
DOUBLE = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "experiments")


def call(place: Path, program: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    place.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*program, *words], cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_end_where_one_does(tmp_path: Path, accumulate: int) -> None:
    teacher = pocket_file(tmp_path / "pocket.pth")
    words = ("experiment=smoke", "ratio=0.5", f"teacher.checkpoint={teacher}", "engine.precision=float32")
    words += ("method=slimsam", f"method.optimisation.accumulate={accumulate}", "format=json")
    if accumulate == 2:
        # Two pictures a step, in two batches of one: each process takes one of them.
        words += ("method.batch=1",)
    runs = {}
    for name, program in (("one", SINGLE), ("two", DOUBLE)):
        done = call(tmp_path / name, program, *words)
        assert done.returncode == 0, done.stderr
        (folder,) = (path.parent for path in (tmp_path / name / "runs").glob("*/result.json"))
        assert folder.name.startswith("smoke-r0.5-s0-")
        student = load_model(folder / "student.safetensors")
        log = [json.loads(line) for line in (folder / "embedding_aligning.jsonl").read_text().splitlines()]
        runs[name] = (json.loads(done.stdout)["rows"], student.state_dict(), log, folder.name)
        assert [entry["step"] for entry in log if "loss" in entry] == [4]
        # The first process alone looks on, and scores the student while the other waits.
        assert [entry["step"] for entry in log if "miou" in entry] == [1, 2, 3, 4]
    (one, weights, _, run_id), (two, shared_weights, _, shared_id) = runs["one"], runs["two"]
    assert run_id == shared_id
    for name, tensor in weights.items():
        torch.testing.assert_close(shared_weights[name], tensor, rtol=1e-3, atol=1e-4)
    assert two[3]["images_seen"] == one[3]["images_seen"]
    assert two[3]["device_hours"] == pytest.approx(2 * two[3]["train_seconds"] / 3600)
    assert two[3]["miou"] == pytest.approx(one[3]["miou"], abs=1e-3)
    # The second call of both finds the finished run and says so once.
    again = call(tmp_path / "two", DOUBLE, *words)
    assert again.returncode == 0 and json.loads(again.stdout)["rows"] == two
    assert again.stderr.count("finished earlier") == 1


def test_images_that_cannot_be_shared_are_refused_once(tmp_path: Path) -> None:
    teacher = pocket_file(tmp_path / "pocket.pth")
    done = call(tmp_path / "place", DOUBLE, "experiment=smoke", f"teacher.checkpoint={teacher}", "method.batch=3")
    assert done.returncode != 0
    assert "3 pictures a step cannot be shared by 2 processes" in done.stderr
    assert not list((tmp_path / "place").glob("runs/*/result.json"))
