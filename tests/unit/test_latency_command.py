"""The command ``latency``: models in turns, their ratios, and what the tables make of them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from experiments.cli.command_line import main
from experiments.commands.latency import _committed, _names, _print, _runtimes, latency
from experiments.config.groups import EngineConfig
from experiments.config.schema import LatencyConfig
from experiments.reporting.models import models_frame
from experiments.result_file import read_result


def test_the_first_model_is_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "times.json"
    words = ["latency", "checkpoint=sam_pocket,sam_pocket", "rounds=1", f"out={out}", "format=json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["encoder_latency_ratio"] == 1.0
    assert {row["latency_reference"] for row in rows} == {"sam_pocket"}
    assert all(row["decoder_latency_ratio_low"] is None for row in rows), "a single round has no interval"
    read, about = read_result(out)
    assert [row.parameters for row in read] == [2864416, 2864416]
    assert (about["rounds"], about["batch"]) == (1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["checkpoint=sam_pocket"], "one model has no ratio; name two, separated by commas"),
        (["checkpoint=sam_pocket,sam_pokcet"], "sam_pokcet"),
        (["checkpoint=sam_pocket,sam_pocket", "rounds=0"], "rounds=0 must be at least 1"),
        (["checkpoint=sam_pocket,sam_pocket", "batch=0"], "batch=0 must be at least 1"),
        (["checkpoint=sam_pocket,sam_pocket", "precision=int4"], "error: precision=int4"),
    ],
)
def test_what_cannot_be_timed(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_comma_in_a_name_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a,b.safetensors"
    path.touch()
    assert _names(str(path)) == [str(path)]
    assert _names("sam_pocket, other,") == ["sam_pocket", "other"]


class _Timed(Exception):
    """The models would be timed now."""


@pytest.mark.parametrize(("checkpoint", "device"), [("sam_pocket,exported", "cpu"), ("sam_pocket,other", "cuda")])
def test_exported_files_take_all_models_to_the_cpu(
    checkpoint: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported files run there, and ratios compare on one device."""
    devices = []

    def timed(models: object, rounds: int, device: torch.device, *_: object) -> None:
        devices.append(device.type)
        raise _Timed

    def named(name: str, settings: LatencyConfig, runtime: str | None) -> tuple[None, dict[str, Any]]:
        devices.append(on_a_gpu(settings.engine).type)
        return None, {}

    def on_a_gpu(engine: EngineConfig) -> torch.device:
        return torch.device("cuda" if engine.device == "auto" else engine.device)

    monkeypatch.setattr("experiments.commands.latency.build_device", on_a_gpu)
    monkeypatch.setattr("experiments.runs.segmenters.is_export", lambda path: path.name == "exported")
    monkeypatch.setattr("experiments.commands.latency._named", named)
    monkeypatch.setattr("experiments.commands.latency.compared_latencies", timed)
    with pytest.raises(_Timed):
        latency(LatencyConfig(checkpoint=checkpoint), DictConfig({}))
    assert devices == [device] * 3
    if device == "cpu":
        with pytest.raises(InputError, match=r"^engine\.device=cuda: exported files run on the CPU here; leave"):
            latency(LatencyConfig(checkpoint=checkpoint, engine=EngineConfig(device="cuda")), DictConfig({}))


