"""``make gpu`` without a GPU: its sections run to their end in small sizes, and say what they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from core.provenance import ROOT

SECTIONS = ["encoder", "embedding", "distillation", "evaluation", "float16", "nccl"]
KEYS = {"section", "device", "dry_run", "commit", "versions", "seconds"}


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> tuple[int, dict[str, dict[str, object]]]:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(out), *words])
    return gpu.main(), {file.stem: json.loads(file.read_text()) for file in out.glob("*.json")}


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), ".venv/bin/python -m benchmarks.gpu"),
        (("DEVICE=cpu", "RUN=python"), "python -m benchmarks.gpu --device cpu"),
        (("DEVICE=cpu", "OUT=/elsewhere"), ".venv/bin/python -m benchmarks.gpu --device cpu --out /elsewhere"),
    ],
)
def test_what_make_gpu_runs(words: tuple[str, ...], line: str) -> None:
    done = make("--dry-run", "--no-print-directory", "gpu", *words)
    assert done.returncode == 0 and " ".join(done.stdout.split()) == line


@pytest.mark.slow
def test_make_gpu_on_the_cpu_reaches_its_end(tmp_path: Path) -> None:
    done = make("gpu", "DEVICE=cpu", f"RUN={sys.executable}", f"OUT={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a dry run: figures mean nothing" in done.stdout
    files = {file.stem: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    assert sorted(files) == sorted(["tests", *SECTIONS])
    for name, record in files.items():
        assert set(record) == KEYS | {"figures"} and record["figures"], name
        assert record["section"] == name and record["dry_run"] is True
    figures = {name: record["figures"] for name, record in files.items()}
    assert "tests collected" in figures["tests"]["summary"]
    assert figures["nccl"]["backend"] == "gloo" and figures["nccl"]["batch_norm_difference"] < 1e-3
    assert 0.9 < figures["evaluation"]["miou"] < 1 and figures["evaluation"]["instances"] == 7


def test_a_section_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: gpu.Sections) -> None:
        raise RuntimeError("no such card")

    monkeypatch.setattr(gpu.Sections, "encoder", fail)
    status, files = run(monkeypatch, tmp_path, "--sections", "encoder", "nccl")
    assert status == 1 and files["encoder"]["error"] == "RuntimeError: no such card" and "figures" in files["nccl"]


def test_no_section_begins_after_eight_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIMIT_S", -1.0)
    status, files = run(monkeypatch, tmp_path, "--sections", "encoder")
    assert status == 1 and str(files["encoder"]["error"]).startswith("not begun")


def test_an_unknown_section_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--sections", "tensor_cores")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; run `pytest -m gpu` where there is")
def test_batch_normalisation_of_one_process_on_the_device() -> None:
    assert gpu.Sections(torch.device("cuda"), dry=False).nccl()["batch_norm_difference"] < 1e-3