def test_messages_name_the_precision_as_the_command_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exported").mkdir()
    monkeypatch.setattr("experiments.runs.segmenters.is_export", lambda path: path.name == "exported")
    assert main(["latency", f"checkpoint={tmp_path / 'exported'},sam_pocket", "precision=bfloat16"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: precision=bfloat16: exported files have their own precision; leave it out"
    monkeypatch.setattr("experiments.runs.checkpoints.encoder_problem", lambda *given: f"give {given[-1]}=float32")
    assert main(["latency", "checkpoint=sam_pocket,sam_pocket", "precision=bfloat16"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: sam_pocket: give precision=float32"


def test_an_exported_folder_is_timed_in_the_runtime_that_is_chosen(
    pocket_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the extra export is not installed")
    names = f"sam_pocket,{pocket_onnx},{pocket_onnx}@openvino"
    assert main(["latency", f"checkpoint={names}", "rounds=1", "format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["variant"] for row in rows] == [None, "onnxruntime fp32", "openvino fp32 (onnx)"]
    settings = LatencyConfig(checkpoint=names, runtime="openvino")
    # Of models that are no exported folder it says nothing; a folder's own name comes first.
    folder = str(pocket_onnx)
    found = _runtimes(["sam_pocket", folder, f"{folder}@onnxruntime"], settings)
    assert found == [("sam_pocket", None), (folder, "openvino"), (folder, "onnxruntime")]


def test_the_last_line_names_every_precision(capsys: pytest.CaptureFixture[str]) -> None:
    ratios = {f"{part}_latency_{end}": 1.0 for part in ("encoder", "decoder") for end in ("ratio", "ms")}
    given = {"device": "cpu", "threads": 1, **ratios}
    _print(
        [row("teacher", precision="float32", **given), row("ptq", precision="int8", **given)],
        LatencyConfig(checkpoint="a,b"),
    )
    assert "batch 1, cpu, float32 and int8, 1 threads" in capsys.readouterr().out


def row(method: str, **changes: object) -> ResultRow:
    given: dict[str, object] = {"teacher": "sam_pocket", "data": "shapes", "protocol": "box_point@1", "miou": 0.8}
    given |= {
        "parameters": 10,
        "macs_full": 100,
        "macs_modules": 90,
        "status": "finished",
        "latency_reference": "sam_pocket",
    }
    return ResultRow(method=method, **{**given, **changes})  # type: ignore[arg-type]


def ratio_of(rows: list[ResultRow], method: str) -> float | None:
    lines = models_frame(pd.DataFrame([{**vars(one), "settings": None} for one in rows], dtype=object))
    return lines[lines["method"] == method]["encoder_latency_ratio"].iloc[0]


def test_a_committed_student_of_two_methods_is_timed_by_its_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chains = sorted((ROOT / "results" / "leaderboard_photo").glob("mobilesam+tinysam-*.json"))
    monkeypatch.setattr("experiments.commands.latency.committed_files", lambda: chains)
    # Seeds have one shape.
    ((model, about),) = _committed([], torch.device("cpu"))
    assert about["method"] == "mobilesam+tinysam"
    assert sum(p.numel() for p in model.parameters()) == about["parameters"]
    assert not capsys.readouterr().err

    def without_shape(path: Path) -> tuple[list[ResultRow], dict[str, Any]]:
        rows, about = read_result(path)
        return rows, {**about, "widths": {}}

    monkeypatch.setattr("experiments.commands.latency.read_result", without_shape)
    assert not list(_committed([], torch.device("cpu")))
    assert f"left out: {chains[0].name}: " in capsys.readouterr().err


def test_tables_show_what_was_measured_of_the_shape_and_else_what_runs_measured() -> None:
    runs = [row("slimsam", seed=seed, encoder_latency_ratio=value) for seed, value in enumerate((0.5, 0.6, 0.7))]
    assert ratio_of(runs, "slimsam") == 0.6
    counted = row("slimsam", status="counted", data=None, protocol=None, miou=None, encoder_latency_ratio=0.4)
    assert ratio_of([*runs, counted], "slimsam") == 0.4
    in_batches = row("slimsam", status="counted", encoder_latency_ratio=0.1, axes={"batch": "8"})
    assert ratio_of([*runs, counted, in_batches], "slimsam") == 0.4, "one image at a time"
    other = row("scratch", encoder_latency_ratio=None)
    assert ratio_of([other, counted], "scratch") == 0.4, "of equal shape"
    quantised = row("ptq", weight_bits=8, encoder_latency_ratio=2.7)
    assert ratio_of([quantised, counted], "ptq") is None, "simulated integers have no time of their own"
    on_gpu = [row("slimsam", seed=seed, device="a GPU", encoder_latency_ratio=0.2) for seed in (0, 1)]
    assert ratio_of([*on_gpu, counted], "slimsam") == 0.2, "of the device that it was measured on"
    elsewhere = row("slimsam", encoder_latency_ratio=0.3, latency_reference="sam_vit_b")
    assert ratio_of([elsewhere], "slimsam") is None
